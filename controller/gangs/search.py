"""Where do all members of a gang go together: on which rails, in which domain, how many on which nodes?

The search knows nothing of Kubernetes. It asks a `Provider` what one more member does to a node in some
state, and counts nodes in equal state instead of naming them, so its work grows with the states there are.
Whether a node is open to its members for other reasons is asked only of nodes that were chosen; what is
learnt of a node that is not makes it a kind of its own, and the choice is made anew.

If there is a way, one is found. The best one (tiers, then what is stranded, then the fewest nodes, the
fullest first) is found wherever all rail sets can be looked at within `patience`, which small cases never
exhaust; beyond that the best so far is taken, best tiers proved or not. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final, Generic, TypeVar

from controller.effort import Interrupted
from controller.gangs.filling import Filling, Lot
from controller.gangs.packing import Members, Packing, Stock, least_steps
from controller.gangs.problem import Found, Group, NotFound, Provider, Question, Taken
from controller.gangs.seats import Seats, admit
from controller.gangs.zones import Zones

S = TypeVar("S", bound=Hashable)

_TIER, _OTHER = 96, 32
"""Bits by which costs are shifted, so that the first decides and the number of nodes comes last."""
_TAKE_STEPS: Final = 2
_FILL_STEPS: Final = 20_000
"""So many at most takes the way member by member, in one domain on one set of rails."""
_ON_A_NODE: Final = 8
"""More members of one shape few nodes take."""
_COUNTED_STEPS: Final = 50_000
"""So many steps at most take the ways to use the nodes of one domain on one set of rails."""


@dataclass(frozen=True, slots=True)
class _Lot:
    """Nodes that offer the same: the number of the table, and their names."""

    table: int
    must: bool
    names: list[Sequence[str]] = field(default_factory=list)


def search(question: Question[S], provider: Provider[S]) -> Found | NotFound:
    """The best way, or how near it comes.

    Raises:
        Interrupted: the provider did, or this turn's steps are used up.
            Asked with the same `tries`, it goes on.
    """
    return _Search(question, provider).run()


class _OutOfSteps(Exception):  # noqa: N818  # an end, not an error
    pass


class _Search(Generic[S]):
    def __init__(self, question: Question[S], provider: Provider[S]) -> None:
        self._question = question
        self._provider = provider
        self._demand = question.demand
        self._taken: dict[tuple[int, S, int | None], Taken[S] | None] = {}
        self._nobody = (0,) * len(self._demand)
        self._offers: dict[tuple[S, int | None, Seats, frozenset[Members]], int] = {}
        self._tables: list[dict[Members, int]] = []
        self._numbers: dict[tuple[tuple[Members, int], ...], int] = {}
        self._closed = question.tries.closed
        self._steps = 0
        self._least = 0
        self._best: Found | None = None
        self._nearest = NotFound(self._nobody, "", None)
        self._reached = self._nobody
        self._has_tried = False

    def run(self) -> Found | NotFound:
        try:
            self._look()
        except _OutOfSteps:
            if self._best is None:
                near = self._nearest
                return NotFound(near.most, near.domain, near.rails, gave_up=True)
        except Interrupted:
            if self._best is None or self._best.cost >> _TIER > self._least:
                raise
        if self._best is None and self._question.tries.gave_up:
            return replace(self._nearest, gave_up=True)
        return self._best or self._nearest

    def _look(self) -> None:
        groups = [g for g in self._question.groups if self._is_of_use(g)]
        domains: dict[Hashable, list[Group[S]]] = {}
        for group in groups:
            domains.setdefault(group.domain, []).append(group)
        self._least = self._least_tiers(groups)
        for rails in self._ordered(groups):
            for domain, members in domains.items():
                if self._is_content():
                    return
                self._try_anew(domain, rails, [g for g in members if self._is_open(g, rails)])

    # Which rails

    def _ordered(self, groups: Sequence[Group[S]]) -> Iterator[int | None]:
        """Rail sets, first those that most nodes would choose by themselves."""
        if len(self._question.rails) == 1:
            yield from self._question.rails
            return
        chosen: dict[int, int] = {}
        for group in groups:
            for shape in range(len(self._demand)):
                taken = self._take(shape, group.state, None)
                if taken is not None:
                    chosen[taken.rails] = chosen.get(taken.rails, 0) + len(group.nodes)
        masks: dict[int, int] = {}
        for group in groups:
            masks[group.rails] = masks.get(group.rails, 0) + len(group.nodes)
        ranked = []
        for rails in self._question.rails:
            usable = sum(n for mask, n in masks.items() if rails is None or mask & rails == rails)
            ranked.append((-chosen.get(rails or 0, 0), -usable, rails or 0, rails))
        for _, _, _, rails in sorted(ranked, key=lambda entry: entry[:3]):
            yield rails

    def _is_open(self, group: Group[S], rails: int | None) -> bool:
        """Could some shape be there on these rails? One with fewer NICs than rails need not use them all."""
        if rails is None:
            return True
        every, some = group.rails & rails == rails, group.rails & rails
        return any(
            not shape.nics or (some if shape.nics < rails.bit_count() else every)
            for shape in self._question.shapes
        )

    def _is_of_use(self, group: Group[S]) -> bool:
        return any(self._take(i, group.state, None) is not None for i in range(len(self._demand)))

    def _least_tiers(self, groups: Sequence[Group[S]]) -> int:
        """No way has better tiers than this."""
        total = 0
        for shape, count in enumerate(self._demand):
            tiers = [t.tiers for g in groups if (t := self._take(shape, g.state, None)) is not None]
            total += count * min(tiers, default=0)
        return total

    def _is_content(self) -> bool:
        if self._best is None or self._steps < self._question.patience:
            return False
        return self._best.cost >> _TIER <= self._least or self._steps >= 3 * self._question.patience

    # In one domain, on one set of rails

    def _try_anew(self, domain: Hashable, rails: int | None, groups: Sequence[Group[S]]) -> None:
        """Try what no turn before has tried in vain."""
        question, tries = self._question, self._question.tries
        places = tuple((group.state, len(group.nodes), group.zone, group.seats) for group in groups)
        key = (domain, rails, places, question.musts, tuple(question.zones.items()))
        if key not in tries.failed:
            if tries.turn > question.turn_steps and self._has_tried and self._best is None:
                raise Interrupted
            self._has_tried = True
            before = self._best
            self._reached = self._nobody
            self._try(domain, rails, groups)
            if self._best is before:
                tries.failed[key] = self._reached
        most = tries.failed.get(key, self._nobody)
        if sum(most) > sum(self._nearest.most):
            self._nearest = NotFound(most, domain, rails)

    def _try(self, domain: Hashable, rails: int | None, groups: Sequence[Group[S]]) -> None:
        if self._question.musts > sum(len(g.nodes) for g in groups if g.must_take(self._nobody)):
            return
        zones: dict[Hashable, list[Group[S]]] = {zone: [] for zone in self._question.zones}
        for group in groups:
            zones.setdefault(group.zone, []).append(group)
        if self._are_too_many(groups):
            self._fill(domain, rails, groups)
            return
        while True:
            lots = [self._lots(some, rails) for some in zones.values()]
            stocks = [
                [Stock(self._tables[lot.table], sum(map(len, lot.names)), lot.must) for lot in some]
                for some in lots
            ]
            room = sum(max(map(sum, s.offers), default=0) * s.nodes for some in stocks for s in some)
            if room < sum(self._demand) and room <= sum(self._nearest.most):
                return
            if len(self._demand) == 1 and not self._question.zones:
                if room < self._demand[0]:
                    self._reached = (room,)
                    return
                self._spare(least_steps(self._demand[0], stocks[0]))
            packing = self._packed(list(zones), stocks)
            self._spend(packing.steps)
            if packing.cost is None:
                self._reached = packing.most
                return
            if self._best is not None and packing.cost >= self._best.cost:
                return
            places = self._named(packing, lots)
            if places is not None:
                self._best = Found(domain, rails, tuple(places), packing.cost)
                return

    def _are_too_many(self, groups: Sequence[Group[S]]) -> bool:
        """Are there more ways to count than can be counted soon?"""
        total = sum(self._demand)
        parts = prod(count + 1 for count in self._demand)
        offers = prod(min(count, _ON_A_NODE) + 1 for count in self._demand)
        nodes = sum(min(len(group.nodes), total) for group in groups)
        if self._question.zones:
            offers, nodes = max(offers, parts), nodes + len(self._question.zones)
        return len(self._demand) > 1 and parts * offers * nodes > _COUNTED_STEPS

    def _fill(self, domain: Hashable, rails: int | None, groups: Sequence[Group[S]]) -> None:
        """Look for a way member by member."""
        lots = [
            Lot(group.state, group.nodes, group.zone, group.seats, group.must_take(self._nobody))
            for group in groups
        ]
        filling = Filling(
            self._demand,
            lots,
            self._question.zones,
            lambda shape, state: self._take(shape, state, rails),
            self._provider.fits,
            _FILL_STEPS,
        )
        places = filling.places()
        self._spend(filling.steps)
        self._reached = filling.most
        self._question.tries.gave_up |= filling.gave_up
        if places is not None:
            tiers, other = filling.cost
            cost = (tiers << _TIER) + (other << _OTHER) + len(places)
            if self._best is None or cost < self._best.cost:
                self._best = Found(domain, rails, tuple(places), cost)

    def _packed(self, zones: Sequence[Hashable], stocks: Sequence[Sequence[Stock]]) -> Packing | Zones:
        if not self._question.zones:
            return Packing(self._demand, stocks[0] if stocks else ())
        return Zones(self._demand, stocks, [self._question.zones.get(zone, ()) for zone in zones])

    def _lots(self, groups: Sequence[Group[S]], rails: int | None) -> list[_Lot]:
        """Nodes by what they offer."""
        lots: dict[tuple[int, bool], _Lot] = {}
        for group in groups:
            must = group.must_take(self._nobody)
            runs: dict[frozenset[Members], Sequence[str]] = {frozenset(): group.nodes}
            if self._closed:
                apart: dict[frozenset[Members], list[str]] = {}
                for node in group.nodes:
                    apart.setdefault(self._closed.get(node, frozenset()), []).append(node)
                runs = dict(apart)
            for closed, nodes in runs.items():
                table = self._offer(group.state, rails, group.seats, closed)
                if self._tables[table] or must:
                    lots.setdefault((table, must), _Lot(table, must)).names.append(nodes)
        return list(lots.values())

    def _offer(self, state: S, rails: int | None, seats: Seats, closed: frozenset[Members]) -> int:
        """The number of the table of what a node in this state takes."""
        key = (state, rails, seats, closed)
        number = self._offers.get(key)
        if number is None:
            table = {
                members: cost
                for members, cost in self._ways(0, state, rails, (), 1)
                if any(members) and admit(seats, members) and not any(_covers(members, one) for one in closed)
            }
            self._spend(len(table))
            number = self._offers[key] = self._number(table)
        return number

    def _number(self, table: dict[Members, int]) -> int:
        key = tuple(sorted(table.items()))
        if key not in self._numbers:
            self._numbers[key] = len(self._tables)
            self._tables.append(table)
        return self._numbers[key]

    def _ways(
        self, shape: int, state: S, rails: int | None, members: Members, cost: int
    ) -> Iterator[tuple[Members, int]]:
        """What a node can take from this shape on, one member after the other, and what it costs."""
        if shape == len(self._demand):
            yield members, cost
            return
        for count in range(self._demand[shape] + 1):
            if count:
                taken = self._take(shape, state, rails)
                if taken is None:
                    return
                state = taken.state
                cost += (taken.tiers << _TIER) + (taken.other << _OTHER)
            yield from self._ways(shape + 1, state, rails, (*members, count), cost)

    def _named(
        self, packing: Packing | Zones, lots: Sequence[Sequence[_Lot]]
    ) -> list[tuple[str, Members]] | None:
        """Which nodes, by name; None where some turned out not to be open to their members, which is kept."""
        wanted: dict[tuple[int, int], list[Members]] = {}
        for zone, stock, members in packing.nodes() if isinstance(packing, Zones) else _in_all(packing):
            wanted.setdefault((zone, stock), []).append(members)
        places: list[tuple[str, Members]] = []
        learnt = False
        for (zone, stock), parts in wanted.items():
            parts.sort(reverse=True)
            for node in (node for names in lots[zone][stock].names for node in names):
                if not parts:
                    break
                for members in dict.fromkeys(parts):
                    if self._provider.fits(node, members):
                        parts.remove(members)
                        places.append((node, members))
                        break
                    self._closed[node] = self._closed.get(node, frozenset()) | {members}
            learnt = learnt or bool(parts)
        return None if learnt else places

    def _take(self, shape: int, state: S, rails: int | None) -> Taken[S] | None:
        key = (shape, state, rails)
        if key not in self._taken:
            self._spend(_TAKE_STEPS)
            self._taken[key] = self._provider.take(shape, state, rails)
        return self._taken[key]

    def _spare(self, steps: int) -> None:
        """What would use up all steps is not begun."""
        if self._question.tries.steps + steps > self._question.steps:
            raise _OutOfSteps

    def _spend(self, steps: int) -> None:
        tries = self._question.tries
        self._steps += steps
        tries.steps += steps
        tries.turn += steps
        if tries.steps > self._question.steps:
            raise _OutOfSteps


def _covers(members: Members, part: Members) -> bool:
    return all(have >= less for have, less in zip(members, part, strict=True))


def _in_all(packing: Packing) -> Iterator[tuple[int, int, Members]]:
    """As if it were of one zone."""
    return ((0, stock, members) for stock, members in packing.nodes())
