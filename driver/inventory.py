"""The probes' facts put together: what this node has, now.

Each probe knows one source; here a PCI function meets its NVML answer, its interface and its RDMA device,
VFs meet their PF, and rails are numbered. `assemble` is pure; `HostProbe` reads.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from driver import overlay as overlays
from driver.devices import Gpu, Inventory, Netdev, Nic, Place, RdmaDevice, Vf
from driver.overlay import Overlay, Slots
from driver.probes.devlink import DevlinkProbe
from driver.probes.mig_capabilities import MigCapabilityProbe
from driver.probes.pci import PciFunction, PciProbe
from driver.probes.rates import RatedSpeeds
from driver.probes.rdma import RdmaProbe
from driver.probes.sysfs import SysfsReader
from driver.topology import rails

log = logging.getLogger(__name__)

_KERNELS_OWN = Path("/sys")
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


class EswitchSource(Protocol):
    """A source of the modes of NICs' embedded switches."""

    def eswitch_mode(self, address: str, sign: Hashable) -> str:
        """The mode of a PF's switch, as of when `sign` was last another; empty if it has none."""
        ...


class HostProbe:
    """Reads this host: sysfs and procfs below their roots, NVML, and netlink in the calling thread's network
    namespace.
    """

    def __init__(
        self,
        sysfs: Path = Path("/sys"),
        *,
        proc: Path = Path("/proc"),
        gpus: GpuSource | None = None,
        netdevs: NetdevSource | None = None,
        eswitches: EswitchSource | None = None,
        overlay: Overlay | None = None,
        strict: bool = False,
    ) -> None:
        """`overlay` corrects the PCIe tree; `strict` refuses one that names a device which is not there.

        Without `eswitches` the kernel is asked where sysfs is its own: of another tree's NICs it knows
        nothing, though it may have some at their addresses.
        """
        self._sysfs = SysfsReader(sysfs)
        self._pci = PciProbe(sysfs)
        self._rdma = RdmaProbe(sysfs)
        self._rates = RatedSpeeds(self._sysfs)
        self._mig_capabilities = MigCapabilityProbe(proc)
        self._gpus = gpus
        self._netdevs = netdevs
        self._eswitches = eswitches or (DevlinkProbe() if sysfs.resolve() == _KERNELS_OWN else None)
        self._overlay = overlay
        self._strict = strict
        self._slots = Slots()
        self._silent: frozenset[str] = frozenset()
        self._absent: frozenset[str] = frozenset()

    def read(self) -> Inventory:
        """Everything the machine has at this moment; what vanishes meanwhile is not there.

        The place of a GPU or NIC that was there once stays in the order of rails, so that the others keep
        theirs.

        Raises:
            ProbeError: a source cannot be read at all.
            ConfigError: the overlay contradicts the machine.
        """
        functions = self._pci.read()
        gpus = self._read_gpus() if any(f.is_gpu for f in functions.values()) else {}
        self._say_silent([f for f in functions.values() if f.is_gpu and f.address not in gpus])
        rdma, netdevs = self._rdma.read(), self._read_netdevs()
        speeds = {
            pf.address: self._rates.read(pf.address, rdma.get(pf.address), netdevs.get(pf.address))
            for pf in _pfs(functions)
        }
        modes = {pf.address: self._eswitch_mode(pf, netdevs.get(pf.address)) for pf in _pfs(functions)}
        product = self._sysfs.text(self._sysfs.root / "class/dmi/id/product_name", optional=True)
        self._slots = Slots(
            gpus={**self._slots.gpus, **{f.address: f.place for f in functions.values() if f.is_gpu}},
            nics={**self._slots.nics, **{f.address: f.place for f in _pfs(functions)}},
            vfs={**self._slots.vfs, **_pf_of_vfs(functions)},
        )
        inventory = assemble(
            machine=product or "",
            functions=functions,
            gpus=gpus,
            netdevs=netdevs,
            rdma=rdma,
            speeds=speeds,
            eswitch_modes=modes,
            slots=self._slots,
        )
        if self._overlay is None:
            return inventory
        if not self._strict:
            self._say_absent(overlays.absent(self._overlay, overlays.known(inventory, self._slots)))
        return overlays.apply(inventory, self._overlay, slots=self._slots, strict=self._strict)

    def _eswitch_mode(self, pf: PciFunction, netdev: Netdev | None) -> str:
        """A switch that changes its mode loses its VFs, or its interface says of which switch it is."""
        if self._eswitches is None or pf.driver is None:
            return ""
        sign = (pf.driver, pf.virtfns, netdev.switch_id if netdev is not None else None)
        return self._eswitches.eswitch_mode(pf.address, sign)

    def _say_absent(self, absent: list[tuple[int, str]]) -> None:
        for line, device in absent:
            if device not in self._absent and self._overlay is not None:
                log.warning("%s:%d: %s is not there: passed over", self._overlay.source, line, device)
        self._absent = frozenset(device for _, device in absent)

    def _read_netdevs(self) -> Mapping[str, Netdev]:
        if self._netdevs is None:
            from driver.probes.net import (
                NetdevProbe,
            )  # a quarter of a second, which files alone need not take

            self._netdevs = NetdevProbe()
        return self._netdevs.read()

    def _read_gpus(self) -> Mapping[str, Gpu]:
        if self._gpus is None:
            from driver.probes.nvml import (
                NvmlProbe,
            )  # 18 MB of memory that a node without GPUs need not spend

            self._gpus = NvmlProbe()
        return {address: self._mig_capabilities.complete(gpu) for address, gpu in self._gpus.read().items()}

    def _say_silent(self, silent: list[PciFunction]) -> None:
        for gpu in silent:
            if gpu.address not in self._silent:
                log.warning(
                    "GPU %s (driver: %s) is on the PCI bus, but NVML does not answer for it: not published",
                    gpu.address,
                    gpu.driver or "none",
                )
        self._silent = frozenset(gpu.address for gpu in silent)


