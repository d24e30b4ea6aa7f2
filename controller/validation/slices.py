"""What the API server asks of a ResourceSlice. What makes a pool of several slices unfit for use (a name
twice, a counter that no slice has) is not here: that is no fault of one object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from controller.allocator import quantity
from controller.validation import syntax
from controller.validation.fault import Fault, Faults
from driver.kube.objects import (
    CapacityRequestPolicy,
    Counter,
    Device,
    DeviceAttribute,
    DeviceCapacity,
    NodeSelector,
    ResourceSliceSpec,
)

_DEVICES: Final = 128
_DEVICES_WITH_MORE: Final = 64
_ATTRIBUTES_AND_CAPACITIES: Final = 32
_TAINTS: Final = 16
_COUNTER_SETS: Final = 8
_COUNTERS: Final = 32
_CONSUMED_SETS: Final = 2
_CONDITIONS: Final = 4
_EFFECTS: Final = ("None", "NoSchedule", "NoExecute")
_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")


def slice_spec(field: str, spec: ResourceSliceSpec) -> Faults:
    """Faults of ``spec`` of a ResourceSlice."""
    yield from syntax.driver(f"{field}.driver", spec.driver)
    yield from syntax.pool(f"{field}.pool.name", spec.pool.name)
    if spec.pool.resource_slice_count < 1:
        yield Fault(f"{field}.pool.resourceSliceCount", spec.pool.resource_slice_count, "1 or more")
    if spec.pool.generation < 0:
        yield Fault(f"{field}.pool.generation", spec.pool.generation, "0 or more")
    yield from _where(field, spec, spec.per_device_node_selection)
    if spec.devices and spec.shared_counters:
        yield Fault(f"{field}.sharedCounters", "set beside devices", "a slice of its own for sharedCounters")
    special = any(d.taints or d.consumes_counters for d in spec.devices)
    yield from syntax.at_most(
        f"{field}.devices", len(spec.devices), _DEVICES_WITH_MORE if special else _DEVICES
    )
    yield from syntax.unique(f"{field}.devices", [device.name for device in spec.devices], ".name")
    for index, device in enumerate(spec.devices):
        yield from _device(f"{field}.devices[{index}]", device, spec.per_device_node_selection)
    yield from syntax.at_most(f"{field}.sharedCounters", len(spec.shared_counters), _COUNTER_SETS)
    yield from syntax.unique(f"{field}.sharedCounters", [s.name for s in spec.shared_counters], ".name")
    for index, counter_set in enumerate(spec.shared_counters):
        at = f"{field}.sharedCounters[{index}]"
        yield from syntax.label(f"{at}.name", counter_set.name)
        yield from _counters(f"{at}.counters", counter_set.counters)


def node_selector(field: str, selector: NodeSelector) -> Faults:
    """Faults of a node selector, wherever it stands."""
    if not selector.node_selector_terms:
        yield Fault(f"{field}.nodeSelectorTerms", None, "one term or more")
    for index, term in enumerate(selector.node_selector_terms):
        at = f"{field}.nodeSelectorTerms[{index}]"
        for kind, needs in (("matchExpressions", term.match_expressions), ("matchFields", term.match_fields)):
            for number, need in enumerate(needs):
                where = f"{at}.{kind}[{number}]"
                yield from syntax.key(f"{where}.key", need.key)
                yield from syntax.one_of(f"{where}.operator", need.operator, _OPERATORS)
                if need.operator in ("In", "NotIn") and not need.values:
                    yield Fault(f"{where}.values", None, f"one value or more for {need.operator}")
                if need.operator in ("Exists", "DoesNotExist") and need.values:
                    yield Fault(f"{where}.values", need.values, f"none for {need.operator}")
                if need.operator in ("Gt", "Lt") and not _is_one_integer(need.values):
                    yield Fault(f"{where}.values", need.values or None, f"one integer for {need.operator}")


def _is_one_integer(values: list[str]) -> bool:
    try:
        return len(values) == 1 and int(values[0]) is not None
    except ValueError:
        return False


def _where(field: str, place: ResourceSliceSpec | Device, per_device: bool) -> Faults:
    chosen = [
        name
        for name, there in (
            ("nodeName", place.node_name is not None),
            ("nodeSelector", place.node_selector is not None),
            ("allNodes", place.all_nodes),
            ("perDeviceNodeSelection", isinstance(place, ResourceSliceSpec) and per_device),
        )
        if there
    ]
    if isinstance(place, Device) and not per_device:
        if chosen:
            yield Fault(f"{field}.{chosen[0]}", "set", "nothing without spec.perDeviceNodeSelection")
        return
    if len(chosen) != 1:
        choices = ["nodeName", "nodeSelector", "allNodes"]
        choices += ["perDeviceNodeSelection"] if isinstance(place, ResourceSliceSpec) else []
        yield Fault(f"{field}.nodeName", " and ".join(chosen) or None, f"exactly one of {', '.join(choices)}")
    if place.node_name is not None:
        yield from syntax.subdomain(f"{field}.nodeName", place.node_name)
    if place.node_selector is not None:
        if len(place.node_selector.node_selector_terms) != 1:
            count = len(place.node_selector.node_selector_terms)
            yield Fault(f"{field}.nodeSelector.nodeSelectorTerms", f"{count} terms", "exactly one term")
        yield from node_selector(f"{field}.nodeSelector", place.node_selector)


def _device(field: str, device: Device, per_device: bool) -> Faults:
    yield from syntax.label(f"{field}.name", device.name)
    yield from _where(field, device, per_device)
    count = len(device.attributes) + len(device.capacity)
    yield from syntax.at_most(f"{field}.attributes", count, _ATTRIBUTES_AND_CAPACITIES)
    for name, attribute in device.attributes.items():
        yield from syntax.qualified(f"{field}.attributes[{name}]", name)
        yield from _attribute(f"{field}.attributes[{name}]", attribute)
    for name, capacity in device.capacity.items():
        yield from syntax.qualified(f"{field}.capacity[{name}]", name)
        yield from _capacity(f"{field}.capacity[{name}]", capacity, device.allow_multiple_allocations)
    yield from syntax.at_most(f"{field}.consumesCounters", len(device.consumes_counters), _CONSUMED_SETS)
    yield from syntax.unique(
        f"{field}.consumesCounters", [use.counter_set for use in device.consumes_counters], ".counterSet"
    )
    for index, use in enumerate(device.consumes_counters):
        at = f"{field}.consumesCounters[{index}]"
        yield from syntax.label(f"{at}.counterSet", use.counter_set)
        yield from _counters(f"{at}.counters", use.counters)
    yield from syntax.at_most(f"{field}.taints", len(device.taints), _TAINTS)
    for index, taint in enumerate(device.taints):
        yield from syntax.key(f"{field}.taints[{index}].key", taint.key)
        yield from syntax.label_value(f"{field}.taints[{index}].value", taint.value)
        yield from syntax.one_of(f"{field}.taints[{index}].effect", taint.effect, _EFFECTS)
    yield from syntax.at_most(f"{field}.bindingConditions", len(device.binding_conditions), _CONDITIONS)
    if bool(device.binding_conditions) != bool(device.binding_failure_conditions):
        yield Fault(f"{field}.bindingConditions", "alone", "set together with bindingFailureConditions")


def _attribute(field: str, attribute: DeviceAttribute) -> Faults:
    values = {name: getattr(attribute, name) for name in attribute.__struct_fields__}
    there = [name.rstrip("_") for name, value in values.items() if value is not None]
    if len(there) != 1:
        yield Fault(field, " and ".join(there) or None, "exactly one of int, bool, string, version")
    texts = [*([attribute.string] if attribute.string is not None else []), *(attribute.strings or [])]
    for text in texts:
        if len(text) > syntax.STRING_LENGTH:
            yield Fault(f"{field}.string", text, f"{syntax.STRING_LENGTH} characters at most")
    versions = [*([attribute.version] if attribute.version is not None else []), *(attribute.versions or [])]
    for version in versions:
        yield from syntax.version(f"{field}.version", version)


def _capacity(field: str, capacity: DeviceCapacity, shared: bool) -> Faults:
    faults = list(syntax.amount(f"{field}.value", capacity.value))
    policy, at = capacity.request_policy, f"{field}.requestPolicy"
    if policy is not None:
        if not shared:
            yield Fault(at, "set", "nothing without allowMultipleAllocations")
        limits = policy.valid_range
        if policy.valid_values and limits is not None:
            yield Fault(f"{at}.validRange", "set beside validValues", "one of the two")
        values = {"default": policy.default}
        values |= {f"validValues[{i}]": value for i, value in enumerate(policy.valid_values)}
        if limits is not None:
            values |= {
                f"validRange.{n}": v
                for n, v in zip(limits.__struct_fields__, (limits.min, limits.max, limits.step), strict=True)
            }
        for name, value in values.items():
            if value is not None:
                faults += syntax.amount(f"{at}.{name}", value)
        if (policy.valid_values or limits is not None) and policy.default is None:
            yield Fault(f"{at}.default", None, "a quantity where validValues or validRange is set")
        if not faults and policy.default is not None:
            yield from _default(at, policy.default, policy)
    yield from faults


def _default(field: str, default: str, policy: CapacityRequestPolicy) -> Faults:
    amount, values = quantity.parse(default), policy.valid_values
    least, most = (policy.valid_range.min, policy.valid_range.max) if policy.valid_range else (None, None)
    if values and amount not in [quantity.parse(value) for value in values]:
        yield Fault(f"{field}.default", default, f"one of validValues ({', '.join(values)})")
    if least is not None and amount < quantity.parse(least):
        yield Fault(f"{field}.default", default, f"validRange.min ({least}) or more")
    if most is not None and amount > quantity.parse(most):
        yield Fault(f"{field}.default", default, f"validRange.max ({most}) or less")


def _counters(field: str, counters: Mapping[str, Counter]) -> Faults:
    if not counters:
        yield Fault(field, None, "one counter or more")
    yield from syntax.at_most(field, len(counters), _COUNTERS)
    for name, counter in counters.items():
        yield from syntax.label(f"{field}[{name}]", name)
        yield from syntax.amount(f"{field}[{name}].value", counter.value)
