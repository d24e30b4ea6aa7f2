"""Pods that name claims, and the claims' pods: who is to be looked at again when a claim changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from driver.kube.objects import Pod, ResourceClaim

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(slots=True)
class Claimants:
    """Follows the pods one change at a time.

    Attributes:
        pods: those that name claims and have not ended.
        users: their keys, by claim.
    """

    pods: dict[Key, Pod] = field(default_factory=dict)
    users: dict[Key, set[Key]] = field(default_factory=dict)

    def put(self, pod: Pod) -> None:
        """A pod with claims is there."""
        key = pod.metadata.namespace, pod.metadata.name
        self.pods[key] = pod
        for claim, _ in claim_keys(pod):
            if claim:
                self.users.setdefault(claim, set()).add(key)

    def drop(self, pod: Pod) -> None:
        """It is gone, or another now."""
        key = pod.metadata.namespace, pod.metadata.name
        self.pods.pop(key, None)
        for claim, _ in claim_keys(pod):
            if claim and claim in self.users:
                self.users[claim].discard(key)
                if not self.users[claim]:
                    del self.users[claim]

    def of(self, claim: Key) -> list[Pod]:
        """Pods that name the claim."""
        return [self.pods[key] for key in self.users.get(claim, ())]

    def waiting(self, claim: Key) -> list[Key]:
        """Pods that wait for the claim: no node, not being deleted."""
        return sorted(
            (pod.metadata.namespace, pod.metadata.name)
            for pod in self.of(claim)
            if not pod.spec.node_name and not pod.metadata.deletion_timestamp
        )


def claim_keys(pod: Pod) -> Iterator[tuple[Key | None, bool]]:
    """The pod's claims in its order, and whether each was made for the pod; None while it is not made.

    A template that needed no claim is left out.
    """
    made: Mapping[str, str | None] = {
        status.name: status.resource_claim_name for status in pod.status.resource_claim_statuses
    }
    for entry in pod.spec.resource_claims:
        if entry.resource_claim_name:
            yield (pod.metadata.namespace, entry.resource_claim_name), False
        elif entry.name not in made:
            yield None, True
        elif (name := made[entry.name]) is not None:
            yield (pod.metadata.namespace, name), True


def belongs(claim: ResourceClaim, pod: Pod) -> bool:
    """The claim was made for the pod."""
    return any(
        owner.controller and owner.uid == pod.metadata.uid for owner in claim.metadata.owner_references
    )


def same_to_us(old: Pod, new: Pod) -> bool:
    """Nothing that we look at changed, but for what kube-scheduler says."""
    return (
        old.metadata.uid == new.metadata.uid
        and old.metadata.labels == new.metadata.labels
        and old.spec == new.spec
        and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        and old.status.nominated_node_name == new.status.nominated_node_name
        and old.status.resource_claim_statuses == new.status.resource_claim_statuses
    )
