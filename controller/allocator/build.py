"""Asks and their candidates as a `Problem`: interchangeable devices become kinds, constraints become matches
and budgets.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from controller.allocator import quantity
from controller.allocator.asks import Ask, ParsedClaim
from controller.allocator.candidates import Candidates, wanted
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice, PoolId
from controller.allocator.problem import Budget, Demand, Kind, Match, Pairing, Problem, Use
from driver.config import Alignment
from driver.devices import Place, Tier
from driver.kube.objects import Device, DeviceConstraint
from driver.names import DRIVER_NAME, RAIL, TYPE, TYPE_GPU, TYPE_NIC, TYPE_VF

# What it costs to take a device outside a PIX pair. Weights only order the feasible; tiers outweigh them all.
_HELD: Final = 5_000
"""A device that a pod on the node still uses though the API calls it free."""
_BREAKS_PAIR: Final = 200
"""A GPU that leaves a NIC alone on its switch, or a NIC that leaves a GPU alone."""
_BESIDE_PAIR: Final = 50
"""A NIC of which the switch has more than it has GPUs."""

_COUNTER = tuple[PoolId, str, str]


@dataclass(frozen=True, slots=True)
class Chosen:
    """An ask that is to be met, with its candidates."""

    ask: Ask
    found: Candidates


class Builder:
    """Makes problems for one node and one set of taken devices."""

    def __init__(self, node: NodeDevices, taken: Collection[DeviceId]) -> None:
        self._node = node
        self._taken = taken
        self._stranding = _Stranding(node, taken)
        self._spent: dict[_COUNTER, Fraction] = {}
        for device_id in taken:
            device = node.consumers.get(device_id)
            if device is not None:
                for counter, amount in _consumption(PoolId(device_id.driver, device_id.pool), device):
                    self._spent[counter] = self._spent.get(counter, Fraction(0)) + amount

    def build(self, claims: Sequence[ParsedClaim], chosen: Sequence[Chosen]) -> Problem:
        """The problem of meeting all `chosen` at once; demands stand in their order."""
        wishes: dict[tuple[int, ...], int] = {}
        group_of = [wishes.setdefault(c.found.free, len(wishes)) for c in chosen]
        several = len(claims) > 1
        constraints: list[tuple[str, DeviceConstraint, tuple[int, ...]]] = []
        for claim in claims:
            for constraint in claim.constraints:
                who = tuple(
                    i
                    for i, c in enumerate(chosen)
                    if c.ask.claim == claim.index
                    and (not constraint.requests or {c.ask.main, c.ask.request} & set(constraint.requests))
                )
                if who:
                    constraints.append((f"{claim.name}: " if several else "", constraint, who))
        names = sorted({n for _, c, _ in constraints for n in (c.match_attribute, c.distinct_attribute) if n})
        kinds, wanted_by = self._kinds(list(wishes), names)
        demands = [
            Demand(
                claim=c.ask.claim,
                label=f'{claims[c.ask.claim].name + ": " if several else ""}request "{c.ask.request}"',
                count=wanted(c.ask, c.found),
                kinds={k: kinds[k].seats for k in range(len(kinds)) if group in wanted_by[k]},
            )
            for c, group in zip(chosen, group_of, strict=True)
        ]
        matches: list[Match] = []
        distincts: list[Match] = []
        for prefix, constraint, who in constraints:
            for attribute, rules, word in (
                (constraint.match_attribute, matches, "matchAttribute"),
                (constraint.distinct_attribute, distincts, "distinctAttribute"),
            ):
                if attribute:
                    of = ", ".join(chosen[i].ask.request for i in who)
                    rules.append(
                        Match(f"{prefix}{word} {attribute} of {of}", who, self._by_value(kinds, attribute))
                    )
                    # A device without the attribute cannot be part of the constraint.
                    having = frozenset().union(*rules[-1].kinds.values())
                    for i in who:
                        demand = demands[i]
                        demands[i] = Demand(
                            demand.claim,
                            demand.label,
                            demand.count,
                            {k: n for k, n in demand.kinds.items() if k in having},
                        )
        return Problem(
            kinds=kinds,
            demands=demands,
            matches=matches,
            distincts=distincts,
            budgets=self._counter_budgets(kinds, demands),
            pairings=tuple(_pairings(claims, chosen)),
        )

    def _kinds(
        self, wishes: Sequence[tuple[int, ...]], names: Sequence[str]
    ) -> tuple[list[Kind], list[frozenset[int]]]:
        groups_of: dict[int, int] = {}
        for number, devices in enumerate(wishes):
            for index in devices:
                groups_of[index] = groups_of.get(index, 0) | 1 << number
        members: dict[Hashable, list[int]] = {}
        for index in sorted(groups_of):
            device = self._node.devices[index]
            signature = (
                groups_of[index],
                device.place,
                tuple(values_of(device, name) for name in names),
                self._avoid(device),
                device.id.driver if device.place == Place() else "",
                _type(device),
                tuple(_consumption(PoolId(device.id.driver, device.id.pool), device.device)),
            )
            members.setdefault(signature, []).append(index)
        kinds = []
        wanted_by = []
        for indices in members.values():
            first = self._node.devices[indices[0]]
            kinds.append(
                Kind(
                    devices=tuple(indices),
                    place=first.place,
                    seats=len(indices),
                    cost=self._stranding.cost(first),
                    avoid=self._avoid(first) + self._stranding.crowd(first),
                )
            )
            mask = groups_of[indices[0]]
            wanted_by.append(frozenset(n for n in range(len(wishes)) if mask >> n & 1))
        return kinds, wanted_by

    @staticmethod
    def _avoid(device: PoolDevice) -> int:
        return _HELD * any(taint.effect == "None" for taint in device.device.taints)

    def _by_value(self, kinds: Sequence[Kind], attribute: str) -> dict[Hashable, frozenset[int]]:
        found: dict[Hashable, set[int]] = {}
        for index, kind in enumerate(kinds):
            for value in values_of(self._node.devices[kind.devices[0]], attribute):
                found.setdefault(value, set()).add(index)
        return {value: frozenset(indices) for value, indices in found.items()}

    def _counter_budgets(self, kinds: Sequence[Kind], demands: Sequence[Demand]) -> list[Budget]:
        weights: dict[_COUNTER, dict[Use, Fraction | int]] = {}
        for index, kind in enumerate(kinds):
            first = self._node.devices[kind.devices[0]]
            for counter, amount in _consumption(PoolId(first.id.driver, first.id.pool), first.device):
                for demand_index, demand in enumerate(demands):
                    if index in demand.kinds:
                        weights.setdefault(counter, {})[demand_index, index] = amount
        return [
            Budget(f"counter {name} of {counter_set}", self._left(pool, counter_set, name), uses)
            for (pool, counter_set, name), uses in weights.items()
        ]

    def _left(self, pool: PoolId, counter_set: str, name: str) -> Fraction:
        """What the taken devices leave; nothing at all in a set of which they have overdrawn any counter."""
        left = {
            key: quantity.parse(value) - self._spent.get(key, 0)
            for key, value in self._node.counters.items()
            if key[:2] == (pool, counter_set)
        }
        return Fraction(0) if min(left.values()) < 0 else left[pool, counter_set, name]


class _Stranding:
    """What it costs to take a device by itself, so that whole pairs are left."""

    def __init__(self, node: NodeDevices, taken: Collection[DeviceId]) -> None:
        self._gpus: dict[str, int] = {}
        self._nics: dict[str, int] = {}
        self._gpus_by_numa: dict[tuple[str, int], int] = {}
        for device in node.devices:
            if device.id in taken:
                continue
            kind, switch = _type(device), device.place.pcie_switch
            if kind == TYPE_GPU and device.place.numa_node is not None:
                key = (device.id.pool, device.place.numa_node)
                self._gpus_by_numa[key] = self._gpus_by_numa.get(key, 0) + 1
            if switch is not None and kind in (TYPE_GPU, TYPE_NIC, TYPE_VF):
                of = self._gpus if kind == TYPE_GPU else self._nics
                of[switch] = of.get(switch, 0) + 1

    def crowd(self, device: PoolDevice) -> int:
        """Free GPUs on the device's NUMA node: the one that is fullest already is filled up first."""
        place = device.place
        if place.numa_node is None:
            return 0
        return min(self._gpus_by_numa.get((device.id.pool, place.numa_node), 0), _BESIDE_PAIR - 1)

    def cost(self, device: PoolDevice) -> int:
        """Nothing for what has no free mate on its switch."""
        kind, switch = _type(device), device.place.pcie_switch
        if switch is None or kind not in (TYPE_GPU, TYPE_NIC, TYPE_VF):
            return 0
        gpus, nics = self._gpus.get(switch, 0), self._nics.get(switch, 0)
        if kind == TYPE_GPU:
            return _BREAKS_PAIR if nics else 0
        if not gpus:
            return 0
        return _BESIDE_PAIR if nics > gpus else _BREAKS_PAIR


