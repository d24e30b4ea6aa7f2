"""Wire types of core/v1: the rules by which pods choose whom to be beside. Pods keep them as they came; these
are their shapes.
"""

from __future__ import annotations

import msgspec

from driver.kube.meta import Wire


class LabelSelectorRequirement(Wire, frozen=True, kw_only=True):
    """matchExpressions[]; operator In, NotIn, Exists or DoesNotExist."""

    key: str = ""
    operator: str = ""
    values: list[str] = []


class LabelSelector(Wire, frozen=True, kw_only=True):
    """metav1.LabelSelector: all of it must match."""

    match_labels: dict[str, str] = {}
    match_expressions: list[LabelSelectorRequirement] = []


class PodAffinityTerm(Wire, frozen=True, kw_only=True):
    """Near is who shares the node's value of `topology_key`."""

    label_selector: LabelSelector | None = None
    namespaces: list[str] = []
    topology_key: str = ""
    namespace_selector: LabelSelector | None = None
    match_label_keys: list[str] = []
    mismatch_label_keys: list[str] = []


class WeightedPodAffinityTerm(Wire, frozen=True, kw_only=True):
    """A weighted preference."""

    weight: int = 0
    pod_affinity_term: PodAffinityTerm = PodAffinityTerm()


class PodAffinity(Wire, frozen=True, kw_only=True):
    """spec.affinity.podAffinity and podAntiAffinity."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] = []
    preferred_during_scheduling_ignored_during_execution: list[WeightedPodAffinityTerm] = []


class TopologySpreadConstraint(Wire, frozen=True, kw_only=True):
    """spec.topologySpreadConstraints[]."""

    max_skew: int = 0
    topology_key: str = ""
    when_unsatisfiable: str = ""
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str = "Honor"
    node_taints_policy: str = "Ignore"
    match_label_keys: list[str] = []


class ContainerPort(Wire, frozen=True, kw_only=True):
    """spec.containers[].ports[]."""

    name: str = ""
    host_port: int = 0
    container_port: int = 0
    protocol: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
