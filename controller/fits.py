"""What kube-scheduler would say of a pod on each node, devices aside: the questions of `fit` and `neighbours`
put to the cluster's state, a draft's placements included.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller import fit
from controller.books import node_of
from controller.effort import Effort, Interrupted
from controller.filters import volume_binding
from controller.filters.volume_binding import PodVolumes
from controller.nodes import NodeRecord
from controller.other_claims import Asked
from controller.pod_rules import neighbour
from controller.quest import Quest
from controller.refusals import Misfits, needs
from controller.retry_order import UNTRIED, RetryOrder, RetryRank
from controller.state import ClusterState
from driver.kube.objects import Node, Pod

_CONDITIONS_A_STEP = 100
"""Of node affinity, a pod's or its volumes', looked at for one node in a tenth of a millisecond."""

_SHARERS = 32
"""Of the pods that wait for the same claims the first so many are asked."""


class Fits:
    """What kube-scheduler would say of the quest's pod, devices aside."""

    def __init__(
        self,
        state: ClusterState,
        quest: Quest,
        misfits: Misfits | None = None,
        others: Asked | None = None,
        effort: Effort | None = None,
    ) -> None:
        """With `misfits`, for a look at many nodes, what is known of pods with equal needs is used. `others`
        says where the pod's claims of other drivers can be had; None: it has none. From `effort` is taken
        what a long node affinity and many volumes cost; when it is used up, questions about more nodes raise
        `Interrupted`.
        """
        self._effort = effort or Effort()
        self._conditions = fit.conditions(quest.pod) // _CONDITIONS_A_STEP
        self._looked = 0
        """Terms and volumes, on account of the pod's volumes."""
        self.gave_up = False
        self._others = others
        self._state = state
        self._quest = quest
        self._requests = fit.pod_requests(quest.pod)
        self.needs = needs(quest.pod, self._requests) if misfits is not None else b""
        bound = bool(quest.pod.spec.node_name)  # past kube-scheduler and its filters
        # What is promised to the pod itself is not known of others.
        own = bound or quest.allocated or quest.pod.status.nominated_node_name
        self._closed = misfits.of(self.needs) if misfits is not None and not own else {}
        self._beside = quest.draft.neighbours if quest.draft is not None else ()
        self._order = _order(state, quest) if quest.tried else None
        self._volumes = None if bound else state.volumes.of(quest.pod)
        self._no_volumes = _closed_by_volumes(state, quest.pod, self._volumes, misfits)
        self._around = None if bound else state.neighbours.ask(quest.pod, self._beside)

    @property
    def minds_neighbours(self) -> bool:
        """The pods around may close nodes to the pod."""
        return self._around is not None

    @property
    def looks_around(self) -> bool:
        """Whether a node does may depend on other nodes."""
        return self._around is not None and self._around.looks_around

    def best_rank(self) -> RetryRank:
        """The best that a node may have in the order of tries."""
        if self._order is None:
            return UNTRIED
        left_out = self._quest.left_out
        return min((self._rank(name) for name in self._state.nodes if name not in left_out), default=UNTRIED)

    def first(self, names: Iterable[str]) -> tuple[RetryRank, int, str] | None:
        """Of the nodes that the pod fits the one that is to be tried first: its rank in the order of tries,
        how many sharers would be left out (the fewest), and the first such name.
        """
        if self._order is None:
            first = self._first(names)
            return (UNTRIED, *first) if first is not None else None
        by_rank: dict[RetryRank, list[str]] = {}
        for name in names:
            by_rank.setdefault(self._rank(name), []).append(name)
        for rank in sorted(by_rank):
            first = self._first(by_rank[rank])
            if first is not None:
                return rank, *first
        return None

    def _rank(self, name: str) -> RetryRank:
        node = self._state.nodes[name].node
        return self._order.rank(name, node.metadata.labels) if self._order and node is not None else UNTRIED

    def _first(self, names: Iterable[str]) -> tuple[int, str] | None:
        best: tuple[int, str] | None = None
        for name in names:
            if name in self._closed:
                continue
            record = self._state.nodes[name]
            if self.why_not(record) is None:
                missing = self._sharers_left_out(record)
                if not missing:
                    return 0, name
                if best is None or missing < best[0]:
                    best = missing, name
        return best

    def why_not(self, record: NodeRecord) -> str | None:
        """A reason, or None if the pod fits the node."""
        node, quest = record.node, self._quest
        if node is None:
            return "the node is gone"
        if record.name in quest.left_out:
            return "left out for a while, the pod was not bound there"
        if quest.within is not None and node.metadata.labels.get(quest.within[0]) != quest.within[1]:
            return f"not of {quest.within[0]}={quest.within[1]}"
        for claim in quest.allocated:
            allocation = claim.status.allocation
            selector = allocation.node_selector if allocation is not None else None
            if selector is not None and not fit.selects(selector, node):
                return f"claim {claim.metadata.name} of the pod is allocated elsewhere"
        if quest.pod.spec.node_name:
            return fit.repelled(quest.pod, node)
        reason = self._closed.get(record.name) or self._closes(record, node)
        if reason is None and self._volumes is not None:
            reason = self._no_volumes.get(record.name) or self._volumes_close(self._volumes, node)
        if reason is None and self._around is not None:
            reason = self._around.why_not(node)
        if reason is None and self._others is not None:
            reason = self._others.why_not(record.name)
        return reason

    def _closes(self, record: NodeRecord, node: Node) -> str | None:
        """Why the node is closed to the pod, neighbours aside."""
        if self._conditions:
            too_long = self._too_long("terms of node affinity")
            if too_long is not None:
                return too_long
            self._effort.spend(self._conditions)
        reason = fit.why_not(self._quest.pod, node, self._requests, self._used(record, (self._quest.pod,)))
        if reason is not None and self._quest.draft is None:
            self._closed[record.name] = reason
        return reason

    def _volumes_close(self, volumes: PodVolumes, node: Node) -> str | None:
        """Why the pod's volumes cannot be had on the node."""
        too_long = self._too_long("volumes") if self._looked >= _CONDITIONS_A_STEP else None
        if too_long is not None:
            return too_long
        before = self._looked // _CONDITIONS_A_STEP
        reason = volume_binding.why_not(volumes, node, self._look)
        self._effort.spend(self._looked // _CONDITIONS_A_STEP - before)
        if reason is not None:
            self._no_volumes[node.metadata.name] = reason
        return reason

    def _look(self, conditions: int) -> None:
        self._looked += conditions

    def _too_long(self, what: str) -> str | None:
        """Why there is no look at a node where nothing is left of the last turn's effort.

        Raises:
            Interrupted: nothing is left of this turn's.
        """
        if not self._effort.over:
            return None
        if not self._effort.last:
            raise Interrupted
        self.gave_up = True
        return f"not looked at: the search gave up, fewer {what} would help"

    def _used(self, record: NodeRecord, beside: Iterable[Pod]) -> fit.Amounts:
        """What all others take of the node."""
        used = record.used_beside([p.metadata.uid for p in beside], self._quest.pod.spec.priority or 0)
        drafted = self._quest.draft.used.get(record.name) if self._quest.draft is not None else None
        return used if drafted is None else fit.total_of([used, drafted])

    def _sharers_left_out(self, record: NodeRecord) -> int:
        """How many of the first sharers would not fit beside the pod and each other."""
        pod, sharers = self._quest.pod, self._quest.sharers[:_SHARERS]
        if not sharers or record.node is None:
            return 0
        used = dict(self._used(record, (pod, *sharers)))
        fit.add(used, self._requests)
        beside = [*self._beside, neighbour(pod, record.name)]
        missing = 0
        for sharer in sharers:
            requests = fit.pod_requests(sharer)
            closed = (
                fit.why_not(sharer, record.node, requests, used)
                or self._state.volumes.why_not(sharer, record.node)
                or self._state.neighbours.why_not(sharer, record.node, beside)
            )
            if closed is None:
                fit.add(used, requests)
                beside.append(neighbour(sharer, record.name))
            else:
                missing += 1
        return missing


def _closed_by_volumes(
    state: ClusterState, pod: Pod, volumes: PodVolumes | None, misfits: Misfits | None
) -> dict[str, str]:
    """Nodes that are known to be closed by the pod's volumes; to be added to."""
    if volumes is None or misfits is None or volumes.in_use:
        return {}
    return misfits.of(f"volumes {state.volumes.version} {pod.metadata.uid}".encode())


def _order(state: ClusterState, quest: Quest) -> RetryOrder:
    records = {name: record for name in quest.tried if (record := state.nodes.get(name)) is not None}
    labels = {n: record.node.metadata.labels for n, record in records.items() if record.node is not None}
    return RetryOrder(quest.tried, labels)


def pins(quest: Quest) -> list[str]:
    """Nodes that the pod is bound to by name."""
    pins = [
        node
        for claim in quest.allocated
        if claim.status.allocation and (node := node_of(claim.status.allocation))
    ]
    if quest.pod.spec.node_name:
        pins.append(quest.pod.spec.node_name)
    required = fit.required_affinity(quest.pod)
    terms = required.node_selector_terms if required is not None else []
    if len(terms) == 1:  # so a DaemonSet pins its pods
        pins += [
            need.values[0]
            for need in terms[0].match_fields
            if (need.key, need.operator, len(need.values)) == ("metadata.name", "In", 1)
        ]
    return pins
