"""Which GPUs pair with which NICs where no Alignment says so: a preference for near ones, never a condition.

A user who asks for GPUs and NICs without an Alignment gets near ones, whether the requests are in one claim
or in several claims of a pod. Requests that a matchAttribute joins are mates; then those of one claim; then
those of several claims: in their order, equal counts first. What could mean more than one thing is left
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from controller.allocator.asks import ParsedClaim
from controller.allocator.build import Chosen, concerns
from controller.allocator.model import NodeDevices
from controller.allocator.problem import (
    Budget,
    Cover,
    Demand,
    Match,
    Pairing,
    Problem,
    Solution,
    Use,
)
from controller.allocator.sides import GPU, NIC, side_of
from driver.devices import Tier

_ANY_TIER: Final[Mapping[Tier, int]] = {tier: tier.value for tier in Tier}

Mates = tuple[int, int]
"""A demand for GPUs and one for NICs."""
T = TypeVar("T")


def mated(
    problem: Problem, claims: Sequence[ParsedClaim], chosen: Sequence[Chosen], node: NodeDevices
) -> Problem | None:
    """Add pairings of any tier for requests that no Alignment names; None where there are none to add.

    Where one request has several mates, it is cut into parts: `Problem.parts`.
    """
    named = {demand for pairing in problem.pairings for demand in (pairing.gpus, pairing.nics)}
    open_asks = {i: one for i, one in enumerate(chosen) if i not in named and not one.ask.admin}
    # Requests that filter alike have one and the same tuple.
    known = {id(one.found.matching): one for one in open_asks.values()}
    yields = {key: side_of(node, one) for key, one in known.items()}
    sides = {i: side for i, one in open_asks.items() if (side := yields[id(one.found.matching)]) is not None}
    if len(set(sides.values())) < 2:
        return None
    cutter = _Cutter(problem)
    mates: list[Mates] = []

    def pair(gpus: int, nics: int) -> None:
        mates.append((gpus, nics))
        del sides[gpus], sides[nics]

    for gpus, nics in _joined(claims, chosen, sides):
        if gpus in sides and nics in sides:
            pair(gpus, nics)
    for group in (*({claim.index} for claim in claims), {claim.index for claim in claims}):
        open_ = {i: side for i, side in sides.items() if chosen[i].ask.claim in group}
        for gpus, nics in _by_order(problem.demands, open_):
            pair(gpus, nics)
        open_ = {i: side for i, side in open_.items() if i in sides}
        for gpus, nics in _by_parts(cutter, open_):
            mates.append((gpus, nics))
            for demand in (gpus, nics):
                sides.pop(cutter.parts.get(demand, demand), None)
    if not mates:
        return None
    cut = cutter.problem()
    pairings = tuple(
        Pairing(
            f"pairs {chosen[whole(cut, g)].ask.request}+{chosen[whole(cut, n)].ask.request}", g, n, _ANY_TIER
        )
        for g, n in mates
    )
    return replace(cut, pairings=(*cut.pairings, *pairings))


def among(problem: Problem, solution: Solution) -> Problem:
    """Restrict the problem to the kinds of devices that a solution without its pairings takes: that is soon
    solved, where the search has already taken its steps.
    """
    demands = []
    for index, demand in enumerate(problem.demands):
        mine = whole(problem, index)
        kinds = {kind: min(n, solution.uses.get((mine, kind), 0)) for kind, n in demand.kinds.items()}
        demands.append(replace(demand, kinds={kind: n for kind, n in kinds.items() if n}))
    return replace(problem, demands=demands)


def whole(problem: Problem, demand: int) -> int:
    """Return the question's own demand that this one is, or is a part of."""
    return problem.parts.get(demand, demand)


