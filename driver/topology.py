"""How near two devices are, and which rail each is on, from the PCIe tree alone.

The tree is given as values (root complex, bridges on the way down, NUMA node), so that sysfs, a machine
file and a corrected topology all end in the same arithmetic. Tiers are made to be plain equalities of
identifiers: what `tier` says here, `matchAttribute` in a claim says to kube-scheduler.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from driver.devices import Gpu, Nic, Place, Tier, pci_order


def place(pcie_root: str | None, bridges: Sequence[str], numa_node: int | None) -> Place:
    """Place of a device below `bridges`, which run from the root port down to the port that the device
    hangs on.

    A PCIe switch is two bridges in a row (its upstream port, then the downstream port above the device), so
    the leaf switch is the last but one. With two bridges in all, the lower one (a PCIe-to-PCI bridge, as VMs
    have) is the leaf. A device right under its root port has no switch.
    """
    if len(bridges) >= 3:
        switch: str | None = bridges[-2]
    elif len(bridges) == 2:
        switch = bridges[-1]
    else:
        switch = None
    return Place(
        pcie_switch=switch,
        pcie_root_port=bridges[0] if bridges else None,
        pcie_root=pcie_root,
        numa_node=numa_node,
    )


def tier(a: Place, b: Place) -> Tier:
    """The nearest level that both places know and share; SYS where they share none."""
    levels: tuple[tuple[object, object, Tier], ...] = (
        (a.pcie_switch, b.pcie_switch, Tier.PIX),
        (a.pcie_root_port, b.pcie_root_port, Tier.PXB),
        (a.pcie_root, b.pcie_root, Tier.PHB),
        (a.numa_node, b.numa_node, Tier.NODE),
    )
    for left, right, level in levels:
        if left is not None and left == right:
            return level
    return Tier.SYS


@dataclass(frozen=True, slots=True)
class Pair:
    """A GPU, a NIC, and how near they are."""

    gpu: Gpu
    nic: Nic
    tier: Tier


def pairs(gpus: Iterable[Gpu], nics: Iterable[Nic]) -> tuple[Pair, ...]:
    """Every GPU with every NIC, nearest first, then in PCI order."""
    nics = tuple(nics)
    every = [Pair(gpu, nic, tier(gpu.place, nic.place)) for gpu in gpus for nic in nics]
    return tuple(
        sorted(every, key=lambda p: (p.tier, pci_order(p.gpu.pci_address), pci_order(p.nic.pci_address)))
    )


def rails(gpus: Mapping[str, Place], nics: Mapping[str, Place]) -> dict[str, int]:
    """Rail numbers by PCI address, from the order of the GPU–NIC pairs that are PIX.

    Leaf switches that have both GPUs and NICs are taken in PCI order of their first GPU. On a switch of
    several, GPUs and NICs pair up in PCI order; where one side has more, neighbours share a rail. Devices
    on a switch without the other kind have no rail, and are not in the answer.
    """
    gpus_of, nics_of = _by_switch(gpus), _by_switch(nics)
    answer: dict[str, int] = {}
    first_rail = 0
    for switch in sorted(gpus_of.keys() & nics_of.keys(), key=lambda s: pci_order(gpus_of[s][0])):
        count = min(len(gpus_of[switch]), len(nics_of[switch]))
        for members in (gpus_of[switch], nics_of[switch]):
            for index, address in enumerate(members):
                answer[address] = first_rail + index * count // len(members)
        first_rail += count
    return answer


def _by_switch(places: Mapping[str, Place]) -> dict[str, list[str]]:
    """PCI addresses in order, by leaf switch; those without one are left out."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for address in sorted(places, key=pci_order):
        switch = places[address].pcie_switch
        if switch is not None:
            groups[switch].append(address)
    return dict(groups)
