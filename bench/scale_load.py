"""What an API server would list of a large cluster, as JSON bytes, page by page.

Every node plays the same product and differs in what differs between real machines: names, UIDs, the GPUs'
UUIDs, the times at which taints were added. Pages are made when they are read, so the load itself takes no
memory worth speaking of.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from controller.gangs.membership import GANG_LABEL
from driver.kube.objects import DeviceClass, ResourceClaim
from driver.mock import source
from driver.mock.machine import load
from driver.names import CLAIM_FINALIZER, DRIVER_NAME
from driver.slices import SliceOptions, build

MACHINE: Final = "dgx-h100"
"""8 GPUs, 64 VFs, and four NICs without VFs."""
GPUS: Final = 8
BYSTANDERS: Final = 20
"""Pods without claims on each node."""
PAGE: Final = 1000
"""Objects, as the controller asks for them."""

_MANIFESTS: Final = Path(__file__).parents[1] / "deviceclasses"
_CREATED: Final = "2026-01-01T00:00:00Z"
_ENVIRONMENT: Final = [{"name": f"SETTING_{i}", "value": "a value of some length " * 2} for i in range(12)]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The listed objects of a cluster of `nodes` nodes, but for those that hold devices."""

    nodes: int

    def names(self) -> list[str]:
        """The nodes' names."""
        return [f"node-{index:05d}" for index in range(self.nodes)]

    def node_pages(self) -> Iterator[bytes]:
        """Nodes with labels, heartbeats and a list of images, as they are."""
        return _pages(_node(index, name) for index, name in enumerate(self.names()))

    def slice_pages(self) -> Iterator[bytes]:
        """What the kubelet plugin publishes."""
        machine = load(MACHINE)
        built = build(
            source.read(machine, machine.load_overlay()),
            driver_name=DRIVER_NAME,
            node_name="NODE",
            node_uid="UID",
            generation=1,
            options=SliceOptions(controller_taint=True),
        )
        texts = [msgspec.json.encode(_stamped(msgspec.to_builtins(item))) for item in built]
        uuids = sorted({u for text in texts for u in _uuids(json.loads(text))})
        return _pages(
            _personal(text, uuids, index, name) for index, name in enumerate(self.names()) for text in texts
        )

    def bystander_pages(self) -> Iterator[bytes]:
        """Pods of DaemonSets and Deployments that want nothing of us."""
        return _pages(
            pod_json(f"app-{number}-{name}", node=name, app=f"app-{number}")
            for name in self.names()
            for number in range(BYSTANDERS)
        )


def classes() -> list[DeviceClass]:
    """As they are deployed."""
    return [
        msgspec.convert(yaml.safe_load(path.read_text()), DeviceClass)
        for path in sorted(_MANIFESTS.glob("*.yaml"))
    ]


def claim_json(name: str, gpus: int, vfs: int, *, gang: int = 0) -> bytes:
    """A claim that kube-controller-manager has made from a template for a pod, which is one of a `gang`."""
    parameters = {
        "apiVersion": f"{DRIVER_NAME}/v1beta1",
        "kind": "Alignment",
        "pairs": {"gpus": "gpu", "nics": "nic"},
        "prefer": ["PIX", "PXB", "PHB"],
        "require": "NODE",
        **({"gang": {"size": gang}} if gang else {}),
    }
    requests = [
        {
            "name": request,
            "exactly": {
                "deviceClassName": f"{kind}.{DRIVER_NAME}",
                "allocationMode": "ExactCount",
                "count": count,
            },
        }
        for request, kind, count in (("gpu", "gpu", gpus), ("nic", "rdma-vf", vfs))
        if count
    ]
    config = [{"requests": ["gpu", "nic"], "opaque": {"driver": DRIVER_NAME, "parameters": parameters}}]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": _uid(name), "controller": True}
    return msgspec.json.encode(
        {
            "metadata": {
                **_metadata(name),
                "namespace": "default",
                "uid": _uid(f"claim/{name}"),
                "annotations": {"resource.kubernetes.io/pod-claim-name": "pair"},
                "ownerReferences": [owner],
            },
            "spec": {"devices": {"requests": requests, "config": config if gpus and vfs else []}},
            "status": {},
        }
    )


