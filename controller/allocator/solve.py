"""`allocate`: the claims of one pod on one node, all or none."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from controller.allocator.asks import MAX_RESULTS, Ask, ParsedClaim, Refused, parse
from controller.allocator.build import Builder, Chosen, concerns
from controller.allocator.candidates import Filter, Options, Taken, wanted
from controller.allocator.capacity import Amounts
from controller.allocator.cel import CelCache
from controller.allocator.first_fit import Broken, FirstFit
from controller.allocator.limits import Limit, listed
from controller.allocator.mates import among, mated
from controller.allocator.model import DeviceId, NodeDevices
from controller.allocator.problem import Infeasible, Problem, Solution, Steps, Work, finished
from controller.allocator.results import claim_allocations
from controller.allocator.search import solve
from controller.allocator.shortage import Shortage, explain, short_of
from controller.allocator.sides import aligned_sides
from controller.allocator.traits import Near, traits
from controller.allocator.verdict import Allocation, Refusal
from controller.allocator.weights import split
from driver.kube.objects import DeviceClass, ResourceClaim


def allocate(
    claims: Sequence[ResourceClaim],
    node: NodeDevices,
    classes: Mapping[str, DeviceClass],
    taken: Collection[DeviceId],
    options: Options,
    cel: CelCache,
    shared: Mapping[DeviceId, Amounts] = MappingProxyType({}),
    limits: Sequence[Limit | None] = (),
    *,
    explained: bool = False,
) -> Allocation | Refusal:
    """Place all `claims` on the node together, in the best way there is, or say why that cannot be.

    Args:
        claims: not allocated yet; those of one pod.
        node: what the node can reach.
        classes: by name.
        taken: devices that allocated claims hold for themselves, anywhere (a set).
        options: whose devices, and how far to search.
        cel: compiled expressions and verdicts, kept from call to call.
        shared: what allocated claims consume of the devices that they share.
        limits: on the rails of each claim's NICs; None or nothing: there is no limit.
        explained: a refusal is for people: with constraints, attributes and numbers, which costs something.
    """
    return finished(
        allocating(claims, node, classes, taken, options, cel, shared, limits, explained=explained)
    )


def allocating(
    claims: Sequence[ResourceClaim],
    node: NodeDevices,
    classes: Mapping[str, DeviceClass],
    taken: Collection[DeviceId],
    options: Options,
    cel: CelCache,
    shared: Mapping[DeviceId, Amounts] = MappingProxyType({}),
    limits: Sequence[Limit | None] = (),
    *,
    explained: bool = False,
) -> Work[Allocation | Refusal]:
    """Do the same as `allocate` in steps."""
    try:
        parsed = [parse(i, claim, classes, options.driver) for i, claim in enumerate(claims)]
        given = {i: limit for i, limit in enumerate(limits) if limit is not None}
        attempt = _Attempt(parsed, node, Taken.of(node, taken, shared), options, cel, given, explained)
        return (yield from attempt.run())
    except Refused as refused:
        return refused.refusal


_NOWHERE: Final[tuple[Near | None, ...]] = (None, (frozenset(), None))
_Found = tuple[list[Chosen], Problem, Solution, tuple[int, ...]]
_TRIED: Final = 16
"""After so many steps it is asked whether any choice of subrequests can succeed at all."""
_WEIGHED_A_STEP: Final = 32
"""So many uses that shared counters or capacities speak of are weighed in a tenth of a millisecond."""
_PLACES: Final = 8
"""So many places for neighbours are looked at: more NUMA nodes with GPUs no machine has."""


@dataclass(frozen=True, slots=True)
class _DeadEnd:
    """A problem without a solution; what to tell of it is worked out for the last one only."""

    why: Infeasible
    problem: Problem
    chosen: Sequence[Chosen]


def _any_of(asks: Sequence[Ask]) -> Ask:
    """As many devices as the least of the subrequests wants, named after the request."""
    return replace(asks[0], request=asks[0].main, count=min(ask.count for ask in asks))


class _Attempt:
    def __init__(
        self,
        claims: Sequence[ParsedClaim],
        node: NodeDevices,
        taken: Taken,
        options: Options,
        cel: CelCache,
        limits: Mapping[int, Limit],
        explained: bool,
    ) -> None:
        self._explained = explained
        self._claims = claims
        self._node = node
        self._taken = taken
        self._limits = limits
        self._driver = options.driver
        self._filter = Filter(node, taken, options, cel, limits)
        self._builder = Builder(node, taken, limits)
        self._steps = Steps(options.steps)
        self._mating_steps = options.mating_steps
        self._end: Refusal | _DeadEnd = Refusal("", "claims", "claims: none was given")

    def run(self) -> Work[Allocation | Refusal]:
        fixed: list[Ask] = []
        flexible: list[tuple[Ask, ...]] = []
        for claim in self._claims:
            for asks in claim.options:
                if len(asks) == 1:
                    fixed.append(asks[0])
                else:
                    flexible.append(asks)
        for ask in (ask for asks in flexible for ask in asks if ask.everything):
            # As with kube-scheduler, a pool in flux is in the way even of what would be chosen last.
            self._filter.candidates(ask, self._claims[ask.claim].name)
        found = yield from self._choose(fixed, flexible, ())
        if found is None:
            return self._refusal(self._end)
        chosen, problem, solution, ranks = found
        if self._order_decides():
            path = yield from self._first_fit(ranks)
            if isinstance(path, Refusal):
                return path
            if path is not None and path != ranks:
                chosen = self._order([*fixed, *(asks[r] for asks, r in zip(flexible, path, strict=True))])
                outcome = yield from self._solve(chosen)
                if isinstance(outcome, Refusal | _DeadEnd):
                    return self._refusal(outcome)
                problem, solution = outcome
                ranks = path
        else:  # of the others it would take too long
            problem, solution = yield from self._nearer(chosen, problem, solution)
        return self._allocation(chosen, problem, solution, ranks)

    def _nearer(
        self, chosen: Sequence[Chosen], problem: Problem, solution: Solution
    ) -> Work[tuple[Problem, Solution]]:
        """As good a solution with the GPUs of a request nearer to each other, where they are apart."""
        near = traits(self._node).near
        places: dict[Near | None, None] = {}
        apart = False
        for index, demand in enumerate(problem.demands):
            of_kind = {k: near[problem.kinds[k].devices[0]] for k in demand.kinds}
            if demand.count > 1:
                places |= {place: None for place in of_kind.values() if place not in _NOWHERE}
                apart = apart or len({of_kind[k] for k in of_kind if solution.uses.get((index, k))}) > 1
        if not apart:
            return problem, solution
        sided = aligned_sides(self._claims, chosen, self._node)
        if isinstance(sided, Refusal):
            return problem, solution
        answers: list[tuple[int, int, int, Problem, Solution]] = []
        mating = Steps(self._mating_steps)
        for place in list(places)[:_PLACES]:
            found = yield from self._best(sided, mating, place)
            if not isinstance(found, _DeadEnd) and found[1].rank_cost <= solution.rank_cost:
                answers.append((found[1].rank_cost, found[1].cost, len(answers), *found))
        if not answers:
            return problem, solution
        *_, problem, solution = min(answers, key=lambda answer: answer[:3])
        return problem, solution

    def _order_decides(self) -> bool:
        """Can it matter which devices kube-scheduler would try first? Of claims with an Alignment or a limit
        it knows too little to be asked.
        """
        if self._limits or any(claim.alignments for claim in self._claims):
            return False
        stages = [asks for claim in self._claims for asks in claim.options]
        return any(len(asks) > 1 for asks in stages[1:]) or any(
            ask.everything and concerns(constraint, ask, claim)
            for claim in self._claims
            for asks in claim.options
            for ask in asks
            for constraint in claim.constraints
        )

    def _first_fit(self, ranks: tuple[int, ...]) -> Work[tuple[int, ...] | Refusal | None]:
        """Which subrequests kube-scheduler would choose; None where that is not found in time. None that come
        before `ranks` can be.
        """
        stages = [
            [Chosen(ask, self._filter.candidates(ask, claim.name)) for ask in asks]
            for claim in self._claims
            for asks in claim.options
        ]
        known = iter(ranks)
        first = tuple(next(known) if len(stage) > 1 else 0 for stage in stages)
        fit = FirstFit(self._claims, self._node, self._builder, self._steps)
        answer = yield from fit.decide(stages, first)
        if isinstance(answer, Broken):
            subject = f'request "{answer.request}"'
            why = f"asks for all devices, not all of which agree in {answer.attribute} with the others"
            return Refusal(
                claim=self._claims[answer.claim].name,
                subject=subject,
                message=f"{subject}: {why}, which Kubernetes calls an error of the claim",
            )
        if answer is None:
            return None
        return tuple(rank for (rank, _), stage in zip(answer, stages, strict=True) if len(stage) > 1)

    def _choose(
        self, fixed: Sequence[Ask], flexible: Sequence[tuple[Ask, ...]], ranks: tuple[int, ...]
    ) -> Work[_Found | None]:
        """The solution with the first subrequests in order of preference; a beginning that cannot be met ends
        its whole branch.
        """
        chosen = self._order(fixed)
        outcome = yield from self._solve(chosen, mate=not flexible)
        if isinstance(outcome, Refusal | _DeadEnd):
            # Of several dead ends the last and least demanding one is told.
            self._end = outcome
            return None
        if not flexible:
            return chosen, *outcome, ranks
        looked_ahead = False
        for rank, ask in enumerate(flexible[0]):
            if not looked_ahead and self._steps.taken > _TRIED:
                looked_ahead = True
                if (yield from self._is_hopeless(fixed, flexible)):
                    return None
            found = yield from self._choose((*fixed, ask), flexible[1:], (*ranks, rank))
            if found is not None or self._steps.over:
                return found
        return None

    def _is_hopeless(self, fixed: Sequence[Ask], flexible: Sequence[tuple[Ask, ...]]) -> Work[bool]:
        """No choice of subrequests helps, not even where each may take what any of its request's may take."""
        asks = [*fixed, *(ask for some in flexible for ask in some)]
        if self._limits or any(claim.alignments for claim in self._claims):
            return False
        if any(ask.everything or ask.admin or ask.capacity for ask in asks):
            return False
        chosen = self._order([*fixed, *map(_any_of, flexible)])
        chosen = [self._widened(one, flexible) for one in chosen]
        problem = self._builder.build(self._claims, chosen)
        found = yield from solve(problem, self._steps)
        if isinstance(found, Solution) or found.gave_up:
            return False
        self._end = _DeadEnd(found, problem, chosen)
        return True

    def _widened(self, one: Chosen, flexible: Sequence[tuple[Ask, ...]]) -> Chosen:
        """What any subrequest of its request may take, where that is open yet."""
        for asks in flexible:
            if (one.ask.claim, one.ask.request) == (asks[0].claim, asks[0].main):
                found = [self._filter.candidates(ask, self._claims[ask.claim].name) for ask in asks]
                matching = sorted({index for some in found for index in some.matching})
                free = sorted({index for some in found for index in some.free})
                return Chosen(one.ask, replace(one.found, matching=tuple(matching), free=tuple(free)))
        return one

    def _order(self, asks: Sequence[Ask]) -> list[Chosen]:
        """In the order of the claims' requests."""
        place = {
            (claim.index, asks[0].main): number
            for claim in self._claims
            for number, asks in enumerate(claim.options)
        }
        ordered = sorted(asks, key=lambda ask: (ask.claim, place[ask.claim, ask.main]))
        return [Chosen(ask, self._filter.candidates(ask, self._claims[ask.claim].name)) for ask in ordered]

    def _solve(
        self, chosen: Sequence[Chosen], *, mate: bool = True
    ) -> Work[tuple[Problem, Solution] | Refusal | _DeadEnd]:
        sided = aligned_sides(self._claims, chosen, self._node)
        if isinstance(sided, Refusal):
            return sided
        for one in sided:
            count = wanted(one.ask, one.found)
            if not count or len(one.found.free) < count:
                claim, limit = self._claims[one.ask.claim], self._limits.get(one.ask.claim)
                ways = next((len(asks) for asks in claim.options if one.ask in asks), 1)
                node = self._node if self._explained else None
                return short_of(one.ask, one.found, claim.name, limit, node, ways)
        for claim in self._claims:
            total = sum(wanted(c.ask, c.found) for c in sided if c.ask.claim == claim.index)
            if total > MAX_RESULTS:
                message = f"claim: wants {total} devices; a claim can hold {MAX_RESULTS} at most"
                return Refusal(claim=claim.name, subject="claim", message=message)
        if (too_many := self._too_many(sided)) is not None:
            return Refusal(claim="", subject="claims", message=too_many)
        return (yield from self._best(sided, Steps(self._mating_steps) if mate else None))

    def _too_many(self, chosen: Sequence[Chosen]) -> str | None:
        """Say so where the claims want more devices than all of their candidates are, which needs no search:
        a pod may have claims for thousands. None where they do not, or where devices may be shared.
        """
        own = [one for one in chosen if not one.ask.admin]
        total = sum(wanted(one.ask, one.found) for one in own)
        if total <= MAX_RESULTS:
            return None
        candidates = {index for free in {one.found.free for one in own} for index in free}
        if total <= len(candidates):
            return None
        devices = self._node.devices
        if any(devices[index].device.allow_multiple_allocations for index in candidates):
            return None
        return f"claims: want {total} devices; {len(candidates)} that any of them could take are free"

    def _best(
        self, chosen: Sequence[Chosen], mating: Steps | None, near: Near | None = None
    ) -> Work[tuple[Problem, Solution] | _DeadEnd]:
        """The best solution, with pairs that nobody asked for if there are steps for `mating`. Where they are
        hard to find, it is one without them whose devices are paired afterwards: they never decide whether
        there is one.
        """
        asked = self._builder.build(self._claims, chosen, near=near)
        yield sum(len(budget.weights) for budget in asked.budgets) // _WEIGHED_A_STEP
        problem = mated(asked, self._claims, chosen, self._node) if mating is not None else None
        if problem is not None and mating is not None:
            paired = yield from solve(problem, mating)
            if isinstance(paired, Solution):
                return problem, paired
        solution = yield from solve(asked, self._steps)
        if isinstance(solution, Infeasible):
            return _DeadEnd(solution, asked, chosen)
        if problem is not None:
            settled = among(problem, solution)
            paired = yield from solve(settled, Steps(self._mating_steps))
            if isinstance(paired, Solution):
                return settled, paired
        return asked, solution

    def _refusal(self, end: Refusal | _DeadEnd) -> Refusal:
        if isinstance(end, Refusal):
            return end
        why = end.why
        found = Shortage(why.label, f"{why.label}: {why.detail}")
        if self._explained:
            found = explain(why, end.problem, self._claims, end.chosen, self._node)
        return Refusal(
            claim=self._claims[0].name if len(self._claims) == 1 else "",
            subject=found.subject,
            message=f"{found.message}{self._limited()}",
            gave_up=why.gave_up,
            numbers=found.numbers,
        )

    def _limited(self) -> str:
        """What limits say of the claims' NICs, for people."""
        parts = []
        for limit in dict.fromkeys(self._limits.values()):
            word = "must all be used" if limit.exactly else "are open"
            parts.append(f"; {listed(limit.rails)} {word}, other NICs are {limit.reason}")
        return "".join(parts)

    def _allocation(
        self, chosen: Sequence[Chosen], problem: Problem, solution: Solution, ranks: tuple[int, ...]
    ) -> Allocation:
        allocated = claim_allocations(self._claims, self._node, chosen, problem, solution, self._driver)
        positions = traits(self._node).positions
        mine = [
            positions[device.id]
            for one in allocated
            for result, device in zip(one.result.devices.results, one.devices, strict=True)
            if not result.admin_access and result.share_id is None
        ]
        free = len(self._node.devices) - len(self._taken.indices) - len(mine)
        strands, rest = split(solution.cost)
        fullness = *self._builder.fullness(mine), free
        return Allocation(
            claims=tuple(allocated),
            score=(*ranks, solution.rank_cost, strands, *fullness, rest),
            steps=self._steps.taken,
        )
