"""API paths of the objects we use, so that no caller spells one."""

from __future__ import annotations

_RESOURCE = "/apis/resource.k8s.io/v1"


def _under(prefix: str, plural: str, namespace: str, name: str = "") -> str:
    scope = f"{prefix}/namespaces/{namespace}/{plural}" if namespace else f"{prefix}/{plural}"
    return f"{scope}/{name}" if name else scope


def slices() -> str:
    """All ResourceSlices (cluster-scoped)."""
    return f"{_RESOURCE}/resourceslices"


def slice_(name: str) -> str:
    """One ResourceSlice."""
    return f"{_RESOURCE}/resourceslices/{name}"


def classes() -> str:
    """All DeviceClasses (cluster-scoped)."""
    return f"{_RESOURCE}/deviceclasses"


def claims(namespace: str = "") -> str:
    """ResourceClaims of a namespace, or of all."""
    return _under(_RESOURCE, "resourceclaims", namespace)


def claim(namespace: str, name: str) -> str:
    """One ResourceClaim."""
    return _under(_RESOURCE, "resourceclaims", namespace, name)


def claim_status(namespace: str, name: str) -> str:
    """The status subresource: allocation, reservedFor, devices."""
    return claim(namespace, name) + "/status"


def networks() -> str:
    """All FabricNetworks (cluster-scoped)."""
    return "/apis/tandem-dra.io/v1beta1/fabricnetworks"


def namespaces() -> str:
    """All Namespaces."""
    return "/api/v1/namespaces"


def nodes() -> str:
    """All Nodes."""
    return "/api/v1/nodes"


def node(name: str) -> str:
    """One Node."""
    return f"/api/v1/nodes/{name}"


def pods(namespace: str = "") -> str:
    """Pods of a namespace, or of all."""
    return _under("/api/v1", "pods", namespace)


def pod(namespace: str, name: str) -> str:
    """One Pod."""
    return _under("/api/v1", "pods", namespace, name)


def volume_claims() -> str:
    """All PersistentVolumeClaims."""
    return "/api/v1/persistentvolumeclaims"


def volumes() -> str:
    """All PersistentVolumes (cluster-scoped)."""
    return "/api/v1/persistentvolumes"


def storage_classes() -> str:
    """All StorageClasses (cluster-scoped)."""
    return "/apis/storage.k8s.io/v1/storageclasses"


def pod_groups() -> str:
    """All PodGroups."""
    return "/apis/scheduling.k8s.io/v1alpha2/podgroups"


def self_review() -> str:
    """Where a client asks who it is (SelfSubjectReview)."""
    return "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def leases(namespace: str) -> str:
    """Leases of a namespace."""
    return _under("/apis/coordination.k8s.io/v1", "leases", namespace)


def lease(namespace: str, name: str) -> str:
    """One Lease."""
    return _under("/apis/coordination.k8s.io/v1", "leases", namespace, name)


def events(namespace: str) -> str:
    """Events (events.k8s.io/v1) of a namespace."""
    return _under("/apis/events.k8s.io/v1", "events", namespace)