def pod_json(
    name: str,
    *,
    node: str = "",
    app: str = "",
    claim: str = "",
    cpu: str = "500m",
    created: str = _CREATED,
    gang: str = "",
) -> bytes:
    """A pod as the API server has it; `claim` is the one that was made for it."""
    container = {
        "name": "main",
        "image": "registry.example/app:1",
        "env": _ENVIRONMENT,
        "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": [{"name": f"kube-api-access-{_uid(name)[:5]}", "mountPath": "/var/run/secrets"}],
    }
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": _CREATED}
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    spec: dict[str, Any] = {
        "containers": [container],
        "serviceAccountName": "default",
        "schedulerName": "default-scheduler",
        "priority": 0,
        "tolerations": [
            {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
            for key in ("not-ready", "unreachable")
        ],
        **({"nodeName": node} if node else {}),
    }
    status: dict[str, Any] = {"phase": "Running" if node else "Pending", "conditions": conditions}
    if claim:
        spec["resourceClaims"] = [{"name": "pair", "resourceClaimTemplateName": "pairs"}]
        status["resourceClaimStatuses"] = [{"name": "pair", "resourceClaimName": claim}]
    metadata = {
        **_metadata(name),
        "namespace": "default",
        "creationTimestamp": created,
        "labels": {"app": app or name.rpartition("-")[0], **({GANG_LABEL: gang} if gang else {})},
    }
    return msgspec.json.encode({"metadata": metadata, "spec": spec, "status": status})


def bound_json(claim: ResourceClaim) -> bytes:
    """An allocated claim once its pod runs."""
    name = claim.metadata.name
    raw = json.loads(msgspec.json.encode(claim))
    raw["metadata"]["finalizers"] = [CLAIM_FINALIZER]
    raw["status"]["reservedFor"] = [{"resource": "pods", "name": name, "uid": _uid(name)}]
    raw["status"]["allocation"]["allocationTimestamp"] = _CREATED
    return msgspec.json.encode(raw)


def paged(items: Iterable[bytes]) -> Iterator[bytes]:
    """As answers to list requests."""
    return _pages(items)


def _pages(items: Iterable[bytes]) -> Iterator[bytes]:
    page: list[bytes] = []
    for item in items:
        page.append(item)
        if len(page) == PAGE:
            yield _page(page)
            page = []
    if page:
        yield _page(page)


def _page(items: list[bytes]) -> bytes:
    return b'{"metadata":{"resourceVersion":"1"},"items":[' + b",".join(items) + b"]}"


def _node(index: int, name: str) -> bytes:
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": MACHINE,
        "topology.kubernetes.io/zone": f"zone-{index // 1000}",
        "topology.kubernetes.io/block": f"block-{index // 32}",
    }
    size = {"cpu": "112", "memory": "2000Gi", "pods": "110", "ephemeral-storage": "10Ti"}
    heartbeats = [
        {"type": kind, "status": "False", "lastHeartbeatTime": _CREATED, "message": "all is well " * 5}
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    images = [{"names": [f"registry.example/image-{i}@sha256:{'0' * 64}"], "sizeBytes": i} for i in range(50)]
    return msgspec.json.encode(
        {
            "metadata": {**_metadata(name), "labels": labels, "annotations": {"note": "of a kubelet " * 8}},
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"allocatable": size, "capacity": size, "conditions": heartbeats, "images": images},
        }
    )


def _stamped(item: dict[str, Any]) -> dict[str, Any]:
    """With what the API server adds."""
    item["metadata"] |= {"uid": "SLICE", "resourceVersion": "1", "creationTimestamp": _CREATED}
    for device in item["spec"]["devices"]:
        for taint in device.get("taints", ()):
            taint["timeAdded"] = "TIME"
    return item


def _uuids(item: dict[str, Any]) -> Iterator[str]:
    for device in item["spec"]["devices"]:
        found = device["attributes"].get("uuid")
        if found is not None:
            yield found["string"]


def _personal(text: bytes, uuids: list[str], index: int, name: str) -> bytes:
    for number, one in enumerate(uuids):
        text = text.replace(one.encode(), f"GPU-{_uid(f'{name}/{number}')}".encode())
    time = f"2026-01-{index % 28 + 1:02d}T{index % 24:02d}:{index % 60:02d}:00Z"
    return (
        text.replace(b"NODE", name.encode())
        .replace(b'"TIME"', f'"{time}"'.encode())
        .replace(b'"UID"', f'"{_uid(name)}"'.encode())
        .replace(b'"SLICE"', f'"{_uid(f"slice/{name}")}"'.encode())
    )


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "uid": _uid(name), "resourceVersion": "1", "creationTimestamp": _CREATED}


def _uid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))
