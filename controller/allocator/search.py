"""The search: exact, complete, deterministic, and not exponential in practice.

A node says of each demand how many devices of each kind it may take at most and takes at least. Its
relaxation gives a bound and a proposal. A proposal that breaks no rule is a solution; if it costs no more
than the bound of all open nodes, it is the best one. Otherwise the search branches: on the value that the
demands of a match share, on one use of a budget that is overdrawn (less of it, or the others make do with
what it leaves), or on the use by which something is covered. Nodes are taken best bound first, then deepest
first; a set of match values is looked at once, whichever of several like matches took which.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Final

from controller.allocator.ledger import Ledger, overdraft
from controller.allocator.problem import Budget, Cover, Infeasible, Match, Problem, Solution, Steps, Use
from controller.allocator.relaxation import Node, Proposal, Relaxation, TooFewPairs, Uses
from controller.allocator.weights import DEAR

_NOTHING: Final[Mapping[Use, int]] = MappingProxyType({})


def solve(
    problem: Problem, steps: Steps, least: Mapping[Use, int] = _NOTHING, ledger: Ledger | None = None
) -> Solution | Infeasible:
    """The best solution, or why there is none.

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
        self._given = least
        self._steps = steps
        self._relaxation = Relaxation(problem, steps, ledger)
        self._ledger = ledger
        self._group_of = _groups(problem, {demand for demand, _ in least})
        self._crowds = [
            members
            for number in range(len(set(self._group_of)))
            if len(members := [i for i, group in enumerate(self._group_of) if group == number]) > 1
            and _single_valued(problem.matches[members[0]])
        ]
        self._blame: Infeasible | None = None
        self._prices: dict[Use, int] = {}

    def run(self) -> Solution | Infeasible:
        root = self._root()
        if isinstance(root, Infeasible):
            return root
        heap: list[tuple[int, int, int, Node]] = [(0, 0, 0, root)]
        seen: set[Hashable] = set()
        best: Proposal | None = None
        number = 0
        while heap and self._steps.take():
            known, depth, _, node = heapq.heappop(heap)
            if best is not None and known >= best.rank_cost:
                break
            bound = self._bound(node)
            if bound is None or (best is not None and bound >= best.rank_cost):
                continue
            if bound > known and heap and heap[0][0] < bound:
                number += 1
                heapq.heappush(heap, (bound, depth, number, node))
                continue
            proposal, overdrawn = self._proposal(node)
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
        if self._steps.left < 0:
            return Infeasible("search", f"gave up after {self._steps.taken} steps", gave_up=True)
        return self._blame or Infeasible("requests", "their constraints cannot all hold at once")

    # --- what must hold ----------------------------------------------------------------------------

    def _root(self) -> Node | Infeasible:
        most: Uses = {}
        for index, demand in enumerate(self._problem.demands):
            most[index] = {
                kind: min(seats, demand.count) for kind, seats in demand.kinds.items() if seats > 0
            }
        for budget in self._ledger.rules:
            for (demand_index, kind), weight in budget.weights.items():
                mine = most[demand_index]
                if weight and mine.get(kind, 0) * weight > budget.limit:
                    mine[kind] = budget.limit // weight
        for index, demand in enumerate(self._problem.demands):
            most[index] = {kind: count for kind, count in most[index].items() if count > 0}
            there = sum(most[index].values())
            if there < demand.count:
                return Infeasible(demand.label, f"{there} of {demand.count} can be had")
        return Node(most, self._given, {})

    def _bound(self, node: Node) -> int | None:
        """Narrow the node by what is decided, then bound it; None where it holds no solution."""
        if not self._narrow(node):
            return None
        answer = self._relaxation.bound(node)
        if isinstance(answer, TooFewPairs):
            first, others = answer.pairings[0], len(answer.pairings) - 1
            label = f"{first.label} and {others} like it" if others else first.label
            detail = f"only {answer.pairs} of {answer.wanted} at {first.worst.name} or better"
            self._blamed(node, label, detail)
            return None
        return answer

    def _narrow(self, node: Node) -> bool:
        """Shrink `node.most` to what can still be; False where a demand cannot be met any more."""
        changed = True
        while changed:
            changed = False
            for index, match in enumerate(self._problem.matches):
                values = self._viable(node, index, match)
                if not values:
                    return self._blamed(node, match.label, "no value of it has enough free devices")
                kinds = frozenset(kind for value in values for kind in match.kinds[value])
                for demand in match.demands:
                    mine = node.most[demand]
                    if not mine.keys() <= kinds:
                        node.most[demand] = {k: n for k, n in mine.items() if k in kinds}
                        changed = True
            for narrow in (self._narrow_covers, self._narrow_budgets):
                narrower = narrow(node)
                if narrower is None:
                    return False
                changed = changed or narrower
        for index, demand_details in enumerate(self._problem.demands):
            if sum(node.most[index].values()) < demand_details.count:
                return self._blamed(
                    node, demand_details.label, "too few devices that agree with the other requests"
                )
        for distinct in self._problem.distincts:
            if not self._relaxation.values_suffice(node, distinct):
                return self._blamed(node, distinct.label, "too few different values")
        return self._places_suffice(node)

    def _viable(self, node: Node, index: int, match: Match) -> list[Hashable]:
        """Values by which each of the match's demands could be met."""
        values = [node.values[index]] if index in node.values else list(match.kinds)
        for demand, kind in node.least:
            if demand in match.demands:
                values = [value for value in values if kind in match.kinds[value]]
        for demand in match.demands:
            most, count = node.most[demand], self._problem.demands[demand].count
            values = [
                value
                for value in values
                if sum([most[kind] for kind in match.kinds[value] if kind in most]) >= count
            ]
        return values

    def _places_suffice(self, node: Node) -> bool:
        """Like matches need as many places, one for each, as there are of them."""
        for members in self._crowds:
            if any(index in node.values for index in members):
                continue
            match = self._problem.matches[members[0]]
            places = sum(self._places(node, match, value) for value in match.kinds)
            if places < len(members):
                return self._blamed(
                    node, match.label, f"wanted {len(members)} times, but there is room for {places}"
                )
        return True

    def _places(self, node: Node, match: Match, value: Hashable) -> int:
        """How often the match's demands fit into what has this value, each demand looked at by itself."""
        return min(
            sum(self._problem.kinds[k].seats for k in node.most[demand] if k in match.kinds[value])
            // self._problem.demands[demand].count
            for demand in match.demands
        )

    def _narrow_covers(self, node: Node) -> bool | None:
        """What only one use can cover is covered by it, and what only one demand can cover takes places of it
        that no other kind can have; None where something cannot be covered, else whether anything changed.
        """
        changed = False
        alone: dict[int, list[Cover]] = {}
        for cover in self._problem.covers:
            left = _open(cover, node)
            if not left:
                self._blamed(node, cover.label, cover.detail)
                return None
            if len(left) == 1 and not node.least.get(left[0]):
                node.least = {**node.least, left[0]: 1}
                changed = True
            if len({demand for demand, _ in left}) == 1:
                alone.setdefault(left[0][0], []).append(cover)
        for demand, covers in alone.items():
            for kind, most in node.most[demand].items():
                others = sum((demand, kind) not in cover.uses for cover in covers)
                if most > max(0, self._problem.demands[demand].count - others):
                    _cap(node, demand, kind, self._problem.demands[demand].count - others)
                    changed = True
        return changed

    def _narrow_budgets(self, node: Node) -> bool | None:
        """Shrink to what is left beside the uses that there will be in any case; None where they are too many
        already, else whether anything changed.
        """
        least = self._least(node)
        if not least:
            return False
        changed = False
        for number, promised in sorted(self._ledger.spent(least).items()):
            budget = self._ledger.budget(number)
            rest = budget.limit - promised
            if rest < 0:
                self._blamed(node, *overdraft(budget))
                return None
            had = {k for k in budget.once if any(mine.get(k) for mine in least.values())}
            for (demand, kind), weight in budget.weights.items() if promised else ():
                most = node.most[demand].get(kind, 0)
                if most * weight > rest and kind not in had:
                    count = least.get(demand, {}).get(kind, 0) + rest // weight
                    if count < most:
                        _cap(node, demand, kind, count)
                        changed = True
        if all(node.most[demand].get(kind, 0) >= count for (demand, kind), count in node.least.items()):
            return changed
        return None

    def _least(self, node: Node) -> Uses:
        """Uses that are decided, or that are left to a demand when it takes all it may of everything else."""
        least: Uses = {}
        for (demand, kind), count in node.least.items():
            least.setdefault(demand, {})[kind] = count
        for index, demand_details in enumerate(self._problem.demands):
            spare = sum(node.most[index].values()) - demand_details.count
            for kind, most in node.most[index].items():
                if most > spare:
                    mine = least.setdefault(index, {})
                    mine[kind] = max(mine.get(kind, 0), most - max(spare, 0))
        return least

    def _proposal(self, node: Node) -> tuple[Proposal | None, Budget | None]:
        """A proposal, and what it overdraws, which is dear from then on."""
        proposal = self._relaxation.propose(node, self._prices)
        overdrawn = None if proposal is None else self._ledger.overdrawn(proposal.uses)
        if overdrawn is not None and overdrawn.limit > 0:
            for use, weight in overdrawn.weights.items():
                self._prices[use] = self._prices.get(use, 0) + DEAR * weight // overdrawn.limit
        return proposal, overdrawn

    def _uncovered(self, node: Node, proposal: Proposal) -> list[Use]:
        """Of what the proposal leaves uncovered, what can be covered in the fewest ways: these ways."""
        missing = [
            _open(cover, node)
            for cover in self._problem.covers
            if not any(proposal.uses[demand].get(kind) for demand, kind in cover.uses)
        ]
        return min(missing, key=len, default=[])

    def _blamed(self, node: Node, label: str, detail: str) -> bool:
        """Remember why the whole problem fails (deeper down it is only one way that fails). Always False."""
        if node.by_values and not node.values:
            self._blame = self._blame or Infeasible(label, detail)
        return False

    # --- branching ---------------------------------------------------------------------------------

    def _branch(self, node: Node, proposal: Proposal | None, overdrawn: Budget | None) -> Sequence[Node]:
        counted = proposal is not None and not self._problem.pairings
        if not counted and not self._relaxation.counts_suffice(node):
            self._blamed(node, "requests", "too few devices for all of them together")
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
        viable = {i: self._viable(node, i, m) for i, m in enumerate(matches) if i not in node.values}
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


def _open(cover: Cover, node: Node) -> list[Use]:
    return sorted((demand, kind) for demand, kind in cover.uses if kind in node.most[demand])


def _cap(node: Node, demand: int, kind: int, count: int) -> None:
    capped = {**node.most[demand], kind: count}
    node.most[demand] = {k: n for k, n in capped.items() if n > 0}


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


def _single_valued(match: Match) -> bool:
    return sum(map(len, match.kinds.values())) == len(frozenset().union(*match.kinds.values()))


def _solution(proposal: Proposal) -> Solution:
    uses = {
        (demand, kind): count
        for demand, kinds in sorted(proposal.uses.items())
        for kind, count in sorted(kinds.items())
        if count
    }
    return Solution(uses, proposal.pairs, proposal.rank_cost, proposal.cost)
