"""Asks and their candidates as a `Problem`: interchangeable devices become kinds, constraints become matches
and budgets.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from controller.allocator import quantity
from controller.allocator.alignments import Aligned
from controller.allocator.asks import Ask, ParsedClaim
from controller.allocator.candidates import Candidates, Taken, wanted
from controller.allocator.capacity import Requests, Share, share
from controller.allocator.limits import Limit, rails
from controller.allocator.model import NodeDevices
from controller.allocator.problem import (
    Budget,
    Cover,
    Demand,
    Kind,
    Match,
    Pairing,
    Problem,
    Use,
    whole_numbers,
)
from controller.allocator.stranding import Stranding
from controller.allocator.traits import Counter, Near, consumption, pool_of, signatures, values
from driver.devices import Tier
from driver.kube.objects import DeviceConstraint


@dataclass(frozen=True, slots=True)
class Chosen:
    """An ask that is to be met, with its candidates."""

    ask: Ask
    found: Candidates


class Builder:
    """Makes problems for one node and one set of taken devices."""

    def __init__(
        self, node: NodeDevices, taken: Taken, limits: Mapping[int, Limit] = MappingProxyType({})
    ) -> None:
        self._node = node
        self._limits = limits
        self._taken = taken
        self._stranding = Stranding(node, taken)
        self._shares: dict[tuple[int, Requests], Share | None] = {}

    def fullness(self, using: Iterable[int]) -> tuple[int, int]:
        """`Stranding.fullness`."""
        return self._stranding.fullness(using)

    def build(
        self,
        claims: Sequence[ParsedClaim],
        chosen: Sequence[Chosen],
        free: Collection[int] = (),
        near: Near | None = None,
    ) -> Problem:
        """The problem of meeting all `chosen` at once; demands stand in their order. No constraint
        holds for those in `free`, nor does the capacity of their last device. GPUs should be `near`.
        """
        several = len(claims) > 1
        constraints: list[tuple[str, DeviceConstraint, tuple[int, ...]]] = []
        for claim in claims:
            for constraint in claim.constraints:
                who = tuple(
                    i for i, c in enumerate(chosen) if i not in free and concerns(constraint, c.ask, claim)
                )
                if who:
                    constraints.append((f"{claim.name}: " if several else "", constraint, who))
        names = sorted({n for _, c, _ in constraints for n in (c.match_attribute, c.distinct_attribute) if n})
        kinds, mine = self._kinds(chosen, names, near)
        demands = [
            Demand(
                claim=c.ask.claim,
                label=f'{claims[c.ask.claim].name + ": " if several else ""}request "{c.ask.request}"',
                count=wanted(c.ask, c.found),
                kinds={k: len(kinds[k].devices) for k in mine[i]},
            )
            for i, c in enumerate(chosen)
        ]
        matches: list[Match] = []
        distincts: list[Match] = []
        valued = {name: self._by_value(kinds, name) for name in names}
        having = {name: frozenset().union(*by_value.values()) for name, by_value in valued.items()}
        for prefix, constraint, who in constraints:
            for attribute, rules, word in (
                (constraint.match_attribute, matches, "matchAttribute"),
                (constraint.distinct_attribute, distincts, "distinctAttribute"),
            ):
                if attribute:
                    of = ", ".join(chosen[i].ask.request for i in who)
                    rules.append(Match(f"{prefix}{word} {attribute} of {of}", who, valued[attribute]))
                    # A device without the attribute cannot be part of the constraint.
                    for i in who:
                        kept = {k: n for k, n in demands[i].kinds.items() if k in having[attribute]}
                        demands[i] = replace(demands[i], kinds=kept)
        return Problem(
            kinds=kinds,
            demands=demands,
            matches=matches,
            distincts=distincts,
            budgets=(
                *self._counter_budgets(kinds, demands),
                *self._capacity_budgets(kinds, demands, chosen, free),
                *_admin_budgets(kinds, demands),
            ),
            pairings=tuple(_pairings(claims, chosen)),
            covers=tuple(self._covers(claims, chosen, kinds, demands)),
        )

    def _kinds(
        self, chosen: Sequence[Chosen], names: Sequence[str], near: Near | None
    ) -> tuple[list[Kind], list[tuple[int, ...]]]:
        """The kinds, and for each of `chosen` those it may take. Admin access has kinds of its own for each
        claim, with the same devices. Their order is that of the node's devices, taken or not: which of like
        devices are free must not decide which of several equally good answers is found.
        """
        wishes: dict[tuple[int, ...], int] = {}
        numbers: dict[int, int] = {}  # asks that filter alike have one and the same tuple
        for c in chosen:
            if id(c.found.free) not in numbers:
                numbers[id(c.found.free)] = wishes.setdefault(c.found.free, len(wishes))
        group_of = [numbers[id(c.found.free)] for c in chosen]
        masks: dict[int, int] = {}
        for free, number in wishes.items():
            bit = 1 << number
            if masks.keys().isdisjoint(free):
                masks.update(dict.fromkeys(free, bit))
            else:
                masks.update([(index, masks.get(index, 0) | bit) for index in free])
        by_rail = any(limit.exactly for limit in self._limits.values())
        alike = signatures(self._node, names, by_rail=by_rail)
        members: dict[tuple[int, int], list[int]] = {}
        for index in sorted(masks):
            key = masks[index], alike[index]
            if key in members:
                members[key].append(index)
            else:
                members[key] = [index]
        users = sorted({c.ask.claim for c in chosen if c.ask.admin})
        takers_of: dict[tuple[int, bool, int | None], list[int]] = {}
        kinds: list[Kind] = []
        mine: list[list[int]] = [[] for _ in chosen]
        for (mask, _), indices in sorted(members.items(), key=lambda item: (item[0][1], item[1][0])):
            group = tuple(indices)
            first = self._node.devices[group[0]]
            shared = first.device.allow_multiple_allocations
            for admin in (None, *users):
                takers = takers_of.get((mask, shared, admin))
                if takers is None:
                    takers = takers_of[mask, shared, admin] = [
                        i
                        for i, g in enumerate(group_of)
                        if mask >> g & 1
                        and (chosen[i].ask.claim if chosen[i].ask.admin and not shared else None) == admin
                    ]
                if not takers:
                    continue
                for i in takers:
                    mine[i].append(len(kinds))
                kinds.append(
                    Kind(
                        devices=group,
                        place=first.place,
                        seats=len(takers) if shared else len(group),
                        cost=self._stranding.cost(group[0]) if admin is None else 0,
                        avoid=self._stranding.avoid(group[0], near) if admin is None else 0,
                        shared=shared,
                        admin=admin,
                    )
                )
        return kinds, [tuple(found) for found in mine]

    def _by_value(self, kinds: Sequence[Kind], attribute: str) -> dict[Hashable, frozenset[int]]:
        found: dict[Hashable, set[int]] = {}
        column = values(self._node, attribute)
        for index, kind in enumerate(kinds):
            for value in column[kind.devices[0]]:
                found.setdefault(value, set()).add(index)
        return {value: frozenset(indices) for value, indices in found.items()}

    def _counter_budgets(self, kinds: Sequence[Kind], demands: Sequence[Demand]) -> list[Budget]:
        amounts: dict[Counter, dict[int, Fraction]] = {}
        once = frozenset(index for index, kind in enumerate(kinds) if kind.shared)
        for index, kind in enumerate(kinds):
            if not self._taken.draws_nothing(kind.devices[0]):
                first = self._node.devices[kind.devices[0]]
                for counter, amount in consumption(pool_of(first), first.device):
                    amounts.setdefault(counter, {})[index] = amount
        budgets = []
        for counter, of_kind in amounts.items():
            _, counter_set, name = counter
            total = quantity.parse(self._node.counters[counter])
            limit, whole, unit = whole_numbers(total - self._taken.spent.get(counter, 0), of_kind)
            weights = {
                (i, k): whole[k] for i, demand in enumerate(demands) for k in demand.kinds if k in whole
            }
            if weights:
                budgets.append(Budget(f"counter {name} of {counter_set}", limit, weights, once, unit))
        return budgets

    def _covers(
        self,
        claims: Sequence[ParsedClaim],
        chosen: Sequence[Chosen],
        kinds: Sequence[Kind],
        demands: Sequence[Demand],
    ) -> Iterable[Cover]:
        """Rails that a claim must use every one of, once all its requests are there."""
        for number, limit in self._limits.items():
            mine = [i for i, c in enumerate(chosen) if c.ask.claim == number]
            if not limit.exactly or len(mine) < len(claims[number].options):
                continue
            column = rails(self._node)
            for rail in sorted(limit.rails):
                uses = {(i, k) for i in mine for k in demands[i].kinds if column[kinds[k].devices[0]] == rail}
                prefix = f"{claims[number].name}: " if len(claims) > 1 else ""
                label = f"{prefix}rail {rail}"
                yield Cover(label, f"no NIC of the claim can be on it ({limit.reason})", frozenset(uses))

    def _capacity_budgets(
        self,
        kinds: Sequence[Kind],
        demands: Sequence[Demand],
        chosen: Sequence[Chosen],
        free: Collection[int],
    ) -> Iterable[Budget]:
        """What those who share a device consume together."""
        for index, kind in enumerate(kinds):
            if not kind.shared:
                continue
            first = self._node.devices[kind.devices[0]]
            parts = {
                i: part
                for i, demand in enumerate(demands)
                if index in demand.kinds
                and (i not in free or chosen[i].found.free[-1] != kind.devices[0])
                and (part := self._share(kind.devices[0], chosen[i].ask.capacity))
            }
            held = self._taken.shared.get(kind.devices[0], {})
            for name, capacity in first.device.capacity.items():
                left = quantity.parse(capacity.value) - held.get(name, Fraction(0))
                amounts = {(i, index): part.amounts[name] for i, part in parts.items()}
                limit, weights, unit = whole_numbers(left, amounts)
                yield Budget(f"capacity {name} of {first.id.device}", limit, weights, unit=unit)

    def _share(self, index: int, capacity: Requests) -> Share | None:
        key = index, capacity
        if key not in self._shares:
            self._shares[key] = share(self._node.devices[index].device, capacity)
        return self._shares[key]


def concerns(constraint: DeviceConstraint, ask: Ask, claim: ParsedClaim) -> bool:
    """Is the ask among those that the claim's constraint is about?"""
    return ask.claim == claim.index and (
        not constraint.requests or ask.main in constraint.requests or ask.request in constraint.requests
    )


