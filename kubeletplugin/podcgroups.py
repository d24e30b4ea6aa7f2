"""Whether processes of a pod still run on the node, by its control group.

An Unprepare is no proof of a pod's end: for a pod that was deleted by force, the kubelet's loop over
claims asks for it while the containers are still being stopped. The kernel knows better, whatever the
kubelet, the runtime and the API say.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_COUNTED_V1: Final = "pids"
"""Of version 1, the hierarchy that counts processes. (`cgroup.procs` lists only those of the reader's own PID
namespace.)
"""
_BASE: Final = ("kubepods", "kubepods.slice")
"""How the kubelet's group of all pods ends, by its cgroup driver; its `cgroupRoot` may come before."""
_CLASSES: Final = ("burstable", "besteffort", "burstable.slice", "besteffort.slice")
_BLIND: Final = "that a pod has ended is believed when the kubelet says so"
_DEPTH: Final = 4  # of `cgroupRoot`, at most


class PodCgroups:
    """The kubelet's control groups of pods (`pkg/kubelet/cm`: one a pod, below that of its QoS class).

    Args:
        root: where the control groups are mounted, of either version.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: list[Path] = []

    def running(self, pod_uids: Iterable[str]) -> list[str]:
        """Those of the pods that have a process here now; none are where the kubelet keeps no groups."""
        groups = self._groups()
        return [uid for uid in pod_uids if any(map(_populated, _of_pod(groups, uid)))]

    def check(self, own_uid: str) -> None:
        """Say in the log if not even the pod that this process is in is seen to run."""
        if own_uid and not self.running([own_uid]):
            log.warning("control groups below %s do not show that this very pod runs: %s", self._root, _BLIND)

    def _groups(self) -> list[Path]:
        """The groups in which pods' groups are."""
        if not self._known:
            self._known = [group for base in _bases(self._tree()) for group in _with_classes(base)]
            if not self._known:
                log.warning("no control groups of pods below %s: %s", self._root, _BLIND)
        return self._known

    def _tree(self) -> Path:
        if (self._root / "cgroup.controllers").exists():
            return self._root
        return self._root / _COUNTED_V1


def _bases(directory: Path, depth: int = _DEPTH) -> Iterator[Path]:
    for child in _children(directory):
        if child.name.endswith(_BASE):
            yield child
        elif depth:
            yield from _bases(child, depth - 1)


def _with_classes(base: Path) -> list[Path]:
    return [base, *(child for child in _children(base) if child.name.endswith(_CLASSES))]


def _of_pod(groups: list[Path], uid: str) -> Iterator[Path]:
    for group in groups:
        yield group / f"pod{uid}"
        yield group / f"{group.name.removesuffix('.slice')}-pod{uid.replace('-', '_')}.slice"


def _populated(group: Path) -> bool:
    """It, or a group below it, has processes: by version 2 (cgroup-v2.rst), else by version 1 (pids.rst)."""
    events = _text(group / "cgroup.events")
    return "populated 1" in events if events else _text(group / "pids.current").strip() not in ("", "0")


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # there is none, or it went meanwhile
        return ""


def _children(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
