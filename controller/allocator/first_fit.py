"""What kube-scheduler would find first.

It tries subrequests in order, and for each of them devices in order, request after request, and stops at the
first solution (Kubernetes 1.36). So the subrequest that a later request gets depends on devices that an
earlier one took, and an `All` that it meets on the way and whose devices a constraint rules out is an error
of the whole claim. That order decides here too, but is not walked: each step asks the search whether what has
been decided can still be completed, so a step costs a search, and there are no more steps than requests times
kinds of devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from controller.allocator.asks import MAX_RESULTS, ParsedClaim
from controller.allocator.build import Builder, Chosen, concerns
from controller.allocator.candidates import wanted
from controller.allocator.model import NodeDevices
from controller.allocator.problem import Budget, Demand, Infeasible, Match, Problem, Solution, Steps
from controller.allocator.search import solve
from controller.allocator.traits import values
from driver.kube.objects import DeviceConstraint

Stage = Sequence[Chosen]
"""The ways to meet one request, in order of preference."""

Path = tuple[tuple[int, tuple[int, ...]], ...]
"""By stage, in order: which way, and the devices (by index, in order)."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An `All` that kube-scheduler calls an error: its request, and the attribute that does not match."""

    claim: int
    request: str
    attribute: str


class FirstFit:
    """Asks about the same claims on the same node."""

    def __init__(
        self, claims: Sequence[ParsedClaim], node: NodeDevices, builder: Builder, steps: Steps
    ) -> None:
        self._claims = claims
        self._node = node
        self._builder = builder
        self._steps = steps

    def decide(self, stages: Sequence[Stage]) -> Path | Broken | None:
        """The first solution, what is an error before that, or None where nothing (or no step) is left."""
        path = _Walk(self._claims, self._builder, self._steps, stages).first()
        if path is None:
            return None
        for number, stage in enumerate(stages):
            for rank, one in enumerate(stage):
                if one.ask.everything:
                    attribute = self._error(stages[:number], one, (path[:number], path[number][0]), rank)
                    if attribute:
                        return Broken(one.ask.claim, one.ask.request, attribute)
        return path

    def _error(self, before: Sequence[Stage], one: Chosen, found: tuple[Path, int], rank: int) -> str:
        """The attribute, if some choice for the stages before, tried before the solution was found, leads to
        the error; else empty.
        """
        claim = self._claims[one.ask.claim]
        for constraint in claim.constraints:
            if constraint.match_attribute and concerns(constraint, one.ask, claim):
                for stages, part in self._conflicts(before, one, constraint):
                    path = _Walk(self._claims, self._builder, self._steps, stages, part).first()
                    if path is not None and (path, rank) < found:
                        return constraint.match_attribute
        return ""

    def _conflicts(
        self, before: Sequence[Stage], one: Chosen, constraint: DeviceConstraint
    ) -> Iterator[tuple[Sequence[Stage], Chosen]]:
        """Restricted stages before, and devices of the `All` that are gone through up to the error."""
        column = values(self._node, constraint.match_attribute or "")
        devices, free = one.found.matching, set(one.found.free)
        usable = next((i for i, index in enumerate(devices) if index not in free), len(devices))
        if not usable:
            return
        value = column[devices[0]]
        alone = next((i for i, index in enumerate(devices[:usable]) if not value & column[index]), None)
        if alone is not None:
            yield before, _part(one, devices[: alone + 1])
        claim = self._claims[one.ask.claim]
        touched = [
            i for i, stage in enumerate(before) if any(concerns(constraint, o.ask, claim) for o in stage)
        ]
        for required in touched:
            # Whoever of them has a value has another one, and this one has one.
            stages = [
                [
                    _only(o, [i for i in o.found.free if column[i] and not column[i] & value])
                    if concerns(constraint, o.ask, claim)
                    else _only(o, [] if number == required else o.found.free)
                    for o in stage
                ]
                for number, stage in enumerate(before)
            ]
            yield stages, _part(one, devices[:1])