def _admin_budgets(kinds: Sequence[Kind], demands: Sequence[Demand]) -> Iterable[Budget]:
    """Within a claim nobody takes a device twice, and what admin access has taken no later claim takes (as
    kube-scheduler has it); an earlier claim's devices are open to it.
    """
    plain = {kind.devices: index for index, kind in enumerate(kinds) if kind.admin is None}
    for index, kind in enumerate(kinds):
        other = plain.get(kind.devices)
        if kind.admin is None or other is None:
            continue
        weights: dict[Use, int] = {}
        for i, demand in enumerate(demands):
            if index in demand.kinds:
                weights[i, index] = 1
            if other in demand.kinds and demand.claim >= kind.admin:
                weights[i, other] = 1
        yield Budget("devices", len(kind.devices), weights)


def _pairings(claims: Sequence[ParsedClaim], chosen: Sequence[Chosen]) -> Iterable[Pairing]:
    for claim in claims:
        asks = {
            name: i
            for i, c in enumerate(chosen)
            if c.ask.claim == claim.index
            for name in (c.ask.main, c.ask.request)
        }
        for aligned in claim.alignments:
            pairs = aligned.pairs
            gpus, nics = asks.get(pairs.gpus), asks.get(pairs.nics)
            if gpus is not None and nics is not None:
                prefix = f"{claim.name}: " if len(claims) > 1 else ""
                label = f"{prefix}pairs {pairs.gpus}+{pairs.nics}"
                yield Pairing(label, gpus, nics, ranks(aligned), aligned.required_by)


def ranks(aligned: Aligned) -> Mapping[Tier, int]:
    """Preferred tiers in their order, then the others from near to far; none beyond what is required."""
    order = (*aligned.prefer, *(t for t in Tier if t not in aligned.prefer))
    return {level: rank for rank, level in enumerate(t for t in order if t <= aligned.require)}
