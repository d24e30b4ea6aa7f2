"""Would kube-scheduler put this pod on that node, devices aside? Asked before we allocate there.

An allocation pins its pod to one node, so a wrong guess costs a failed placement and a back-off. The checks
are kube-scheduler's own filters, as far as they follow from the pod and the node alone: NodeUnschedulable,
NodeName, TaintToleration, NodeAffinity, NodeResourcesFit. What depends on other pods is asked of
`controller.neighbours`, what depends on its volumes of `controller.filters.volume_binding`. Pure: values in,
the reason why not out.

Amounts are integers in thousandths of the resource's unit (cpu: millicores; memory: 1/1000 byte), so that one
arithmetic serves all; the number of pods is the resource ``pods``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import ceil

from controller.allocator.quantity import parse
from driver.errors import ConfigError
from driver.kube.objects import (
    Container,
    Node,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    NodeTaint,
    Pod,
    PodToleration,
)

Amounts = Mapping[str, int]
"""Thousandths of a unit by resource name."""

ONE_POD = 1000
"""What a pod takes of the resource ``pods``."""

_UNSCHEDULABLE = NodeTaint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
_REPELLING = ("NoSchedule", "NoExecute")
_BYTES = ("memory", "ephemeral-storage")
_FEW = 32
_SETS_KEPT = 64
_sets: dict[int, tuple[list[str], frozenset[str]]] = {}
"""Long lists of values as sets, by the list's id; the list is kept, and so its id."""


@lru_cache(maxsize=4096)
def thousandths(quantity: str) -> int:
    """A Kubernetes quantity (``1500m``, ``2Gi``, ``1e3``) in thousandths, rounded up.

    Raises:
        ConfigError: it is no quantity.
    """
    try:
        return ceil(parse(quantity) * 1000)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def amounts(quantities: Mapping[str, str]) -> dict[str, int]:
    """Quantities by name as thousandths."""
    return {name: thousandths(quantity) for name, quantity in quantities.items()}


