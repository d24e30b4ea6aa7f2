"""Which character devices open a MIG instance, from procfs.

NVIDIA's kernel module guards GPU instances and compute instances by capabilities: a process may use one if it
can open the ``/dev/nvidia-caps/nvidia-cap<minor>`` of both. The minor numbers are in
``driver/nvidia/capabilities/gpu<minor>/mig/gi<G>/access`` and ``…/gi<G>/ci<C>/access``, in a line
``DeviceFileMinor: <N>`` (NVIDIA MIG User Guide, "Device Nodes and Capabilities").
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from driver.devices import Gpu
from driver.mig import MigInstance
from driver.probes.sysfs import SysfsReader

CAPABILITIES: Final = "driver/nvidia/capabilities"
"""Folder below the root of procfs."""

_MINOR = re.compile(r"^DeviceFileMinor:[ \t]*([0-9]{1,7})[ \t]*$", re.MULTILINE)


class MigCapabilityProbe:
    """Reads below one procfs root."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._reader = SysfsReader(proc, source="procfs")

    def complete(self, gpu: Gpu) -> Gpu:
        """The GPU with the minors of its instances' capabilities; None where a file is missing or broken,
        which is one log line.
        """
        if not gpu.mig_instances or gpu.minor is None:
            return gpu
        mig = f"{self._reader.root}/{CAPABILITIES}/gpu{gpu.minor}/mig"
        return replace(gpu, mig_instances=tuple(self._complete(mig, i) for i in gpu.mig_instances))

    def _complete(self, mig: str, instance: MigInstance) -> MigInstance:
        folder = f"{mig}/gi{instance.gpu_instance}"
        return replace(
            instance,
            gpu_instance_minor=self._minor(f"{folder}/access"),
            compute_instance_minor=self._minor(f"{folder}/ci{instance.compute_instance}/access"),
        )

    def _minor(self, path: str) -> int | None:
        text = self._reader.text(path)
        if text is None:
            return None
        match = _MINOR.search(text)
        if match is None:
            self._reader.complain(path, "has no line DeviceFileMinor with a number")
            return None
        return int(match[1])
