"""What others did that the controller cannot mend but must not keep to itself.

Two claims that hold one device, allocations by other clients of devices that we manage, slices that do not
count, and pods that only kube-scheduler could serve but may not. Each is told as an Event; the first three
are counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from controller.actions import Tell
from controller.allocator.cel import SelectorsPendingError
from controller.books import Duplicate
from controller.extended import why_waits
from controller.ownership import Ownership
from controller.state import ClusterState, Key
from controller.strays import why_stray


@dataclass(frozen=True, slots=True)
class Notices:
    """`contested`: claims that we allocated, that share a device with another's claim, and that no pod has
    reserved: they can be given other devices, if their allocation is taken back.
    """

    tells: tuple[Tell, ...] = ()
    contested: tuple[Key, ...] = ()


def take(state: ClusterState, ownership: Ownership, counts: Counter[str]) -> Notices:
    """What was noticed since the last time; adds to `duplicate_devices`, `foreign_allocations` and
    `stray_slices`.
    """
    tells: list[Tell] = []
    contested: list[Key] = []
    undecided = [d for d in state.duplicates if state.assumed.keys() & {d.first_uid, d.second_uid}]
    for duplicate in state.duplicates:
        if duplicate in undecided or not _holds(state, duplicate):
            continue
        counts["duplicate_devices"] += 1
        clash, unreserved = _duplicate(state, duplicate)
        tells += clash
        contested += unreserved
    state.duplicates[:] = undecided  # our write is under way, and may yet be refused
    for uid in state.foreign:
        counts["foreign_allocations"] += 1
        claim = state.claim_by_uid(uid)
        if claim is not None:
            message = (
                "another client allocated devices that this controller manages; they count as taken, but "
                "were chosen without pairs and addresses: does the claim tolerate the taint "
                "tandem-dra.io/controller?"
            )
            tells.append(Tell(claim, "Warning", "ForeignAllocation", message))
    state.foreign.clear()
    for stray in state.pools.strays.take():
        counts["stray_slices"] += 1
        tells.append(Tell(stray, "Warning", "StraySlice", why_stray(stray)))
    for uid, problem in state.unreadable.take():
        claim = state.claim_by_uid(uid)
        if claim is not None:
            message = (
                f"this controller cannot read the claim: {problem}; it allocates nothing for it, and "
                "devices that the claim has count as taken"
            )
            tells.append(Tell(claim, "Warning", "Unreadable", message))
    for pod in state.askers.take():
        try:
            message = why_waits(pod, state.classes, ownership.owns) or ""
        except SelectorsPendingError:  # only for telling people
            continue
        if message and not state.pools.left:  # nodes in scheduler mode serve it
            tells.append(Tell(pod, "Warning", "ExtendedResource", message))
    return Notices(tuple(tells), tuple(contested))


def _holds(state: ClusterState, duplicate: Duplicate) -> bool:
    """Both claims still have the device."""
    both = [state.books.held(uid) for uid in (duplicate.first_uid, duplicate.second_uid)]
    return all(held and duplicate.device in {*held.devices, *held.shares} for held in both)


def _duplicate(state: ClusterState, duplicate: Duplicate) -> tuple[list[Tell], list[Key]]:
    """What to say on both claims, and which of them can still step aside."""
    first, second = duplicate.first_uid, duplicate.second_uid
    tells: list[Tell] = []
    aside: list[Key] = []
    for uid, other in ((first, second), (second, first)):
        claim, rival = state.claim_by_uid(uid), state.claim_by_uid(other)
        if claim is None or rival is None:
            continue
        message = (
            f"device {duplicate.device.device} of pool {duplicate.device.pool} is allocated to "
            f"claim {rival.metadata.namespace}/{rival.metadata.name} too"
        )
        tells.append(Tell(claim, "Warning", "DuplicateAllocation", message))
        key = claim.metadata.namespace, claim.metadata.name
        if key in state.unreserved:
            aside.append(key)
    return tells, aside[:1]
