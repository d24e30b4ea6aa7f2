"""What the API server asks of a device's capacities and of the policies by which requests consume them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Final

from controller.allocator import quantity
from controller.validation import syntax
from controller.validation.fault import Fault, Faults
from driver.kube.objects import CapacityRange, CapacityRequestPolicy, DeviceCapacity

_VALUES: Final = 10


def capacity_faults(field: str, capacity: DeviceCapacity, shared: bool) -> Faults:
    """Faults of one capacity of a device; `shared`: it allows multiple allocations."""
    # Quantities first, since the rest compares them.
    policy, at = capacity.request_policy, f"{field}.requestPolicy"
    faults = list(syntax.amount(f"{field}.value", capacity.value))
    for path, value in _quantities(policy) if policy is not None else ():
        faults += syntax.amount(f"{at}.{path}", value)
    yield from faults
    if faults or policy is None:
        return
    if not shared:
        yield Fault(at, "set", "nothing without allowMultipleAllocations")
    elif policy.valid_values and policy.valid_range is not None:
        yield Fault(f"{at}.validRange", "set beside validValues", "one of the two")
    elif policy.valid_values or policy.valid_range is not None:
        if policy.default is None:
            yield Fault(f"{at}.default", None, "a quantity where validValues or validRange is set")
        elif policy.valid_range is None:
            yield from _values(at, policy.default, policy.valid_values, capacity.value)
        else:
            yield from _range(at, policy.default, policy.valid_range, capacity.value)


def _quantities(policy: CapacityRequestPolicy) -> Iterator[tuple[str, str]]:
    if policy.default is not None:
        yield "default", policy.default
    for index, value in enumerate(policy.valid_values):
        yield f"validValues[{index}]", value
    if policy.valid_range is not None:
        for name in policy.valid_range.__struct_fields__:
            value = getattr(policy.valid_range, name)
            if value is not None:
                yield f"validRange.{name}", value


def _values(field: str, default: str, values: Sequence[str], whole: str) -> Faults:
    """validValues of a capacity of `whole`."""
    at = f"{field}.validValues"
    yield from syntax.at_most(at, len(values), _VALUES)
    last: Fraction | None = None
    for index, value in enumerate(values):
        amount = quantity.parse(value)
        if last is not None and amount <= last:
            yield Fault(f"{at}[{index}]", value, "a larger value than the one before")
        if amount > quantity.parse(whole):
            yield Fault(f"{at}[{index}]", value, f"the capacity's value ({whole}) or less")
        last = amount
    if quantity.parse(default) not in map(quantity.parse, values):
        yield Fault(f"{field}.default", default, f"one of validValues ({', '.join(values)})")


def _range(field: str, default: str, valid: CapacityRange, whole: str) -> Faults:
    """validRange of a capacity of `whole`."""
    at = f"{field}.validRange"
    if valid.min is None:
        yield Fault(f"{at}.min", None, "a quantity")
        return
    limits = {"min": valid.min} if valid.max is None else {"min": valid.min, "max": valid.max}
    for name, limit in limits.items():
        if quantity.parse(limit) > quantity.parse(whole):
            yield Fault(f"{at}.{name}", limit, f"the capacity's value ({whole}) or less")
    if valid.max is not None and quantity.parse(valid.min) > quantity.parse(valid.max):
        yield Fault(f"{at}.max", valid.max, f"min ({valid.min}) or more")
    if quantity.parse(default) < quantity.parse(valid.min):
        yield Fault(f"{field}.default", default, f"validRange.min ({valid.min}) or more")
    if valid.max is not None and quantity.parse(default) > quantity.parse(valid.max):
        yield Fault(f"{field}.default", default, f"validRange.max ({valid.max}) or less")
    if valid.step is None:
        return
    if not _whole(valid.step):
        yield Fault(f"{at}.step", valid.step, "another than 0")
        return
    if quantity.parse(valid.min) + quantity.parse(valid.step) > quantity.parse(whole):
        yield Fault(f"{at}.step", valid.step, f"so little that min and one step are {whole} or less")
    for path, value in ((f"{field}.default", default), (f"{at}.max", valid.max)):
        if value is not None and (_whole(value) - _whole(valid.min)) % _whole(valid.step):
            yield Fault(path, value, f"min ({valid.min}) and whole steps of {valid.step}")


def _whole(text: str) -> int:
    """Steps are counted in whole numbers."""
    return math.ceil(quantity.parse(text))
