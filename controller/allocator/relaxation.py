"""What the demands of a problem would take if some rules were no matter: bounds and proposals for the search.

Pairings are solved each by itself, all other demands together, both by flow. What one of them takes is
avoided by the next among equals, so that most proposals break no rule and the search ends where it began.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Final

from controller.allocator.flow import Network
from controller.allocator.pairing import SCALE, Paired, best_pairs
from controller.allocator.problem import KindPair, Match, Pairing, Problem, Steps, Use

Uses = dict[int, dict[int, int]]
"""Numbers of devices by demand, by kind."""

_CONTENDED: Final = 10_000


@dataclass(frozen=True, slots=True)
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
    """A pairing can have only so many pairs."""

    pairing: Pairing
    pairs: int


class Relaxation:
    """The flows of one problem."""

    def __init__(self, problem: Problem, steps: Steps) -> None:
        self._problem = problem
        self._steps = steps
        paired = {d for p in problem.pairings for d in (p.gpus, p.nics)}
        self._plain = [i for i in range(len(problem.demands)) if i not in paired]
        self._pairs_in_all = sum(self.pairs_wanted(p) for p in problem.pairings)

    def pairs_wanted(self, pairing: Pairing) -> int:
        """As many pairs as the larger side has devices."""
        return max(self._problem.demands[d].count for d in (pairing.gpus, pairing.nics))

    def bound(self, node: Node) -> int | TooFewPairs:
        """What the pairs' tiers cost at least."""
        total = 0
        for pairing in self._problem.pairings:
            answer = self._pairs(pairing, node.most, {})
            if isinstance(answer, int):
                return TooFewPairs(pairing, answer)
            total += answer.cost // SCALE
        return total

    def propose(self, node: Node) -> Proposal | None:
        """Guess the values that are still open, then relax; None where that leads nowhere."""
        most = node.most if len(node.values) == len(self._problem.matches) else self._guess(node)
        used: dict[int, int] = {}
        uses: Uses = {}
        found: list[Paired] = []
        for pairing in self._problem.pairings:
            answer = self._pairs(pairing, most, used)
            if isinstance(answer, int):
                return None
            found.append(answer)
            for demand, kinds in ((pairing.gpus, answer.gpus), (pairing.nics, answer.nics)):
                uses[demand] = dict(kinds)
                for kind, count in kinds.items():
                    used[kind] = used.get(kind, 0) + count
        plain = self._serve_plain(node, most, used)
        if plain is None:
            return None
        uses.update(plain[0])
        return Proposal(
            uses=uses,
            pairs=tuple(p.pairs for p in found),
            rank_cost=sum(p.cost // SCALE for p in found),
            cost=sum(p.cost % SCALE for p in found) + plain[1],
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

    def _pairs(self, pairing: Pairing, most: Uses, used: Mapping[int, int]) -> Paired | int:
        gpus, nics = most[pairing.gpus], most[pairing.nics]
        return best_pairs(self._problem, pairing, gpus, nics, used, self._pairs_in_all, self._steps)

    def _serve_plain(self, node: Node, most: Uses, used: Mapping[int, int]) -> tuple[Uses, int] | None:
        """All demands without pairs together, as cheaply as can be."""
        if not self._plain:
            return {}, 0
        kinds = sorted({kind for demand in self._plain for kind in most[demand]})
        place = {kind: index for index, kind in enumerate(kinds)}
        source, sink = len(kinds) + len(self._plain), len(kinds) + len(self._plain) + 1
        net = Network(sink + 1)
        promised: dict[int, int] = {}
        for (demand, kind), count in node.least.items():
            if demand in self._plain:
                promised[kind] = promised.get(kind, 0) + count
        for kind in kinds:
            details = self._problem.kinds[kind]
            seats = details.seats - promised.get(kind, 0)
            free = max(0, seats - used.get(kind, 0))
            price = details.cost + details.avoid
            net.edge(place[kind], sink, free, price)
            if free < seats:
                net.edge(place[kind], sink, seats - free, price + _CONTENDED)
        want = 0
        uses: Uses = {}
        edges: dict[Use, int] = {}
        for at, demand in enumerate(self._plain, start=len(kinds)):
            uses[demand] = {}
            missing = self._problem.demands[demand].count
            for kind, count in most[demand].items():
                least = node.least.get((demand, kind), 0)
                if least:
                    uses[demand][kind] = least
                    missing -= least
                if count > least:
                    edges[demand, kind] = net.edge(at, place[kind], count - least)
            if missing < 0:
                return None
            net.edge(source, at, missing)
            want += missing
        sent, cost = net.send(source, sink, want)
        if sent < want:
            return None
        for (demand, kind), edge in edges.items():
            if count := net.flow(edge):
                uses[demand][kind] = uses[demand].get(kind, 0) + count
        return uses, cost

    def _guess(self, node: Node) -> Uses:
        """Give every open match a value, one after the other, the tightest place that holds it first."""
        problem = self._problem
        most: Uses = {demand: dict(kinds) for demand, kinds in node.most.items()}
        free = [kind.seats for kind in problem.kinds]
        for index in sorted(range(len(problem.matches)), key=lambda i: (len(problem.matches[i].kinds), i)):
            match = problem.matches[index]
            values = [node.values[index]] if index in node.values else list(match.kinds)
            value = min(values, key=lambda v: self._lack(match, v, most, free))
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
            there = [k for k in most[demand] if k in kinds and free[k]]
            missing += max(
                0, self._problem.demands[demand].count - sum(min(most[demand][k], free[k]) for k in there)
            )
            spare += sum(free[k] for k in there)
            pity += min(
                (self._problem.kinds[k].cost + self._problem.kinds[k].avoid for k in there), default=0
            )
        return missing, pity, spare
