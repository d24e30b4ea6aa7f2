"""What a pod wants of the allocator now: claims that wait, claims it has, or why there is nothing to decide.

Shared by the controller, which acts on it, and by `tandem plan` and `tandem explain`, which tell it.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.ownership import Owner, Ownership
from controller.queue import Rank
from controller.reserved import MOST_RESERVED, is_closed, why_closed
from controller.state import ClusterState
from driver.kube.objects import Pod, ResourceClaim


@dataclass(frozen=True, slots=True)
class Wish:
    """A pod, its claims that are ours to allocate, those that are allocated already, and those that
    kube-scheduler allocates from other drivers' devices.
    """

    pod: Pod
    wanted: tuple[ResourceClaim, ...]
    allocated: tuple[ResourceClaim, ...]
    others: tuple[ResourceClaim, ...] = ()

    @property
    def subjects(self) -> list[str]:
        """Whose failures count."""
        return [self.pod.metadata.uid, *(claim.metadata.uid for claim in self.wanted)]


@dataclass(frozen=True, slots=True)
class NoWish:
    """Nothing to decide for the pod now.

    Attributes:
        reason: why, for people.
        not_ours: the claim that nobody but we would notice is stuck.
        refused: the pod cannot use a claim, and nobody else would say so.
    """

    reason: str
    not_ours: ResourceClaim | None = None
    refused: bool = False


class Wishes:
    """Reads wishes off the state; `ownership` None means that every claim is to be allocated."""

    def __init__(self, state: ClusterState, ownership: Ownership | None) -> None:
        self._state = state
        self._ownership = ownership

    def of(self, pod: Pod) -> Wish | NoWish:
        """What the pod wants of us now."""
        state = self._state
        if pod.metadata.deletion_timestamp:
            return NoWish("the pod is being deleted")
        if pod.spec.scheduling_gates:
            gates = ", ".join(gate.name for gate in pod.spec.scheduling_gates)
            return NoWish(f"the pod waits for its scheduling gates to be lifted: {gates}")
        claims = state.claims_of(pod)
        if claims is None:
            return NoWish(self._missing(pod))
        wanted: list[ResourceClaim] = []
        allocated: list[ResourceClaim] = []
        others: list[ResourceClaim] = []
        for claim in {claim.metadata.uid: claim for claim in claims}.values():
            name = claim.metadata.name
            if problem := state.unreadable.problems.get(claim.metadata.uid):
                return NoWish(f"claim {name} cannot be read: {problem}")
            if claim.metadata.deletion_timestamp:
                return NoWish(f"claim {name} is being deleted")
            if claim.metadata.uid in state.assumed:
                return NoWish(f"the allocation of claim {name} is being written")
            if claim.status.allocation is not None:
                allocated.append(claim)
                continue
            match self._owner(claim):
                case Owner.OURS:
                    wanted.append(claim)
                case Owner.MIXED:
                    message = (
                        f"some requests want devices of {state.driver_name}, others do not: a claim "
                        "is allocated as a whole, so this one is left to kube-scheduler; use one claim for "
                        "each driver"
                    )
                    return NoWish(message, not_ours=claim)
                case Owner.UNKNOWN:
                    return NoWish(f"claim {name} names a DeviceClass that is not there")
                case Owner.OTHERS:
                    others.append(claim)
        closed = next((claim for claim in allocated if is_closed(claim, pod)), None)
        if closed is not None:
            held = state.books.held(closed.metadata.uid)
            ours = bool(wanted) or (held is not None and held.placement is not None)
            return NoWish(why_closed(closed), refused=ours)
        if not wanted and not allocated:
            return NoWish(f"no claim of the pod is for devices of {state.driver_name}")
        if wanted and not pod.spec.node_name and (why := state.volumes.why_waits(pod)):
            return NoWish(why)
        return Wish(pod, tuple(wanted), tuple(allocated), tuple(others))

    def sharers(self, wish: Wish) -> list[Pod]:
        """Other pods that wait for the same claims, in their order: the node should do for them too."""
        state = self._state
        keys = {
            user
            for claim in wish.wanted
            for user in state.waiting_users((claim.metadata.namespace, claim.metadata.name))
        }
        pods = [state.claimants[key] for key in keys]
        others = [p for p in pods if p.metadata.uid != wish.pod.metadata.uid and not p.spec.scheduling_gates]
        return sorted(others, key=rank)[: MOST_RESERVED - 1]

    def interface_names(self, wish: Wish) -> set[str]:
        """Names that are taken in the pods which will get the new interfaces."""
        state = self._state
        pods = [wish.pod, *self.sharers(wish)]
        return {
            name
            for pod in pods
            for claim in state.claims_of(pod) or ()
            if (held := state.books.held(claim.metadata.uid)) is not None
            for name in held.interfaces
        }

    def _missing(self, pod: Pod) -> str:
        """Why `claims_of` has no answer."""
        for key, made_for_pod in self._state.claim_keys(pod):
            if key is None:
                return "not all claims of the pod are made from their templates yet"
            claim = self._state.claims.get(key)
            if claim is None:
                return f"claim {key[1]} is not there"
            if problem := self._state.unreadable.problems.get(claim.metadata.uid):
                return f"claim {key[1]} cannot be read: {problem}"
            if made_for_pod and self._state.claims_of(pod) is None:
                return f"claim {key[1]} is not the pod's"
        return "not all claims of the pod are there"

    def _owner(self, claim: ResourceClaim) -> Owner:
        if self._ownership is None:
            return Owner.OURS
        return self._ownership.of(claim, self._state.classes)


def rank(pod: Pod) -> Rank:
    """Higher priority first, then the older."""
    key = pod.metadata.namespace, pod.metadata.name
    return -(pod.spec.priority or 0), pod.metadata.creation_timestamp or "", key
