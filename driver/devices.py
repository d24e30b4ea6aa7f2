"""What a node has, as values: GPUs, NICs and VFs, each with its place in the PCIe tree.

Everything else (slices, pairs, prepare) is computed from these; probes make them, and nothing here reads
anything.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

from driver.mig import MigInstance, MigProfile

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


def pci_following(address: str, distance: int) -> str:
    """PCI address `distance` routing IDs after `address` (SR-IOV's First VF Offset and VF Stride)."""
    domain, bus, device, function = pci_order(address)
    routing_id = (bus << 8 | device << 3 | function) + distance
    return f"{domain:04x}:{routing_id >> 8:02x}:{routing_id >> 3 & 0x1F:02x}.{routing_id & 7}"


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
class PcieLink:
    """A function's PCIe link: megatransfers a second on each lane (32000 is Gen5), and lanes; 0 is unknown.

    An idle GPU lets its link run slower than it can, so the current speed is no part of what makes two
    readings of a machine differ.
    """

    max_speed: int = 0
    max_width: int = 0
    current_speed: int = field(default=0, compare=False)
    current_width: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A whole GPU. `minor` is the number of its character device (``/dev/nvidia<minor>``).

    Attributes:
        mig_enabled: MIG mode is on; None where the GPU has no such mode.
        mig_profiles: the partitions that can be made of it.
        mig_instances: the partitions that there are now.
        nvlink_peers: PCI address and active links of each GPU that is connected without a switch.
        nvlink_switch_links: active links to NVSwitches.
        module_id: where on its baseboard it sits.
        addressing_mode: ``HMM``, ``ATS`` or ``None``; empty where not known.
        kernel_driver: ``nvidia``, ``vfio-pci``…; None without one.
    """

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
    mig_enabled: bool | None = None
    mig_profiles: tuple[MigProfile, ...] = ()
    mig_instances: tuple[MigInstance, ...] = ()
    nvlink_peers: tuple[tuple[str, int], ...] = ()
    nvlink_switch_links: int = 0
    module_id: int | None = None
    addressing_mode: str = ""
    kernel_driver: str | None = None
    iommu_group: int | None = None
    pcie: PcieLink = PcieLink()


def nvlinks(one: Gpu, other: Gpu) -> int:
    """NVLinks between two GPUs, as nvidia-smi counts them (``NV18``): direct ones, else those that both have
    to the switches of one fabric; 0 if none.
    """
    direct = dict(one.nvlink_peers).get(other.pci_address, 0)
    if direct or one.nvlink_domain != other.nvlink_domain:
        return direct
    return min(one.nvlink_switch_links, other.nvlink_switch_links)


@dataclass(frozen=True, slots=True)
class Gid:
    """What a port of an RDMA device can be addressed by: its number in the port's table, the value as sysfs
    writes it (``fe80:0000:…``), and the protocol, ``RoCE v2`` or ``IB``.
    """

    port: int
    index: int
    value: str
    protocol: str


@dataclass(frozen=True, slots=True)
class RdmaDevice:
    """The RDMA side of a NIC function: ``mlx5_0``, its link layer and its character devices' names under
    /dev.

    Attributes:
        rate_bits_per_second: that of an active port, 0 of one that is down (what sysfs says then is no port's
            rate).
        gids: the first InfiniBand or RoCE v2 GID of each port of a PF. They follow addresses and links, so
            they are never published; a VF's are its pod's affair, and not looked for.
    """

    name: str
    link_layer: str = ""
    char_devices: tuple[str, ...] = ()
    rate_bits_per_second: int = 0
    node_guid: str = ""
    gids: tuple[Gid, ...] = ()


@dataclass(frozen=True, slots=True)
class Netdev:
    """The network side of a NIC function as seen in the node's own network namespace.

    `uplink`: the node itself lives on it (a default route or an address is on it or on an interface above
    it, or a bond or bridge has enslaved it), so it must never be handed to a pod.

    In switchdev mode it is the uplink of the switch `switch_id`, whose other ports, the `representors`, stand
    for the VFs: VF index and name of each that is in this namespace.
    """

    name: str
    index: int
    mac: str = ""
    mtu: int = 1500
    carrier: bool = False
    uplink: bool = False
    switch_id: str = ""
    representors: tuple[tuple[int, str], ...] = ()


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
    """A NIC's physical function (PF). `name` is stable for people: the RDMA device's or the netdev's name.

    `eswitch_mode` of its embedded switch is ``legacy`` or ``switchdev``; empty where it has none or does not
    say.
    """

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
    pcie: PcieLink = PcieLink()
    eswitch_mode: str = ""
    netdev: Netdev | None = None
    rdma: RdmaDevice | None = None
    vfs: tuple[Vf, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that one node has, GPUs and NICs in PCI order.

    `silent_gpus` are on the PCI bus, but NVML does not answer for them (no driver, vfio-pci, fallen off).
    """

    machine: str
    gpus: tuple[Gpu, ...] = ()
    nics: tuple[Nic, ...] = ()
    silent_gpus: tuple[Gpu, ...] = ()
