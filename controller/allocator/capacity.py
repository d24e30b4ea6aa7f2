"""What a request consumes of a device's capacities (KEP-5075).

A device that allows multiple allocations is shared by as many as its capacities hold; of any other device a
request may still say how much of it must be there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from controller.allocator import quantity
from driver.kube.objects import CapacityRange, Device, DeviceCapacity

Amounts = Mapping[str, Fraction]
"""By name of the capacity, as the slice spells it."""

Requests = tuple[tuple[str, str], ...]
"""Capacity names and quantities of a request, sorted."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one allocation takes of a shared device; `text` are the same amounts as quantities."""

    amounts: Amounts
    text: Mapping[str, str]


def share(device: Device, requests: Requests) -> Share | None:
    """What the request takes of the device; None where it asks for a capacity that the device does not have,
    or for an amount that the device's policy does not give. Less than nothing, which the API server lets
    through, would be room for others: no device gives it.
    """
    wanted = dict(requests)
    if not wanted.keys() <= device.capacity.keys():
        return None
    amounts: dict[str, Fraction] = {}
    texts: dict[str, str] = {}
    for name, capacity in device.capacity.items():
        text = _rounded(wanted.get(name), capacity)
        amounts[name] = quantity.parse(text)
        texts[name] = text
        if amounts[name] < 0 or not _allowed(amounts[name], capacity):
            return None
    return Share(amounts, texts)


def room(device: Device, taken: Iterable[Amounts], more: Amounts) -> bool:
    """Is there room for `more` beside what is taken?"""
    held = list(taken)
    return all(
        sum((amounts.get(name, Fraction(0)) for amounts in held), more[name])
        <= quantity.parse(capacity.value)
        for name, capacity in device.capacity.items()
    )


def _rounded(wanted: str | None, capacity: DeviceCapacity) -> str:
    """The amount that is taken: the default, or the next that the policy has."""
    policy = capacity.request_policy
    if wanted is None:
        return (policy.default if policy else None) or capacity.value
    if policy is None:
        return wanted
    if policy.valid_range is not None and policy.valid_range.min is not None:
        return _into_range(wanted, policy.valid_range.min, policy.valid_range.step)
    number = quantity.parse(wanted)
    return next((value for value in policy.valid_values if number <= quantity.parse(value)), wanted)


def _into_range(wanted: str, least: str, step: str | None) -> str:
    if quantity.parse(wanted) < quantity.parse(least):
        return least
    if step is None:
        return wanted
    start, width = _whole(least), _whole(step)
    steps, rest = divmod(_whole(wanted) - start, abs(width))
    # The API server takes a step below zero, too; then one step more is one back.
    return quantity.binary(start + width * ((steps if width > 0 else -steps) + bool(rest)))


def _allowed(amount: Fraction, capacity: DeviceCapacity) -> bool:
    policy = capacity.request_policy
    if policy is None or (policy.default is not None and amount == quantity.parse(policy.default)):
        return True
    if policy.valid_range is not None:
        return _in_range(amount, policy.valid_range)
    return not policy.valid_values or amount in map(quantity.parse, policy.valid_values)


def _in_range(amount: Fraction, valid: CapacityRange) -> bool:
    if valid.max is not None and amount > quantity.parse(valid.max):
        return False
    return valid.step is None or (math.ceil(amount) - _whole(valid.min or "0")) % _whole(valid.step) == 0


def _whole(text: str) -> int:
    """Steps are counted in whole numbers, as in Kubernetes."""
    return math.ceil(quantity.parse(text))
