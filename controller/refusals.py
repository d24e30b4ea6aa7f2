"""What was refused, and who else is refused with it: a thousand pods of one Job are told no by one look.

Two memories, both kept up by the nodes' generations alone: a node that was closed to a pod stays closed until
it changes for the better (`Misfits`), and so does the cluster to all pods that ask for the same (`Refusals`).
Pods ask for the same when nothing that a decision looks at tells them apart: what their claims want, and of
their own words those that kube-scheduler's filters read. Labels and namespace are among these only where some
pod has a rule about others that could mean them.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from controller import fit
from controller.nodes import NodeIndex
from controller.quest import Quest
from driver.kube.objects import Pod

_KEPT_MISFITS: Final = 64
"""Kinds of pods, each with up to all nodes."""
_KEPT_REFUSALS: Final = 4096

T = TypeVar("T")


def needs(pod: Pod, requests: fit.Amounts) -> bytes:
    """Equal for pods of which `fit` says the same on every node."""
    spec = pod.spec
    said = (requests, spec.tolerations, spec.node_selector, fit.required_affinity(pod), spec.priority or 0)
    return msgspec.json.encode(said, order="sorted")


def likeness(quest: Quest, needs: bytes, *, minds_neighbours: bool) -> Hashable:
    """Equal for quests, for the same devices, that are refused together; None: it is like no other.

    Args:
        quest: the question.
        needs: of its pod.
        minds_neighbours: the pods around may close nodes to it.
    """
    pod = quest.pod
    own = quest.allocated or quest.left_out or quest.draft is not None
    if own or pod.spec.volumes or pod.spec.node_name or pod.status.nominated_node_name:
        return None
    if not minds_neighbours:
        return needs, quest.within
    spec = msgspec.structs.replace(pod.spec, resource_claims=[])
    around = (pod.metadata.namespace, pod.metadata.labels, spec)
    return needs, quest.within, msgspec.json.encode(around, order="sorted")


@dataclass(slots=True)
class _Closed:
    """Why nodes are closed, by name, as of a generation."""

    generation: int
    why: dict[str, str]


class Misfits:
    """Nodes that what a pod needs itself closes to it, neighbours aside. Not thread-safe."""

    def __init__(self, index: NodeIndex) -> None:
        self._index = index
        self._known: dict[bytes, _Closed] = {}

    def of(self, needs: bytes) -> dict[str, str]:
        """Reasons by node, to be added to by who finds more; valid until the next change."""
        closed = self._known.pop(needs, None) or _Closed(self._index.generation, {})
        if len(self._known) >= _KEPT_MISFITS:
            del self._known[next(iter(self._known))]  # the one not asked for the longest
        self._known[needs] = closed
        if closed.generation < self._index.generation:
            for record in self._index.since(closed.generation):
                closed.why.pop(record.name, None)
            closed.generation = self._index.generation
        return closed.why


@dataclass(slots=True)
class Refused(Generic[T]):
    """What was said at the last look, and the generation up to which it holds for all nodes."""

    generation: int
    said: T


class Refusals(Generic[T]):
    """The last refusal by likeness. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Refused[T]] = {}

    def of(self, alike: Hashable) -> Refused[T] | None:
        """The last refusal of one that was alike, however long ago."""
        return self._known.get(alike) if alike is not None else None

    def put(self, alike: Hashable, generation: int, said: T) -> None:
        """All nodes refuse who is alike."""
        if alike is None:
            return
        if len(self._known) >= _KEPT_REFUSALS and alike not in self._known:
            self._known.clear()
        self._known[alike] = Refused(generation, said)
