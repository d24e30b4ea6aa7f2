"""Holds an allocation against the rules, and finds by brute force what is possible.

It shares no code with the search. Rules after resource.k8s.io/v1 (Kubernetes 1.36) and the Alignment config;
everything is done the slow and obvious way, on small cases only.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import msgspec

from controller.allocator.limits import Limit
from driver.kube.objects import Device, DeviceClass, DeviceToleration, ResourceClaim

DOMAIN = "tandem-dra.io"
LEVELS = (
    ("PIX", f"{DOMAIN}/pcieSwitch"),
    ("PXB", f"{DOMAIN}/pcieRootPort"),
    ("PHB", "resource.kubernetes.io/pcieRoot"),
    ("NODE", "resource.kubernetes.io/numaNode"),
)
TIERS = ("PIX", "PXB", "PHB", "NODE", "SYS")

Matcher = Callable[[str, Device], bool]
"""Says whether a selector's expression holds for a device."""


@dataclass(frozen=True)
class Case:
    """One pool of one node; plain numbers as counters."""

    devices: Sequence[Device]
    classes: Mapping[str, DeviceClass]
    claims: Sequence[ResourceClaim]
    taken: frozenset[str] = frozenset()
    counters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    managed: bool = True
    limits: Mapping[int, Limit] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One request as it is to be met."""

    claim: int
    name: str
    main: str
    candidates: tuple[Device, ...]
    count: int
    matching: tuple[Device, ...] = ()  # where all of them are wanted
    yields: tuple[Device, ...] = ()  # free or not


Names = tuple[str, ...]
Placement = Mapping[tuple[int, str], Names]
"""Device names by claim and request."""


def attribute(device: Device, name: str) -> object:
    """The typed value; None where there is none."""
    found = device.attributes.get(name)
    if found is None and name.startswith(f"{DOMAIN}/"):
        found = device.attributes.get(name.removeprefix(f"{DOMAIN}/"))
    if found is None:
        return None
    return tuple(sorted(msgspec.to_builtins(found).items()))


def tier(a: Device, b: Device) -> str:
    """Nearest level with the same value on both."""
    for name, key in LEVELS:
        if attribute(a, key) is not None and attribute(a, key) == attribute(b, key):
            return name
    return "SYS"


def usable(case: Case, device: Device, tolerations: Sequence[DeviceToleration]) -> bool:
    """Free, handed to the controller, no taint in the way."""
    if device.name in case.taken:
        return False
    ours = [t for t in device.taints if t.key == "tandem-dra.io/controller" and t.effect == "NoSchedule"]
    if case.managed and not ours:
        return False
    for taint in device.taints:
        if taint.effect == "None" or taint.key == "tandem-dra.io/controller":
            continue
        if not any(
            (not t.key or t.key == taint.key)
            and (not t.effect or t.effect == taint.effect)
            and (t.operator == "Exists" or t.value == taint.value)
            for t in tolerations
        ):
            return False
    return True


def open_to(device: Device, limit: Limit | None) -> bool:
    """May a claim with this limit have the device?"""
    kind, rail = (device.attributes.get(name) for name in ("type", "rail"))
    if limit is None or kind is None or kind.string not in ("nic", "vf"):
        return True
    return not limit.exactly if rail is None else rail.int_ in limit.rails


def choices(case: Case, matcher: Matcher) -> Iterator[list[Part]]:
    """All ways to choose subrequests, in order of preference."""
    return (list(parts) for parts in itertools.product(*ways(case, matcher)))


def ways(case: Case, matcher: Matcher) -> list[list[Part]]:
    """By request of the claims, the ways to meet it in order of preference."""
    options = []
    for index, claim in enumerate(case.claims):
        for request in claim.spec.devices.requests:
            wishes = [(request.name, request.exactly)] if request.exactly else []
            wishes += [(f"{request.name}/{s.name}", s) for s in request.first_available]  # type: ignore[misc]
            parts = []
            for name, wish in wishes:
                assert wish is not None
                expressions = [
                    s.cel.expression
                    for s in [*case.classes[wish.device_class_name].spec.selectors, *wish.selectors]
                    if s.cel
                ]
                matching = [d for d in case.devices if all(matcher(e, d) for e in expressions)]
                if case.managed:
                    matching = [
                        d for d in matching if any(t.key == "tandem-dra.io/controller" for t in d.taints)
                    ]
                free = tuple(
                    d
                    for d in matching
                    if usable(case, d, wish.tolerations) and open_to(d, case.limits.get(index))
                )
                everything = tuple(matching) if wish.allocation_mode == "All" else ()
                count = len(matching) if wish.allocation_mode == "All" else wish.count
                parts.append(Part(index, name, request.name, free, count, everything, tuple(matching)))
            options.append(parts)
    return options


def placements(case: Case, parts: Sequence[Part]) -> Iterator[Placement]:
    """All ways to give devices to these parts such that every rule holds, pairs aside."""

    def place(index: int, so_far: dict[tuple[int, str], tuple[str, ...]]) -> Iterator[Placement]:
        if index == len(parts):
            if not broken(case, parts, so_far):
                yield dict(so_far)
            return
        part = parts[index]
        used = {name for names in so_far.values() for name in names}
        free = [d.name for d in part.candidates if d.name not in used]
        for names in itertools.combinations(free, part.count):
            so_far[part.claim, part.name] = names
            yield from place(index + 1, so_far)
            del so_far[part.claim, part.name]

    if all(part.count for part in parts):
        yield from place(0, {})


def broken(case: Case, parts: Sequence[Part], placement: Placement) -> list[str]:
    """The rules that a placement breaks, pairs aside."""
    faults = []
    by_name = {d.name: d for d in case.devices}
    given = [name for names in placement.values() for name in names]
    faults += [f"{name} is given twice" for name, n in Counter(given).items() if n > 1]
    for part in parts:
        names = placement.get((part.claim, part.name), ())
        allowed = {d.name for d in part.candidates}
        if len(names) != part.count:
            faults.append(f"{part.name} has {len(names)} of {part.count}")
        faults += [f"{name} is no candidate of {part.name}" for name in names if name not in allowed]
    for index, claim in enumerate(case.claims):
        rails = case.limits.get(index)
        if rails is not None and rails.exactly:
            used = {
                rail.int_
                for (owner, _), names in placement.items()
                for name in names
                if owner == index and (rail := by_name[name].attributes.get("rail"))
            }
            faults += [f"rail {rail} is not used" for rail in rails.rails - used]
        total = sum(len(names) for (owner, _), names in placement.items() if owner == index)
        if total > 32:
            faults.append("more than 32 results")
        for constraint in claim.spec.devices.constraints:
            mine = [
                by_name[name]
                for part in parts
                if part.claim == index
                and (
                    not constraint.requests
                    or part.main in constraint.requests
                    or part.name in constraint.requests
                )
                for name in placement.get((index, part.name), ())
            ]
            key = constraint.match_attribute or constraint.distinct_attribute or ""
            values = [attribute(d, key) for d in mine]
            if None in values and constraint.distinct_attribute:
                faults.append(f"{key} is not distinct: a device lacks it")
            if constraint.match_attribute and (None in values or len(set(values)) > 1):
                faults.append(f"{key} does not match")
            if constraint.distinct_attribute and len(set(values)) < len(values):
                faults.append(f"{key} is not distinct")
    for set_name, counters in case.counters.items():
        for counter, limit in counters.items():
            spent, before = (
                sum(
                    Fraction(use.counters[counter].value)
                    for name in names
                    for use in by_name[name].consumes_counters
                    if use.counter_set == set_name and counter in use.counters
                )
                for names in (set(given), case.taken)
            )
            drawing = any(
                u.counter_set == set_name for name in given for u in by_name[name].consumes_counters
            )
            if drawing and spent + before > Fraction(limit):
                faults.append(f"{counter} of {set_name} is overdrawn")
    return faults


class AllMismatchError(Exception):
    """Kubernetes came to an `All` of which a match constraint rules a device out."""


def first(case: Case, matcher: Matcher) -> list[str] | None:
    """The requests (or subrequests) of the solution that Kubernetes' depth-first search comes to first; None
    where there is none, or an error before it.
    """
    stages = ways(case, matcher)

    def fits(placed: list[tuple[Part, Device]], *, distinct: bool = True) -> bool:
        """All rules but matchAttribute (and distinctAttribute), for what is placed so far."""
        names: dict[tuple[int, str], tuple[str, ...]] = {}
        parts: dict[tuple[int, str], Part] = {}
        for part, one in placed:
            key = part.claim, part.name
            names[key] = (*names.get(key, ()), one.name)
            parts[key] = Part(part.claim, part.name, part.main, part.candidates, len(names[key]))
        faults = broken(case, list(parts.values()), names)
        ignored = ("match", "no candidate", *(() if distinct else ("distinct",)))
        return not [f for f in faults if not any(word in f for word in ignored)]

    def agree(placed: list[tuple[Part, Device]]) -> bool:
        for index, claim in enumerate(case.claims):
            for rule in claim.spec.devices.constraints:
                if rule.match_attribute:
                    values = {
                        attribute(one, rule.match_attribute)
                        for part, one in placed
                        if part.claim == index
                        and (not rule.requests or {part.main, part.name} & set(rule.requests))
                    }
                    if None in values or len(values) > 1:
                        return False
        return True

    def take_all(part: Part, placed: list[tuple[Part, Device]]) -> list[tuple[Part, Device]] | None:
        for one in part.matching:
            if one not in part.candidates or any(one is d for _, d in placed):
                return None
            placed = [*placed, (part, one)]
            if not fits(placed, distinct=False):
                return None
            if not agree(placed):
                raise AllMismatchError
            if not fits(placed):
                return None
        return placed or None

    def go(number: int, placed: list[tuple[Part, Device]]) -> list[str] | None:
        if number == len(stages):
            return [name for _, name in dict.fromkeys((part.claim, part.name) for part, _ in placed)]
        for part in stages[number]:
            if not part.count or sum(p.claim == part.claim for p, _ in placed) + part.count > 32:
                continue
            if part.matching:
                all_placed = take_all(part, placed)
                found = go(number + 1, all_placed) if all_placed is not None else None
            else:
                found = take(number, part, placed, part.candidates, part.count)
            if found is not None:
                return found
        return None

    def take(
        number: int, part: Part, placed: list[tuple[Part, Device]], left: tuple[Device, ...], count: int
    ) -> list[str] | None:
        if not count:
            return go(number + 1, placed)
        for at, one in enumerate(left):
            if any(one is d for _, d in placed):
                continue
            more = [*placed, (part, one)]
            if agree(more) and fits(more):
                found = take(number, part, more, left[at + 1 :], count - 1)
                if found is not None:
                    return found
        return None

    try:
        return go(0, [])
    except AllMismatchError:
        return None
