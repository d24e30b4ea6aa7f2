"""What a node has, as values: GPUs, NICs and VFs, each with its place in the PCIe tree.

Everything else (slices, pairs, prepare) is computed from these; probes make them, and nothing here reads
anything.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]")


def pci_address(text: str) -> str:
    """Normalise a PCI address: lower case, four-digit domain (NVML gives eight digits).

    Raises:
        ValueError: the text is not domain:bus:device.function.
    """
    address = text.strip().lower()
    if not _PCI_ADDRESS.fullmatch(address):
        raise ValueError(f"{text!r} is no PCI address such as 0000:1b:00.0")
    domain, rest = address.split(":", 1)
    return f"{int(domain, 16):04x}:{rest}"


def pci_order(address: str) -> tuple[int, int, int, int]:
    """Sort key of a normalised PCI address: domain, bus, device, function as numbers."""
    domain, bus, rest = address.split(":")
    device, function = rest.split(".")
    return int(domain, 16), int(bus, 16), int(device, 16), int(function, 16)


class Tier(enum.IntEnum):
    """How near two devices are, in nvidia-smi's and NCCL's terms; smaller is nearer.

    PIX: at most one PCIe switch between them (same leaf switch). PXB: several switches, not through the host
    bridge (same root port). PHB: through one PCIe host bridge (same root complex). NODE: one NUMA node.
    SYS: across NUMA nodes, or unknown.
    """

    PIX = 0
    PXB = 1
    PHB = 2
    NODE = 3
    SYS = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device sits. Each level is an identifier that two devices share or not; None is unknown.

    Attributes:
        pcie_switch: PCI address of the upstream port of the leaf switch (equal = PIX).
        pcie_root_port: PCI address of the root port (equal = PXB).
        pcie_root: root complex as sysfs names it, for example ``pci0000:15`` (equal = PHB).
        numa_node: NUMA node number (equal = NODE).
    """

    pcie_switch: str | None = None
    pcie_root_port: str | None = None
    pcie_root: str | None = None
    numa_node: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A whole GPU. `minor` is the number of its character device (``/dev/nvidia<minor>``)."""

    pci_address: str
    place: Place
    rail: int | None = None
    uuid: str = ""
    product_name: str = ""
    brand: str = ""
    architecture: str = ""
    compute_capability: str = ""
    driver_version: str = ""
    cuda_driver_version: str = ""
    memory_bytes: int = 0
    minor: int | None = None
    nvlink_domain: str | None = None


@dataclass(frozen=True, slots=True)
class RdmaDevice:
    """The RDMA side of a NIC function: ``mlx5_0``, its link layer and its character devices' names under
    /dev.
    """

    name: str
    link_layer: str = ""
    char_devices: tuple[str, ...] = ()
    rate_bits_per_second: int = 0


@dataclass(frozen=True, slots=True)
class Netdev:
    """The network side of a NIC function as seen in the node's own network namespace.

    `uplink`: the node itself lives on it (it carries a default route, or a bond or bridge has enslaved it),
    so it must never be handed to a pod.
    """

    name: str
    index: int
    mac: str = ""
    mtu: int = 1500
    carrier: bool = False
    uplink: bool = False


@dataclass(frozen=True, slots=True)
class Vf:
    """An SR-IOV virtual function. `netdev` is None while it is in a pod (or bound to vfio-pci)."""

    pci_address: str
    index: int
    place: Place
    rail: int | None = None
    netdev: Netdev | None = None
    rdma: RdmaDevice | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC's physical function (PF). `name` is stable for people: the RDMA device's or the netdev's name."""

    pci_address: str
    name: str
    place: Place
    rail: int | None = None
    vendor: str = ""
    device_id: str = ""
    link_type: str = "ethernet"
    speed_bits_per_second: int = 0
    sriov_total_vfs: int = 0
    sriov_num_vfs: int = 0
    netdev: Netdev | None = None
    rdma: RdmaDevice | None = None
    vfs: tuple[Vf, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that one node has, GPUs and NICs in PCI order."""

    machine: str
    gpus: tuple[Gpu, ...] = ()
    nics: tuple[Nic, ...] = ()