class _Walk:
    """Finds the first solution of some stages. `part`: devices that are given beside them, and to which no
    constraint applies.
    """

    def __init__(
        self,
        claims: Sequence[ParsedClaim],
        builder: Builder,
        steps: Steps,
        stages: Sequence[Stage],
        part: Chosen | None = None,
    ) -> None:
        self._claims = claims
        self._steps = steps
        self._stages = stages
        self._part = part
        self._options = [one for stage in stages for one in stage]
        self._start = [sum(map(len, stages[:number])) for number in range(len(stages))]
        chosen = [*self._options, *([part] if part else [])]
        # One problem for all options, so that kinds are the same whichever are chosen.
        self._whole = builder.build(claims, chosen, {len(self._options)} if part else ())
        self._problems: dict[tuple[int, ...], Problem | None] = {}
        self._done: list[tuple[int, tuple[int, ...]]] = []
        self._guess: tuple[int, ...] = ()

    def first(self) -> Path | None:
        for number, stage in enumerate(self._stages):
            for rank in range(len(stage)):
                witness = self._possible(number, rank, {}, None)
                if witness is not None:
                    devices = self._devices(number, rank, witness)
                    if devices is None:
                        return None
                    self._done.append((rank, devices))
                    break
            else:
                return None
        if not self._stages and self._possible(0, None, {}, None) is None:
            return None
        return tuple(self._done)

    def _devices(self, number: int, rank: int, witness: tuple[Problem, Solution]) -> tuple[int, ...] | None:
        """The first devices for a stage, one after the other."""
        one = self._stages[number][rank]
        if one.ask.everything:
            return one.found.matching
        problem, solution = witness
        used = self._used(one)
        kind_of = {
            index: kind for kind in problem.demands[number].kinds for index in problem.kinds[kind].devices
        }
        left = dict(problem.demands[number].kinds)
        planned = {kind: n for (demand, kind), n in solution.uses.items() if demand == number}
        fixed: dict[int, int] = {}
        devices: list[int] = []
        for index in one.found.free:
            kind = kind_of.get(index)
            if len(devices) == one.ask.count:
                break
            if kind is None or not left.get(kind) or (index in used and not problem.kinds[kind].shared):
                continue
            more = {**fixed, kind: fixed.get(kind, 0) + 1}
            if planned.get(kind, 0) < more[kind]:
                rest = {k: n - more.get(k, 0) for k, n in left.items()}
                found = self._possible(number, rank, more, rest)
                if found is None:
                    del left[kind]  # and no other device of that kind will do
                    continue
                planned = dict(more)
                for (demand, other), n in found[1].uses.items():
                    if demand == number:
                        planned[other] = planned.get(other, 0) + n
            fixed = more
            devices.append(index)
        return tuple(devices) if len(devices) == one.ask.count else None

    def _used(self, one: Chosen) -> set[int]:
        """Devices that are not there any more for this ask."""
        used: set[int] = set()
        for stage, (rank, devices) in zip(self._stages, self._done, strict=False):
            if not one.ask.admin or stage[rank].ask.claim == one.ask.claim:
                used.update(devices)
        return used

    def _possible(
        self, number: int, rank: int | None, fixed: Mapping[int, int], rest: Mapping[int, int] | None
    ) -> tuple[Problem, Solution] | None:
        """A solution with what is done, this stage met in this way (of these kinds so many, and of the rest
        at most so many), and the later ones in any way.
        """
        head = (*(r for r, _ in self._done), *(() if rank is None else (rank,)))
        later = self._stages[len(head) :]
        if len(self._guess) == len(self._stages) and self._guess[: len(head)] == head:
            found = self._solve(self._guess, number, fixed, rest)
            if found is not None:
                return found
        for ranks in self._ranks(head, later, number, fixed, rest):
            found = self._solve(ranks, number, fixed, rest)
            if found is not None:
                self._guess = ranks
                return found
        return None

    def _ranks(
        self,
        head: tuple[int, ...],
        later: Sequence[Stage],
        number: int,
        fixed: Mapping[int, int],
        rest: Mapping[int, int] | None,
    ) -> Iterator[tuple[int, ...]]:
        """All ways to meet the later stages; a beginning that cannot be met ends its branch."""
        if not later:
            yield head
            return
        if len(later[0]) > 1 and self._solve(head, number, fixed, rest) is None:
            return
        for rank in range(len(later[0])):
            yield from self._ranks((*head, rank), later[1:], number, fixed, rest)

    def _solve(
        self, ranks: tuple[int, ...], number: int, fixed: Mapping[int, int], rest: Mapping[int, int] | None
    ) -> tuple[Problem, Solution] | None:
        problem = self._problem(ranks)
        if problem is None:
            return None
        demands = list(problem.demands)
        for at, (_, devices) in enumerate(self._done):
            demands[at] = replace(demands[at], kinds=_by_kind(problem, demands[at], devices))
        restricted = replace(problem, demands=demands)
        if fixed and rest is not None:
            restricted = _split(restricted, number, fixed, rest)
        found = solve(restricted, self._steps)
        return None if isinstance(found, Infeasible) else (problem, found)

    def _problem(self, ranks: tuple[int, ...]) -> Problem | None:
        """Of these ways to meet the first stages; None where one of them cannot be met by itself."""
        if ranks not in self._problems:
            self._problems[ranks] = self._build(ranks)
        return self._problems[ranks]

    def _build(self, ranks: tuple[int, ...]) -> Problem | None:
        chosen = [self._stages[number][rank] for number, rank in enumerate(ranks)]
        sizes = [0] * len(self._claims)
        for one in chosen:
            size = wanted(one.ask, one.found)
            sizes[one.ask.claim] += size
            if not size or len(one.found.free) < size:
                return None
        if max(sizes, default=0) > MAX_RESULTS:
            return None
        picked = [self._start[number] + rank for number, rank in enumerate(ranks)]
        return _narrowed(self._whole, [*picked, *([len(self._options)] if self._part else [])])


