"""Wire types of core/v1, as far as placement and prepare need them."""

from __future__ import annotations

from typing import Any

import msgspec

from driver.kube.meta import NodeSelector, NodeSelectorTerm, NullableList, ObjectMeta, Quantity, Wire
from driver.kube.storage import PersistentVolumeClaimTemplate


class NodeTaint(Wire, frozen=True, kw_only=True):
    """spec.taints[] of a node."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(Wire, frozen=True, kw_only=True):
    """spec of a node."""

    unschedulable: bool = False
    taints: list[NodeTaint] = []


class NodeStatus(Wire, frozen=True, kw_only=True):
    """Quantities by resource name."""

    allocatable: dict[str, Quantity] = {}
    conditions: list[dict[str, Any]] = []


class Node(Wire, frozen=True, kw_only=True):
    """Cluster-scoped."""

    metadata: ObjectMeta = ObjectMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ResourceRequirements(Wire, frozen=True, kw_only=True):
    """Quantities by resource name; `claims` are references to pod.spec.resourceClaims."""

    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    claims: list[dict[str, str]] = []


class Container(Wire, frozen=True, kw_only=True):
    """spec.containers[] and initContainers[]."""

    name: str = ""
    resources: ResourceRequirements = ResourceRequirements()
    restart_policy: str | None = None
    ports: list[dict[str, Any]] = []


class PodResourceClaim(Wire, frozen=True, kw_only=True):
    """spec.resourceClaims[]: one of the two names is set."""

    name: str
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class PodToleration(Wire, frozen=True, kw_only=True):
    """spec.tolerations[]."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodSchedulingGate(Wire, frozen=True, kw_only=True):
    """spec.schedulingGates[]."""

    name: str


class PodSchedulingGroup(Wire, frozen=True, kw_only=True):
    """spec.schedulingGroup, where gang scheduling is on: the PodGroup that the pod is of."""

    pod_group_name: str = ""


class PreferredSchedulingTerm(Wire, frozen=True, kw_only=True):
    """A weighted preference."""

    weight: int
    preference: NodeSelectorTerm


class NodeAffinity(Wire, frozen=True, kw_only=True):
    """Required terms filter; preferred ones score."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: list[PreferredSchedulingTerm] = []


class Affinity(Wire, frozen=True, kw_only=True):
    """Pod (anti-)affinity is kept as it stands on the wire."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: dict[str, Any] | None = None
    pod_anti_affinity: dict[str, Any] | None = None


class PersistentVolumeClaimSource(Wire, frozen=True, kw_only=True):
    """spec.volumes[].persistentVolumeClaim."""

    claim_name: str = ""


class EphemeralSource(Wire, frozen=True, kw_only=True):
    """spec.volumes[].ephemeral: kube-controller-manager makes a claim from the template."""

    volume_claim_template: PersistentVolumeClaimTemplate | None = None


class PodVolume(Wire, frozen=True, kw_only=True):
    """spec.volumes[], of which only those count that name a PersistentVolumeClaim."""

    name: str = ""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    ephemeral: EphemeralSource | None = None


class PodSpec(Wire, frozen=True, kw_only=True):
    """spec of a pod, as far as placement needs it."""

    node_name: str = ""
    scheduler_name: str = "default-scheduler"
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: list[PodToleration] = []
    scheduling_gates: list[PodSchedulingGate] = []
    scheduling_group: PodSchedulingGroup | None = None
    resource_claims: list[PodResourceClaim] = []
    containers: NullableList[Container] = []
    init_containers: list[Container] = []
    resources: ResourceRequirements | None = None
    overhead: dict[str, Quantity] = {}
    priority: int | None = None
    host_network: bool = False
    topology_spread_constraints: list[dict[str, Any]] = []
    volumes: list[PodVolume] = []

    def __post_init__(self) -> None:
        """A watch's bookmark is a Pod without containers."""
        msgspec.structs.force_setattr(self, "containers", self.containers or [])


class PodResourceClaimStatus(Wire, frozen=True, kw_only=True):
    """status.resourceClaimStatuses[]; `resource_claim_name` is None where no claim was needed."""

    name: str
    resource_claim_name: str | None = None


class PodStatus(Wire, frozen=True, kw_only=True):
    """status of a pod."""

    phase: str = ""
    nominated_node_name: str = ""
    conditions: list[dict[str, Any]] = []
    resource_claim_statuses: list[PodResourceClaimStatus] = []


class Pod(Wire, frozen=True, kw_only=True):
    """Namespaced."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()
