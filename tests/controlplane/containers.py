"""Containers made with unshare: namespaces of their own, and one first process whose end is the end of
everything inside.

The whole cluster is one such container and its nodes are containers inside it. So one SIGKILL takes down
processes, mounts, links and namespaces together, the machine itself sees one link, and nothing but cgroups
and files is left to be removed by hand.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.controlplane.commands import run
from tests.controlplane.errors import CommandError
from tests.controlplane.wait import wait_for

HOLDER = Path(__file__).with_name("holder.py")
_NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")

Life = Literal["owned", "kept"]


@dataclass(frozen=True, slots=True)
class Container:
    """A running container; `pid` is its first process as the machine counts."""

    name: str
    pid: int

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv`, to be run inside."""
        return ["nsenter", "--target", str(self.pid), *_NAMESPACES, "--", *argv]

    def ip(self, lines: Sequence[str]) -> None:
        """Runs `ip` commands in the network namespace alone: process ids in them are the machine's."""
        batch = "\n".join(lines) + "\n"
        run(["nsenter", "--target", str(self.pid), "--net", "--", "ip", "-batch", "-"], stdin=batch)

    def sysctl(self, values: dict[str, str], optional: bool = False) -> None:
        """Sets network sysctls (keys as paths below /proc/sys/net); `optional` passes over those the kernel
        lacks.
        """
        script = "\n".join(
            f"[ ! -e /proc/sys/net/{key} ] || echo {value} > /proc/sys/net/{key}"
            if optional
            else f"echo {value} > /proc/sys/net/{key}"
            for key, value in values.items()
        )
        run(["nsenter", "--target", str(self.pid), "--net", "--", "sh", "-euc", script])


def start_container(
    name: str, life: Life, inside: Container | None = None
) -> tuple[Container, subprocess.Popen[bytes]]:
    """Makes a container, inside another one if given, and returns it with the process that waits for its end.

    That process' stdin is the owner's hold on an `owned` container.
    """
    holder = [sys.executable, "-I", "-S", str(HOLDER), name, life]
    command = ["unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "--", *holder]
    outermost = inside.command(command) if inside else command
    process = subprocess.Popen(
        outermost,
        stdin=subprocess.PIPE if life == "owned" else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        first = process.stdout.readline()
        if first != b"ready\n":
            rest = first + process.stdout.read()
            raise CommandError(outermost, process.wait(), rest.decode(errors="replace"))
    container = find_container(name)
    if container is None:
        raise CommandError(outermost, process.wait(), f"{name} ended at once")
    return container, process


def find_container(name: str) -> Container | None:
    """The running container of that name."""
    for pid, argv in _holders(name):
        if Path(argv[0]).name not in ("unshare", "nsenter"):
            return Container(name, pid)
    return None


def kill_container(name: str, timeout_seconds: float = 20) -> None:
    """Kills the container of that name, with all that runs in it, and waits until it is gone; fine if there
    is none.
    """
    for pid, _ in _holders(name):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_for(f"the end of {name}", lambda: not list(_holders(name)), timeout_seconds, 0.02)


def _holders(name: str) -> Iterator[tuple[int, list[str]]]:
    """Processes (id, argv) that are, or wait for, the holder of that name. A zombie has no argv, so is none."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if len(argv) > 3 and argv[-3] == name and argv[-4] == str(HOLDER):
            yield int(entry.name), argv
