"""The search: exact, complete, deterministic, and not exponential in practice.

A node says of each demand how many devices of each kind it may take at most and takes at least. Its
relaxation gives a bound and a proposal. A proposal that breaks no rule is a solution; if it costs no more
than the bound of all open nodes, it is the best one. Otherwise the search branches: on the value that the
demands of a match share, on one use of a budget that is overdrawn (less of it, or the others make do with
what it leaves), or on the use by which something is covered. What was overdrawn once is dear to all proposals
after that one. Nodes are taken best bound first, then deepest first; a set of match values is looked at once,
whichever of several like matches took which.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Final

from controller.allocator.ledger import Ledger
from controller.allocator.narrowing import Narrowing, open_uses
from controller.allocator.problem import Budget, Infeasible, Match, Problem, Solution, Steps, Use, Work
from controller.allocator.relaxation import Node, Proposal, Relaxation
from controller.allocator.weights import DEAR

_USES_A_STEP: Final = 32
"""What a node of the search costs grows with the uses that there can be."""
_HELPS: Final = "fewer subrequests or constraints would help"
_NOTHING: Final[Mapping[Use, int]] = MappingProxyType({})


def solve(
    problem: Problem, steps: Steps, least: Mapping[Use, int] = _NOTHING, ledger: Ledger | None = None
) -> Work[Solution | Infeasible]:
    """Find the best solution, or why there is none.

    Args:
        problem: the question.
        steps: how far to go.
        least: of these uses there must be so many at least; their demands are without pairs.
        ledger: the problem's, or that of one which differs only in that it leaves more to its demands.
    """
    return _Search(problem, steps, least, ledger or Ledger(problem)).run()


class _Search:
    def __init__(self, problem: Problem, steps: Steps, least: Mapping[Use, int], ledger: Ledger) -> None:
        self._problem = problem
        self._least = least
        self._steps = steps
        self._relaxation = Relaxation(problem, steps, ledger)
        self._ledger = ledger
        self._group_of = _groups(problem, {demand for demand, _ in least})
        crowds = [
            members
            for number in range(len(set(self._group_of)))
            if len(members := [i for i, group in enumerate(self._group_of) if group == number]) > 1
        ]
        self._narrowing = Narrowing(problem, ledger, self._relaxation, crowds)
        self._prices: dict[Use, int] = {}
        self._weight = 1 + sum(len(demand.kinds) for demand in problem.demands) // _USES_A_STEP

    def run(self) -> Work[Solution | Infeasible]:
        yield self._weight
        root = self._narrowing.root(self._least)
        if isinstance(root, Infeasible):
            return root
        if self._problem.pairings and (found := (yield from self._at_once(root))) is not None:
            return found
        heap: list[tuple[int, int, int, Node]] = [(0, 0, 0, root)]
        seen: set[Hashable] = set()
        best: Proposal | None = None
        number = 0
        while heap and self._steps.take():
            yield self._weight
            known, depth, _, node = heapq.heappop(heap)
            if best is not None and known >= best.rank_cost:
                break
            bound = yield from self._narrowing.bound(node)
            if bound is None or (best is not None and bound >= best.rank_cost):
                continue
            if bound > known and heap and heap[0][0] < bound:
                number += 1
                heapq.heappush(heap, (bound, depth, number, node))
                continue
            proposal, overdrawn = yield from self._proposal(node)
            if proposal is not None and overdrawn is None and not self._uncovered(node, proposal):
                if best is None or proposal.rank_cost < best.rank_cost:
                    best = proposal
                if best.rank_cost <= bound:
                    break
            for child in self._branch(node, proposal, overdrawn):
                key = self._key(child) if child.by_values else None
                if key is None or key not in seen:
                    if key is not None:
                        seen.add(key)
                    number += 1
                    heapq.heappush(heap, (bound, depth - 1, number, child))
        if best is not None:
            return _solution(best)
        if self._steps.over:
            return Infeasible(
                "search",
                f"gave up after {self._steps.taken} steps; fewer subrequests or constraints would help",
                gave_up=True,
            )
        return self._narrowing.blame or Infeasible("requests", "their constraints cannot all hold at once")

    def _at_once(self, root: Node) -> Work[Solution | None]:
        """The first proposal, if it keeps all rules and no pair could be better by what its devices share."""
        if not self._narrowing.narrow(root):
            return None
        proposal = yield from self._relaxation.propose(root)
        if proposal is None or proposal.rank_cost > self._relaxation.least_cost(root):
            return None
        if self._ledger.overdrawn(proposal.uses) is not None:
            return None
        return None if self._uncovered(root, proposal) else _solution(proposal)

    def _proposal(self, node: Node) -> Work[tuple[Proposal | None, Budget | None]]:
        """A proposal, and what it overdraws, which is dear from then on."""
        proposal = yield from self._relaxation.propose(node, self._prices)
        overdrawn = None if proposal is None else self._ledger.overdrawn(proposal.uses)
        if overdrawn is not None and overdrawn.limit > 0:
            for use, weight in overdrawn.weights.items():
                self._prices[use] = self._prices.get(use, 0) + DEAR * weight // overdrawn.limit
        return proposal, overdrawn

    def _uncovered(self, node: Node, proposal: Proposal) -> list[Use]:
        """Of what the proposal leaves uncovered, what can be covered in the fewest ways: these ways."""
        missing = [
            open_uses(cover, node)
            for cover in self._problem.covers
            if not any(proposal.uses[demand].get(kind) for demand, kind in cover.uses)
        ]
        return min(missing, key=len, default=[])

    def _branch(self, node: Node, proposal: Proposal | None, overdrawn: Budget | None) -> Sequence[Node]:
        counted = proposal is not None and not self._problem.pairings
        if not counted and not self._relaxation.counts_suffice(node):
            self._narrowing.blamed(node, "requests", "too few devices for all of them together")
            return ()
        if len(node.values) < len(self._problem.matches):
            return self._branch_on_match(node)
        if proposal is None:
            return ()
        if overdrawn is None:
            return _branch_on_cover(node, self._uncovered(node, proposal))
        return self._branch_on_budget(node, proposal, overdrawn)

    def _branch_on_match(self, node: Node) -> Sequence[Node]:
        """One child for each value of the open match that has the fewest."""
        matches = self._problem.matches
        viable = {
            i: self._narrowing.viable(node, i, m) for i, m in enumerate(matches) if i not in node.values
        }
        index = min(viable, key=lambda i: (len(viable[i]), i))
        children = []
        for value in viable[index]:
            most = dict(node.most)
            for demand in matches[index].demands:
                most[demand] = {k: n for k, n in most[demand].items() if k in matches[index].kinds[value]}
            children.append(Node(most, node.least, {**node.values, index: value}))
        return children

    def _branch_on_budget(self, node: Node, proposal: Proposal, budget: Budget) -> Sequence[Node]:
        """Of the use that weighs most: one child takes at least as much of it, the other less."""
        over = [
            (proposal.uses[demand].get(kind, 0) * weight, -demand, -kind)
            for (demand, kind), weight in budget.weights.items()
            if proposal.uses[demand].get(kind, 0) > node.least.get((demand, kind), 0)
        ]
        if not over:
            return ()
        _, minus_demand, minus_kind = max(over)
        demand, kind = -minus_demand, -minus_kind
        count = proposal.uses[demand][kind]
        fewer = {k: count - 1 if k == kind else n for k, n in node.most[demand].items()}
        return (
            Node(dict(node.most), {**node.least, (demand, kind): count}, node.values, by_values=False),
            Node(
                {**node.most, demand: {k: n for k, n in fewer.items() if n > 0}},
                node.least,
                node.values,
                by_values=False,
            ),
        )

    def _key(self, node: Node) -> Hashable:
        """Equal for nodes that differ only in which of several like matches took which value."""
        taken = Counter((self._group_of[index], value) for index, value in node.values.items())
        return frozenset(taken.items())


def _branch_on_cover(node: Node, ways: Sequence[Use]) -> Sequence[Node]:
    """One child for each way, without those before it."""
    children = []
    most = node.most
    for demand, kind in ways:
        children.append(Node(dict(most), {**node.least, (demand, kind): 1}, node.values, by_values=False))
        most = {**most, demand: {k: n for k, n in most[demand].items() if k != kind}}
    return children


def _groups(problem: Problem, special: Set[int]) -> list[int]:
    """By match: the number of its group; matches of one group could change places without a difference."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(_likeness(problem, special, m), len(numbers)) for m in problem.matches]


def _likeness(problem: Problem, special: Set[int], match: Match) -> Hashable:
    """Equal for matches over the same values, of like demands that nothing else speaks of."""
    demands = []
    for index in match.demands:
        if (
            index in special
            or any(index in other.demands for other in problem.matches if other is not match)
            or any(index in other.demands for other in problem.distincts)
            or any(index in (p.gpus, p.nics) for p in problem.pairings)
            or any(demand == index for budget in problem.budgets for demand, _ in budget.weights)
        ):
            return id(match)
        demand_details = problem.demands[index]
        demands.append((demand_details.count, frozenset(demand_details.kinds.items())))
    return frozenset(Counter(demands).items()), frozenset(match.kinds.items())


def _solution(proposal: Proposal) -> Solution:
    uses = {
        (demand, kind): count
        for demand, kinds in sorted(proposal.uses.items())
        for kind, count in sorted(kinds.items())
        if count
    }
    return Solution(uses, proposal.pairs, proposal.rank_cost, proposal.cost)
