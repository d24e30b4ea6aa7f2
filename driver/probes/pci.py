"""PCI functions of GPUs and NICs, and the way from the root complex down to each, from sysfs.

The layout is the kernel's (Documentation/ABI/testing/sysfs-bus-pci): ``bus/pci/devices/<address>`` links to
``devices/pci<domain>:<bus>/<root port>/…/<address>``, whose path components are the bridges.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from driver.devices import PcieLink, Place, pci_address, pci_following, pci_order
from driver.probes.sysfs import SysfsReader
from driver.topology import place

_ROOT_COMPLEX = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_MOST_VFS = 1 << 10
_VIRTFN = re.compile(r"virtfn(\d+)")

_SPEED = re.compile(r"([0-9]{1,4}(?:\.[0-9])?) GT/s(?: PCIe)?")
_WIDTHS = frozenset({1, 2, 4, 8, 12, 16, 32})
_NO_WIDTH = frozenset({0, 63, 255})  # no link; a field of ones; the kernel's own "unknown"

_NVIDIA = "10de"
_NETWORK_CLASSES = {0x0200, 0x0207}  # Ethernet; InfiniBand
_GPU_CLASSES = {0x0300, 0x0302}  # VGA; 3D controller
_INFINIBAND_CLASS = 0x0207


@dataclass(frozen=True, slots=True)
class PciFunction:
    """One PCI function: `class_code` without the programming interface byte, IDs as four hex digits."""

    address: str
    class_code: int
    vendor: str
    device: str
    place: Place
    driver: str | None = None
    iommu_group: int | None = None
    physfn: str | None = None
    virtfns: tuple[tuple[int, str], ...] = ()
    sriov_total_vfs: int = 0
    sriov_offset: int = 0
    sriov_stride: int = 0
    sriov_num_vfs: int = 0
    pcie: PcieLink = field(default_factory=PcieLink)

    @property
    def is_gpu(self) -> bool:
        """An NVIDIA display function (NVSwitches are bridges and do not count)."""
        return self.vendor == _NVIDIA and self.class_code in _GPU_CLASSES

    @property
    def is_nic(self) -> bool:
        """A network function, physical or virtual."""
        return self.class_code in _NETWORK_CLASSES

    @property
    def vf_addresses(self) -> frozenset[str]:
        """PCI addresses of its VFs, made or not: by sriov_offset and sriov_stride, where sysfs has them."""
        found = {address for _, address in self.virtfns}
        if self.sriov_offset > 0:
            numbers = range(min(self.sriov_total_vfs, _MOST_VFS))
            found |= {pci_following(self.address, self.sriov_offset + n * self.sriov_stride) for n in numbers}
        return frozenset(found)

    @property
    def is_infiniband(self) -> bool:
        """The function says by its class that it speaks InfiniBand."""
        return self.class_code == _INFINIBAND_CLASS


class PciProbe:
    """Reads the GPUs and NICs on the PCI bus below a sysfs root."""

    def __init__(self, sysfs: Path) -> None:
        self._sysfs = SysfsReader(sysfs)
        self._known: dict[str, tuple[tuple[int, int], PciFunction | None]] = {}
        self._unreadable = False

    def read(self) -> dict[str, PciFunction]:
        """GPU and NIC functions by PCI address, in PCI order. One that vanishes meanwhile is not there.

        What a function is and where cannot change while its entry is there, and is read once.
        """
        found: dict[str, PciFunction] = {}
        known: dict[str, tuple[tuple[int, int], PciFunction | None]] = {}
        for name in self._sysfs.names("bus/pci/devices"):
            try:
                address = pci_address(name)
            except ValueError:
                self._sysfs.complain(self._sysfs.root / "bus/pci/devices" / name, "is no PCI address")
                continue
            link = f"{self._sysfs.root}/bus/pci/devices/{name}"
            entry = self._sysfs.identity(link)
            if entry is None:
                continue
            before = self._known.get(name)
            function = before[1] if before and before[0] == entry else self._function(address, Path(link))
            if function is not None:
                function = found[address] = self._now(function, link)
            if function is not None or not self._unreadable:
                known[name] = (entry, function)
        self._known = known
        return dict(sorted(found.items(), key=lambda item: pci_order(item[0])))

    def _function(self, address: str, link: Path) -> PciFunction | None:
        """What stays of a GPU or NIC; None for another kind of function, and for one that cannot be read."""
        reader = self._sysfs
        class_code = reader.integer(link / "class", base=16)
        self._unreadable = class_code is None
        if class_code is None or (class_code >> 8) not in _NETWORK_CLASSES | _GPU_CLASSES:
            return None
        vendor = reader.integer(link / "vendor", base=16)
        device = reader.integer(link / "device", base=16)
        self._unreadable = vendor is None or device is None
        if vendor is None or device is None:
            return None
        iommu_group = reader.link_name(link / "iommu_group")
        function = PciFunction(
            address=address,
            class_code=class_code >> 8,
            vendor=f"{vendor:04x}",
            device=f"{device:04x}",
            place=self._place(link),
            iommu_group=int(iommu_group) if iommu_group is not None and iommu_group.isdecimal() else None,
            physfn=reader.pci_link(link / "physfn"),
            sriov_total_vfs=reader.integer(link / "sriov_totalvfs", optional=True) or 0,
            sriov_offset=reader.integer(link / "sriov_offset", optional=True) or 0,
            sriov_stride=reader.integer(link / "sriov_stride", optional=True) or 0,
        )
        if function.physfn is None:  # a VF's link is its PF's
            function = replace(
                function,
                pcie=PcieLink(self._speed(f"{link}/max_link_speed"), self._width(f"{link}/max_link_width")),
            )
        return function if function.is_gpu or function.is_nic else None

    def _now(self, function: PciFunction, link: str) -> PciFunction:
        """A function with what may change: its driver, its link and its VFs."""
        driver = self._sysfs.link_name(f"{link}/driver")
        if function.physfn is not None:
            return function if function.driver == driver else replace(function, driver=driver)
        pcie = replace(
            function.pcie,
            current_speed=self._speed(f"{link}/current_link_speed"),
            current_width=self._width(f"{link}/current_link_width"),
        )
        if not function.is_nic:
            return replace(function, driver=driver, pcie=pcie)
        return replace(
            function,
            driver=driver,
            pcie=pcie,
            virtfns=self._virtfns(link),
            sriov_num_vfs=self._sysfs.integer(f"{link}/sriov_numvfs", optional=True) or 0,
        )

    def _speed(self, path: str) -> int:
        """Megatransfers a second of a text such as ``32.0 GT/s PCIe``; 0 if there is no link, or none up."""
        text = self._sysfs.text(path, optional=True)
        if text is None or text.startswith("Unknown"):
            return 0
        match = _SPEED.fullmatch(text)
        if match is None:
            self._sysfs.complain(path, f"says {text[:40]!r}, which is no link speed such as '32.0 GT/s PCIe'")
            return 0
        return round(float(match[1]) * 1000)

    def _width(self, path: str) -> int:
        """Number of lanes; 0 if there is no link, or none up (then all bits of the field are set)."""
        width = self._sysfs.integer(path, optional=True) or 0
        if width in _WIDTHS or width in _NO_WIDTH:
            return width if width in _WIDTHS else 0
        self._sysfs.complain(path, f"says {width}, which is no number of lanes")
        return 0

    def _place(self, link: Path) -> Place:
        numa_node = self._sysfs.integer(link / "numa_node")
        if numa_node is not None and numa_node < 0:  # -1: the firmware does not say
            numa_node = None
        parts = Path(os.path.realpath(link)).parts
        root_index = next((i for i, part in enumerate(parts) if _ROOT_COMPLEX.fullmatch(part)), None)
        if root_index is None:
            self._sysfs.complain(link, "leads to no PCI root complex (pci<domain>:<bus>)")
            return Place(numa_node=numa_node)
        bridges = []
        for part in parts[root_index + 1 : -1]:
            try:
                bridges.append(pci_address(part))
            except ValueError:  # a nested domain's own host bridge (VMD) is no bridge that devices share
                continue
        return place(parts[root_index], bridges, numa_node)

    def _virtfns(self, link: str) -> tuple[tuple[int, str], ...]:
        found = []
        try:
            entries = os.listdir(link)  # noqa: PTH208
        except OSError:
            return ()
        for name in entries:
            match = _VIRTFN.fullmatch(name)
            address = self._sysfs.pci_link(f"{link}/{name}") if match else None
            if match and address is not None:
                found.append((int(match[1]), address))
        return tuple(sorted(found))
