"""Who is in which gang, who of them has devices, and on what terms: read off the cluster, kept nowhere else.

The terms of a gang are where its members are: the rails in their allocations, and the label of their nodes.
So a controller that starts, or takes over, knows them at once, and they end with the last member.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.gangs.membership import GangConflict, GangId, differ, gang_asked, gang_id, sized
from controller.state import ClusterState, Key
from controller.wish import Wish, Wishes, rank
from driver.gang import Gang
from driver.kube.objects import Pod, ResourceClaim


@dataclass(frozen=True, slots=True)
class Terms:
    """What joins must comply with.

    Attributes:
        rails: for each allocated claim of the gang with NICs: how many NICs, and on which rails they are.
        domain: value of the gang's node label; None: not settled.
    """

    rails: tuple[tuple[int, frozenset[int]], ...] = ()
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Roll:
    """A gang as it is now.

    Attributes:
        allocated: members that have all their devices, or will have as soon as it is written.
        waiting: members that can be decided now, in the order of work.
        held_up: members of which something else is to happen first, and what.
        asking: UIDs of claims that are on the gang's rails.
        conflict: why nothing can be decided, as long as nobody changes anything; empty where it can.
    """

    id: GangId
    gang: Gang
    allocated: tuple[Pod, ...] = ()
    waiting: tuple[Wish, ...] = ()
    held_up: tuple[tuple[Pod, str], ...] = ()
    asking: frozenset[str] = frozenset()
    terms: Terms = Terms()
    conflict: str = ""

    @property
    def size(self) -> int:
        """Members that start together."""
        return self.gang.size or 0

    @property
    def missing(self) -> int:
        """So many more must be there before any of those that wait is placed."""
        return max(0, self.size - len(self.allocated) - len(self.waiting))

    @property
    def next(self) -> int:
        """So many of those that wait are placed together: all that the size wants, then one by one."""
        return max(1, self.size - len(self.allocated))


@dataclass(frozen=True, slots=True)
class _Entry:
    id: GangId | None
    gang: Gang
    asking: frozenset[str]
    conflict: str


class GangBook:
    """Members by gang. Follows the state pod by pod; not thread-safe."""

    def __init__(self, state: ClusterState, wishes: Wishes) -> None:
        self._state = state
        self._wishes = wishes
        self._entries: dict[Key, _Entry] = {}
        self._members: dict[GangId, set[Key]] = {}

    def update(self, key: Key) -> set[GangId]:
        """The pod, or one of its claims, changed. Returns the gangs that this concerns."""
        old, new = self._entries.pop(key, None), self._read(key)
        if new is not None:
            self._entries[key] = new
        before, after = old.id if old else None, new.id if new else None
        if before is not None and before != after:
            self._members[before].discard(key)
            if not self._members[before]:
                del self._members[before]
        if after is not None:
            self._members.setdefault(after, set()).add(key)
        return {one for one in (before, after) if one is not None}

    def has(self, pod: Key) -> bool:
        """The pod is, or wants to be, a member of a gang."""
        return pod in self._entries

    def alone(self, pod: Key) -> str:
        """Why a pod that asks for a gang has none; empty where it has one, or asks for none."""
        entry = self._entries.get(pod)
        return entry.conflict if entry is not None and entry.id is None else ""

    def gang_of(self, pod: Key) -> GangId | None:
        """The gang that the pod is a member of."""
        entry = self._entries.get(pod)
        return entry.id if entry is not None else None

    def pods(self, gang: GangId) -> list[Pod]:
        """All members, in the order of work."""
        pods = [self._state.claimants[key] for key in self._members.get(gang, ())]
        return sorted(pods, key=rank)

    def size(self, gang: GangId) -> int:
        """How many members start together, as far as the gang says one thing; 1 where it does not."""
        asked = [self._entries[key].gang for key in self._members.get(gang, ())]
        try:
            return self._sized(gang, asked[0]).size or 1 if asked else 1
        except GangConflict:
            return 1

    def roll(self, gang: GangId) -> Roll | None:
        """The gang as it is now; None where it has no member."""
        pods = self.pods(gang)
        entries = [self._entries[_key(pod)] for pod in pods]
        if not entries:
            return None
        asking = frozenset(uid for entry in entries for uid in entry.asking)
        try:
            asked = self._agreed(gang, pods, entries)
        except GangConflict as conflict:
            waiting = [wish for pod in pods if isinstance(wish := self._wishes.of(pod), Wish) and wish.wanted]
            return Roll(gang, entries[0].gang, waiting=tuple(waiting), conflict=str(conflict))
        allocated: list[Pod] = []
        waiting = []
        held_up: list[tuple[Pod, str]] = []
        for pod in pods:
            wish = self._wishes.of(pod)
            if isinstance(wish, Wish) and wish.wanted:
                waiting.append(wish)
            elif isinstance(wish, Wish) or self._is_allocated(pod):
                allocated.append(pod)
            else:
                held_up.append((pod, wish.reason))
        terms = Terms(tuple(self._rails(pods, asking)), self._domain(pods, asked.within))
        return Roll(gang, asked, tuple(allocated), tuple(waiting), tuple(held_up), asking, terms)

    def _read(self, key: Key) -> _Entry | None:
        pod = self._state.claimants.get(key)
        if pod is None or pod.metadata.deletion_timestamp or pod.spec.scheduling_gates:
            return None
        claims = self._state.claims_of(pod)
        if claims is None:
            return None
        try:
            gang, asking = gang_asked(claims, self._state.classes, self._state.driver_name)
        except GangConflict as conflict:
            return _Entry(gang_id(pod), Gang(), frozenset(), str(conflict))
        if gang is None:
            return None
        found = gang_id(pod)
        alone = (
            "" if found else "gang: the pod has no label tandem-dra.io/gang, no schedulingGroup and no owner"
        )
        return _Entry(found, gang, asking, alone)

    def _agreed(self, gang: GangId, pods: Sequence[Pod], entries: Sequence[_Entry]) -> Gang:
        """What all members say.

        Raises:
            GangConflict: they do not say the same.
        """
        first = entries[0].gang
        for pod, entry in zip(pods, entries, strict=True):
            if entry.conflict:
                raise GangConflict(f"pod {pod.metadata.name}: {entry.conflict}")
            if entry.gang != first:
                raise GangConflict(differ("pod", pods[0].metadata.name, first, pod.metadata.name, entry.gang))
        return self._sized(gang, first)

    def _sized(self, gang: GangId, asked: Gang) -> Gang:
        group = (gang.namespace, gang.name) if gang.kind == "PodGroup" else ("", "")
        return sized(asked, self._state.pod_groups.get(group), gang)

    def _is_allocated(self, pod: Pod) -> bool:
        """What it asks for as a member is allocated, or will be as soon as it is written."""
        asking = self._entries[_key(pod)].asking
        claims = [c for c in self._state.claims_of(pod) or () if c.metadata.uid in asking]
        return bool(claims) and all(self._state.allocation_of(claim) is not None for claim in claims)

    def _rails(self, pods: Sequence[Pod], asking: frozenset[str]) -> Iterator[tuple[int, frozenset[int]]]:
        seen: set[str] = set()
        for claim in self._claims(pods):
            held = self._state.books.held(claim.metadata.uid)
            if claim.metadata.uid not in asking or claim.metadata.uid in seen or held is None:
                continue
            seen.add(claim.metadata.uid)
            rails = [i.rail for i in held.placement.interfaces] if held.placement is not None else []
            known = frozenset(rail for rail in rails if rail is not None)
            if known:
                yield len(rails), known

    def _domain(self, pods: Sequence[Pod], label: str) -> str | None:
        if not label:
            return None
        for claim in self._claims(pods):
            held = self._state.books.held(claim.metadata.uid)
            record = self._state.nodes.get(held.node) if held is not None and held.node else None
            if record is not None and record.node is not None:
                value = record.node.metadata.labels.get(label)
                if value is not None:
                    return value
        return None

    def _claims(self, pods: Sequence[Pod]) -> Iterator[ResourceClaim]:
        for pod in pods:
            yield from self._state.claims_of(pod) or ()


def _key(pod: Pod) -> Key:
    return pod.metadata.namespace, pod.metadata.name
