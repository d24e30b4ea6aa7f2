"""Volumes for the controller's tests, as short as can be said."""

from __future__ import annotations

from typing import Any

import msgspec

from driver.kube.storage import PersistentVolume, PersistentVolumeClaim, StorageClass

BOUND = {"pv.kubernetes.io/bind-completed": "yes"}
ZONE = "topology.kubernetes.io/zone"


def a_pvc(
    name: str = "data",
    *,
    volume: str = "",
    storage_class: str | None = "local",
    size: str = "1Gi",
    annotations: dict[str, str] | None = None,
    modes: tuple[str, ...] = ("ReadWriteOnce",),
    owner: str = "",
    deleted: bool = False,
    phase: str = "",
    **spec: Any,
) -> PersistentVolumeClaim:
    """Bound where it has a volume, unless annotations are given."""
    owners = [{"apiVersion": "v1", "kind": "Pod", "name": owner, "uid": f"uid-{owner}", "controller": True}]
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"pvc-{name}",
                "annotations": (BOUND if volume else {}) if annotations is None else annotations,
                "ownerReferences": owners if owner else [],
                **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {}),
            },
            "spec": {
                "accessModes": list(modes),
                "resources": {"requests": {"storage": size}},
                "volumeName": volume,
                "storageClassName": storage_class,
                **spec,
            },
            "status": {"phase": phase or ("Bound" if volume else "Pending")},
        },
        PersistentVolumeClaim,
    )


def a_pv(
    name: str = "pv",
    *,
    on: dict[str, list[str]] | None = None,
    claim: str = "",
    storage_class: str = "local",
    size: str = "1Gi",
    labels: dict[str, str] | None = None,
    modes: tuple[str, ...] = ("ReadWriteOnce",),
    deleted: bool = False,
    phase: str = "",
    **spec: Any,
) -> PersistentVolume:
    """`on`: labels of the nodes that reach it, with their values."""
    needs = [{"key": key, "operator": "In", "values": values} for key, values in (on or {}).items()]
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": needs}]}}
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "labels": labels or {},
                **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {}),
            },
            "spec": {
                "capacity": {"storage": size},
                "accessModes": list(modes),
                "storageClassName": storage_class,
                **({"nodeAffinity": affinity} if on else {}),
                **({"claimRef": {"namespace": "default", "name": claim}} if claim else {}),
                **spec,
            },
            "status": {"phase": phase or ("Bound" if claim else "Available")},
        },
        PersistentVolume,
    )


def a_storage_class(
    name: str = "local",
    *,
    provisioner: str = "kubernetes.io/no-provisioner",
    mode: str = "WaitForFirstConsumer",
    zones: tuple[str, ...] = (),
) -> StorageClass:
    expressions = [{"key": ZONE, "values": list(zones)}]
    return msgspec.convert(
        {
            "metadata": {"name": name},
            "provisioner": provisioner,
            "volumeBindingMode": mode,
            "allowedTopologies": [{"matchLabelExpressions": expressions}] if zones else [],
        },
        StorageClass,
    )


def mounts(*claims: str) -> dict[str, Any]:
    """Of a pod's spec."""
    return {
        "volumes": [{"name": f"v-{name}", "persistentVolumeClaim": {"claimName": name}} for name in claims]
    }


def ephemeral(name: str) -> dict[str, Any]:
    """Of a pod's spec: a claim that is made for it."""
    template = {"spec": {"storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}}
    return {"volumes": [{"name": name, "ephemeral": {"volumeClaimTemplate": template}}]}
