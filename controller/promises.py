"""What pods take of nodes: those that are bound, and those that a node is promised to.

A node is promised to a pod that kube-scheduler nominated for it, or whose claim has an allocation there.
Until the pod is bound its room is kept, and to others it is a neighbour already.
"""

from __future__ import annotations

from collections.abc import Collection

from controller import fit
from controller.neighbours import Neighbours
from controller.nodes import NodeIndex
from controller.pod_rules import neighbour
from driver.kube.objects import Pod

_ANY_PRIORITY = 2**31
"""Higher than any pod's: what is promised with it counts for all."""


class Promises:
    """Keeps the nodes' records and the neighbours true to the pods. Not thread-safe."""

    def __init__(self, index: NodeIndex, neighbours: Neighbours) -> None:
        self._index = index
        self._neighbours = neighbours
        self._promised_on: dict[str, str] = {}
        self._with_claims: dict[str, dict[str, Pod]] = {}

    def with_claims(self, node: str) -> Collection[Pod]:
        """Pods with several claims that the node is promised to."""
        return self._with_claims.get(node, {}).values()

    def bound(self, pod: Pod) -> None:
        """The pod is there, and has its node if it names one."""
        node = pod.spec.node_name
        if node:
            fit.add(self._index.record(node).used, fit.pod_requests(pod))
            self._settled(pod, node)

    def unbound(self, pod: Pod) -> None:
        """It is not there any more, or is another now."""
        if pod.spec.node_name:
            fit.add(self._index.record(pod.spec.node_name).used, fit.pod_requests(pod), -1)
            self._left(pod)

    def renew(self, pod: Pod, pinned: str | None) -> None:
        """Keep room where an allocation pins the pod to a node, or kube-scheduler nominated it for one."""
        self.end(pod)
        node, priority = pinned, _ANY_PRIORITY
        if node is None:
            node, priority = pod.status.nominated_node_name, pod.spec.priority or 0
        if node and not pod.spec.node_name and not pod.metadata.deletion_timestamp:
            self._promised_on[pod.metadata.uid] = node
            if len(pod.spec.resource_claims) > 1:
                self._with_claims.setdefault(node, {})[pod.metadata.uid] = pod
            self._index.record(node).promised[pod.metadata.uid] = (priority, fit.pod_requests(pod))
            self._settled(pod, node)

    def end(self, pod: Pod, bound_to: str = "") -> None:
        """No room is kept for the pod; where it is bound to that node, none came free."""
        node = self._promised_on.pop(pod.metadata.uid, None)
        if node is not None:
            del self._index.record(node).promised[pod.metadata.uid]
            there = self._with_claims.get(node, {})
            if there.pop(pod.metadata.uid, None) is not None and not there:
                del self._with_claims[node]
            if node != bound_to:
                self._index.improved(node)
            if not pod.spec.node_name:
                self._left(pod)

    def _settled(self, pod: Pod, node: str) -> None:
        if self._neighbours.put(neighbour(pod, node)):
            self._index.moved_on()

    def _left(self, pod: Pod) -> None:
        if self._neighbours.drop(pod):
            self._index.moved_on()