def _joined(
    claims: Sequence[ParsedClaim], chosen: Sequence[Chosen], sides: Mapping[int, str]
) -> Iterator[Mates]:
    """Pair a request for GPUs with one for NICs that a matchAttribute names, and no other of either side."""
    for claim in claims:
        for constraint in claim.constraints:
            if constraint.match_attribute and constraint.requests:
                mine = [i for i in sides if concerns(constraint, chosen[i].ask, claim)]
                gpus, nics = ([i for i in mine if sides[i] == side] for side in (GPU, NIC))
                if len(gpus) == len(nics) == 1:
                    yield gpus[0], nics[0]


def _by_order(demands: Sequence[Demand], open_: Mapping[int, str]) -> Iterator[Mates]:
    """Pair each request for GPUs with the first one left for as many NICs; of the others, where there are as
    many requests for GPUs as for NICs, the first with the first and so on.
    """
    gpus, nics = ([i for i, side in open_.items() if side == wanted] for wanted in (GPU, NIC))
    for one in list(gpus):
        mate = next((i for i in nics if demands[i].count == demands[one].count), None)
        if mate is not None:
            gpus.remove(one)
            nics.remove(mate)
            yield one, mate
    if len(gpus) == len(nics):
        yield from zip(gpus, nics, strict=True)


def _by_parts(cutter: _Cutter, open_: Mapping[int, str]) -> Iterator[Mates]:
    """Pair one request of a side with several of the other, with each in proportion to its count."""
    gpus, nics = ([i for i, side in open_.items() if side == wanted] for wanted in (GPU, NIC))
    if len(gpus) == 1:
        yield from ((part, mate) for part, mate in cutter.cut(gpus[0], nics))
    elif len(nics) == 1:
        yield from ((mate, part) for part, mate in cutter.cut(nics[0], gpus))


class _Cutter:
    """Cuts demands of a problem into parts.

    Attributes:
        parts: as in `Problem`.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._demands = list(problem.demands)
        self.parts: dict[int, int] = {}

    def cut(self, demand: int, mates: Sequence[int]) -> list[Mates]:
        """Give each of the mates a part in proportion to its count; nothing where that gives no whole
        numbers, or where several requests may share a device, which the parts of one may not.
        """
        counts = [self._demands[mate].count for mate in mates]
        one, total = self._demands[demand], sum(counts)
        uneven = any(one.count * count % total for count in counts)
        if not counts or uneven or any(self._problem.kinds[kind].shared for kind in one.kinds):
            return []
        answer: list[Mates] = []
        for mate, count in zip(mates, counts, strict=True):
            size = one.count * count // total
            if not answer:
                self._demands[demand] = replace(one, count=size)
                answer.append((demand, mate))
            else:
                self.parts[len(self._demands)] = demand
                answer.append((len(self._demands), mate))
                self._demands.append(replace(one, count=size))
        return answer

    def problem(self) -> Problem:
        """The problem with the parts: what its rules say of a whole they say of each part."""
        if not self.parts:
            return self._problem
        return replace(
            self._problem,
            demands=self._demands,
            matches=[self._match(match) for match in self._problem.matches],
            distincts=[self._match(match) for match in self._problem.distincts],
            budgets=[self._budget(budget) for budget in self._problem.budgets],
            covers=[self._cover(cover) for cover in self._problem.covers],
            parts=self.parts,
        )

    def _match(self, match: Match) -> Match:
        more = [part for part, of in self.parts.items() if of in match.demands]
        return replace(match, demands=(*match.demands, *more))

    def _budget(self, budget: Budget) -> Budget:
        return replace(budget, weights=self._with_parts(budget.weights))

    def _cover(self, cover: Cover) -> Cover:
        return replace(cover, uses=frozenset(self._with_parts(dict.fromkeys(cover.uses))))

    def _with_parts(self, uses: Mapping[Use, T]) -> dict[Use, T]:
        of_parts = {
            (part, kind): value
            for part, of in self.parts.items()
            for (demand, kind), value in uses.items()
            if demand == of
        }
        return {**uses, **of_parts}
