"""The machine's own programs that a cluster needs, and the Debian packages that bring them.

What counts is the program, not the package: other distributions, and machines where someone built them by
hand, are as good.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.controlplane.build import say
from tests.controlplane.errors import PrerequisiteError


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package, what it is for, and how to see that it (or its like) is there."""

    name: str
    purpose: str
    present: Callable[[], bool]


def _program(name: str) -> Callable[[], bool]:
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    return lambda: shutil.which(name, path=path) is not None


def _library(name: str) -> Callable[[], bool]:
    def present() -> bool:
        pkg_config = shutil.which("pkg-config")
        if not pkg_config:
            return False
        return subprocess.run([pkg_config, "--exists", name], check=False).returncode == 0

    return present


def static_busybox() -> Path | None:
    """The machine's busybox if it needs no shared library, so that an image of it alone runs."""
    found = shutil.which("busybox")
    if not found:
        return None
    linked = subprocess.run(["ldd", found], capture_output=True, check=False).returncode == 0
    return None if linked else Path(found)


BUILDING = (
    Package("gcc", "builds runc (cgo)", _program("gcc")),
    Package("libc6-dev", "builds runc (cgo)", lambda: Path("/usr/include/stdlib.h").exists()),
    Package("pkg-config", "builds runc (cgo)", _program("pkg-config")),
    Package("libseccomp-dev", "builds runc with seccomp", _library("libseccomp")),
)
RUNNING = (
    Package("openssl", "makes the cluster's certificates", _program("openssl")),
    Package("iproute2", "makes the cluster's links and routes", _program("ip")),
    Package("util-linux", "makes the nodes' namespaces", _program("nsenter")),
    Package("nftables", "kube-proxy's Service rules", _program("nft")),
    Package("busybox-static", "the image of the test pods", lambda: static_busybox() is not None),
)
IMAGE = (
    Package("mmdebstrap", "the base of the driver's image", _program("mmdebstrap")),
    Package("buildah", "the driver's image", _program("buildah")),
)
PACKAGES = BUILDING + RUNNING + IMAGE


def missing(packages: Iterable[Package] = PACKAGES) -> list[Package]:
    """Those that are not on this machine."""
    return [package for package in packages if not package.present()]


def ensure(packages: Iterable[Package] = PACKAGES) -> None:
    """Installs what is missing, where we are root on Debian; else raises PrerequisiteError with the command
    to run.
    """
    absent = missing(packages)
    if not absent:
        return
    names = [package.name for package in absent]
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *names]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        needs = "\n".join(f"  {package.name}: {package.purpose}" for package in absent)
        raise PrerequisiteError(f"this machine lacks\n{needs}\non Debian, as root: {' '.join(command)}")
    say(f"installing {', '.join(names)}")
    wait_for_lock = ["-o", "DPkg::Lock::Timeout=300"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for attempt in (["apt-get", *wait_for_lock, "update"], [command[0], *wait_for_lock, *command[1:]]):
        done = subprocess.run(attempt, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PrerequisiteError(f"{' '.join(attempt)}: exit status {done.returncode}\n{done.stderr}")
    if still := missing(absent):
        raise PrerequisiteError(
            f"installed, and still missing: {', '.join(package.name for package in still)}"
        )
