"""How near two devices are, and which rail each is on, from the PCIe tree alone.

The tree is given as values (root complex, bridges on the way down, NUMA node), so that sysfs, a machine
file and a corrected topology all end in the same arithmetic. Tiers are made to be plain equalities of
identifiers: what `tier` says here, `matchAttribute` in a claim says to kube-scheduler.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from driver.devices import Place, Tier, pci_order


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


_LEVELS: Final = (
    ("pcie_switch", Tier.PIX),
    ("pcie_root_port", Tier.PXB),
    ("pcie_root", Tier.PHB),
    ("numa_node", Tier.NODE),
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


def nearest_tier(some: Iterable[Place], others: Iterable[Place]) -> Tier:
    """The nearest level at which a place of either side has the same value: no two are nearer than that."""
    first, second = list(some), list(others)
    for name, level in _LEVELS:
        if {getattr(place, name) for place in first} & {getattr(place, name) for place in second} - {None}:
            return level
    return Tier.SYS


@dataclass(frozen=True, slots=True)
class Mates:
    """PCI addresses of a GPU and a NIC that work together, and how near they are."""

    gpu: str
    nic: str
    tier: Tier


def pairing(
    gpus: Mapping[str, Place], nics: Mapping[str, Place], given: Mapping[str, int] | None = None
) -> tuple[Mates, ...]:
    """The pairs that the whole machine falls into: as many as there can be, best tiers first, in PCI order.

    Places nest (switch in root port in root complex in NUMA node), so pairing off what shares a switch, then
    what is left below a root port, and so on, is a maximum matching of the best tiers. Where one kind is
    left over, each goes to a mate as near as the mate's own pair is (four NICs of one GPU, two GPUs of one
    NIC); one that is farther, such as a storage NIC, pairs with none. Equal rails in `given` come first
    within a tier.

    Returns:
        Pairs by GPU, then NIC, in PCI order.
    """
    rail = given or {}
    free_gpus, free_nics = sorted(gpus, key=pci_order), sorted(nics, key=pci_order)
    found: list[Mates] = []
    for level in Tier:
        nics_of = _by_level(free_nics, nics, level)
        for key, members in _by_level(free_gpus, gpus, level).items():
            found += [Mates(gpu, nic, level) for gpu, nic in _off(members, nics_of.get(key, []), rail)]
        free_gpus = [gpu for gpu in free_gpus if all(gpu != mates.gpu for mates in found)]
        free_nics = [nic for nic in free_nics if all(nic != mates.nic for mates in found)]
    for nic in free_nics:
        near = [m for m in found if tier(gpus[m.gpu], nics[nic]) is m.tier]
        found += [Mates(m.gpu, nic, m.tier) for m in _neighbour(near, [m.nic for m in near], nic)]
    for gpu in free_gpus:
        near = [m for m in found if tier(gpus[gpu], nics[m.nic]) is m.tier]
        found += [Mates(gpu, m.nic, m.tier) for m in _neighbour(near, [m.gpu for m in near], gpu)]
    return tuple(sorted(found, key=lambda m: (pci_order(m.gpu), pci_order(m.nic))))


def rails(
    gpus: Mapping[str, Place], nics: Mapping[str, Place], given: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Rail numbers by PCI address: those `given` (an overlay's), else counted up in the order of the pairs.

    Pairs that share at least a root complex make rails; only where a machine has none of these do pairs of
    a NUMA node or of the whole system. Devices of no such pair have no rail, and are not in the answer.
    A device that shares its mate shares its rail.
    """
    answer = dict(given or {})
    mates = pairing(gpus, nics, given)
    near = [pair for pair in mates if pair.tier <= Tier.PHB] or mates
    taken, fresh = set(answer.values()), 0
    for pair in near:
        known = answer.get(pair.nic, answer.get(pair.gpu))
        if known is None:
            while fresh in taken:
                fresh += 1
            known = fresh
            taken.add(known)
        answer.setdefault(pair.gpu, known)
        answer.setdefault(pair.nic, known)
    return answer


def _level(place: Place, level: Tier) -> object | None:
    """What two places share when they are as near as `level`; None where it is not known."""
    if level is Tier.SYS:
        return "system"
    return (place.pcie_switch, place.pcie_root_port, place.pcie_root, place.numa_node)[level]


def _by_level(addresses: Iterable[str], places: Mapping[str, Place], level: Tier) -> dict[object, list[str]]:
    groups: defaultdict[object, list[str]] = defaultdict(list)
    for address in addresses:
        key = _level(places[address], level)
        if key is not None:
            groups[key].append(address)
    return dict(groups)


def _off(gpus: Sequence[str], nics: Sequence[str], rail: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pair off two lists of equals, one to one: equal rails first, then in order, spread over the longer."""
    left = list(nics)
    found: list[tuple[str, str]] = []
    for gpu in gpus:
        match = next((nic for nic in left if rail.get(nic) == rail.get(gpu) is not None), None)
        if match is not None:
            left.remove(match)
            found.append((gpu, match))
    paired = {gpu for gpu, _ in found}
    rest = [gpu for gpu in gpus if gpu not in paired]
    count = min(len(rest), len(left))
    return found + list(zip(_spread(rest, count), _spread(left, count), strict=True))


def _spread(items: Sequence[str], count: int) -> list[str]:
    """`count` of the items, the first of each of as many equal stretches."""
    return [items[-(-index * len(items) // count)] for index in range(count)]


def _neighbour(near: Sequence[Mates], beside: Sequence[str], address: str) -> list[Mates]:
    """The pair (or none) whose device `beside` comes last before `address`, else the first."""
    if not near:
        return []
    before = [(pci_order(other), mates) for mates, other in zip(near, beside, strict=True)]
    lower = [item for item in before if item[0] < pci_order(address)]
    return [max(lower, key=lambda item: item[0])[1] if lower else min(before, key=lambda item: item[0])[1]]
