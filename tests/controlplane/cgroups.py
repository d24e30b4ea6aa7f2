"""A cluster's control groups: the only thing, besides files, that does not go with its processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.controlplane.wait import wait_for


def hierarchies(mountinfo: str) -> list[tuple[Path, bool]]:
    """The mounted cgroup trees in the text of /proc/self/mountinfo: where, and whether version 2."""
    found: dict[Path, bool] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split()[0]
        if kind in ("cgroup", "cgroup2"):
            found.setdefault(Path(before.split()[4]), kind == "cgroup2")
    return list(found.items())


def _mounted() -> list[tuple[Path, bool]]:
    return hierarchies(Path("/proc/self/mountinfo").read_text())


def create(name: str) -> None:
    """Makes the group `name` (a relative path) in every tree, with the controllers and CPUs of its parent, as
    the kubelet wants.
    """
    for root, unified in _mounted():
        group = root
        for part in Path(name).parts:
            parent, group = group, group / part
            if unified:
                _delegate(parent)
            group.mkdir(exist_ok=True)
            for inherited in ("cpuset.cpus", "cpuset.mems"):
                if not unified and (group / inherited).exists():
                    (group / inherited).write_text((parent / inherited).read_text())


def _delegate(group: Path) -> None:
    """Hands all controllers of a version 2 group to its children. It stays so: others may have come to count
    on it.
    """
    have = (group / "cgroup.subtree_control").read_text().split()
    for controller in (group / "cgroup.controllers").read_text().split():
        if controller not in have:
            with contextlib.suppress(OSError):  # the kubelet names what it misses
                (group / "cgroup.subtree_control").write_text(f"+{controller}")


def leftovers(name: str) -> list[Path]:
    """The group `name` and all below it, in every tree, children first."""
    return [
        Path(directory) for root, _ in _mounted() for directory, _, _ in os.walk(root / name, topdown=False)
    ]


def remove(name: str, timeout_seconds: float = 10) -> None:
    """Removes the group `name` and all below it; processes that were killed may take a moment to leave."""

    def gone() -> bool:
        for group in leftovers(name):
            with contextlib.suppress(FileNotFoundError):
                group.rmdir()
        return not leftovers(name)

    wait_for(f"control group {name} to be empty", gone, timeout_seconds, 0.05)
