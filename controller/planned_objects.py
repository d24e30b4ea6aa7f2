"""Objects of a plan as a cluster would have them: with names, UIDs, claims of templates, sizes of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import msgspec

from controller.state import Key
from controller.validation.documents import KubeObject
from driver.errors import InvalidObjectError
from driver.kube.objects import (
    Node,
    NodeStatus,
    ObjectMeta,
    OwnerReference,
    Pod,
    PodResourceClaim,
    PodSpec,
    PodStatus,
    ResourceClaim,
    ResourceClaimTemplate,
)

_ROOM: Final = {"cpu": "1M", "memory": "1Ei", "ephemeral-storage": "1Ei", "pods": "1M"}
"""Of a node that says nothing about its size."""

_O = TypeVar("_O", Pod, ResourceClaim)


def named(objects: Iterable[KubeObject]) -> list[KubeObject]:
    """A name for each that has only a generateName."""
    replace = msgspec.structs.replace
    return [
        item
        if item.metadata.name
        else replace(item, metadata=replace(item.metadata, name=f"{item.metadata.generate_name}{number:05d}"))
        for number, item in enumerate(objects)
    ]


def refuse_duplicates(objects: Iterable[KubeObject]) -> None:
    """Raise InvalidObjectError where an object is there twice."""
    seen: set[tuple[str, str, str]] = set()
    for item in objects:
        key = (type(item).__name__, *key_of(item))
        if key in seen:
            subject = f"{key[0]} {'/'.join(filter(None, key[1:]))}"
            message = f'metadata.name is "{key[2]}"; right is a name that is not taken'
            raise InvalidObjectError(message, object=subject, field="metadata.name", value=key[2])
        seen.add(key)


def entry_names(pod: Pod) -> Iterator[str]:
    """The pod's names for the claims that `claim_keys` gives."""
    needless = {s.name for s in pod.status.resource_claim_statuses if s.resource_claim_name is None}
    for entry in pod.spec.resource_claims:
        if entry.resource_claim_name or entry.name not in needless:
            yield entry.name


def with_room(node: Node) -> Node:
    """A node written by hand may leave its size out."""
    amounts = node.status.allocatable
    allocatable = {"pods": "110", **amounts} if amounts else _ROOM
    return msgspec.structs.replace(node, status=NodeStatus(allocatable=allocatable))


def with_uid(item: _O) -> _O:
    """A UID for what is not in a cluster yet."""
    meta = item.metadata
    if meta.uid:
        return item
    uid = f"{type(item).__name__}/{meta.namespace}/{meta.name}"
    return msgspec.structs.replace(item, metadata=msgspec.structs.replace(meta, uid=uid))


def claim_of(template: ResourceClaimTemplate, name: str, pod: Pod) -> ResourceClaim:
    """The claim that kube-controller-manager would make of the template."""
    namespace = pod.metadata.namespace
    owner = OwnerReference(
        api_version="v1", kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid, controller=True
    )
    metadata = ObjectMeta(
        name=name,
        namespace=namespace,
        uid=f"ResourceClaim/{namespace}/{name}",
        labels=template.spec.metadata.labels,
        annotations=template.spec.metadata.annotations,
        owner_references=[owner],
    )
    return ResourceClaim(metadata=metadata, spec=template.spec.spec)


def pod_for(claim: ResourceClaim) -> Pod:
    """A pod for a claim that has none: it wants nothing else."""
    name = claim.metadata.name
    return Pod(
        metadata=ObjectMeta(name=name, namespace=claim.metadata.namespace, uid=f"for/{claim.metadata.uid}"),
        spec=PodSpec(resource_claims=[PodResourceClaim(name="claim", resource_claim_name=name)]),
        status=PodStatus(),
    )


def key_of(item: KubeObject) -> Key:
    """Namespace and name."""
    return item.metadata.namespace, item.metadata.name