def pod_requests(pod: Pod) -> dict[str, int]:
    """What the pod takes of a node while it lives, ``pods`` included.

    Init containers run one after the other beside the sidecars (restartPolicy Always) started before them;
    then all sidecars run beside the containers. The larger of the two counts (KEP-753), but for what the pod
    requests as a whole (KEP-2837), plus the overhead.
    """
    running: dict[str, int] = {}
    for container in pod.spec.containers:
        add(running, _requests(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in pod.spec.init_containers:
        need = _requests(container)
        if container.restart_policy == "Always":
            add(sidecars, need)
            need = sidecars
        else:
            need = _sum(sidecars, need)
        peak = {name: max(peak.get(name, 0), need.get(name, 0)) for name in {*peak, *need}}
    add(running, sidecars)
    total = {name: max(running.get(name, 0), peak.get(name, 0)) for name in {*running, *peak}}
    if pod.spec.resources is not None:
        requested = amounts(pod.spec.resources.requests)
        total |= {name: amount for name, amount in requested.items() if _is_podwide(name)}
    add(total, amounts(pod.spec.overhead))
    total["pods"] = ONE_POD
    return total


def add(total: dict[str, int], more: Amounts, sign: int = 1) -> None:
    """Add (or, with sign -1, take off) in place; names at zero disappear."""
    for name, amount in more.items():
        left = total.get(name, 0) + sign * amount
        if left:
            total[name] = left
        else:
            total.pop(name, None)


def why_not(pod: Pod, node: Node, requests: Amounts, used: Amounts) -> str | None:
    """The first reason why the pod does not fit the node, or None if it does.

    Args:
        pod: a pod that has no place yet, or is pinned by spec.nodeName.
        node: the node.
        requests: what the pod takes, from `pod_requests`.
        used: what the node's other pods take (running, nominated, promised).
    """
    return repelled(pod, node) or short_of(requests, node, used)


def repelled(pod: Pod, node: Node) -> str | None:
    """The reasons that do not depend on what else runs there: name, taints, selectors, affinity."""
    spec = pod.spec
    if spec.node_name:  # the scheduler is bypassed, and with it all filters
        return None if spec.node_name == node.metadata.name else f"the pod is pinned to {spec.node_name}"
    if node.spec.unschedulable and not tolerated(_UNSCHEDULABLE, spec.tolerations):
        return "the node is unschedulable"
    taint = untolerated(node, spec.tolerations)
    if taint is not None:
        return f"untolerated node taint {taint.key}={taint.value}:{taint.effect}"
    return unwanted(pod, node)


def unwanted(pod: Pod, node: Node) -> str | None:
    """The reason why the pod's nodeSelector or required node affinity does not match the node."""
    labels = node.metadata.labels
    for key, value in pod.spec.node_selector.items():
        if labels.get(key) != value:
            return f"nodeSelector {key}={value} does not match"
    required = required_affinity(pod)
    if required is not None and not selects(required, node):
        return "required node affinity does not match"
    return None


def required_affinity(pod: Pod) -> NodeSelector | None:
    """What the pod's node affinity requires."""
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    return affinity.required_during_scheduling_ignored_during_execution if affinity else None


def conditions(pod: Pod) -> int:
    """Of so many conditions each node is looked at for the pod's node affinity."""
    required = required_affinity(pod)
    terms = required.node_selector_terms if required is not None else []
    return sum(1 + len(term.match_expressions) + len(term.match_fields) for term in terms)


def short_of(requests: Amounts, node: Node, used: Amounts) -> str | None:
    """The resource that the node has too little of; a request of zero always fits."""
    for name, amount in sorted(requests.items()):
        if amount <= 0:
            continue
        free = thousandths(node.status.allocatable.get(name, "0")) - used.get(name, 0)
        if amount > free:
            return f"too little {name} (wants {_text(name, amount)}, free {_text(name, max(free, 0))})"
    return None


def untolerated(node: Node, tolerations: Sequence[PodToleration]) -> NodeTaint | None:
    """The node's first taint that keeps pods off and is not tolerated."""
    for taint in node.spec.taints:
        if taint.effect in _REPELLING and not tolerated(taint, tolerations):
            return taint
    return None


def tolerated(taint: NodeTaint, tolerations: Sequence[PodToleration]) -> bool:
    """One of the tolerations is for this taint."""
    return any(
        (not toleration.effect or toleration.effect == taint.effect)
        and (toleration.key == taint.key or (not toleration.key and toleration.operator == "Exists"))
        and (
            toleration.operator == "Exists"
            or (toleration.operator in ("", "Equal") and toleration.value == taint.value)
        )
        for toleration in tolerations
    )


def selects(selector: NodeSelector, node: Node) -> bool:
    """One term matches; a term without conditions matches nothing."""
    return any(_term_matches(term, node) for term in selector.node_selector_terms)


def _term_matches(term: NodeSelectorTerm, node: Node) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.metadata.name}
    return all(_matches(need, node.metadata.labels) for need in term.match_expressions) and all(
        _matches(need, fields) for need in term.match_fields
    )


def _matches(need: NodeSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(need.key)
    match need.operator:
        case "In":
            return value is not None and _is_one_of(value, need.values)
        case "NotIn":
            return value is None or not _is_one_of(value, need.values)
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            try:
                have, bound = int(value or ""), int(need.values[0])
            except (ValueError, IndexError):
                return False
            return have > bound if need.operator == "Gt" else have < bound
        case _:
            return False


def _is_one_of(value: str, values: list[str]) -> bool:
    """Many values are asked for many nodes."""
    if len(values) <= _FEW:
        return value in values
    known = _sets.get(id(values))
    if known is None:
        if len(_sets) >= _SETS_KEPT:
            _sets.clear()
        known = _sets[id(values)] = values, frozenset(values)
    return value in known[1]


def _requests(container: Container) -> dict[str, int]:
    return amounts(container.resources.requests)


def _is_podwide(name: str) -> bool:
    return name in ("cpu", "memory") or name.startswith("hugepages-")


def _sum(*parts: Amounts) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        add(total, part)
    return total


def total_of(parts: Iterable[Amounts]) -> dict[str, int]:
    """The sum of several."""
    return _sum(*parts)


def _text(name: str, amount: int) -> str:
    if name == "cpu":
        return f"{amount}m"
    if name in _BYTES or name.startswith("hugepages-"):
        return f"{amount // 1000 / 2**30:.1f}Gi"
    return f"{amount / 1000:g}"