def values_of(device: PoolDevice, attribute: str) -> frozenset[Hashable]:
    """The values of a qualified attribute, typed; more than one for a list, empty where the device does not
    have it.
    """
    found = device.device.attributes.get(attribute)
    if found is None:
        domain, _, short = attribute.partition("/")
        if domain == device.id.driver:
            found = device.device.attributes.get(short)
    if found is None:
        return frozenset()
    typed: tuple[tuple[str, Iterable[object] | None], ...] = (
        ("string", (found.string,) if found.string is not None else found.strings),
        ("int", (found.int_,) if found.int_ is not None else found.ints),
        ("bool", (found.bool_,) if found.bool_ is not None else found.bools),
        ("version", (found.version,) if found.version is not None else found.versions),
    )
    return frozenset((kind, value) for kind, values in typed if values is not None for value in values)


def rail_of(device: PoolDevice) -> int | None:
    """The rail that a device says it is on."""
    attributes = device.device.attributes
    found = attributes.get(RAIL) or attributes.get(f"{DRIVER_NAME}/{RAIL}")
    return found.int_ if found else None


def _type(device: PoolDevice) -> str:
    attributes = device.device.attributes
    found = attributes.get(TYPE) or attributes.get(f"{DRIVER_NAME}/{TYPE}")
    return (found.string or "") if found else ""


