"""What refused claims would have to say instead to be placed on a node: another attribute in a constraint,
no constraint, fewer devices.

Each edit is asked of the allocator by itself; see `controller.nearest`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from fractions import Fraction
from typing import Final

import msgspec

from controller.allocator import quantity
from controller.allocator.traits import values
from controller.what_if import Change, Question
from driver.kube.objects import DeviceClaim, DeviceConstraint, ExactDeviceRequest, ResourceClaim

_TRIED: Final = 8
"""Constraints, and requests, that are tried."""
_LIKE: Final = 2
"""Other attributes that are tried in place of one."""


def constraints(question: Question) -> Iterator[Change]:
    """Would it do with another attribute in place of one that no device has, or without a constraint?"""
    there = [
        (number, at, constraint)
        for number, claim in enumerate(question.claims)
        for at, constraint in enumerate(claim.spec.devices.constraints)
    ]
    for number, at, constraint in there[:_TRIED]:
        for word, attribute in _said(constraint):
            for other in _like(question, attribute):
                edited = msgspec.structs.replace(constraint, **{_FIELDS[word]: other})
                if _asked(question, number, at, edited):
                    yield Change(1, f"{word} {other} instead of {attribute} would do")
                    break
            else:
                rest = msgspec.structs.replace(constraint, **{_FIELDS[word]: None})
                bare = rest.match_attribute is None and rest.distinct_attribute is None
                if _asked(question, number, at, None if bare else rest):
                    yield Change(2, f"without {word} {attribute} it would do")


def fewer(question: Question) -> Iterator[Change]:
    """Would it do with fewer devices of one request?"""
    tried = 0
    for number, claim in enumerate(question.claims):
        for at, request in enumerate(claim.spec.devices.requests):
            exact = request.exactly
            if exact is None or exact.allocation_mode != "ExactCount" or exact.count < 2 or tried >= _TRIED:
                continue
            tried += 1
            most = _most(question, number, at, exact)
            if most:
                where = _named(question, claim, request.name)
                text = f"count: {most} instead of {exact.count} in {where} would do"
                yield Change(exact.count - most, text)


def amounts(question: Question) -> Iterator[Change]:
    """Would it do with less of a capacity, as much as some device has left?"""
    for number, claim in enumerate(question.claims):
        for at, request in enumerate(claim.spec.devices.requests):
            exact = request.exactly
            if exact is None or exact.capacity is None:
                continue
            for name, amount in exact.capacity.requests.items():
                for less in _left(question, name, amount):
                    asked = {**exact.capacity.requests, name: less}
                    capacity = msgspec.structs.replace(exact.capacity, requests=asked)
                    edited = msgspec.structs.replace(exact, capacity=capacity)
                    if _with(question, number, _requesting(claim, at, edited)):
                        where = _named(question, claim, request.name)
                        yield Change(2, f"{name}: {less} instead of {amount} in {where} would do")
                        break


def _left(question: Question, name: str, amount: str) -> list[str]:
    """What devices have left of a capacity, the most first, as far as that is less than the amount."""
    found: set[Fraction] = set()
    for device in question.node.devices:
        capacity = device.device.capacity.get(name)
        if capacity is not None:
            held = question.shared.get(device.id, {}).get(name, Fraction(0))
            found.add(quantity.parse(capacity.value) - held)
    less = sorted((left for left in found if 0 < left < quantity.parse(amount)), reverse=True)
    return [quantity.shortest(left) for left in less[:_LIKE]]


def _named(question: Question, claim: ResourceClaim, request: str) -> str:
    of = f" of claim {claim.metadata.name}" if len(question.claims) > 1 else ""
    return f'request "{request}"{of}'


_FIELDS: Final = {"matchAttribute": "match_attribute", "distinctAttribute": "distinct_attribute"}


def _said(constraint: DeviceConstraint) -> Iterator[tuple[str, str]]:
    if constraint.match_attribute:
        yield "matchAttribute", constraint.match_attribute
    if constraint.distinct_attribute:
        yield "distinctAttribute", constraint.distinct_attribute


def _like(question: Question, attribute: str) -> list[str]:
    """Attributes of the node's devices that could have been meant by one that none of them has: of the same
    name in another domain, then of a similar name.
    """
    if any(values(question.node, attribute)):
        return []
    short = attribute.rpartition("/")[2]
    names: dict[str, dict[str, None]] = {}
    for device in question.node.devices:
        for name in device.device.attributes:
            domain, _, plain = name.rpartition("/")
            names.setdefault(plain, {})[f"{domain or device.id.driver}/{plain}"] = None
    close = [short] if short in names else get_close_matches(short, sorted(names), _LIKE)
    return [full for name in close for full in names[name]][:_LIKE]


def _asked(question: Question, number: int, at: int, edited: DeviceConstraint | None) -> bool:
    """Would it do with this constraint, or none, in place of one?"""
    claim = question.claims[number]
    kept = list(claim.spec.devices.constraints)
    kept[at : at + 1] = [edited] if edited is not None else []
    devices = msgspec.structs.replace(claim.spec.devices, constraints=kept)
    return _with(question, number, devices)


def _with(question: Question, number: int, devices: DeviceClaim) -> bool:
    replace = msgspec.structs.replace
    claims = list(question.claims)
    spec = replace(claims[number].spec, devices=devices)
    claims[number] = replace(claims[number], spec=spec)
    return question.asked(claims=claims) is not None


def _most(question: Question, number: int, at: int, exact: ExactDeviceRequest) -> int:
    """The largest smaller count that would do; 0 where none would."""
    low, high = 0, exact.count - 1
    while low < high:
        middle = (low + high + 1) // 2
        edited = msgspec.structs.replace(exact, count=middle)
        if _with(question, number, _requesting(question.claims[number], at, edited)):
            low = middle
        else:
            high = middle - 1
    return low


def _requesting(claim: ResourceClaim, at: int, exact: ExactDeviceRequest) -> DeviceClaim:
    replace = msgspec.structs.replace
    requests = list(claim.spec.devices.requests)
    requests[at] = replace(requests[at], exactly=exact)
    return replace(claim.spec.devices, requests=requests)
