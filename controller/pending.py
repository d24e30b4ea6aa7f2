"""Our allocations that are on their way: decided, being written, written and not reserved by a pod yet; and
those of them that came back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from controller.books import Held
from controller.claimants import Key
from driver.kube.objects import AllocationResult, Pod, ResourceClaim
from driver.names import CLAIM_FINALIZER


@dataclass(slots=True)
class Assumed:
    """An allocation that we decided and the watch does not show yet. `version` is known once written."""

    key: Key
    allocation: AllocationResult
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An allocation of ours was taken back, by kube-scheduler or by us, while pods still wait for it."""

    claim: ResourceClaim
    node: str
    pods: tuple[Key, ...]


@dataclass(slots=True)
class Pending:
    """Follows claims and writes one change at a time; times are monotonic seconds.

    Attributes:
        assumed: by the claim's UID.
        unreserved: claims that we allocated and no pod has reserved, oldest first, with the time since when.
        failures: since somebody looked.
    """

    assumed: dict[str, Assumed] = field(default_factory=dict)
    unreserved: dict[Key, float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def settle(self, claim: ResourceClaim | None) -> None:
        """Forget the assumption as soon as the watch is at least as new as our write."""
        assumed = self.assumed.get(claim.metadata.uid) if claim else None
        if claim is None or assumed is None:
            return
        seen = assumed.version is not None and int(claim.metadata.resource_version) >= assumed.version
        if seen or claim.status.allocation is not None:
            del self.assumed[claim.metadata.uid]

    def note_failure(
        self, old: ResourceClaim, new: ResourceClaim, before: Held, waiting: Sequence[Pod]
    ) -> None:
        """The claim changed, which held `before` and for which pods wait: did an allocation come back?"""
        if new.status.allocation is not None or before.placement is None or before.node is None:
            return
        if new.metadata.deletion_timestamp or CLAIM_FINALIZER not in new.metadata.finalizers:
            return  # the end of its use, not of a try
        uids = {pod.metadata.uid for pod in waiting}
        if not old.status.reserved_for or any(user.uid in uids for user in old.status.reserved_for):
            keys = tuple((pod.metadata.namespace, pod.metadata.name) for pod in waiting)
            self.failures.append(Failure(new, before.node, keys))

    def note_unreserved(self, key: Key, claim: ResourceClaim | None, held: Held | None, now: float) -> None:
        """The claim changed, or nothing is known of it any more; `held` is what it holds now."""
        if (
            claim is None
            or held is None
            or held.placement is None
            or claim.status.allocation is None
            or claim.status.reserved_for
            or claim.metadata.deletion_timestamp
        ):
            self.unreserved.pop(key, None)
        else:
            self.unreserved.setdefault(key, now)