def _narrowed(problem: Problem, picked: Sequence[int]) -> Problem:
    """The same problem with only these demands, in this order."""
    place = {old: new for new, old in enumerate(picked)}

    def rules(matches: Sequence[Match]) -> list[Match]:
        kept = (replace(m, demands=tuple(place[d] for d in m.demands if d in place)) for m in matches)
        return [match for match in kept if match.demands]

    budgets = (
        replace(b, weights={(place[d], k): w for (d, k), w in b.weights.items() if d in place})
        for b in problem.budgets
    )
    return replace(
        problem,
        demands=[problem.demands[old] for old in picked],
        matches=rules(problem.matches),
        distincts=rules(problem.distincts),
        budgets=[budget for budget in budgets if budget.weights],
    )


def _by_kind(problem: Problem, demand: Demand, devices: Sequence[int]) -> dict[int, int]:
    """Devices as numbers of kinds that the demand may take."""
    counts: dict[int, int] = {}
    kind_of = {index: kind for kind in demand.kinds for index in problem.kinds[kind].devices}
    for index in devices:
        if index in kind_of:
            counts[kind_of[index]] = counts.get(kind_of[index], 0) + 1
    return counts


def _split(problem: Problem, number: int, fixed: Mapping[int, int], rest: Mapping[int, int]) -> Problem:
    """The same problem with one demand in two: what is fixed, as the last one, and the rest."""
    demand, last = problem.demands[number], len(problem.demands)
    size = sum(fixed.values())
    left = {kind: n for kind, n in rest.items() if n > 0}
    demands = [
        replace(d, count=d.count - size, kinds=left) if i == number else d
        for i, d in enumerate(problem.demands)
    ]
    demands.append(replace(demand, count=size, kinds=dict(fixed)))

    def widened(budget: Budget) -> Budget:
        both = {(last, k): w for (d, k), w in budget.weights.items() if d == number and k in fixed}
        return replace(budget, weights={**budget.weights, **both}) if both else budget

    return replace(
        problem,
        demands=demands,
        matches=[
            replace(m, demands=(*m.demands, last)) if number in m.demands else m for m in problem.matches
        ],
        distincts=[
            replace(m, demands=(*m.demands, last)) if number in m.demands else m for m in problem.distincts
        ],
        budgets=[widened(budget) for budget in problem.budgets],
    )


def _part(one: Chosen, devices: tuple[int, ...]) -> Chosen:
    return Chosen(one.ask, replace(one.found, matching=devices, free=devices))


def _only(one: Chosen, free: Sequence[int]) -> Chosen:
    return Chosen(one.ask, replace(one.found, free=tuple(free)))
