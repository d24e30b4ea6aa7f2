"""The host's programs that the machine needs: a QEMU that has the igb NIC (8.0), and mmdebstrap.

Debian 12's own QEMU is older; its backports have one. Their address follows from the host's own sources,
and is given to apt for these calls only: the host's configuration stays as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.controlplane.build import say
from tests.vm.errors import UnavailableError

QEMU = "qemu-system-x86_64"
ARCHIVE_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TARGETS = ("apt-get", "indextargets", "--format", "$(CODENAME)|$(LABEL)|$(SITE)", "Created-By: Packages")


def missing() -> str | None:
    """What this host lacks, as a sentence with its remedy; None if it has all."""
    host = os.uname()
    if (host.sysname, host.machine) != ("Linux", "x86_64"):
        return f"the virtual machine is made for Linux on x86_64, not {host.sysname} on {host.machine}"
    lacking = []
    if not _has_igb():
        lacking.append(f"{QEMU} with the igb NIC (version 8.0 or newer)")
    if not shutil.which("mmdebstrap"):
        lacking.append("mmdebstrap")
    if not lacking:
        return None
    return f"this host lacks {' and '.join(lacking)}: `make test-vm` as root installs what Debian has"


def ensure() -> None:
    """Install what is missing.

    Raises:
        UnavailableError: not root, not Debian, or apt's own words.
    """
    lack = missing()
    if lack is None:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise UnavailableError(lack)
    say("vm: installing mmdebstrap and QEMU")
    with tempfile.TemporaryDirectory() as temporary:
        _apt(Path(temporary))
    if still := missing():
        raise UnavailableError(f"installed, and still {still}")


def sources(targets: Iterable[str], release: str) -> list[str]:
    """Lines for apt's sources from which the host itself takes a Debian release, its updates included.

    Args:
        targets: ``<codename>|<label>|<site>`` of each source that the host has.
        release: for example ``bookworm``.

    Returns:
        Nothing where the host is not of that release, or does not take it from Debian.
    """
    found = []
    for line in targets:
        codename, label, site = line.split("|")
        if label in ("Debian", "Debian-Security") and codename.split("-")[0] == release:
            found.append(f"deb [signed-by={ARCHIVE_KEYS}] {site} {codename} main")
    return list(dict.fromkeys(found))


def backports(targets: Iterable[str], release: str) -> str | None:
    """A line that adds the release's backports, from where the host takes the release; None as above."""
    main = next((line for line in sources(targets, release) if line.endswith(f" {release} main")), None)
    return main.replace(f" {release} main", f" {release}-backports main") if main else None


def host_targets() -> list[str]:
    """The host's sources, as `sources` takes them; none where there is no apt."""
    try:
        return subprocess.run(_TARGETS, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        return []


def _has_igb() -> bool:
    if not shutil.which(QEMU):
        return False
    devices = subprocess.run([QEMU, "-device", "help"], capture_output=True, text=True, check=False)
    return 'name "igb"' in devices.stdout


def _apt(temporary: Path) -> None:
    codename = _codename()
    line = backports(host_targets(), codename)
    options = ["-o", "DPkg::Lock::Timeout=300"]
    release: list[str] = []
    if line is not None and _debian_is_old(codename):
        host = Path("/etc/apt/sources.list")
        sources = temporary / "sources.list"
        sources.write_text((host.read_text() if host.exists() else "") + f"\n{line}\n")
        options += ["-o", f"Dir::Etc::SourceList={sources}"]
        release = ["--target-release", f"{codename}-backports"]
    install = ["install", "--yes", "--no-install-recommends"]
    _run(["apt-get", *options, "update"])
    if not shutil.which("mmdebstrap"):
        _run(["apt-get", *options, *install, "mmdebstrap"])
    if not _has_igb():
        _run(["apt-get", *options, *install, *release, "qemu-system-x86"])


def _debian_is_old(codename: str) -> bool:
    """Is the release's own QEMU too old?"""
    return codename in ("bullseye", "bookworm")


def _codename() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except FileNotFoundError:
        return ""
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("VERSION_CODENAME", "").strip('"')


def _run(command: Sequence[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
