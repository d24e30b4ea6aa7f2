"""The state directory: what a cluster is made of, written down before it is made, and how that is removed
again.

`cluster.json` names everything that outlives processes: the control group and the link on the machine, both
after the cluster's own id, and the container whose end is the end of all the rest. It appears with the
directory in one rename and is the last file to go, so a removal that was cut short can always be taken up
again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path

from tests.controlplane import cgroups
from tests.controlplane.commands import run
from tests.controlplane.containers import find_container, kill_container
from tests.controlplane.errors import ControlPlaneError
from tests.controlplane.processes import start_time

_RECORD = "cluster.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What `cluster.json` holds."""

    id: str  # names the container, the link and the control group: `tandem-1a2b`
    owner: int  # the process that starts it
    owner_started: int
    network: str
    nodes: tuple[str, ...]
    programs: tuple[str, ...]


def root() -> Path:
    """Where clusters live unless told otherwise: $XDG_STATE_HOME/tandem/clusters."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "tandem" / "clusters"


def failure_logs() -> Path:
    """Where the logs of the last cluster that failed are kept."""
    return root().parent / "last-failure"


def new_id() -> str:
    """An id that nothing on this machine uses."""
    while True:
        made = f"tandem-{secrets.token_hex(2)}"
        if not cgroups.leftovers(made) and not link_exists(made):
            return made


def link_exists(name: str) -> bool:
    """Whether this network namespace has a link of that name."""
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def create(
    directory: Path, identity: str, network: IPv4Network, nodes: tuple[str, ...], programs: tuple[Path, ...]
) -> Record:
    """Makes the state directory, record first. Raises ControlPlaneError if a cluster lives there."""
    record = Record(
        identity, os.getpid(), start_time(os.getpid()), str(network), nodes, tuple(map(str, programs))
    )
    directory.parent.mkdir(parents=True, exist_ok=True)
    new = directory.parent / f".new.{os.getpid()}.{identity}"
    new.mkdir()
    (new / _RECORD).write_text(json.dumps(asdict(record), indent=1))
    try:
        new.rename(directory)
    except OSError as error:
        shutil.rmtree(new)
        raise ControlPlaneError(
            f"{directory} is in use: {error}; `python -m tests.controlplane down` first"
        ) from error
    return record


def load(directory: Path) -> Record | None:
    """The record of the cluster in `directory`; None if there is none."""
    try:
        saved = json.loads((directory / _RECORD).read_text())
    except FileNotFoundError:
        return None
    return Record(**saved | {"nodes": tuple(saved["nodes"]), "programs": tuple(saved["programs"])})


def alive(record: Record) -> bool:
    """Whether the cluster runs, or is being started or removed by a process that lives."""
    return start_time(record.owner) == record.owner_started or find_container(record.id) is not None


def destroy(directory: Path) -> bool:
    """Removes the cluster in `directory`, whatever state it is in; returns whether there was one. May be
    repeated.
    """
    record = load(directory)
    if record is None:
        return False
    kill_container(record.id)
    if link_exists(record.id):  # goes with the container's network, a moment later
        run(["ip", "link", "delete", record.id], check=False)
    cgroups.remove(record.id)
    with contextlib.suppress(FileNotFoundError):  # two may remove it at once
        for entry in directory.iterdir():
            if entry.name != _RECORD:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        (directory / _RECORD).unlink()
        directory.rmdir()
    return True


def sweep(also: Path | None = None) -> list[str]:
    """Removes what dead predecessors left below the default root, and in `also`; returns their ids."""
    swept = []
    for directory in {*root().glob("*"), *([also] if also else [])}:
        record = load(directory)
        if record is not None and not alive(record):
            destroy(directory)
            swept.append(record.id)
    for half in root().glob(".new.*"):  # killed between making it and giving it its name
        if start_time(int(half.name.split(".")[2])) == 0:
            shutil.rmtree(half, ignore_errors=True)
    return swept


def keep_logs(directory: Path) -> Path:
    """Copies the logs of the cluster in `directory` to where they survive it, in place of those of an earlier
    failure.
    """
    kept = failure_logs()
    shutil.rmtree(kept, ignore_errors=True)
    if (directory / "logs").is_dir():
        shutil.copytree(directory / "logs", kept)
    return kept
