"""Corrections to the PCIe tree, where what the kernel shows is not what the machine is.

In virtual machines GPU and NIC of a pair sit on roots of their own, below bridges that nobody shows; on GB300
a NIC reads GPU memory through a second function beside the GPU (Data Direct). Clouds publish the truth as
NCCL topology files; `driver.overlay_files` reads those, and a small YAML of the same meaning. What they say
is applied here: values in, values out.

An overlay that contradicts the machine is refused as a whole, with its line: half a correction would pair
devices that are not near.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from driver.devices import Gpu, Inventory, Place, pci_order
from driver.errors import ConfigError
from driver.topology import rails


@dataclass(frozen=True, slots=True)
class Below:
    """A device below switches, top to leaf. `switches` are PCI addresses or names of the overlay's own; empty
    is right below the CPU. `numa_node` is None where the overlay does not say.
    """

    device: str
    line: int
    switches: tuple[str, ...] = ()
    numa_node: int | None = None


@dataclass(frozen=True, slots=True)
class DataDirect:
    """A NIC that reaches memory through a function elsewhere: beside `gpu` (a PCI address), or below
    `switches`. `nic` is a PCI address or the name of an RDMA device.
    """

    nic: str
    line: int
    gpu: str | None = None
    switches: tuple[str, ...] = ()
    numa_node: int | None = None


@dataclass(frozen=True, slots=True)
class Rail:
    """The rail of a device."""

    device: str
    line: int
    number: int


Entry = TypeVar("Entry", Below, DataDirect, Rail)


@dataclass(frozen=True, slots=True)
class Overlay:
    """What one file says; `source` names it in messages."""

    source: str
    devices: tuple[Below, ...] = ()
    data_direct: tuple[DataDirect, ...] = ()
    rails: tuple[Rail, ...] = ()

    def error(self, line: int, message: str) -> ConfigError:
        """A refusal that names file and line."""
        return ConfigError(message, path=f"{self.source}:{line}")


@dataclass(frozen=True, slots=True)
class Slots:
    """Places by PCI address of all GPUs and NICs that are, or once were, on the bus, published or not; `vfs`
    are the NICs' VFs, made or not, with the PF of each.
    """

    gpus: Mapping[str, Place] = field(default_factory=dict)
    nics: Mapping[str, Place] = field(default_factory=dict)
    vfs: Mapping[str, str] = field(default_factory=dict)


def apply(
    inventory: Inventory, overlay: Overlay, *, slots: Slots | None = None, strict: bool = True
) -> Inventory:
    """The inventory with the overlay's places and rails; what it says of a VF, it says of the VF's PF.

    `slots` are devices that the overlay may speak of and the inventory leaves out (a GPU that NVML does not
    answer for). With `strict` off a device that is not there at all is passed over, since hardware dies and
    the others' pairs must outlive it; an overlay none of whose devices is there is refused even then.

    Raises:
        ConfigError: the overlay contradicts the machine; the message begins with file and line.
    """
    everything = (*inventory.gpus, *inventory.silent_gpus)
    gpus = {**(slots.gpus if slots else {}), **{gpu.pci_address: gpu.place for gpu in everything}}
    nics = {**(slots.nics if slots else {}), **{nic.pci_address: nic.place for nic in inventory.nics}}
    overlay = _of_pfs(_present(overlay, known(inventory, slots), strict), _pfs(inventory, slots))
    moved = _moved(overlay, gpus, nics)
    gpus = {address: moved.get(address, place) for address, place in gpus.items()}
    nics = {address: moved.get(address, place) for address, place in nics.items()}
    rail = rails(gpus, nics, {entry.device: entry.number for entry in overlay.rails})

    def corrected(gpu: Gpu) -> Gpu:
        return replace(gpu, place=gpus[gpu.pci_address], rail=rail.get(gpu.pci_address))

    return replace(
        inventory,
        gpus=tuple(map(corrected, inventory.gpus)),
        silent_gpus=tuple(map(corrected, inventory.silent_gpus)),
        nics=tuple(
            replace(
                nic,
                place=nics[nic.pci_address],
                rail=rail.get(nic.pci_address),
                vfs=tuple(
                    replace(
                        vf,
                        place=nics[nic.pci_address] if nic.pci_address in moved else vf.place,
                        rail=rail.get(nic.pci_address),
                    )
                    for vf in nic.vfs
                ),
            )
            for nic in inventory.nics
        ),
    )


def absent(overlay: Overlay, known: Iterable[str]) -> list[tuple[int, str]]:
    """Line and name of each device that the overlay speaks of and that is not among `known` (PCI addresses
    and names of RDMA devices), by line.
    """
    here = set(known)
    return sorted((line, device) for line, device in _named(overlay) if device not in here)


def known(inventory: Inventory, slots: Slots | None = None) -> set[str]:
    """What an overlay may name on this machine."""
    found = {gpu.pci_address for gpu in (*inventory.gpus, *inventory.silent_gpus)}
    found |= {nic.pci_address for nic in inventory.nics} | _pfs(inventory, slots).keys()
    return found | (slots.gpus.keys() | slots.nics.keys() if slots is not None else set())


def _pfs(inventory: Inventory, slots: Slots | None) -> dict[str, str]:
    """PCI address of the PF that is meant, by each other name that an overlay may give it: that of its RDMA
    device, and both names of each of its VFs.
    """
    found = dict(slots.vfs) if slots is not None else {}
    for nic in inventory.nics:
        found |= {vf.pci_address: nic.pci_address for vf in nic.vfs}
        devices = (nic.rdma, *(vf.rdma for vf in nic.vfs))
        found |= {device.name: nic.pci_address for device in devices if device is not None}
    return found


def _of_pfs(overlay: Overlay, pfs: Mapping[str, str]) -> Overlay:
    """The overlay with every NIC under its PF's address, once. NCCL lists each RDMA device that it sees, so
    the dump of a host lists the VFs in the host's own namespace beside their PFs.
    """

    def once(entries: Iterable[Entry], name: str) -> tuple[Entry, ...]:
        found: dict[str, tuple[str, Entry]] = {}
        for entry in entries:
            given = getattr(entry, name)
            pf = pfs.get(given, given)
            mine = replace(entry, **{name: pf})
            first, one = found.setdefault(pf, (given, mine))
            if replace(one, line=entry.line) != mine:
                raise overlay.error(
                    entry.line,
                    f"{given} is the same NIC as {first} (line {one.line}), and is put elsewhere",
                )
        return tuple(entry for _, entry in found.values())

    return replace(
        overlay,
        devices=once(overlay.devices, "device"),
        data_direct=once(overlay.data_direct, "nic"),
        rails=once(overlay.rails, "device"),
    )


def _named(overlay: Overlay) -> list[tuple[int, str]]:
    named = [(entry.line, entry.device) for entry in overlay.devices]
    named += [(rail.line, rail.device) for rail in overlay.rails]
    for entry in overlay.data_direct:
        named += [(entry.line, device) for device in (entry.nic, entry.gpu) if device is not None]
    return named


def _present(overlay: Overlay, known: Iterable[str], strict: bool) -> Overlay:
    """The overlay without what it says of devices that are not there."""
    missing = absent(overlay, known)
    if missing and (strict or len(missing) == len(_named(overlay))):
        line, device = missing[0]
        raise overlay.error(line, f"{device} is no GPU or NIC of this machine")
    gone = {device for _, device in missing}
    return replace(
        overlay,
        devices=tuple(entry for entry in overlay.devices if entry.device not in gone),
        data_direct=tuple(e for e in overlay.data_direct if e.nic not in gone and e.gpu not in gone),
        rails=tuple(rail for rail in overlay.rails if rail.device not in gone),
    )


def _moved(overlay: Overlay, gpus: Mapping[str, Place], nics: Mapping[str, Place]) -> dict[str, Place]:
    """New places of the devices that the overlay speaks of."""
    physical = {**nics, **gpus}
    _check_switches(overlay, physical)
    tops = _tops(overlay, physical, gpus)
    moved = {
        entry.device: _place(physical[entry.device], entry.switches, entry.numa_node, tops)
        for entry in overlay.devices
    }
    for entry in overlay.data_direct:
        nic = entry.nic
        if nic not in nics:
            raise overlay.error(entry.line, f"{entry.nic} is a GPU; Data Direct is a NIC's")
        if entry.gpu is None:
            moved[nic] = _place(physical[nic], entry.switches, entry.numa_node, tops)
        elif entry.gpu in gpus:
            moved[nic] = moved.get(entry.gpu, gpus[entry.gpu])
        else:
            raise overlay.error(entry.line, f"{entry.gpu} is a NIC; Data Direct is beside a GPU")
    return moved


def _check_switches(overlay: Overlay, physical: Mapping[str, Place]) -> None:
    """Refuse to put devices of one physical leaf switch under different ones."""
    together: defaultdict[str, list[str]] = defaultdict(list)
    for address, place in physical.items():
        if place.pcie_switch is not None:
            together[place.pcie_switch].append(address)
    leaf = {entry.device: entry.switches[-1] for entry in overlay.devices if entry.switches}
    for entry in overlay.devices:
        switch = physical[entry.device].pcie_switch
        if switch is None:
            continue
        mine = leaf.get(entry.device)
        for other in together[switch]:
            if leaf.get(other, switch) != mine:
                where = "right below the CPU" if mine is None else f"below {mine}"
                raise overlay.error(
                    entry.line,
                    f"{entry.device} is put {where}, apart from {other}, but both are on the switch {switch}",
                )


def _tops(
    overlay: Overlay, physical: Mapping[str, Place], gpus: Mapping[str, Place]
) -> dict[str, tuple[str, str | None]]:
    """Root port and root complex below which each topmost switch counts, by the switch's name.

    They are those that all its devices share in the machine; else the switch itself, and the root of its
    first GPU, so that `resource.kubernetes.io/pcieRoot` says of the others what it says of that GPU.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for entry in overlay.devices:
        if entry.switches:
            members[entry.switches[0]].append(entry.device)
    answer: dict[str, tuple[str, str | None]] = {
        entry.switches[0]: (entry.switches[0], None) for entry in overlay.data_direct if entry.switches
    }
    for top, devices in members.items():
        first = min(devices, key=lambda address: (address not in gpus, pci_order(address)))
        ports = {physical[device].pcie_root_port for device in devices}
        port = ports.pop() if len(ports) == 1 else None
        answer[top] = (port or top, physical[first].pcie_root)
    return answer


def _place(
    physical: Place,
    switches: tuple[str, ...],
    numa_node: int | None,
    tops: Mapping[str, tuple[str, str | None]],
) -> Place:
    numa = physical.numa_node if numa_node is None else numa_node
    if not switches:
        return replace(physical, numa_node=numa)
    port, root = tops[switches[0]]
    return Place(
        pcie_switch=switches[-1], pcie_root_port=port, pcie_root=root or physical.pcie_root, numa_node=numa
    )