def assemble(
    *,
    machine: str,
    functions: Mapping[str, PciFunction],
    gpus: Mapping[str, Gpu],
    netdevs: Mapping[str, Netdev],
    rdma: Mapping[str, RdmaDevice],
    speeds: Mapping[str, int],
    eswitch_modes: Mapping[str, str] | None = None,
    slots: Slots | None = None,
) -> Inventory:
    """Put the probes' facts together; all mappings are by PCI address, `functions` in PCI order,
    `speeds` the rated bits per second of PFs, `eswitch_modes` those of their switches.

    A GPU that NVML does not answer for is silent, but keeps its place in the order of rails, as do the
    `slots` of devices that are gone. NICs and VFs bound to no driver, or to one without interfaces
    (vfio-pci), are left out.
    """
    gpu_functions = [f for f in functions.values() if f.is_gpu]
    nic_functions = _pfs(functions)
    gpu_places: dict[str, Place] = {f.address: f.place for f in gpu_functions}
    nic_places: dict[str, Place] = {f.address: f.place for f in nic_functions}
    if slots is not None:
        gpu_places, nic_places = {**slots.gpus, **gpu_places}, {**slots.nics, **nic_places}
    rail_of = rails(gpu_places, nic_places)
    return Inventory(
        machine=machine,
        gpus=tuple(
            _gpu(gpus[f.address], f, rail_of.get(f.address)) for f in gpu_functions if f.address in gpus
        ),
        nics=tuple(
            replace(
                _nic(f, _usable_vfs(f, functions), rail_of.get(f.address), netdevs, rdma, speeds),
                eswitch_mode=(eswitch_modes or {}).get(f.address, ""),
            )
            for f in nic_functions
            if f.driver not in _WITHOUT_INTERFACE
        ),
        silent_gpus=tuple(
            _gpu(Gpu(f.address, f.place), f, rail_of.get(f.address))
            for f in gpu_functions
            if f.address not in gpus
        ),
    )


def _gpu(gpu: Gpu, function: PciFunction, rail: int | None) -> Gpu:
    return replace(
        gpu,
        place=function.place,
        rail=rail,
        kernel_driver=function.driver,
        iommu_group=function.iommu_group,
        pcie=function.pcie,
    )


def _pfs(functions: Mapping[str, PciFunction]) -> list[PciFunction]:
    return [f for f in functions.values() if f.is_nic and f.physfn is None]


def _pf_of_vfs(functions: Mapping[str, PciFunction]) -> dict[str, str]:
    """PF by the address of each VF that there is or can be; no other function's address is among them."""
    found = ((vf, pf.address) for pf in _pfs(functions) for vf in pf.vf_addresses)
    return {vf: pf for vf, pf in found if vf not in functions or functions[vf].physfn is not None}


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
        speed_bits_per_second=speeds.get(pf.address, 0),
        sriov_total_vfs=pf.sriov_total_vfs,
        sriov_num_vfs=pf.sriov_num_vfs,
        pcie=pf.pcie,
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
