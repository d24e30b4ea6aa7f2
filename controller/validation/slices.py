"""What the API server asks of a ResourceSlice. What makes a pool of several slices unfit for use (a name
twice, a counter that no slice has) is not here: that is no fault of one object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from controller.validation import syntax
from controller.validation.capacities import capacity_faults
from controller.validation.fault import Fault, Faults
from driver.kube.objects import (
    Counter,
    Device,
    DeviceAttribute,
    NodeSelector,
    NodeSelectorRequirement,
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
    special = any(d.taints or d.consumes_counters or _has_lists(d) for d in spec.devices)
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


def presence(field: str, spec: Mapping[str, Any]) -> Faults:
    """Faults that only the document shows: what is there though it is empty or false."""
    if None not in (spec.get("devices"), spec.get("sharedCounters")):
        yield Fault(f"{field}.sharedCounters", "set beside devices", "a slice of its own for sharedCounters")
    places = [(field, spec)]
    if spec.get("perDeviceNodeSelection"):
        places += [(f"{field}.devices[{i}]", d) for i, d in enumerate(spec.get("devices") or ())]
    for at, place in places:
        for name in ("allNodes", "perDeviceNodeSelection"):
            if place.get(name) is False:
                yield Fault(f"{at}.{name}", False, "true, or nothing")


def node_selector(field: str, selector: NodeSelector) -> Faults:
    """Faults of a node selector, wherever it stands."""
    if not selector.node_selector_terms:
        yield Fault(f"{field}.nodeSelectorTerms", None, "one term or more")
    for index, term in enumerate(selector.node_selector_terms):
        at = f"{field}.nodeSelectorTerms[{index}]"
        for number, need in enumerate(term.match_expressions):
            yield from _label_need(f"{at}.matchExpressions[{number}]", need)
        for number, need in enumerate(term.match_fields):
            yield from _field_need(f"{at}.matchFields[{number}]", need)


def _label_need(field: str, need: NodeSelectorRequirement) -> Faults:
    yield from syntax.key(f"{field}.key", need.key)
    yield from syntax.one_of(f"{field}.operator", need.operator, _OPERATORS)
    if need.operator in ("In", "NotIn") and not need.values:
        yield Fault(f"{field}.values", None, f"one value or more for {need.operator}")
    if need.operator in ("Exists", "DoesNotExist") and need.values:
        yield Fault(f"{field}.values", need.values, f"none for {need.operator}")
    if need.operator in ("Gt", "Lt") and len(need.values) != 1:
        yield Fault(f"{field}.values", need.values or None, f"one value for {need.operator}")
    for index, value in enumerate(need.values):
        yield from syntax.label_value(f"{field}.values[{index}]", value)


def _field_need(field: str, need: NodeSelectorRequirement) -> Faults:
    yield from syntax.one_of(f"{field}.key", need.key, ("metadata.name",))
    yield from syntax.one_of(f"{field}.operator", need.operator, ("In", "NotIn"))
    if len(need.values) != 1:
        yield Fault(f"{field}.values", need.values or None, "one value")
    for index, value in enumerate(need.values):
        yield from syntax.subdomain(f"{field}.values[{index}]", value)


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
        terms = place.node_selector.node_selector_terms
        if len(terms) != 1 and isinstance(place, ResourceSliceSpec):
            yield Fault(f"{field}.nodeSelector.nodeSelectorTerms", f"{len(terms)} terms", "exactly one term")
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
        yield from capacity_faults(f"{field}.capacity[{name}]", capacity, device.allow_multiple_allocations)
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
    yield from _conditions(field, device)


def _has_lists(device: Device) -> bool:
    return any(
        a.ints is not None or a.bools is not None or a.strings is not None or a.versions is not None
        for a in device.attributes.values()
    )


def _conditions(field: str, device: Device) -> Faults:
    bind, fail = device.binding_conditions, device.binding_failure_conditions
    for name, conditions in (("bindingConditions", bind), ("bindingFailureConditions", fail)):
        at = f"{field}.{name}"
        yield from syntax.at_most(at, len(conditions), _CONDITIONS)
        yield from syntax.unique(at, conditions)
        for index, condition in enumerate(conditions):
            yield from syntax.key(f"{at}[{index}]", condition)
    for index, condition in enumerate(fail):
        if condition in bind:
            right = "a condition that is not among bindingConditions"
            yield Fault(f"{field}.bindingFailureConditions[{index}]", condition, right)
    if bool(bind) != bool(fail):
        yield Fault(f"{field}.bindingConditions", "alone", "set together with bindingFailureConditions")


def _attribute(field: str, attribute: DeviceAttribute) -> Faults:
    values = {
        "int": attribute.int_,
        "bool": attribute.bool_,
        "string": attribute.string,
        "version": attribute.version,
        "ints": attribute.ints,
        "bools": attribute.bools,
        "strings": attribute.strings,
        "versions": attribute.versions,
    }
    there = [name for name, value in values.items() if value is not None]
    if len(there) != 1:
        yield Fault(field, " and ".join(there) or None, "exactly one of int, bool, string, version")
    for name in there:
        if values[name] == []:
            yield Fault(f"{field}.{name}", [], "one value or more")
    for text in (attribute.strings or ()) if attribute.string is None else (attribute.string,):
        if len(text.encode()) > syntax.STRING_LENGTH:
            yield Fault(f"{field}.string", text, f"{syntax.STRING_LENGTH} bytes at most")
    for version in (attribute.versions or ()) if attribute.version is None else (attribute.version,):
        yield from syntax.version(f"{field}.version", version)


def _counters(field: str, counters: Mapping[str, Counter]) -> Faults:
    if not counters:
        yield Fault(field, None, "one counter or more")
    yield from syntax.at_most(field, len(counters), _COUNTERS)
    for name, counter in counters.items():
        yield from syntax.label(f"{field}[{name}]", name)
        yield from syntax.amount(f"{field}[{name}].value", counter.value)
