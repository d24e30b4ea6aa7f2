"""Claims that no further pod can use: the API server limits for how many a claim may be reserved.

kube-scheduler does not check this first (1.36: `CanBeReserved` is always true). It tries when it binds, the
API server refuses, and the pod is tried again for ever, on a node where we keep room for it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from driver.kube.objects import Pod, ResourceClaim, ResourceClaimConsumerReference

MOST_RESERVED: Final = 256
"""Entries in a claim's status.reservedFor (`ResourceClaimReservedForMaxSize` of resource.k8s.io/v1)."""


def is_full(claim: ResourceClaim) -> bool:
    """Say whether the claim is reserved for as many as it can be."""
    return len(claim.status.reserved_for) >= MOST_RESERVED


def is_closed(claim: ResourceClaim, pod: Pod) -> bool:
    """Say whether the pod cannot use the claim: it is full, and not reserved for the pod or its PodGroup."""
    if not is_full(claim):
        return False
    group = pod.spec.scheduling_group.pod_group_name if pod.spec.scheduling_group else None
    return not any(
        user.uid == pod.metadata.uid or (user.resource == "podgroups" and user.name == group)
        for user in claim.status.reserved_for
    )


def why_closed(claim: ResourceClaim) -> str:
    """Say it for people; the same for all pods."""
    return (
        f"claim {claim.metadata.name} is reserved for {len(claim.status.reserved_for)} users "
        f"(status.reservedFor), and Kubernetes allows no more; right is another claim, or to wait until one "
        "of them ends"
    )


def with_consumer(claim: ResourceClaim, pod: Pod) -> ResourceClaim:
    """The claim as kube-scheduler has it once the pod uses it."""
    user = ResourceClaimConsumerReference(resource="pods", name=pod.metadata.name, uid=pod.metadata.uid)
    if user in claim.status.reserved_for:
        return claim
    replace = msgspec.structs.replace
    return replace(claim, status=replace(claim.status, reserved_for=[*claim.status.reserved_for, user]))
