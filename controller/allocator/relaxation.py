"""What the demands of a problem would take if some rules were no matter: bounds and proposals for the search.

Pairings are solved each by itself, all other demands together, both by flow. What one of them takes is
avoided by the next among equals, so that most proposals break no rule and the search ends where it began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from controller.allocator.flow import Network
from controller.allocator.ledger import Ledger
from controller.allocator.pairing import Paired, best_pairs, rank_cost
from controller.allocator.problem import KindPair, Match, Pairing, Problem, Steps, Use, Work
from controller.allocator.weights import CONTENDED, RANK
from driver.devices import Tier
from driver.topology import nearest_tier

_FREE: Final[Mapping[Use, int]] = MappingProxyType({})
Uses = dict[int, dict[int, int]]
"""Numbers of devices by demand, by kind."""


@dataclass(slots=True)
class Node:
    """What the search has decided: at most and at least so many uses, and the value of each match (by index).

    Attributes:
        by_values: nothing but match values has been decided.
    """

    most: Uses
    least: Mapping[Use, int]
    values: Mapping[int, Hashable]
    by_values: bool = True


@dataclass(frozen=True, slots=True)
class Proposal:
    """Uses and pairs that satisfy all counts, though perhaps not all budgets."""

    uses: Uses
    pairs: tuple[tuple[KindPair, ...], ...]
    rank_cost: int
    cost: int


@dataclass(frozen=True, slots=True)
class TooFewPairs:
    """Like pairings can have only so many pairs of those they want together."""

    pairings: Sequence[Pairing]
    pairs: int
    wanted: int


_Share = tuple[Pairing, dict[int, int], dict[int, int], tuple[KindPair, ...]]
"""A pairing, the GPUs and the NICs it takes, by kind, and its pairs."""


class Relaxation:
    """The flows of one problem."""

    def __init__(self, problem: Problem, steps: Steps, ledger: Ledger) -> None:
        self._problem = problem
        self._steps = steps
        self._ledger = ledger
        paired = {d for p in problem.pairings for d in (p.gpus, p.nics)}
        self._plain = [i for i in range(len(problem.demands)) if i not in paired]
        self._pairs_in_all = sum(max(self._want(p)) for p in problem.pairings)
        self._known: dict[Hashable, Paired | int] = {}
        self._price = [kind.cost + kind.avoid for kind in problem.kinds]
        # Of admin access, the kind without it that has the same devices.
        plain = {kind.devices: index for index, kind in enumerate(problem.kinds) if kind.admin is None}
        self._same = {
            index: plain[kind.devices]
            for index, kind in enumerate(problem.kinds)
            if kind.admin is not None and kind.devices in plain
        }

    def bound(self, node: Node) -> Work[int | TooFewPairs]:
        """What the pairs' tiers cost at least."""
        total = 0
        for members in self._alike(node.most, node.least):
            answer = yield from self._pairs(members, node.most, node.least, {})
            if isinstance(answer, int):
                return TooFewPairs(members, answer, sum(max(self._want(p)) for p in members))
            total += answer.cost // RANK
        return total

    def least_cost(self, node: Node) -> int:
        """What the pairs' tiers cost at least by the nearest level of which both sides have a common value; a
        bound that costs next to nothing.
        """
        total = 0
        for pairing in self._problem.pairings:
            gpus, nics = (
                [self._problem.kinds[kind].place for kind in node.most[demand]]
                for demand in (pairing.gpus, pairing.nics)
            )
            nearest = nearest_tier(gpus, nics)
            rank = min((rank for level, rank in pairing.ranks.items() if level >= nearest), default=0)
            total += max(self._want(pairing)) * rank_cost(rank, len(Tier), self._pairs_in_all)
        return total

    def propose(self, node: Node, prices: Mapping[Use, int] = _FREE) -> Work[Proposal | None]:
        """Guess the values that are still open, then relax; None where that leads nowhere. Uses with a price
        are avoided by demands without pairs.
        """
        most = node.most if len(node.values) == len(self._problem.matches) else self._guess(node)
        used: dict[int, int] = {}
        uses: Uses = {}
        pairs: dict[int, tuple[KindPair, ...]] = {}
        cost = 0
        for members in self._alike(most, node.least):
            for group in (members, *([p] for p in members if len(members) > 1)):
                answer = yield from self._pairs(group, most, node.least, used)
                if isinstance(answer, int):
                    return None
                shares = self._share(group, answer, most)
                if shares is None:
                    continue  # a limit on one of them is in the way: take them one by one
                for pairing, gpus, nics, kind_pairs in shares:
                    uses[pairing.gpus], uses[pairing.nics] = gpus, nics
                    pairs[pairing.gpus] = kind_pairs
                    for kind, count in (*gpus.items(), *nics.items()):
                        used[kind] = used.get(kind, 0) + count
                cost += answer.cost
                if len(group) == len(members):
                    break
        plain = self._serve_plain(node, most, used, prices)
        if plain is None:
            return None
        uses.update(plain[0])
        return Proposal(
            uses=uses,
            pairs=tuple(pairs[p.gpus] for p in self._problem.pairings),
            rank_cost=cost // RANK,
            cost=cost % RANK + plain[1],
        )

    def counts_suffice(self, node: Node) -> bool:
        """Could all demands be met if matches, pairs and budgets were no matter?"""
        kinds, demands = len(self._problem.kinds), len(self._problem.demands)
        source, sink = kinds + demands, kinds + demands + 1
        net = Network(sink + 1)
        for index, kind in enumerate(self._problem.kinds):
            net.edge(index, sink, kind.seats)
        want = 0
        for index, demand in enumerate(self._problem.demands):
            net.edge(source, kinds + index, demand.count)
            want += demand.count
            for kind_index, count in node.most[index].items():
                net.edge(kinds + index, kind_index, count)
        return net.send(source, sink, want)[0] == want

    def values_suffice(self, node: Node, distinct: Match) -> bool:
        """Are there as many values as devices that must all differ, and can each demand have its share?"""
        values = {value: index for index, value in enumerate(distinct.kinds)}
        source, sink = len(values) + len(distinct.demands), len(values) + len(distinct.demands) + 1
        net = Network(sink + 1)
        want = 0
        for index in values.values():
            net.edge(index, sink, 1)
        for at, demand in enumerate(distinct.demands, start=len(values)):
            count = self._problem.demands[demand].count
            net.edge(source, at, count)
            want += count
            for value, index in values.items():
                if not distinct.kinds[value].isdisjoint(node.most[demand]):
                    net.edge(at, index, 1)
        return net.send(source, sink, want)[0] == want

    def _want(self, pairing: Pairing) -> tuple[int, int]:
        return self._problem.demands[pairing.gpus].count, self._problem.demands[pairing.nics].count

    def _alike(self, most: Uses, least: Mapping[Use, int]) -> Iterable[Sequence[Pairing]]:
        """Pairings by groups; even ones that differ in nothing but their number are together."""
        special = {demand for demand, _ in least}
        groups: dict[Hashable, list[Pairing]] = {}
        for pairing in self._problem.pairings:
            key: Hashable = pairing.gpus
            if len(set(self._want(pairing))) == 1 and special.isdisjoint((pairing.gpus, pairing.nics)):
                sides = tuple(tuple(most[d].items()) for d in (pairing.gpus, pairing.nics))
                key = (tuple(pairing.ranks.items()), *sides)
            groups.setdefault(key, []).append(pairing)
        return groups.values()

    def _pairs(
        self, members: Sequence[Pairing], most: Uses, least: Mapping[Use, int], used: Mapping[int, int]
    ) -> Work[Paired | int]:
        first, number = members[0], len(members)
        gpus, nics = (
            {k: min(n * number, self._problem.kinds[k].seats) for k, n in most[d].items()}
            for d in (first.gpus, first.nics)
        )
        floors = [{k: n for (d, k), n in least.items() if d == demand} for demand in (first.gpus, first.nics)]
        wants = [self._want(p) for p in members]
        want = sum(w[0] for w in wants), sum(w[1] for w in wants)
        key = tuple(tuple(m.items()) for m in (gpus, nics, *floors, used)), tuple(first.ranks.items()), want
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = yield from best_pairs(
                self._problem, first, want, gpus, nics, floors, used, self._pairs_in_all, self._steps
            )
        return known

    def _share(self, members: Sequence[Pairing], paired: Paired, most: Uses) -> list[_Share] | None:
        """Deal the pairs out, to each member what it wants; None where one would get too many of a kind."""
        if len(members) == 1:
            return [(members[0], dict(paired.gpus), dict(paired.nics), paired.pairs)]
        single = [replace(pair, count=1) for pair in paired.pairs for _ in range(pair.count)]
        shares: list[_Share] = []
        for pairing in members:
            count = self._want(pairing)[0]
            mine, single = single[:count], single[count:]
            gpus, nics = Counter(p.gpu for p in mine), Counter(p.nic for p in mine)
            for demand, kinds in ((pairing.gpus, gpus), (pairing.nics, nics)):
                if any(count > most[demand][kind] for kind, count in kinds.items()):
                    return None
            shares.append((pairing, dict(gpus), dict(nics), tuple(mine)))
        return shares

    def _serve_plain(
        self, node: Node, most: Uses, used: Mapping[int, int], prices: Mapping[Use, int]
    ) -> tuple[Uses, int] | None:
        """All demands without pairs together, as cheaply as can be."""
        if not self._plain:
            return {}, 0
        if any(most[demand].get(kind, 0) < count for (demand, kind), count in node.least.items()):
            return None  # a guess has left it out
        kinds = sorted({kind for demand in self._plain for kind in most[demand]})
        place = {kind: index for index, kind in enumerate(kinds)}
        source, sink = len(kinds) + len(self._plain), len(kinds) + len(self._plain) + 1
        met = sorted({self._same[kind] for kind in kinds if kind in self._same})
        doors = {kind: door for door, kind in enumerate(met, start=sink + 1)}
        net = Network(sink + 1 + len(doors))
        meetings: list[int] = []
        for kind, door in doors.items():
            seats = self._problem.kinds[kind].seats
            net.edge(door, sink, seats)
            # Admin access and others had better not meet at a device, though some may.
            meetings.append(net.edge(door, sink, len(self._plain) * seats, CONTENDED))
        promised: dict[int, int] = {}
        for (demand, kind), count in node.least.items():
            if demand in self._plain:
                promised[kind] = promised.get(kind, 0) + count
        for kind in kinds:
            seats = self._problem.kinds[kind].seats - promised.get(kind, 0)
            free = max(0, seats - used.get(kind, 0))
            price = self._price[kind]
            net.edge(place[kind], doors.get(self._same.get(kind, kind), sink), free, price)
            if free < seats:
                net.edge(place[kind], sink, seats - free, price + CONTENDED)
        want = 0
        uses: Uses = {}
        edges: dict[Use, int] = {}
        thirst = self._ledger.thirst
        for at, demand in enumerate(self._plain, start=len(kinds)):
            uses[demand] = {}
            missing = self._problem.demands[demand].count
            for kind, count in most[demand].items():
                least = node.least.get((demand, kind), 0)
                if least:
                    uses[demand][kind] = least
                    missing -= least
                if count > least:
                    use = demand, kind
                    price = thirst.get(use, 0) + prices.get(use, 0)
                    edges[use] = net.edge(at, place[kind], count - least, price)
            if missing < 0:
                return None
            net.edge(source, at, missing)
            want += missing
        sent, cost = net.send(source, sink, want)
        if sent < want:
            return None
        cost -= CONTENDED * sum(net.flow(edge) for edge in meetings)
        for (demand, kind), edge in edges.items():
            if count := net.flow(edge):
                uses[demand][kind] = uses[demand].get(kind, 0) + count
                cost -= prices.get((demand, kind), 0) * count
        return uses, cost

    def _guess(self, node: Node) -> Uses:
        """Give every open match a value, one after the other, the tightest place that holds it first."""
        problem = self._problem
        most: Uses = {demand: dict(kinds) for demand, kinds in node.most.items()}
        free = [kind.seats for kind in problem.kinds]
        likes: dict[Hashable, int] = {}
        known: dict[Hashable, tuple[int, int, int]] = {}
        for index in sorted(range(len(problem.matches)), key=lambda i: (len(problem.matches[i].kinds), i)):
            match = problem.matches[index]
            values = [node.values[index]] if index in node.values else list(match.kinds)
            # What one match lacks in some place like matches lack too, while the place is as it is.
            sides = tuple((problem.demands[d].count, *most[d].items()) for d in match.demands)
            like = likes.setdefault((id(match.kinds), sides), len(likes))
            value, least = values[0], None
            for place in values:
                key = like, place, *[free[kind] for kind in match.kinds[place]]
                lack = known.get(key)
                if lack is None:
                    lack = known[key] = self._lack(match, place, most, free)
                if least is None or lack < least:
                    value, least = place, lack
            for demand in match.demands:
                most[demand] = {k: n for k, n in most[demand].items() if k in match.kinds[value]}
                want = problem.demands[demand].count
                for kind, count in most[demand].items():
                    took = min(want, count, free[kind])
                    free[kind] -= took
                    want -= took
        return most

    def _lack(self, match: Match, value: Hashable, most: Uses, free: list[int]) -> tuple[int, int, int]:
        """Devices that are missing there, then what a pity it is, then how much room there is."""
        kinds = match.kinds[value]
        missing = spare = pity = 0
        for demand in match.demands:
            mine = most[demand]
            there = [k for k in kinds if k in mine and free[k]]
            missing += max(
                0, self._problem.demands[demand].count - sum([min(mine[k], free[k]) for k in there])
            )
            spare += sum([free[k] for k in there])
            pity += min([self._price[k] for k in there], default=0)
        return missing, pity, spare
