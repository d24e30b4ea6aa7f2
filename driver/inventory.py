"""The probes' facts put together: what this node has, now.

Each probe knows one source; here a PCI function meets its NVML answer, its interface and its RDMA device,
VFs meet their PF, and rails are numbered. `assemble` is pure; `HostProbe` reads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from driver.devices import Gpu, Inventory, Netdev, Nic, RdmaDevice, Vf
from driver.probes.net import NetdevProbe
from driver.probes.pci import PciFunction, PciProbe
from driver.probes.rdma import RdmaProbe
from driver.probes.sysfs import SysfsReader
from driver.topology import rails

log = logging.getLogger(__name__)

_WITHOUT_INTERFACE = frozenset({None, "vfio-pci", "virtio-pci"})
"""Drivers under which a function has no interface of its own (a virtio interface belongs to a child)."""


class Probe(Protocol):
    """A source of the node's inventory."""

    def read(self) -> Inventory:
        """Everything the machine has at this moment."""
        ...


class NetdevSource(Protocol):
    """A source of interfaces by PCI address."""

    def read(self) -> Mapping[str, Netdev]:
        """Interfaces in the node's network namespace now."""
        ...


class GpuSource(Protocol):
    """A source of GPU facts by PCI address; place and rail are left to `assemble`."""

    def read(self) -> Mapping[str, Gpu]:
        """GPUs that answer now."""
        ...


class HostProbe:
    """Reads this host: sysfs below a root, NVML, and netlink in the calling thread's network namespace."""

    def __init__(
        self,
        sysfs: Path = Path("/sys"),
        *,
        gpus: GpuSource | None = None,
        netdevs: NetdevSource | None = None,
    ) -> None:
        self._sysfs = SysfsReader(sysfs)
        self._pci = PciProbe(sysfs)
        self._rdma = RdmaProbe(sysfs)
        self._gpus = gpus
        self._netdevs = netdevs if netdevs is not None else NetdevProbe()
        self._silent: frozenset[str] = frozenset()

    def read(self) -> Inventory:
        """Everything the machine has at this moment; what vanishes meanwhile is not there.

        Raises:
            ProbeError: a source cannot be read at all.
        """
        functions = self._pci.read()
        gpus = self._read_gpus() if any(f.is_gpu for f in functions.values()) else {}
        self._say_silent(frozenset(f.address for f in functions.values() if f.is_gpu) - gpus.keys())
        rdma = self._rdma.read()
        speeds = {
            function.address: self._speed(function.address)
            for function in functions.values()
            if function.is_nic and function.physfn is None
        }
        product = self._sysfs.text(self._sysfs.root / "class/dmi/id/product_name", optional=True)
        return assemble(
            machine=product or "",
            functions=functions,
            gpus=gpus,
            netdevs=self._netdevs.read(),
            rdma=rdma,
            speeds=speeds,
        )

    def _read_gpus(self) -> Mapping[str, Gpu]:
        if self._gpus is None:
            from driver.probes.nvml import (
                NvmlProbe,
            )  # 18 MB of memory that a node without GPUs need not spend

            self._gpus = NvmlProbe()
        return self._gpus.read()

    def _say_silent(self, silent: frozenset[str]) -> None:
        for address in sorted(silent - self._silent):
            log.warning("GPU %s is on the PCI bus, but NVML does not answer for it: not published", address)
        self._silent = silent

    def _speed(self, address: str) -> int:
        """Bits per second of a PF's interface as ethtool would say (sysfs gives Mb/s, -1 without link); 0
        unknown.
        """
        directory = f"bus/pci/devices/{address}/net"
        for name in self._sysfs.names(directory):
            speed = self._sysfs.integer(self._sysfs.root / directory / name / "speed", optional=True)
            if speed is not None and speed > 0:
                return speed * 1_000_000
        return 0


def assemble(
    *,
    machine: str,
    functions: Mapping[str, PciFunction],
    gpus: Mapping[str, Gpu],
    netdevs: Mapping[str, Netdev],
    rdma: Mapping[str, RdmaDevice],
    speeds: Mapping[str, int],
) -> Inventory:
    """Put the probes' facts together; all mappings are by PCI address, `functions` in PCI order.

    A GPU that NVML does not answer for is left out, but keeps its place in the order of rails. NICs and
    VFs bound to no driver, or to one without interfaces (vfio-pci), are left out.
    """
    gpu_functions = [f for f in functions.values() if f.is_gpu]
    nic_functions = [f for f in functions.values() if f.is_nic and f.physfn is None]
    rail_of = rails({f.address: f.place for f in gpu_functions}, {f.address: f.place for f in nic_functions})
    return Inventory(
        machine=machine,
        gpus=tuple(
            replace(gpus[f.address], place=f.place, rail=rail_of.get(f.address))
            for f in gpu_functions
            if f.address in gpus
        ),
        nics=tuple(
            _nic(f, _usable_vfs(f, functions), rail_of.get(f.address), netdevs, rdma, speeds)
            for f in nic_functions
            if f.driver not in _WITHOUT_INTERFACE
        ),
    )


def _usable_vfs(pf: PciFunction, functions: Mapping[str, PciFunction]) -> list[tuple[int, PciFunction]]:
    found = ((index, functions.get(address)) for index, address in pf.virtfns)
    return [(index, vf) for index, vf in found if vf is not None and vf.driver not in _WITHOUT_INTERFACE]


def _nic(
    pf: PciFunction,
    vfs: Iterable[tuple[int, PciFunction]],
    rail: int | None,
    netdevs: Mapping[str, Netdev],
    rdma: Mapping[str, RdmaDevice],
    speeds: Mapping[str, int],
) -> Nic:
    device, netdev = rdma.get(pf.address), netdevs.get(pf.address)
    infiniband = pf.is_infiniband or (device is not None and device.link_layer == "InfiniBand")
    named = device or netdev
    return Nic(
        pci_address=pf.address,
        name=named.name if named is not None else pf.address,
        place=pf.place,
        rail=rail,
        vendor=pf.vendor,
        device_id=pf.device,
        link_type="infiniband" if infiniband else "ethernet",
        speed_bits_per_second=(device.rate_bits_per_second if device else 0) or speeds.get(pf.address, 0),
        sriov_total_vfs=pf.sriov_total_vfs,
        sriov_num_vfs=pf.sriov_num_vfs,
        netdev=netdev,
        rdma=device,
        vfs=tuple(
            Vf(
                pci_address=vf.address,
                index=index,
                place=vf.place,
                rail=rail,
                netdev=netdevs.get(vf.address),
                rdma=rdma.get(vf.address),
            )
            for index, vf in vfs
        ),
    )
