"""Why claims cannot be placed on a node, in the terms of the claim: which request, filter or constraint,
which attribute, and which values the free devices have.

The search says only which demand, match or budget cannot be met. The explanation is worked out here from the
problem, once, for the refusal that is returned. Messages contain what is the same on many nodes, so that
nodes can be counted by them; the numbers of one node (how many devices have which value) are kept apart.
Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from controller.allocator import quantity
from controller.allocator.asks import Ask, ParsedClaim
from controller.allocator.build import Chosen, concerns
from controller.allocator.candidates import Candidates, wanted
from controller.allocator.limits import Limit
from controller.allocator.model import NodeDevices
from controller.allocator.problem import Budget, Demand, Infeasible, Match, Problem
from controller.allocator.reads import reads
from controller.allocator.traits import values, values_of
from controller.allocator.verdict import Refusal, clipped
from driver.kube.objects import DeviceConstraint

_NAMED: Final = 3
"""Values, counters or constraints that are named; of the others it is said how many they are."""
_VALUE_LENGTH: Final = 40
_SELECTOR_LENGTH: Final = 120


@dataclass(frozen=True, slots=True)
class Shortage:
    """What is in the way, what it is about, and the numbers of this node, if there are any."""

    subject: str
    message: str
    numbers: str = ""


def short_of(
    ask: Ask,
    found: Candidates,
    claim: str,
    limit: Limit | None = None,
    node: NodeDevices | None = None,
    alternatives: int = 1,
) -> Refusal:
    """The refusal for a request that has too few free candidates by itself: what each filter took off. With
    `node` also what its devices have of what a selector asks for; `alternatives`: how many subrequests were
    tried, this one the last.
    """
    counts, count = found.filtered, wanted(ask, found)
    tainted = counts.ample - counts.tolerated - counts.unmanaged
    taken = counts.tolerated - counts.closed - counts.crowded - counts.barred - counts.free
    amounts = ", ".join(f"{name} {amount}" for name, amount in ask.capacity)
    reasons = [
        (counts.devices - counts.of_class, f"not of class {ask.device_class.metadata.name}"),
        (counts.of_class - counts.selected, "ruled out by selectors"),
        (counts.selected - counts.ample, "of too little capacity" + (f" for {amounts}" if amounts else "")),
        (counts.unmanaged, "left to kube-scheduler"),
        (tainted, f"tainted {', '.join(counts.taints)}"),
        (counts.closed, limit.reason if limit else ""),
        (counts.crowded, "shared, with too little capacity left" + (f" for {amounts}" if amounts else "")),
        (counts.barred, "barred by an overdrawn counter of their pool"),
        (taken, "taken"),
    ]
    mode = "allocationMode All; " if ask.everything and count else ""
    all_of_them = f"{mode}{counts.devices} device{'s' * (counts.devices != 1)}"
    why = ", ".join([all_of_them, *(f"{number} {text}" for number, text in reasons if number)])
    subject = f'request "{ask.request}"'
    goal = "all wanted, but there are none" if ask.everything and not count else f"{count} wanted"
    return Refusal(
        claim=claim,
        subject=subject,
        message=f"{subject}: {goal}, {counts.free} free ({why})",
        numbers=", ".join(_narrowest(ask, found, node, alternatives)) if node is not None else "",
        filtered=counts,
        wanted=count,
    )


def explain(
    why: Infeasible,
    problem: Problem,
    claims: Sequence[ParsedClaim],
    chosen: Sequence[Chosen],
    node: NodeDevices,
) -> Shortage:
    """What the search found, for people."""
    return _Explainer(problem, claims, chosen, node).of(why)


class _Explainer:
    def __init__(
        self, problem: Problem, claims: Sequence[ParsedClaim], chosen: Sequence[Chosen], node: NodeDevices
    ) -> None:
        self._problem = problem
        self._claims = claims
        self._chosen = chosen
        self._node = node

    def of(self, why: Infeasible) -> Shortage:
        rule = why.rule
        if isinstance(rule, Demand):
            return self._of_demand(why, self._number(rule))
        if isinstance(rule, Match):
            return self._of_match(why, rule)
        if isinstance(rule, Budget) and why.label == rule.label:
            return Shortage(why.label, f"{why.label}: {why.detail}", self._room(rule))
        if why.label == "requests" and not why.gave_up:
            return self._of_all(why)
        return Shortage(why.label, f"{why.label}: {why.detail}")

    def _of_demand(self, why: Infeasible, number: int) -> Shortage:
        """Too few devices of one request are left by a constraint, or by counters and capacities."""
        demand, one = self._problem.demands[number], self._chosen[number]
        for word, attribute, _ in self._constraints(number):
            column = values(self._node, attribute)
            subject = f"{self._claim(one)}{word} {attribute}"
            request = f'request "{one.ask.request}"'
            having = [index for index in one.found.free if column[index]]
            if len(having) < demand.count:
                detail = self._lacking(one, column, request, len(having), demand.count)
                return Shortage(subject, f"{subject}: {detail}")
            there = Counter(value for index in having for value in column[index])
            if word == "distinctAttribute" and len(there) < demand.count:
                detail = f"{request} wants {demand.count} different values, {_have(len(there))}"
                return Shortage(subject, f"{subject}: {detail}", _valued(there))
        tight = [budget for budget in self._problem.budgets if self._caps(budget, number)]
        if tight:
            detail = f"{why.detail}: too little is left of the {_whats(tight)} that they use"
            return Shortage(why.label, f"{why.label}: {detail}", _listed(map(self._left, tight), "limit"))
        attributes = list(dict.fromkeys(attribute for _, attribute, _ in self._constraints(number)))
        columns = [values(self._node, attribute) for attribute in attributes]
        having = [index for index in one.found.free if all(column[index] for column in columns)]
        if len(having) < demand.count:
            some, free = f"at most {len(having)}" if having else "none", len(one.found.free)
            detail = f"{some} of its {free} free devices has the attributes of all its constraints"
            message = f"{why.label}: {detail}, {demand.count} wanted"
            return Shortage(why.label, message, _listed(attributes, "attribute"))
        rules = [f"{word} {attribute} of {of}" for word, attribute, of in self._constraints(number)]
        if rules:
            return Shortage(why.label, f"{why.label}: {why.detail}", _listed(rules, "constraint", " and "))
        drawn = [b for b in self._problem.budgets if any(demand == number for demand, _ in b.weights)]
        detail = "the other requests leave too few devices"
        numbers = _listed(map(self._left, drawn), "limit") if drawn else self._wants(self._crowd())
        return Shortage(why.label, f"{why.label}: {detail}", numbers)

    def _lacking(
        self, one: Chosen, column: Sequence[frozenset[Hashable]], request: str, having: int, count: int
    ) -> str:
        if having:
            free = len(one.found.free)
            have = "has" if having == 1 else "have"
            return f"only {having} of the {free} free devices of {request} {have} it, {count} wanted"
        anywhere = any(column[index] for index in one.found.matching)
        return f"no {'free ' * anywhere}device of {request} has it"

    def _of_match(self, why: Infeasible, match: Match) -> Shortage:
        """No value, or too few of them, for the requests that a constraint is about."""
        requests = [self._chosen[demand].ask.request for demand in match.demands]
        counts = [self._problem.demands[demand].count for demand in match.demands]
        if any(match is distinct for distinct in self._problem.distincts):
            there = Counter({value: sum(self._free(kinds)) for value, kinds in match.kinds.items()})
            detail = f"{why.detail}, {sum(counts)} wanted, {_have(len(there))}"
            return Shortage(match.label, f"{match.label}: {detail}", _valued(there))
        table = {value: self._having(match, value) for value in match.kinds}
        wants = " and ".join(f'{count} for "{r}"' for r, count in zip(requests, counts, strict=True))
        wants = wants if len(requests) > 1 else str(counts[0])
        detail = why.detail
        if not any(all(free) for free in table.values()) and len(requests) > 1:
            detail = f"no value is common to free devices of {_quoted(requests)}"
        elif why.detail.startswith("no value"):
            held = "as its other constraints have it" if self._suffices(table, counts) else ""
            detail = f"{why.detail} ({', '.join(filter(None, (f'{wants} wanted', held)))})"
        return Shortage(match.label, f"{match.label}: {detail}", _table(table, requests, counts))

    def _of_all(self, why: Infeasible) -> Shortage:
        """Nothing is wrong with any rule by itself."""
        message = f"{why.label}: {why.detail}"
        rules = [rule.label for rule in (*self._problem.matches, *self._problem.distincts)]
        rules += [pairing.label for pairing in self._problem.pairings]
        if why.rule is None and rules and "constraints" in why.detail:
            return Shortage(why.label, message, _listed(dict.fromkeys(rules), "constraint", " and "))
        crowd = self._crowd()
        if crowd is None and isinstance(why.rule, Budget):
            crowd = sorted({demand for demand, _ in why.rule.weights}), why.rule.limit
        return Shortage(why.label, message, self._wants(crowd))

    def _wants(self, crowd: tuple[Sequence[int], int] | None) -> str:
        """Requests that want the same devices, and how many these are."""
        if crowd is None:
            return ""
        demands, seats = crowd
        wants = _listed(
            (f"{self._problem.demands[d].label} wants {self._problem.demands[d].count}" for d in demands),
            "request",
        )
        there = f"{seats} device{'s' if seats != 1 else ''} can serve them"
        return f"{wants}, {there}"

    def _crowd(self) -> tuple[Sequence[int], int] | None:
        """The fewest requests, among those that share what they may take, that want more than there is."""
        demands = self._problem.demands
        sharing: dict[frozenset[int], list[int]] = {}
        for number, demand in enumerate(demands):
            sharing.setdefault(frozenset(demand.kinds), []).append(number)
        for kinds in sorted(sharing, key=len):
            inside = [n for other, numbers in sharing.items() if other <= kinds for n in numbers]
            seats = sum(self._problem.kinds[kind].seats for kind in kinds)
            if sum(demands[n].count for n in inside) > seats:
                return sorted(inside), seats
        return None

    # What there is

    def _number(self, demand: Demand) -> int:
        return next(number for number, one in enumerate(self._problem.demands) if one is demand)

    def _claim(self, one: Chosen) -> str:
        """Of several claims each is named."""
        return f"{self._claims[one.ask.claim].name}: " if len(self._claims) > 1 else ""

    def _constraints(self, number: int) -> Iterator[tuple[str, str, str]]:
        """Of the request: word, attribute, and the requests that it is about."""
        claim = self._claims[self._chosen[number].ask.claim]
        for constraint in claim.constraints:
            if concerns(constraint, self._chosen[number].ask, claim):
                of = ", ".join(c.ask.request for c in self._chosen if concerns(constraint, c.ask, claim))
                for word, attribute in _words(constraint):
                    yield word, attribute, of

    def _caps(self, budget: Budget, number: int) -> bool:
        """Does the budget keep devices from the request, whatever the others take?"""
        kinds = self._problem.demands[number].kinds
        return any(
            weight and demand == number and kinds.get(kind, 0) * weight > budget.limit
            for (demand, kind), weight in budget.weights.items()
        )

    def _left(self, budget: Budget) -> str:
        return f"{budget.label}: {self._room(budget)}"

    def _room(self, budget: Budget) -> str:
        """What is left of it, and what is wanted."""
        left = Fraction(max(budget.limit, 0), budget.unit)
        each = sorted({Fraction(weight, budget.unit) for weight in budget.weights.values() if weight})
        amounts = " or ".join(quantity.shortest(amount) for amount in each[:_NAMED])
        return f"{quantity.shortest(left)} left, each takes {amounts}"

    def _free(self, kinds: Iterable[int]) -> list[int]:
        return [len(self._problem.kinds[kind].devices) for kind in kinds]

    def _having(self, match: Match, value: Hashable) -> list[int]:
        """Free devices with the value, for each request of the match."""
        kinds = match.kinds[value]
        return [
            sum(count for kind, count in self._problem.demands[demand].kinds.items() if kind in kinds)
            for demand in match.demands
        ]

    def _suffices(self, table: dict[Hashable, list[int]], counts: Sequence[int]) -> bool:
        """Would a value do, if nothing else were in the way?"""
        return any(all(n >= c for n, c in zip(free, counts, strict=True)) for free in table.values())


def _narrowest(ask: Ask, found: Candidates, node: NodeDevices, alternatives: int) -> Iterator[str]:
    """That other alternatives failed, too; the selector of the request, where it leaves nothing of its
    class, and the values that devices have of what it looks at.
    """
    if alternatives > 1:
        yield f"the last of {alternatives} alternatives"
    counts = found.filtered
    if not counts.of_class or counts.selected or not ask.selectors:
        return
    yield f"selector: {clipped(' && '.join(ask.selectors), _SELECTOR_LENGTH)}"
    names = sorted({name for text in ask.selectors for name in reads(text) or ()})
    for name in names[:_NAMED]:
        there = Counter(
            _text(value)
            for device in node.devices
            for attribute in device.device.attributes
            if attribute.rpartition("/")[2] == name
            for value in values_of(device, attribute)
        )
        known = _listed((f"{value} ({count})" for value, count in there.most_common()), "value")
        yield f"{name} is {known}" if known else f"no device has {name}"


def _words(constraint: DeviceConstraint) -> Iterator[tuple[str, str]]:
    if constraint.match_attribute:
        yield "matchAttribute", constraint.match_attribute
    if constraint.distinct_attribute:
        yield "distinctAttribute", constraint.distinct_attribute


def _table(table: dict[Hashable, list[int]], requests: Sequence[str], counts: Sequence[int]) -> str:
    """How many free devices have each value, those first that come nearest."""

    def lacks(value: Hashable) -> tuple[int, str]:
        missing = sum(max(0, count - free) for count, free in zip(counts, table[value], strict=True))
        return missing, _text(value)

    return _listed(
        (f"{_text(value)}: {_shares(table[value], requests)}" for value in sorted(table, key=lacks)),
        "value",
    )


def _shares(free: Sequence[int], requests: Sequence[str]) -> str:
    """How many free devices for each request; of one request just how many."""
    if len(requests) == 1:
        return str(free[0])
    return " and ".join(f'{n} for "{request}"' for n, request in zip(free, requests, strict=True))


def _valued(there: Counter[Hashable]) -> str:
    ordered = sorted(there, key=lambda value: (-there[value], _text(value)))
    return _listed((f"{_text(value)}: {there[value]}" for value in ordered), "value")


def _listed(parts: Iterable[str], what: str, between: str = ", ") -> str:
    """The first parts, and how many more there are."""
    known = list(parts)
    left = len(known[_NAMED:])
    return between.join([*known[:_NAMED], *([f"{left} more {what}{'s' * (left > 1)}"] if left else [])])


def _have(values: int) -> str:
    return f"free devices have {values}"


def _whats(budgets: Sequence[Budget]) -> str:
    """Counters, capacities or both."""
    words = sorted({budget.label.partition(" ")[0] for budget in budgets})
    plural = {"counter": "counters", "capacity": "capacities"}
    return " and ".join(plural.get(word, word) for word in words)


def _quoted(names: Sequence[str]) -> str:
    head, last = names[:-1], names[-1]
    return " and ".join(filter(None, (", ".join(f'"{name}"' for name in head), f'"{last}"')))


def _text(value: Hashable) -> str:
    """A typed value of an attribute."""
    plain = value[1] if isinstance(value, tuple) else value
    return clipped(str(plain).lower() if isinstance(plain, bool) else str(plain), _VALUE_LENGTH)
