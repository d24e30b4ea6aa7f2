"""What the API server asks of the rules by which pods choose their neighbours: affinity, spreading, ports.

They are kept as they stand on the wire, so their shape is looked at here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from controller.validation import syntax
from controller.validation.fault import Fault, Faults
from controller.validation.go_json import as_read
from controller.validation.shape import info, misfit, unknown_fields
from driver.kube.meta import Wire
from driver.kube.neighbours import (
    ContainerPort,
    LabelSelector,
    PodAffinity,
    PodAffinityTerm,
    TopologySpreadConstraint,
)
from driver.kube.objects import Affinity, Container, PodSpec

_PROTOCOLS: Final = ("", "TCP", "UDP", "SCTP")
_POLICIES: Final = ("Honor", "Ignore")
_PORTS: Final = 65_535

_T = TypeVar("_T", bound=Wire)


def affinity_faults(field: str, affinity: Affinity) -> Faults:
    """Faults of pod affinity and anti-affinity."""
    for name, wire in (
        ("podAffinity", affinity.pod_affinity),
        ("podAntiAffinity", affinity.pod_anti_affinity),
    ):
        if wire is None:
            continue
        found = _shaped(f"{field}.{name}", wire, PodAffinity)
        if isinstance(found, Fault):
            yield found
            continue
        required = found.required_during_scheduling_ignored_during_execution
        for index, term in enumerate(required):
            yield from _term(f"{field}.{name}.requiredDuringSchedulingIgnoredDuringExecution[{index}]", term)
        for index, one in enumerate(found.preferred_during_scheduling_ignored_during_execution):
            at = f"{field}.{name}.preferredDuringSchedulingIgnoredDuringExecution[{index}]"
            if not 1 <= one.weight <= 100:
                yield Fault(f"{at}.weight", one.weight, "1 to 100")
            yield from _term(f"{at}.podAffinityTerm", one.pod_affinity_term)


def spread_faults(field: str, constraints: Sequence[dict[str, Any]]) -> Faults:
    """Faults of topologySpreadConstraints."""
    kinds = []
    for index, wire in enumerate(constraints):
        at = f"{field}[{index}]"
        found = _shaped(at, wire, TopologySpreadConstraint)
        if isinstance(found, Fault):
            yield found
            continue
        if found.max_skew < 1:
            yield Fault(f"{at}.maxSkew", found.max_skew, "1 or more")
        yield from syntax.key(f"{at}.topologyKey", found.topology_key)
        yield from syntax.one_of(
            f"{at}.whenUnsatisfiable", found.when_unsatisfiable, ("DoNotSchedule", "ScheduleAnyway")
        )
        if found.min_domains is not None and found.min_domains < 1:
            yield Fault(f"{at}.minDomains", found.min_domains, "1 or more")
        if found.min_domains is not None and found.when_unsatisfiable != "DoNotSchedule":
            yield Fault(f"{at}.minDomains", found.min_domains, "nothing without DoNotSchedule")
        yield from syntax.one_of(f"{at}.nodeAffinityPolicy", found.node_affinity_policy, _POLICIES)
        yield from syntax.one_of(f"{at}.nodeTaintsPolicy", found.node_taints_policy, _POLICIES)
        yield from _selector(f"{at}.labelSelector", found.label_selector)
        kinds.append((found.topology_key, found.when_unsatisfiable))
    yield from syntax.unique(field, kinds)


def port_faults(
    field: str, containers: Sequence[Container], spec: PodSpec, *, in_turn: bool = False
) -> Faults:
    """Faults of the ports of containers, which run beside each other or `in_turn`."""
    taken = []
    for index, container in enumerate(containers):
        for number, wire in enumerate(container.ports):
            at = f"{field}[{index}].ports[{number}]"
            found = _shaped(at, wire, ContainerPort)
            if isinstance(found, Fault):
                yield found
                continue
            if not 1 <= found.container_port <= _PORTS:
                yield Fault(f"{at}.containerPort", found.container_port, f"1 to {_PORTS}")
            if not 0 <= found.host_port <= _PORTS:
                yield Fault(f"{at}.hostPort", found.host_port, f"1 to {_PORTS}, or nothing")
            if spec.host_network and found.host_port not in (0, found.container_port):
                yield Fault(f"{at}.hostPort", found.host_port, "as containerPort where hostNetwork is set")
            yield from syntax.one_of(f"{at}.protocol", found.protocol, _PROTOCOLS)
            if found.host_port:
                taken.append(
                    (index if in_turn else 0, found.protocol or "TCP", found.host_ip, found.host_port)
                )
    yield from syntax.unique(f"{field}[].ports", taken)


def _shaped(field: str, wire: dict[str, Any], type_: type[_T]) -> _T | Fault:
    """The value, or the first fault of its shape."""
    read = as_read(wire, info(type_))
    try:
        found = msgspec.convert(read, type=type_)
    except msgspec.ValidationError as error:
        fault = misfit(error, read)
        return Fault(f"{field}.{fault.field}", fault.value, fault.right, fault.says)
    return next(unknown_fields(wire, info(type_), field), found)


def _term(field: str, term: PodAffinityTerm) -> Faults:
    yield from syntax.key(f"{field}.topologyKey", term.topology_key)
    yield from _selector(f"{field}.labelSelector", term.label_selector)
    yield from _selector(f"{field}.namespaceSelector", term.namespace_selector)
    for index, namespace in enumerate(term.namespaces):
        yield from syntax.label(f"{field}.namespaces[{index}]", namespace)


def _selector(field: str, selector: LabelSelector | None) -> Faults:
    if selector is None:
        return
    yield from syntax.labels(f"{field}.matchLabels", selector.match_labels)
    for index, need in enumerate(selector.match_expressions):
        at = f"{field}.matchExpressions[{index}]"
        yield from syntax.key(f"{at}.key", need.key)
        yield from syntax.one_of(f"{at}.operator", need.operator, ("In", "NotIn", "Exists", "DoesNotExist"))
        if need.operator in ("In", "NotIn") and not need.values:
            yield Fault(f"{at}.values", None, f"one value or more for {need.operator}")
        if need.operator in ("Exists", "DoesNotExist") and need.values:
            yield Fault(f"{at}.values", need.values, f"none for {need.operator}")
        for number, value in enumerate(need.values):
            yield from syntax.label_value(f"{at}.values[{number}]", value)
