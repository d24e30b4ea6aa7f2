"""The budgets of one problem, the kinds' own counts among them, and what uses draw from them.

A budget names every use that it could concern, but a search has decided few of them at any time: so it is
told by use which budgets that draws from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from controller.allocator.problem import Budget, Problem, Use
from controller.allocator.weights import THIRST


class Ledger:
    """Books of one problem. Budgets have numbers: the kinds' are the kinds' own, the others follow."""

    def __init__(self, problem: Problem) -> None:
        self._kinds = problem.kinds
        self._demands = problem.demands
        self._budgets = problem.budgets
        self._counts: dict[int, Budget] = {}
        self.rules = (*_differences(problem), *problem.budgets)
        """All but the kinds' own counts."""
        self._lost = {
            number: 0 for number, rule in enumerate(self.rules, start=len(self._kinds)) if rule.limit < 0
        }

    @cached_property
    def _by_use(self) -> Mapping[Use, list[tuple[int, int, bool]]]:
        """The number of each rule, its weight, and whether that counts once for all of the kind."""
        found: dict[Use, list[tuple[int, int, bool]]] = {}
        for number, rule in enumerate(self.rules, start=len(self._kinds)):
            for use, weight in rule.weights.items():
                found.setdefault(use, []).append((number, weight, use[1] in rule.once))
        return found

    @cached_property
    def thirst(self) -> Mapping[Use, int]:
        """Among equals, what draws least from counters and capacities is taken."""
        thirst: dict[Use, int] = {}
        for budget in self._budgets:
            for use, weight in budget.weights.items():
                share = min(THIRST, THIRST * weight // budget.limit) if budget.limit > 0 else THIRST
                if share > thirst.get(use, 0):
                    thirst[use] = share
        return thirst

    def spent(self, uses: Mapping[int, Mapping[int, int]]) -> dict[int, int]:
        """What uses (by demand, by kind) sum up to, by budget; of others there is nothing to say."""
        total = dict(self._lost)
        seen: set[tuple[int, int]] = set()
        for demand, kinds in uses.items():
            for kind, count in kinds.items():
                if count:
                    total[kind] = total.get(kind, 0) + count
                    for number, weight, once in self._by_use.get((demand, kind), ()):
                        if not once or (number, kind) not in seen:
                            total[number] = total.get(number, 0) + weight * count
                            seen.add((number, kind))
        return total

    def limit(self, number: int) -> int:
        """Of one budget."""
        kinds = len(self._kinds)
        return self._kinds[number].seats if number < kinds else self.rules[number - kinds].limit

    def budget(self, number: int) -> Budget:
        """One budget."""
        kinds = len(self._kinds)
        if number >= kinds:
            return self.rules[number - kinds]
        if number not in self._counts:
            users = {(i, number): 1 for i, demand in enumerate(self._demands) if number in demand.kinds}
            self._counts[number] = Budget("devices", self._kinds[number].seats, users)
        return self._counts[number]

    def overdrawn(self, uses: Mapping[int, Mapping[int, int]]) -> Budget | None:
        """The first budget that does not suffice."""
        over = [number for number, total in self.spent(uses).items() if total > self.limit(number)]
        return self.budget(min(over)) if over else None

    def allows(self, uses: Mapping[int, Mapping[int, int]], last: Use) -> bool:
        """Do the rules that the last use draws from suffice for all?"""
        rules = self._by_use.get(last)
        if not rules:
            return True
        spent = self.spent(uses)
        return all(spent[number] <= self.limit(number) for number, _, _ in rules)


def overdraft(budget: Budget) -> tuple[str, str]:
    """What to say of a budget that does not suffice."""
    if budget.label == "devices":
        return "requests", "too few devices for all of them together"
    return budget.label, "not enough for all of them together"


def _differences(problem: Problem) -> Iterator[Budget]:
    """Of devices that must all differ, each value may be had once."""
    for distinct in problem.distincts:
        for kinds in distinct.kinds.values():
            yield Budget(distinct.label, 1, {(d, k): 1 for d in distinct.demands for k in kinds})
