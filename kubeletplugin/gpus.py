"""GPUs and parts of GPUs as a container sees them: which UUID and character devices each has.

Pure. A GPU in MIG mode is its instances, one that is not is itself: what the hardware allows now, whatever
was published before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from driver.devices import Gpu, Inventory
from driver.mig import MigInstance
from driver.names import TYPE_GPU, TYPE_MIG, TYPE_VFIO, device_name
from driver.partitions import instance_name
from driver.probes.mig_capabilities import CAPABILITIES

SHARED_NODES: Final = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
"""Nodes that all GPUs share; a container gets those that the host has."""
_NO_MINOR: Final = "has no character device (NVML names no minor number)"


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU or a MIG instance.

    Attributes:
        uuid: by which CUDA knows it.
        nodes: names under /dev without which it cannot be used.
        parent: device name of the GPU that it is a part of; empty for a whole one.
        problem: why it cannot be handed out now; empty if it can.
    """

    uuid: str
    nodes: tuple[str, ...] = ()
    parent: str = ""
    problem: str = ""


def by_name(inventory: Inventory) -> Mapping[str, GpuDevice]:
    """All GPUs and MIG instances by device name."""
    found: dict[str, GpuDevice] = {}
    for gpu in inventory.gpus:
        name = device_name(TYPE_GPU, gpu.pci_address)
        found[name] = _whole(gpu)
        if gpu.mig_enabled:
            found |= {instance_name(gpu, i): _instance(name, gpu, i) for i in gpu.mig_instances}
    return found


def is_instance(device: str) -> bool:
    """Is it the name of a part of a GPU? Such a part may be made anew at any time, with other nodes."""
    return device.startswith(f"{TYPE_MIG}-")


def never_prepared(device: str) -> str:
    """Why a device of this name is not handed out by this plugin, ever; empty for others."""
    if device.startswith(f"{TYPE_VFIO}-"):
        return "is a GPU for virtual machines (VFIO), which this plugin does not prepare"
    return ""


def absence(device: str) -> str:
    """What to say of a device that is not on the node."""
    if is_instance(device):
        return (
            "is allocated, but there is no such MIG instance on this node now: the node's admin makes them "
            "(nvidia-smi mig -cgi … -C), this plugin makes none"
        )
    return "is allocated but not on this node now"


def _whole(gpu: Gpu) -> GpuDevice:
    if gpu.minor is None:
        return GpuDevice(gpu.uuid, problem=_NO_MINOR)
    if gpu.mig_enabled:
        return GpuDevice(gpu.uuid, problem="is in MIG mode: only its instances can be used")
    return GpuDevice(gpu.uuid, (f"nvidia{gpu.minor}",))


def _instance(parent: str, gpu: Gpu, instance: MigInstance) -> GpuDevice:
    if gpu.minor is None:
        return GpuDevice(instance.uuid, parent=parent, problem=_NO_MINOR)
    capabilities = (instance.gpu_instance_minor, instance.compute_instance_minor)
    if None in capabilities:
        problem = (
            f"cannot be opened: {CAPABILITIES}/gpu{gpu.minor}/mig/gi{instance.gpu_instance} in procfs does "
            f"not tell the minor numbers of it and of its compute instance {instance.compute_instance}"
        )
        return GpuDevice(instance.uuid, parent=parent, problem=problem)
    nodes = (f"nvidia{gpu.minor}", *(f"nvidia-caps/nvidia-cap{minor}" for minor in capabilities))
    return GpuDevice(instance.uuid, nodes, parent)
