"""Where kube-scheduler decides: nodes whose devices carry no controller taint, and what it can place there.

A cluster may have some nodes in scheduler mode and some in controller mode. The controller leaves the former
alone. So a claim that finds no room on the latter may still be served, and a warning about it would be about
a pod that is about to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.model import NodeDevices
from controller.allocator.solve import allocating
from controller.allocator.verdict import Allocation
from controller.books import Pool
from controller.effort import TURN_STEPS, Effort, done_within
from controller.fits import Fits
from controller.other_claims import Asked
from controller.quest import Quest
from controller.state import ClusterState
from driver.kube.objects import Node, ResourceSlice

_TRIED: Final = 32
"""Nodes that are asked about one pod, those with the most free devices first."""
_KEPT: Final = 1024


class SchedulerMode:
    """Asks over a ClusterState. Not thread-safe."""

    def __init__(self, state: ClusterState, driver_name: str, cel: CelCache) -> None:
        self._state = state
        self._options = Options(driver=driver_name, managed_only=False)
        self._cel = cel
        self._built: dict[Pool, tuple[tuple[ResourceSlice, ...], Node, NodeDevices]] = {}

    def decides(self) -> bool:
        """kube-scheduler alone decides: there are nodes in scheduler mode, and no others."""
        return bool(self._state.pools.left) and not self._state.pools.handed

    def said(self) -> list[str]:
        """What is to be said of it beside the reasons of other nodes; empty where there is no such node."""
        nodes = nodes_left(self._state.pools.left)
        if not nodes or not self._state.managed_only:
            return []
        which = f"node {nodes[0]} is" if len(nodes) == 1 else f"{len(nodes)} nodes are"
        if self.decides():
            which = f"all nodes with devices of {self._options.driver} are"
        return [f"{which} in scheduler mode, where kube-scheduler decides"]

    def serves(self, quest: Quest, others: Asked | None = None) -> bool:
        """Will kube-scheduler do for the pod what is to be done? Always where it alone decides; else where a
        node in scheduler mode has the devices free and the pod fits it (with its claims of `others`). Costs
        a search for each node asked.
        """
        if self.decides():
            return True
        if not self._state.pools.left:
            return False
        fits = Fits(self._state, quest, others=others)
        effort = Effort(TURN_STEPS)
        for node, pool in self._nodes():
            record = self._state.nodes.get(node)
            if record is None or record.node is None or fits.why_not(record) is not None:
                continue
            devices = self._devices(pool, record.node)
            books = self._state.books
            work = allocating(
                quest.wanted,
                devices,
                self._state.classes,
                books.taken(pool),
                self._options,
                self._cel,
                books.shared(pool),
            )
            answer = done_within(work, effort)
            if isinstance(answer, Allocation):
                return True
        return False

    def _nodes(self) -> Sequence[tuple[str, Pool]]:
        """Nodes in scheduler mode with their pools, as many as are asked."""
        books, left = self._state.books, self._state.pools.left
        pools = sorted((len(books.taken(pool)), pool) for pool in left)
        found = ((name, pool) for _, pool in pools for name in _names(left[pool].values()))
        return [entry for entry, _ in zip(found, range(_TRIED), strict=False)]

    def _devices(self, pool: Pool, node: Node) -> NodeDevices:
        slices = tuple(self._state.pools.left[pool].values())
        known = self._built.get(pool)
        if known is not None and known[1] is node and _same(known[0], slices):
            return known[2]
        if len(self._built) >= _KEPT:
            self._built.clear()
        devices = NodeDevices.build(slices, node)
        self._built[pool] = slices, node, devices
        return devices


def nodes_left(left: Mapping[Pool, Mapping[str, ResourceSlice]]) -> tuple[str, ...]:
    """The nodes of pools that are left to kube-scheduler, by name."""
    return tuple(sorted({name for slices in left.values() for name in _names(slices.values())}))


def _names(slices: Iterable[ResourceSlice]) -> list[str]:
    return sorted({item.spec.node_name for item in slices if item.spec.node_name})


def _same(some: Sequence[ResourceSlice], others: Sequence[ResourceSlice]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
