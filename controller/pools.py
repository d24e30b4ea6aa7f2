"""The slices by pool, and which nodes reach which pools.

Most pools are one node's own: a look-up. A pool that has any other slice (network-attached devices, a
selector, devices that say themselves where they are) is wide: it may concern every node.

A pool of our own driver is always one node's: slices that are not of the node that it is named after do not
count (`controller.strays`). Other drivers' pools are read as kube-scheduler reads them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from controller.allocator.model import node_reaches
from controller.books import Pool
from controller.strays import Strays, is_stray
from driver.kube.objects import Device, Node, ResourceSlice
from driver.names import CONTROLLER_TAINT


class Pools:
    """Follows the slices one change at a time. Not thread-safe.

    Attributes:
        strays: slices that do not count.
        left: pools of our driver that are left to kube-scheduler, with their slices by name.
    """

    def __init__(self, driver_name: str, *, managed_only: bool = False, unmanaged: bool = False) -> None:
        """`managed_only`: pools without our taint are kube-scheduler's, and as if they were not there;
        `unmanaged`: those of our driver with our taint are.
        """
        self.strays = Strays()
        self.left: dict[Pool, dict[str, ResourceSlice]] = {}
        self._driver_name = driver_name
        self._managed_only = managed_only
        self._unmanaged = unmanaged
        self._published: dict[Pool, dict[str, ResourceSlice]] = {}
        self._slices: dict[Pool, dict[str, ResourceSlice]] = {}
        self._own: defaultdict[str, set[Pool]] = defaultdict(set)
        self._wide: set[Pool] = set()

    def put(self, item: ResourceSlice) -> set[str] | None:
        """Add or replace a slice. Returns the nodes that it concerns; None: all of them."""
        if is_stray(item, self._driver_name):
            self.strays.put(item)
            return set()
        return self._change(item, there=True)

    def remove(self, item: ResourceSlice) -> set[str] | None:
        """Take a slice out. Returns the nodes that it concerned; None: all of them."""
        if is_stray(item, self._driver_name):
            self.strays.remove(item)
            return set()
        return self._change(item, there=False)

    @property
    def handed(self) -> bool:
        """Are there pools of our driver that are the controller's?"""
        return any(pool[0] == self._driver_name and pool not in self.left for pool in self._published)

    def show_everywhere(self, pools: Iterable[Pool]) -> None:
        """Count these as wide, whatever they are."""
        self._wide.update(pools)

    def nodes_of(self, pool: Pool) -> set[str] | None:
        """Nodes that the pool's devices may concern; None: any."""
        if pool in self._wide:
            return None
        return {s.spec.node_name for s in self._slices.get(pool, {}).values() if s.spec.node_name}

    def own(self, node: str) -> set[Pool]:
        """Pools with a slice of this node."""
        return self._own.get(node, set())

    def reached(self, node: Node) -> tuple[Pool, ...]:
        """The pools that the node can reach, by name."""
        own = self.own(node.metadata.name)
        wide = [
            pool
            for pool in self._wide - own
            if any(s.spec.shared_counters or node_reaches(s, node) for s in self._slices[pool].values())
        ]
        return tuple(sorted([*own, *wide]))

    def slices(self, pool: Pool) -> Sequence[ResourceSlice]:
        """The pool's slices, by name."""
        return [item for _, item in sorted(self._slices.get(pool, {}).items())]

    def is_plain(self, pool: Pool) -> bool:
        """Is it one node's alone, whole, of one generation, and free of finer selection?"""
        slices = self._slices[pool].values()
        first = next(iter(slices)).spec
        return (
            pool not in self._wide
            and first.pool.resource_slice_count == len(slices)
            and all(
                item.spec.pool.generation == first.pool.generation
                and item.spec.pool.resource_slice_count == len(slices)
                and item.spec.node_name == first.node_name
                and not item.spec.per_device_node_selection
                for item in slices
            )
        )

    def devices(self, pool: Pool, names: Iterable[str]) -> Iterator[Device]:
        """Those of the pool's devices that have one of these names."""
        wanted = set(names)
        for item in self._slices.get(pool, {}).values():
            yield from (device for device in item.spec.devices if device.name in wanted)

    def _change(self, item: ResourceSlice, *, there: bool) -> set[str] | None:
        pool = pool_of(item)
        before = self.nodes_of(pool)
        published = self._published.setdefault(pool, {})
        if there:
            published[item.metadata.name] = item
        else:
            published.pop(item.metadata.name, None)
        if not published:
            del self._published[pool]
        slices = published if self._counts(pool, published) else {}
        self._slices[pool] = slices
        if pool[0] == self._driver_name and published and not _is_managed(published.values()):
            self.left[pool] = published
        else:
            self.left.pop(pool, None)
        if any(not s.spec.node_name for s in slices.values()):
            self._wide.add(pool)
        else:
            self._wide.discard(pool)
        own = {s.spec.node_name for s in slices.values() if s.spec.node_name}
        if not slices:
            del self._slices[pool]
        for name in (self._own.keys() if before is None else before) - own:
            self._own[name].discard(pool)
            if not self._own[name]:
                del self._own[name]
        for name in own:
            self._own[name].add(pool)
        after = self.nodes_of(pool)
        return None if before is None or after is None else before | after | own

    def _counts(self, pool: Pool, slices: Mapping[str, ResourceSlice]) -> bool:
        if self._managed_only:
            return _is_managed(slices.values())
        ours = self._unmanaged and pool[0] == self._driver_name
        return not (ours and _is_managed(slices.values()))


def pool_of(item: ResourceSlice) -> Pool:
    """The pool that the slice is of."""
    return item.spec.driver, item.spec.pool.name


def _is_managed(pool: Iterable[ResourceSlice]) -> bool:
    """It has a device with our taint, or none at all (counters carry none)."""
    taints = [device.taints for item in pool for device in item.spec.devices]
    return not taints or any(taint.key == CONTROLLER_TAINT for some in taints for taint in some)
