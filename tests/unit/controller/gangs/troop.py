"""Gangs in a made-up cluster: pods of one Job, each with a claim of its own."""

from __future__ import annotations

from typing import Any

import msgspec

from driver.kube.objects import OwnerReference, Pod
from driver.names import DRIVER_NAME
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import a_claim, a_node, a_pod, a_request, an_inventory, slices_of

BLOCK = "topology.kubernetes.io/block"


def a_cluster(
    nodes: int = 4, *, pairs: int = 4, vfs: int = 2, labels: list[dict[str, str]] | None = None, **more: Any
) -> ModelCluster:
    cluster = ModelCluster(**more)
    for index in range(nodes):
        name = f"n{index}"
        node = a_node(name, cpu="64", labels=labels[index] if labels else None)
        cluster.add_node(node, slices_of(name, an_inventory(pairs, vfs)))
    return cluster


def gang_claim(
    name: str,
    uid: str,
    *,
    gpus: int = 1,
    nics: int = 1,
    require: str = "SYS",
    only: tuple[str, ...] = (),
    **gang: Any,
) -> Any:
    """A claim for pairs that says that its pod is one of a gang; `only`: selectors of both."""
    requests = [
        a_request(request, f"{class_name}.tandem-dra.io", count, *only)
        for request, class_name, count in (("gpu", "gpu", gpus), ("nic", "rdma-vf", nics))
        if count
    ]
    parameters: dict[str, Any] = {
        "apiVersion": "tandem-dra.io/v1beta1",
        "kind": "Alignment",
        "gang": gang,
    }
    if gpus and nics:
        parameters |= {"pairs": {"gpus": "gpu", "nics": "nic"}, "require": require}
    claim = a_claim(name, uid=uid, requests=requests)
    config = [{"requests": [], "opaque": {"driver": DRIVER_NAME, "parameters": parameters}}]
    document = msgspec.json.decode(msgspec.json.encode(claim))
    document["spec"]["devices"]["config"] = config
    return msgspec.json.decode(msgspec.json.encode(document), type=type(claim))


def of_job(pod: Pod, job: str) -> Pod:
    owner = OwnerReference(api_version="batch/v1", kind="Job", name=job, uid=f"job-{job}", controller=True)
    return msgspec.structs.replace(
        pod, metadata=msgspec.structs.replace(pod.metadata, owner_references=[owner])
    )


def join(cluster: ModelCluster, job: str, *names: str, **claim: Any) -> None:
    """Pods of the Job come, with claims and UIDs that were never there before."""
    gang = {"size": 4, **claim}
    for name in names:
        cluster.version += 1
        cluster.put_claim(gang_claim(f"{name}-claim", f"claim-{cluster.version}", **gang))
        cluster.put_pod(of_job(a_pod(name, [f"{name}-claim"], uid=f"pod-{cluster.version}"), job))


def redate(cluster: ModelCluster, name: str, created: str) -> None:
    """A pod was made at another time."""
    pod = cluster.pods[name]
    metadata = msgspec.structs.replace(pod.metadata, creation_timestamp=created)
    cluster.put_pod(msgspec.structs.replace(pod, metadata=metadata))


def leave(cluster: ModelCluster, *names: str) -> None:
    for name in names:
        cluster.delete_pod(name)
        cluster.delete_claim(f"{name}-claim")


def bind(cluster: ModelCluster, *names: str) -> None:
    for name in names:
        cluster.bind(name, cluster.node_of(f"{name}-claim") or "")


def members(job: str, count: int) -> list[str]:
    return [f"{job}-{i}" for i in range(count)]


def nodes_of(cluster: ModelCluster, names: list[str]) -> list[str | None]:
    return [cluster.node_of(f"{name}-claim") for name in names]


def rails_of(cluster: ModelCluster, name: str) -> set[int | None]:
    return {interface.rail for interface in cluster.placement_of(f"{name}-claim").interfaces}
