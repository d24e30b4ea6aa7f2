"""What follows from what the search has decided: which uses can still be, and which must be.

Each rule shrinks what demands may take, until none finds any more to shrink or a demand cannot be met.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from controller.allocator.ledger import Ledger, overdraft
from controller.allocator.problem import Budget, Cover, Demand, Infeasible, Match, Problem, Use, Work
from controller.allocator.relaxation import Node, Relaxation, TooFewPairs, Uses


class Narrowing:
    """Of one problem.

    Attributes:
        blame: why the whole problem fails, as far as that was found.
    """

    def __init__(
        self, problem: Problem, ledger: Ledger, relaxation: Relaxation, alike: Sequence[Sequence[int]]
    ) -> None:
        """`alike`: matches (by index) that could change places without a difference, by groups."""
        self._problem = problem
        self._ledger = ledger
        self._relaxation = relaxation
        self._crowds = [members for members in alike if _single_valued(problem.matches[members[0]])]
        self.blame: Infeasible | None = None

    def root(self, least: Mapping[Use, int]) -> Node | Infeasible:
        """Where the search begins, or the demand that is short by itself."""
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
                return Infeasible(demand.label, f"{there} of {demand.count} can be allocated", rule=demand)
        return Node(most, least, {})

    def bound(self, node: Node) -> Work[int | None]:
        """Narrow the node by what is decided, then bound it; None where it holds no solution."""
        if not self.narrow(node):
            return None
        answer = yield from self._relaxation.bound(node)
        if isinstance(answer, TooFewPairs):
            first, others = answer.pairings[0], len(answer.pairings) - 1
            label = f"{first.label} and {others} like it" if others else first.label
            detail = f"only {answer.pairs} of {answer.wanted} at {first.worst.name} or better"
            if first.required_by:
                detail += f", which {first.required_by} requires"
            self.blamed(node, label, detail)
            return None
        return answer

    def narrow(self, node: Node) -> bool:
        """Shrink `node.most` to what can still be; False where a demand cannot be met any more."""
        changed = True
        while changed:
            changed = False
            for index, match in enumerate(self._problem.matches):
                values = self.viable(node, index, match)
                if not values:
                    return self.blamed(node, match.label, "no value of it has enough free devices", match)
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
                detail = "too few devices that agree with the other requests"
                return self.blamed(node, demand_details.label, detail, demand_details)
        for distinct in self._problem.distincts:
            if not self._relaxation.values_suffice(node, distinct):
                return self.blamed(node, distinct.label, "too few different values", distinct)
        return self._places_suffice(node)

    def viable(self, node: Node, index: int, match: Match) -> list[Hashable]:
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
                detail = f"wanted {len(members)} times, but there is room for {places}"
                return self.blamed(node, match.label, detail, match)
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
            left = open_uses(cover, node)
            if not left:
                self.blamed(node, cover.label, cover.detail)
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
                self.blamed(node, *overdraft(budget), budget)
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

    def blamed(
        self, node: Node, label: str, detail: str, rule: Demand | Match | Budget | None = None
    ) -> bool:
        """Remember why the whole problem fails (deeper down it is only one way that fails). Always False."""
        if node.by_values and not node.values:
            self.blame = self.blame or Infeasible(label, detail, rule=rule)
        return False


def open_uses(cover: Cover, node: Node) -> list[Use]:
    """The uses that could still cover it, in order."""
    return sorted((demand, kind) for demand, kind in cover.uses if kind in node.most[demand])


def _cap(node: Node, demand: int, kind: int, count: int) -> None:
    capped = {**node.most[demand], kind: count}
    node.most[demand] = {k: n for k, n in capped.items() if n > 0}


def _single_valued(match: Match) -> bool:
    return sum(map(len, match.kinds.values())) == len(frozenset().union(*match.kinds.values()))
