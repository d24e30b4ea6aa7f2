"""Kubernetes objects for the controller's tests, as short as can be said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from driver.devices import Gpu, Inventory, Nic, Place, RdmaDevice, Vf
from driver.kube.objects import DeviceClass, Node, Pod, ResourceClaim, ResourceSlice
from driver.names import DRIVER_NAME
from driver.slices import SliceOptions, build

OURS = f'device.driver == "{DRIVER_NAME}"'


def a_node(name: str, *, cpu: str = "8", labels: dict[str, str] | None = None, **spec: Any) -> Node:
    return msgspec.convert(
        {
            "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels or {}},
            "spec": spec,
            "status": {"allocatable": {"cpu": cpu, "memory": "32Gi", "pods": "110"}},
        },
        Node,
    )


def a_pod(
    name: str,
    claims: Sequence[str] = (),
    *,
    cpu: str = "1",
    node: str = "",
    created: str = "2026-01-01T00:00:00Z",
    version: int = 1,
    status: dict[str, Any] | None = None,
    uid: str = "",
    deleted: bool = False,
    **spec: Any,
) -> Pod:
    """`claims` are names of claims that are there (not of templates)."""
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": uid or f"uid-{name}",
                "resourceVersion": str(version),
                "creationTimestamp": created,
                **({"deletionTimestamp": created} if deleted else {}),
            },
            "spec": {
                "containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}],
                "resourceClaims": [{"name": f"c{i}", "resourceClaimName": c} for i, c in enumerate(claims)],
                **({"nodeName": node} if node else {}),
                **spec,
            },
            "status": status or {},
        },
        Pod,
    )


def a_class(name: str, type_: str = "", driver: str = DRIVER_NAME) -> DeviceClass:
    expression = f'device.driver == "{driver}"'
    if type_:
        expression += f' && device.attributes["{driver}"].type == "{type_}"'
    return msgspec.convert(
        {"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": expression}}]}},
        DeviceClass,
    )


MANIFESTS = Path(__file__).parents[3] / "deviceclasses"
CLASSES = (
    *(
        msgspec.convert(yaml.safe_load((MANIFESTS / name).read_text()), DeviceClass)
        for name in ("gpu.yaml", "nic.yaml", "rdma-vf.yaml")
    ),
    a_class("other.example.com", driver="other.example.com"),
)


def a_claim(
    name: str,
    *,
    gpus: int = 1,
    nics: int = 1,
    require: str = "SYS",
    version: int = 1,
    uid: str = "",
    requests: list[dict[str, Any]] | None = None,
    **more: Any,
) -> ResourceClaim:
    """GPUs with NICs, paired where both are wanted; `requests` instead for anything else."""
    config: list[dict[str, Any]] = []
    if requests is None:
        requests = []
        for request, class_name, count in (("gpu", "gpu", gpus), ("nic", "rdma-vf", nics)):
            if count:
                requests.append(a_request(request, f"{class_name}.tandem-dra.io", count))
        if gpus and nics:
            parameters = {
                "apiVersion": "tandem-dra.io/v1beta1",
                "kind": "Alignment",
                "pairs": {"gpus": "gpu", "nics": "nic"},
                "require": require,
            }
            config = [
                {"requests": ["gpu", "nic"], "opaque": {"driver": DRIVER_NAME, "parameters": parameters}}
            ]
    document = {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
        },
        "spec": {"devices": {"requests": requests, "config": config}},
        **more,
    }
    return msgspec.json.decode(json.dumps(document), type=ResourceClaim)


def a_request(name: str, class_name: str, count: int = 1, *selectors: str) -> dict[str, Any]:
    return {
        "name": name,
        "exactly": {
            "deviceClassName": class_name,
            "allocationMode": "ExactCount",
            "count": count,
            "selectors": [{"cel": {"expression": expression}} for expression in selectors],
        },
    }


def an_inventory(pairs: int = 4, vfs: int = 2) -> Inventory:
    """`pairs` switches, each with a GPU and a NIC of `vfs` VFs; the two halves on two NUMA nodes."""
    gpus, nics = [], []
    for index in range(pairs):
        bus = 0x10 * (index + 1)
        place = Place(
            f"0000:{bus + 1:02x}:00.0", f"0000:{bus:02x}:01.0", f"pci0000:{bus:02x}", index * 2 // pairs
        )
        gpus.append(Gpu(pci_address=f"0000:{bus + 2:02x}:00.0", place=place, rail=index, uuid=f"GPU-{index}"))
        virtual = tuple(
            Vf(
                pci_address=f"0000:{bus + 3:02x}:00.{i + 1}",
                index=i,
                place=place,
                rail=index,
                rdma=RdmaDevice(f"mlx5_{100 * index + i}"),
            )
            for i in range(vfs)
        )
        nics.append(
            Nic(
                pci_address=f"0000:{bus + 3:02x}:00.0",
                name=f"mlx5_{index}",
                place=place,
                rail=index,
                sriov_num_vfs=vfs,
                vfs=virtual,
            )
        )
    return Inventory(machine="test", gpus=tuple(gpus), nics=tuple(nics))


def slices_of(
    node: str, inventory: Inventory | None = None, *, generation: int = 1, taint: bool = True
) -> list[ResourceSlice]:
    return build(
        inventory or an_inventory(),
        driver_name=DRIVER_NAME,
        node_name=node,
        node_uid=f"uid-{node}",
        generation=generation,
        options=SliceOptions(controller_taint=taint),
    )
