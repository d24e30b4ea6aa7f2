"""Pods that name claims, and the claims' pods: who is to be looked at again when a claim changes.

A pod's status says which claims were made for it from templates. But the claims are there a little earlier,
and say themselves for which pod: who goes by that has decided when kube-scheduler first looks at the pod,
and spares it a look in vain over all nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from driver.kube.objects import Pod, ResourceClaim
from driver.names import POD_CLAIM_NAME

Key = tuple[str, str]
"""Namespace and name."""
MadeFor = tuple[str, str, str]
"""Namespace and UID of the pod that a claim was made for, and what the pod calls it. A claim may name any pod
as its owner; only in its own namespace it is that pod's.
"""
_NONE: Mapping[MadeFor, Sequence[Key]] = MappingProxyType({})


class _Made(NamedTuple):
    """A claim that was made for a pod."""

    of: MadeFor
    claim: Key
    pod: Key


@dataclass(slots=True)
class Claimants:
    """Follows pods and claims one change at a time.

    Attributes:
        pods: those that name claims and have not ended.
        users: their keys, by claim.
    """

    pods: dict[Key, Pod] = field(default_factory=dict)
    users: dict[Key, set[Key]] = field(default_factory=dict)
    _uses: dict[Key, tuple[Key, ...]] = field(default_factory=dict)
    _made: dict[MadeFor, tuple[Key, ...]] = field(default_factory=dict)

    def put(self, pod: Pod) -> None:
        """A pod with claims is there."""
        key = pod.metadata.namespace, pod.metadata.name
        self.pods[key] = pod
        self._follow(key)

    def drop(self, pod: Pod) -> None:
        """It is gone, or another now."""
        key = pod.metadata.namespace, pod.metadata.name
        self.pods.pop(key, None)
        self._follow(key)

    def apply_claim(self, old: ResourceClaim | None, new: ResourceClaim | None) -> set[Key]:
        """A claim changed. Returns the pods, there or not, that may use others now."""
        before, after = _made_for(old), _made_for(new)
        if before == after:
            return set()
        changed = set()
        for made, there in ((before, False), (after, True)):
            if made is not None:
                others = tuple(key for key in self._made.pop(made.of, ()) if key != made.claim)
                if there or others:
                    self._made[made.of] = (*others, made.claim) if there else others
                changed.add(made.pod)
        for pod in changed:
            self._follow(pod)
        return changed

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

    def claim_keys(self, pod: Pod) -> Iterator[tuple[Key | None, bool]]:
        """As the function; what the status does not name yet is the one claim that was made for it."""
        return claim_keys(pod, self._made)

    def _follow(self, pod: Key) -> None:
        """Renew which claims the pod uses."""
        for claim in self._uses.pop(pod, ()):
            self.users[claim].discard(pod)
            if not self.users[claim]:
                del self.users[claim]
        known = self.pods.get(pod)
        if known is not None:
            uses = self._uses[pod] = tuple({key: None for key, _ in self.claim_keys(known) if key})
            for claim in uses:
                self.users.setdefault(claim, set()).add(pod)


def claim_keys(pod: Pod, made: Mapping[MadeFor, Sequence[Key]] = _NONE) -> Iterator[tuple[Key | None, bool]]:
    """The pod's claims in its order, and whether each was made for the pod; None while it is not known.

    A template that needed no claim is left out. `made`: claims that say that they were made for a pod.
    """
    told: Mapping[str, str | None] = {
        status.name: status.resource_claim_name for status in pod.status.resource_claim_statuses
    }
    for entry in pod.spec.resource_claims:
        if entry.resource_claim_name:
            yield (pod.metadata.namespace, entry.resource_claim_name), False
        elif entry.name not in told:
            found = made.get((pod.metadata.namespace, pod.metadata.uid, entry.name), ())
            yield (found[0] if len(found) == 1 else None), True
        elif (name := told[entry.name]) is not None:
            yield (pod.metadata.namespace, name), True


def belongs(claim: ResourceClaim, pod: Pod) -> bool:
    """The claim was made for the pod."""
    return any(
        owner.controller and owner.uid == pod.metadata.uid for owner in claim.metadata.owner_references
    )


def _made_for(claim: ResourceClaim | None) -> _Made | None:
    """What the claim says of itself."""
    if claim is None:
        return None
    name = claim.metadata.annotations.get(POD_CLAIM_NAME)
    owner = next((one for one in claim.metadata.owner_references if one.controller), None)
    if name is None or owner is None or owner.kind != "Pod":
        return None
    namespace = claim.metadata.namespace
    return _Made((namespace, owner.uid, name), (namespace, claim.metadata.name), (namespace, owner.name))


def was_scheduled(old: Pod, new: Pod) -> bool:
    """kube-scheduler bound the pod, or said something else of it."""
    return old.spec.node_name != new.spec.node_name or old.status.conditions != new.status.conditions


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
