"""What pods demand of the pods around them, as values: affinity, anti-affinity, spreading, host ports.

Made from the wire once. `Neighbour` is what a pod that has its node means to others, and all that needs to be
kept of it; `Newcomer` is what a pod that looks for a node demands. The meaning is kube-scheduler's (plugins
NodePorts, InterPodAffinity and PodTopologySpread of Kubernetes 1.36); what only scores is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from controller.labels import EVERYTHING, NOTHING, Labels, Requirement, Selector, selector
from driver.kube.objects import Pod

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - as Kubernetes writes "on all of the node's addresses"


class HostPort(NamedTuple):
    """A port of the node that a container takes."""

    address: str
    protocol: str
    port: int

    def clashes(self, other: HostPort) -> bool:
        """The two cannot be had together."""
        return self[1:] == other[1:] and (
            self.address == other.address or _ANY_ADDRESS in (self.address, other.address)
        )


@dataclass(frozen=True, slots=True)
class Whom:
    """Which pods a rule means: in these namespaces, or in those with such labels, and labelled so."""

    namespaces: frozenset[str]
    namespace_selector: Selector
    selector: Selector

    def means(self, namespace: str, namespace_labels: Labels, labels: Labels) -> bool:
        """It means a pod with these."""
        return (
            namespace in self.namespaces or self.namespace_selector.matches(namespace_labels)
        ) and self.selector.matches(labels)


@dataclass(frozen=True, slots=True)
class Term:
    """One required term of pod affinity or anti-affinity: near is who shares the value of this node label."""

    topology_key: str
    whom: Whom


@dataclass(frozen=True, slots=True)
class Spread:
    """One topologySpreadConstraint with DoNotSchedule. The policies say whether nodes that the pod's node
    affinity, or its tolerations, close to it are left out of the count.
    """

    topology_key: str
    whom: Whom
    max_skew: int
    min_domains: int
    honor_affinity: bool
    honor_taints: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A pod that has its node, or will have it. `ending`: it is being deleted."""

    uid: str
    namespace: str
    labels: Labels
    node: str
    ending: bool = False
    ports: tuple[HostPort, ...] = ()
    anti_affinity: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A pod that looks for a node, with all that it demands; `pod` is what its node affinity is read from."""

    pod: Pod
    ports: tuple[HostPort, ...]
    affinity: tuple[Term, ...]
    anti_affinity: tuple[Term, ...]
    spread: tuple[Spread, ...]


def neighbour(pod: Pod, node: str = "") -> Neighbour:
    """The pod where it is, or as if it were on `node`."""
    return Neighbour(
        uid=pod.metadata.uid,
        namespace=pod.metadata.namespace,
        labels=pod.metadata.labels,
        node=node or pod.spec.node_name,
        ending=pod.metadata.deletion_timestamp is not None,
        ports=host_ports(pod),
        anti_affinity=_shared(_anti_affinity(pod)),
    )


@lru_cache(maxsize=4096)
def _shared(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Equal terms of the pods of one owner are one object."""
    return terms


def newcomer(pod: Pod) -> Newcomer:
    """The pod as one that looks for a node."""
    affinity = pod.spec.affinity
    return Newcomer(
        pod=pod,
        ports=host_ports(pod),
        affinity=_coming(_terms(pod, affinity.pod_affinity if affinity else None)),
        anti_affinity=_coming(_anti_affinity(pod)),
        spread=tuple(
            _spread(pod, constraint)
            for constraint in pod.spec.topology_spread_constraints
            if constraint.get("whenUnsatisfiable") == "DoNotSchedule"
        ),
    )


def host_ports(pod: Pod) -> tuple[HostPort, ...]:
    """Ports that the pod takes of its node for as long as it lives; init containers that end take none."""
    lasting = [c for c in pod.spec.init_containers if c.restart_policy == "Always"]
    taken = (
        HostPort(port.get("hostIP") or _ANY_ADDRESS, port.get("protocol") or "TCP", port["hostPort"])
        for container in (*lasting, *pod.spec.containers)
        for port in container.ports
        if (port.get("hostPort") or 0) > 0
    )
    return tuple(dict.fromkeys(taken))


def _anti_affinity(pod: Pod) -> tuple[Term, ...]:
    affinity = pod.spec.affinity
    return _terms(pod, affinity.pod_anti_affinity if affinity else None)


def _coming(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Terms as they count while their pod has no node: then kube-scheduler holds namespaceSelectors against
    no labels besides, so one with negative requirements alone means every namespace (seen, 1.36.3).
    """
    return tuple(
        replace(term, whom=replace(term.whom, namespace_selector=EVERYTHING))
        if term.whom.namespace_selector.matches({})
        else term
        for term in terms
    )


def _terms(pod: Pod, affinity: Mapping[str, Any] | None) -> tuple[Term, ...]:
    return tuple(_term(pod, term) for term in (affinity or {}).get(_REQUIRED) or ())


def _term(pod: Pod, wire: Mapping[str, Any]) -> Term:
    namespaces = frozenset(wire.get("namespaces") or ())
    of_namespaces = selector(wire.get("namespaceSelector"))
    if not namespaces and of_namespaces == NOTHING:
        namespaces = frozenset([pod.metadata.namespace])
    means = selector(wire.get("labelSelector"))
    # The API server writes these into the selector of a new pod; a pod from a file has not been there.
    named = {need.key for need in means.requirements or ()}
    means = means.also(
        need
        for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
        for need in _own_labels(pod, wire.get(field) or (), operator)
        if need.key not in named
    )
    return Term(wire.get("topologyKey") or "", Whom(namespaces, of_namespaces, means))


def _spread(pod: Pod, wire: Mapping[str, Any]) -> Spread:
    means = selector(wire.get("labelSelector")).also(_own_labels(pod, wire.get("matchLabelKeys") or (), "In"))
    return Spread(
        topology_key=wire.get("topologyKey") or "",
        whom=Whom(frozenset([pod.metadata.namespace]), NOTHING, means),
        max_skew=wire.get("maxSkew") or 1,
        min_domains=wire.get("minDomains") or 1,
        honor_affinity=(wire.get("nodeAffinityPolicy") or "Honor") == "Honor",
        honor_taints=(wire.get("nodeTaintsPolicy") or "Ignore") == "Honor",
    )


def _own_labels(pod: Pod, keys: Sequence[str], operator: str) -> list[Requirement]:
    labels = pod.metadata.labels
    return [Requirement(key, operator, (labels[key],)) for key in keys if key in labels]
