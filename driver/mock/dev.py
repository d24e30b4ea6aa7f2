"""Character devices of a mock machine, so that what a container is given can be opened.

The nodes stand on the kernel's null and zero devices: a GPU's or a verbs device's name, a harmless driver
behind it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Set
from pathlib import Path

from driver.errors import PermanentError
from driver.mock.machine import Machine, verbs_number

_NULL = os.makedev(1, 3)
_ZERO = os.makedev(1, 5)


def render(machine: Machine, dev_root: Path) -> Path:
    """Make the missing nodes below `dev_root` and return it.

    Raises:
        PermanentError: this process may not make device nodes here (CAP_MKNOD, a mount with nodev).
        OSError: the directory cannot be written.
    """
    for name, number in nodes(machine):
        _make(dev_root / name, number)
    return dev_root


def render_capabilities(minors: Set[int], dev_root: Path) -> None:
    """Make ``nvidia-caps/nvidia-cap<minor>`` what MIG instances that are there now have.

    Raises:
        PermanentError, OSError: as `render`.
    """
    folder = dev_root / "nvidia-caps"
    wanted = {f"nvidia-cap{minor}" for minor in minors}
    for name in sorted(wanted):
        _make(folder / name, _NULL)
    if folder.is_dir():
        for node in folder.iterdir():
            if node.name not in wanted:
                node.unlink(missing_ok=True)


def remove(dev_root: Path) -> None:
    """Take away whatever `render` made; nothing there is fine."""
    shutil.rmtree(dev_root, ignore_errors=True)


def nodes(machine: Machine) -> Iterator[tuple[str, int]]:
    """Names under /dev and device numbers."""
    yield "nvidiactl", _NULL
    yield "nvidia-uvm", _NULL
    for gpu in machine.gpus:
        yield f"nvidia{gpu.minor}", _NULL
    yield "infiniband/rdma_cm", _ZERO
    for nic in machine.nics:
        yield f"infiniband/uverbs{verbs_number(nic)}", _ZERO
        for vf in machine.vfs_of(nic):
            yield f"infiniband/uverbs{vf.verbs}", _ZERO


def _make(path: Path, number: int) -> None:
    if _is_node(path, number):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, number)
    except PermissionError as error:
        raise PermanentError(f"{path}: cannot make a device node; the mock needs CAP_MKNOD") from error
    path.chmod(0o666)


def _is_node(path: Path, number: int) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == number
