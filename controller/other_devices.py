"""The devices that kube-scheduler allocates: other drivers', and ours on nodes where nothing is managed.

A pod may have a claim of ours and one of another driver, and goes where both can be allocated. So the slices
of all drivers are followed, in an index of their own: nodes that are equal for our devices stay equal
whatever other devices they have. The index is built when the first pod needs it; until then only the slices
are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from controller.books import Books, Pool
from controller.nodes import NodeIndex, NodeRecord
from controller.pools import Pools
from controller.strays import is_stray
from driver.kube.objects import Node, Pod, ResourceSlice


class OtherDevices:
    """Follows the cluster one change at a time. Not thread-safe.

    Attributes:
        index: all nodes by what they have of these devices; nothing is in it before `wake`.
        pools: the slices.
    """

    def __init__(self, driver_name: str, books: Books, promised: Callable[[str], Collection[Pod]]) -> None:
        """`promised`: pods with several claims that go to a node."""
        self._promised = promised
        self._driver_name = driver_name
        self.pools = Pools(driver_name, unmanaged=True)
        self.index = NodeIndex(self.pools, books, bare=True)
        self._awake = False

    def wake(self, nodes: Mapping[str, NodeRecord]) -> None:
        """From now on keep the index, of these nodes at first."""
        if not self._awake:
            self._awake = True
            for record in nodes.values():
                self.apply_node(record.name, record.node)

    def apply_node(self, name: str, node: Node | None) -> None:
        """A node changed; None: it is gone."""
        if self._awake:
            self.index.record(name).node = node
            self.index.republished(name)

    def apply_slice(self, old: ResourceSlice | None, new: ResourceSlice | None) -> Iterable[str]:
        """A slice changed. Returns the nodes for which pods that need the index may find more now."""
        concerned: list[Iterable[str] | None] = []
        if old is not None and not is_stray(old, self._driver_name):
            concerned.append(self.pools.remove(old))
        if new is not None and not is_stray(new, self._driver_name):
            concerned.append(self.pools.put(new))
        if not self._awake:
            return ()
        names = {name for some in concerned for name in (self.index.records if some is None else some)}
        for name in names & self.index.records.keys():
            self.index.republished(name)
        return names

    def rebooked(self, changed: Iterable[Pool], freed: Iterable[Pool]) -> set[str]:
        """What is held of pools is another. Returns nodes for which pods that need it may find more now: also
        where less is left, since what is promised to a pod that cannot be served any more is open to others.
        """
        if not self._awake:
            return set()
        for pool in changed:
            self.index.rebooked(pool)
        nodes = {name for pool in changed for name in self.index.concerned(pool) if self._promised(name)}
        return nodes | {name for pool in freed for name in self.index.concerned(pool)}
