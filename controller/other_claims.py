"""Where a pod's claims of other drivers can be allocated: the allocator is asked as kube-scheduler would be.

A node that cannot serve them is no place for the pod: an allocation of ours there would pin it where it never
runs. The answer is yes or no, shared by all nodes whose other devices are in equal state. If a node is
promised to other pods, their claims of that kind come first. What the allocator cannot judge (a feature that
it does not have, a selector that fails, a search that gave up) counts as a yes: then kube-scheduler's verdict
decides.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit
from controller.allocator.verdict import Allocation, Refusal
from controller.answers import Answer, Answers, Shape
from controller.effort import Effort, Interrupted
from controller.equal import Standing
from controller.nodes import NodeIndex, NodeRecord
from controller.ownership import Owner, Ownership
from controller.pools import Pools
from controller.quest import Quest
from controller.state import ClusterState
from driver.errors import ConfigError
from driver.kube.objects import DeviceClass, ResourceClaim

_STEPS: Final = 200
"""A search that takes longer counts as a yes: it is not our device that depends on it."""
_AS_KUBE_SCHEDULER: Final = Options(driver="", managed_only=False, steps=_STEPS)
"""Our taint is tolerated by who says so."""
_NOT_FOUND = Refusal(claim="", subject="search", message="search: gave up", gave_up=True)


class OtherClaims:
    """Asks over a ClusterState. Keeps answers; not thread-safe."""

    def __init__(self, state: ClusterState, cel: CelCache) -> None:
        self._state = state
        self._ownership = Ownership(state.driver_name, cel, state.known)
        self._answers = Answers(_Theirs(state), _AS_KUBE_SCHEDULER, cel)

    def within(self, effort: Effort) -> None:
        """Answer with this effort from now on; what takes more raises `Interrupted`, or, where there is no
        further turn, cannot be told.
        """
        self._answers.effort = effort

    def ask(self, quest: Quest) -> Asked | None:
        """The question of the quest's pod; None where it has no such claims. Good until the next change."""
        others, claims = self._state.others, tuple(c for c in quest.others if c.spec.devices.requests)
        if not claims or quest.pod.spec.node_name:
            return None
        quest = replace(quest, others=claims)
        others.wake(self._state.nodes)
        try:
            others.index.settle()
        except ConfigError:  # some slice of another driver; kube-scheduler will say what it thinks of it
            return None
        return Asked(self._state, others.index, self._answers, self._ownership, quest)


class Asked:
    """One pod's question, about any node."""

    def __init__(
        self,
        state: ClusterState,
        index: NodeIndex,
        answers: Answers,
        ownership: Ownership,
        quest: Quest,
    ) -> None:
        self._state = state
        self._index = index
        self._answers = answers
        self._ownership = ownership
        self._quest = quest
        self._shape = answers.shape(self._of(quest.others), named=len(quest.others) > 1)
        self._texts: dict[str, str] = {}

    @property
    def shape(self) -> Hashable:
        """Equal for claims that have the same answers."""
        return self._shape

    def why_not(self, node: str) -> str | None:
        """Why the claims cannot be allocated there; None if they can, or if that is not known."""
        record = self._index.records.get(node)
        if record is None or record.published is None:
            return None
        answer = self._answer(self._shape, record)
        if isinstance(answer, Refusal) and _refuses(answer):
            return self._text(answer.message)
        first: tuple[ResourceClaim, ...] = ()
        for claims in self._promised(node):
            more = (*first, *claims)
            if not _refuses(self._answer(self._shape_of(more), record)):
                first = more
        if first and _refuses(self._answer(self._shape_of((*first, *self._quest.others)), record)):
            return self._text("those that are left are promised to other pods")
        return None

    def allocation(self, node: str) -> Allocation | None:
        """What they could get there, in the node's terms; None where nothing can be told."""
        record = self._index.records.get(node)
        if record is None or record.published is None:
            return None
        standing = self._standing(record)
        answer = self._answer(self._shape, record)
        if isinstance(answer, Refusal):
            return None
        quest = self._of(self._quest.others)
        return self._answers.moved(self._shape, answer, quest, record, standing)

    def _of(self, claims: tuple[ResourceClaim, ...]) -> Quest:
        return Quest(self._quest.pod, claims)

    def _shape_of(self, claims: tuple[ResourceClaim, ...]) -> Shape:
        return self._answers.shape(self._of(claims))

    def _answer(self, shape: Shape, record: NodeRecord) -> Answer:
        try:
            return self._found(shape, record)
        except Interrupted:
            if not self._answers.effort.last:
                raise
            return _NOT_FOUND

    def _found(self, shape: Shape, record: NodeRecord) -> Answer:
        standing = self._standing(record)
        if standing is record.standing and record.group is not None:
            known = self._answers.of_group(shape, record.group)
            if known is not None:
                return known
        return self._answers.of_node(shape, record, standing)

    def _standing(self, record: NodeRecord) -> Standing:
        draft = self._quest.draft
        if draft is None or not any(pool in draft.taken or pool in draft.shared for pool in record.pools):
            return record.standing
        return self._index.standing(record, draft)

    def _promised(self, node: str) -> Iterator[list[ResourceClaim]]:
        """Claims of the same kind of other pods that go there, pod by pod."""
        seen = {claim.metadata.uid for claim in self._quest.others}
        for pod in self._state.promises.with_claims(node):
            if pod.metadata.uid == self._quest.pod.metadata.uid:
                continue
            found = []
            for claim in self._state.claims_of(pod) or ():
                if claim.metadata.uid in seen or self._state.allocation_of(claim) is not None:
                    continue
                if self._ownership.of(claim, self._state.classes) is Owner.OTHERS:
                    seen.add(claim.metadata.uid)
                    found.append(claim)
            if found:
                yield found

    def _text(self, why: str) -> str:
        known = self._texts.get(why)
        if known is None:
            claims = ", ".join(claim.metadata.name for claim in self._quest.others)
            several = len(self._quest.others) > 1
            drivers = dict.fromkeys(self._drivers())
            whose = f"driver{'s' if len(drivers) > 1 else ''} {', '.join(drivers)}" if drivers else ""
            known = self._texts[why] = (
                f"{'claims' if several else 'claim'} {claims} "
                f"({whose or 'no published device is of its class'}) "
                f"{'have' if several else 'has'} no devices there: {why}"
            )
        return known

    def _drivers(self) -> Iterator[str]:
        for claim in self._quest.others:
            yield from self._ownership.drivers(claim, self._state.classes)


def _refuses(answer: Answer) -> bool:
    """Is it a no of which kube-scheduler's would be no other?"""
    return isinstance(answer, Refusal) and not (
        answer.permanent or answer.gave_up or answer.erred or answer.unsupported
    )


@dataclass(frozen=True, slots=True)
class _Theirs:
    """The cluster as kube-scheduler's allocator sees it."""

    state: ClusterState

    @property
    def index(self) -> NodeIndex:
        return self.state.others.index

    @property
    def pools(self) -> Pools:
        return self.state.others.pools

    @property
    def classes(self) -> Mapping[str, DeviceClass]:
        return self.state.classes

    @property
    def classes_generation(self) -> int:
        return self.state.classes_generation

    def network_limits(self, claims: Sequence[ResourceClaim]) -> tuple[Limit | None, ...]:
        """None: networks are ours."""
        return ()
