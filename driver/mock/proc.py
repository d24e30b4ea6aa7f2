"""Renders what NVIDIA's kernel module shows in procfs of the MIG instances that are there now."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from driver.mock.nvml import FakeNvml
from driver.probes.mig_capabilities import CAPABILITIES

_FIRST = 3  # 1 and 2 are the capabilities to configure and to monitor MIG
_PER_GPU_INSTANCE = 9  # itself and its eight compute instances
_PER_GPU = 15 * _PER_GPU_INSTANCE


def capabilities(nvml: FakeNvml) -> dict[str, int]:
    """Minor numbers by path below ``driver/nvidia/capabilities``, numbered as in
    ``/proc/driver/nvidia-caps/mig-minors``.
    """
    found: dict[str, int] = {}
    for minor, number, compute in nvml.mig_numbers():
        folder = f"gpu{minor}/mig/gi{number}"
        base = _FIRST + minor * _PER_GPU + number * _PER_GPU_INSTANCE
        found[f"{folder}/access"] = base
        found[f"{folder}/ci{compute}/access"] = base + 1 + compute
    return found


def render(wanted: dict[str, int], proc_root: Path) -> Path:
    """Make the files below `proc_root` say `wanted`, and nothing else; returns it.

    Raises:
        OSError: the directory cannot be written.
    """
    top = proc_root / CAPABILITIES
    texts = {
        path: f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
        for path, minor in wanted.items()
    }
    there = {str(file.relative_to(top)): file.read_text() for file in top.rglob("access")}
    if there != texts:
        shutil.rmtree(top, ignore_errors=True)
        for path, text in texts.items():
            file = top / path
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_name(f".access.{os.getpid()}")
            fresh.write_text(text)
            fresh.replace(file)
    return proc_root


def remove(proc_root: Path) -> None:
    """Take away whatever `render` made; nothing there is fine."""
    shutil.rmtree(proc_root, ignore_errors=True)
