"""The first solution in the order in which kube-scheduler tries: requests, their subrequests, devices.

That order is not walked, which could take for ever. Mostly the first devices will do, one request after the
other, and then they are the answer. Where they lead nowhere, the search is asked step by step whether what
has been decided can still be completed: a step costs a search, and there are no more steps than requests
times kinds of devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from controller.allocator.asks import MAX_RESULTS, ParsedClaim
from controller.allocator.build import Builder, Chosen
from controller.allocator.candidates import wanted
from controller.allocator.ledger import Ledger
from controller.allocator.problem import Demand, Infeasible, Match, Problem, Solution, Steps, Work
from controller.allocator.search import solve

Stage = Sequence[Chosen]
"""The ways to meet one request, in order of preference."""

Path = tuple[tuple[int, tuple[int, ...]], ...]
"""By stage, in order: which way, and the devices (by index, in order)."""


class Walk:
    """Finds the first solution of some stages. `part`: devices that are given beside them, and to which no
    constraint applies. `first`: the first ways in which the stages can be met, if that is known.
    """

    def __init__(
        self,
        claims: Sequence[ParsedClaim],
        builder: Builder,
        steps: Steps,
        stages: Sequence[Stage],
        part: Chosen | None = None,
        first: tuple[int, ...] = (),
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
        self._ledger = Ledger(self._whole)
        self._kind_of = [_kind_of(self._whole, demand) for demand in self._whole.demands]
        # Beginnings that cannot be met with what is done, nor then with more of it.
        self._dead: set[tuple[int, ...]] = set()
        self._problems: dict[tuple[int, ...], tuple[Problem, Ledger] | None] = {}
        self._done: list[tuple[int, tuple[int, ...]]] = []
        # The last solution found, and how it meets each stage; it goes with all that has been decided.
        self._witness: tuple[Problem, Solution] | None = None
        self._guess = self._least = first

    def first(self) -> Work[Path | None]:
        """None where there is no solution, or no step left to find it."""
        for number, stage in enumerate(self._stages):
            rest = None if self._part else self._taker().rest()
            if rest is not None:
                return (*self._done, *rest)
            for rank in range(len(stage)):
                known = self._witness if rank == 0 and self._guess[number : number + 1] == (0,) else None
                witness = known or (yield from self._possible(number, rank, {}, None))
                if witness is not None:
                    devices = yield from self._devices(number, rank, witness)
                    if devices is None:
                        return None
                    self._done.append((rank, devices))
                    break
            else:
                return None
        if not self._stages and (yield from self._possible(0, None, {}, None)) is None:
            return None
        return tuple(self._done)

    def _devices(
        self, number: int, rank: int, witness: tuple[Problem, Solution]
    ) -> Work[tuple[int, ...] | None]:
        """The first devices for a stage, one after the other."""
        one = self._stages[number][rank]
        if one.ask.everything:
            return one.found.matching
        problem, solution = witness
        kind_of = self._kind_of[self._start[number] + rank]
        left = dict(problem.demands[number].kinds)
        planned = {kind: n for (demand, kind), n in solution.uses.items() if demand == number}
        fixed: dict[int, int] = {}
        devices: list[int] = []
        taker = self._taker()
        for index in one.found.free:
            kind = kind_of.get(index)
            if len(devices) == one.ask.count:
                break
            if kind is None or not left.get(kind) or not taker.fits(number, rank, index):
                continue
            more = {**fixed, kind: fixed.get(kind, 0) + 1}
            if planned.get(kind, 0) < more[kind]:
                most = {**more, **left}
                found = yield from self._possible(number, rank, more, most)
                if found is None:
                    del left[kind]  # and no other device of that kind will do
                    continue
                planned = {other: n for (demand, other), n in found[1].uses.items() if demand == number}
            fixed = more
            devices.append(index)
            taker.take(number, rank, index)
        return tuple(devices) if len(devices) == one.ask.count else None

    def _taker(self) -> _Taker:
        return _Taker(self._whole, self._ledger, self._kind_of, self._stages, self._start, self._done)

    def _possible(
        self, number: int, rank: int | None, fixed: Mapping[int, int], most: Mapping[int, int] | None
    ) -> Work[tuple[Problem, Solution] | None]:
        """A solution with what is done, this stage met in this way (of these kinds so many at least, and of
        which so many at most), and the later ones in any way.
        """
        head = (*(r for r, _ in self._done), *(() if rank is None else (rank,)))
        later = self._stages[len(head) :]
        if len(self._guess) == len(self._stages) and self._guess[: len(head)] == head:
            found = yield from self._solve(self._guess, number, fixed, most)
            if found is not None:
                self._witness = found
                return found
        return (yield from self._complete(head, later, number, fixed, most))

    def _complete(
        self,
        head: tuple[int, ...],
        later: Sequence[Stage],
        number: int,
        fixed: Mapping[int, int],
        most: Mapping[int, int] | None,
    ) -> Work[tuple[Problem, Solution] | None]:
        """A solution with the later stages met in the first way that can be; a beginning that cannot be met
        ends its branch.
        """
        if not later:
            found = yield from self._solve(head, number, fixed, most)
            if found is not None:
                self._guess, self._witness = head, found
            return found
        if len(later[0]) > 1 and (yield from self._solve(head, number, fixed, most)) is None:
            return None
        for rank in range(len(later[0])):
            if self._steps.over:
                return None
            found = yield from self._complete((*head, rank), later[1:], number, fixed, most)
            if found is not None:
                return found
        return None

    def _solve(
        self, ranks: tuple[int, ...], number: int, fixed: Mapping[int, int], most: Mapping[int, int] | None
    ) -> Work[tuple[Problem, Solution] | None]:
        if ranks in self._dead or ranks < self._least[: len(ranks)]:
            return None
        known = self._problem(ranks)
        if known is None:
            return None
        problem, ledger = known
        demands = list(problem.demands)
        for at, (rank, devices) in enumerate(self._done):
            kind_of = self._kind_of[self._start[at] + rank]
            counts = Counter(kind_of[index] for index in devices if index in kind_of)
            demands[at] = replace(demands[at], kinds=counts)
        if most is not None:
            demands[number] = replace(demands[number], kinds=most)
        restricted = replace(problem, demands=demands)
        least = {(number, kind): n for kind, n in fixed.items()}
        found = yield from solve(restricted, self._steps, least, ledger)
        if isinstance(found, Infeasible):
            if not fixed:
                self._dead.add(ranks)
            return None
        return problem, found

    def _problem(self, ranks: tuple[int, ...]) -> tuple[Problem, Ledger] | None:
        """Of these ways to meet the first stages; None where one of them cannot be met by itself."""
        if ranks not in self._problems:
            problem = self._build(ranks)
            self._problems[ranks] = (problem, Ledger(problem)) if problem else None
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


def _kind_of(problem: Problem, demand: Demand) -> dict[int, int]:
    """By device that the demand may take, its kind."""
    return {index: kind for kind in demand.kinds for index in problem.kinds[kind].devices}


class _Taker:
    """Takes devices that break no rule so far; the first ones, if it is let, never going back."""

    def __init__(
        self,
        problem: Problem,
        ledger: Ledger,
        kind_of: Sequence[Mapping[int, int]],
        stages: Sequence[Stage],
        start: Sequence[int],
        done: Sequence[tuple[int, tuple[int, ...]]],
    ) -> None:
        self._problem = problem
        self._ledger = ledger
        self._kind_of = kind_of
        self._stages = stages
        self._start = start
        self._uses: dict[int, dict[int, int]] = {}
        self._values: dict[int, frozenset[Hashable]] = {}
        self._owners: dict[int, set[int]] = {}  # by device, the claims that have it
        self._sizes: dict[int, int] = {}
        self._done = len(done)
        for number, (rank, devices) in enumerate(done):
            for index in devices:
                self.take(number, rank, index)

    def rest(self) -> Path | None:
        """The remaining stages; None where this way leads nowhere, which proves nothing."""
        path: list[tuple[int, tuple[int, ...]]] = []
        for number in range(self._done, len(self._stages)):
            for rank in range(len(self._stages[number])):
                possible = self._possible(number, rank)
                if possible is None:
                    continue  # nothing that was decided differently within this stage could change that
                devices = self._pick(number, rank, possible)
                if devices is None:
                    return None
                path.append((rank, devices))
                break
            else:
                return None
        return tuple(path)

    def _possible(self, number: int, rank: int) -> list[int] | None:
        """Devices that could be the stage's next; None where they are too few in any case."""
        one = self._stages[number][rank]
        count = wanted(one.ask, one.found)
        if not count or self._sizes.get(one.ask.claim, 0) + count > MAX_RESULTS:
            return None
        if one.ask.everything:
            return list(one.found.matching) if len(one.found.free) == count else None
        possible = [index for index in one.found.free if self.fits(number, rank, index)]
        return possible if len(possible) >= count else None

    def _pick(self, number: int, rank: int, possible: Sequence[int]) -> tuple[int, ...] | None:
        one = self._stages[number][rank]
        count = wanted(one.ask, one.found)
        devices: list[int] = []
        for index in possible:
            if len(devices) < count and self.fits(number, rank, index):
                self.take(number, rank, index)
                devices.append(index)
        return tuple(devices) if len(devices) == count else None

    def fits(self, number: int, rank: int, index: int) -> bool:
        one, slot = self._stages[number][rank], self._start[number] + rank
        kind = self._kind_of[slot].get(index)
        if kind is None:
            return False
        owners = self._owners.get(index, ())
        if not self._problem.kinds[kind].shared and (one.ask.claim in owners if one.ask.admin else owners):
            return False
        for at, match in enumerate(self._problem.matches):
            if slot in match.demands and not self._values.get(at, _having(match, kind)) & _having(
                match, kind
            ):
                return False
        for distinct in self._problem.distincts:
            if slot in distinct.demands and any(
                self._uses.get(demand, {}).get(other)
                for kinds in distinct.kinds.values()
                if kind in kinds
                for other in kinds
                for demand in distinct.demands
            ):
                return False
        mine = {**self._uses.get(slot, {})}
        mine[kind] = mine.get(kind, 0) + 1
        return self._ledger.allows({**self._uses, slot: mine}, (slot, kind))

    def take(self, number: int, rank: int, index: int) -> None:
        one, slot = self._stages[number][rank], self._start[number] + rank
        kind = self._kind_of[slot].get(index)
        if kind is None:
            return
        uses = self._uses.setdefault(slot, {})
        uses[kind] = uses.get(kind, 0) + 1
        self._owners.setdefault(index, set()).add(one.ask.claim)
        self._sizes[one.ask.claim] = self._sizes.get(one.ask.claim, 0) + 1
        for at, match in enumerate(self._problem.matches):
            if slot in match.demands:
                having = _having(match, kind)
                self._values[at] = self._values.get(at, having) & having


def _having(match: Match, kind: int) -> frozenset[Hashable]:
    return frozenset(value for value, kinds in match.kinds.items() if kind in kinds)
