"""Wire types of volumes (core/v1 and storage.k8s.io/v1), as far as they say on which nodes a pod may run."""

from __future__ import annotations

from driver.kube.meta import NodeSelector, ObjectMeta, Quantity, Wire
from driver.kube.neighbours import LabelSelector


class VolumeResources(Wire, frozen=True, kw_only=True):
    """spec.resources of a PersistentVolumeClaim."""

    requests: dict[str, Quantity] = {}


class PersistentVolumeClaimSpec(Wire, frozen=True, kw_only=True):
    """spec of a PersistentVolumeClaim; `volume_name` is empty until it is bound, or bound beforehand."""

    access_modes: list[str] = []
    selector: LabelSelector | None = None
    resources: VolumeResources = VolumeResources()
    volume_name: str = ""
    storage_class_name: str | None = None
    volume_mode: str | None = None
    volume_attributes_class_name: str | None = None


class PersistentVolumeClaimTemplate(Wire, frozen=True, kw_only=True):
    """spec.volumes[].ephemeral.volumeClaimTemplate of a pod."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()


class PersistentVolumeClaimStatus(Wire, frozen=True, kw_only=True):
    """status of a PersistentVolumeClaim; phase Pending, Bound or Lost."""

    phase: str = ""


class PersistentVolumeClaim(Wire, frozen=True, kw_only=True):
    """Namespaced."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()
    status: PersistentVolumeClaimStatus = PersistentVolumeClaimStatus()


class ObjectReference(Wire, frozen=True, kw_only=True):
    """spec.claimRef of a PersistentVolume."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


class VolumeNodeAffinity(Wire, frozen=True, kw_only=True):
    """spec.nodeAffinity of a PersistentVolume."""

    required: NodeSelector | None = None


class PersistentVolumeSpec(Wire, frozen=True, kw_only=True):
    """spec of a PersistentVolume."""

    capacity: dict[str, Quantity] = {}
    access_modes: list[str] = []
    claim_ref: ObjectReference | None = None
    storage_class_name: str = ""
    volume_mode: str | None = None
    node_affinity: VolumeNodeAffinity | None = None
    volume_attributes_class_name: str | None = None


class PersistentVolumeStatus(Wire, frozen=True, kw_only=True):
    """status of a PersistentVolume; phase Pending, Available, Bound, Released or Failed."""

    phase: str = ""


class PersistentVolume(Wire, frozen=True, kw_only=True):
    """Cluster-scoped."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PersistentVolumeSpec = PersistentVolumeSpec()
    status: PersistentVolumeStatus = PersistentVolumeStatus()


class TopologySelectorLabelRequirement(Wire, frozen=True, kw_only=True):
    """The label has one of the values."""

    key: str = ""
    values: list[str] = []


class TopologySelectorTerm(Wire, frozen=True, kw_only=True):
    """allowedTopologies[]: all of it must match."""

    match_label_expressions: list[TopologySelectorLabelRequirement] = []


class StorageClass(Wire, frozen=True, kw_only=True):
    """Cluster-scoped; `volume_binding_mode` is Immediate or WaitForFirstConsumer."""

    metadata: ObjectMeta = ObjectMeta()
    provisioner: str = ""
    volume_binding_mode: str = "Immediate"
    allowed_topologies: list[TopologySelectorTerm] = []


StorageObject = PersistentVolumeClaim | PersistentVolume | StorageClass