def _consumption(pool: PoolId, device: Device) -> Iterable[tuple[_COUNTER, Fraction]]:
    for use in device.consumes_counters:
        for name, counter in use.counters.items():
            yield (pool, use.counter_set, name), quantity.parse(counter.value)


def _pairings(claims: Sequence[ParsedClaim], chosen: Sequence[Chosen]) -> Iterable[Pairing]:
    for claim in claims:
        asks = {
            name: i
            for i, c in enumerate(chosen)
            if c.ask.claim == claim.index
            for name in (c.ask.main, c.ask.request)
        }
        for alignment in claim.alignments:
            gpus, nics = asks.get(alignment.pairs.gpus), asks.get(alignment.pairs.nics)
            if gpus is not None and nics is not None:
                prefix = f"{claim.name}: " if len(claims) > 1 else ""
                label = f"{prefix}pairs {alignment.pairs.gpus}+{alignment.pairs.nics}"
                yield Pairing(label, gpus, nics, ranks(alignment))


def ranks(alignment: Alignment) -> Mapping[Tier, int]:
    """Preferred tiers in their order, then the others from near to far; none beyond what is required."""
    order = (*alignment.prefer, *(t for t in Tier if t not in alignment.prefer))
    return {level: rank for rank, level in enumerate(t for t in order if t <= alignment.require)}
