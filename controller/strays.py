"""Slices under our driver's name that do not belong to the node that their pool is named after.

A pool of our driver belongs to one node and carries its name, so any other slice under that name is a mistake
or an attack: one more slice, or a newer generation, would take all devices of the node away, and a copy would
give its devices to pods elsewhere. The admission policy refuses such slices; those that it did not see do not
count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from driver.kube.objects import ResourceSlice
from driver.names import pool_name

_Origin = tuple[str | None, str]


def is_stray(item: ResourceSlice, driver_name: str) -> bool:
    """Is it a slice of this driver, but not of the one node that its pool is named after? The node's bare
    name will do as well, as files for `tandem plan` have it: it can be no other node's pool either.
    """
    spec = item.spec
    return spec.driver == driver_name and (
        not spec.node_name or spec.pool.name not in (pool_name(driver_name, spec.node_name), spec.node_name)
    )


def why_stray(item: ResourceSlice) -> str:
    """What to say of such a slice."""
    spec = item.spec
    node = f"node {spec.node_name}" if spec.node_name else "no single node"
    right = pool_name(spec.driver, spec.node_name or "<spec.nodeName>")
    return (
        f"ResourceSlice {item.metadata.name} does not count: it belongs to {node}, but its spec.pool.name is "
        f"{spec.pool.name}; right is {right}"
    )


class Strays:
    """The strays that exist now. Not thread-safe, except for `len`."""

    def __init__(self) -> None:
        self._items: dict[str, ResourceSlice] = {}
        self._origins: Counter[_Origin] = Counter()
        self._told: set[_Origin] = set()
        self._new: list[ResourceSlice] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[ResourceSlice]:
        """By name."""
        return (item for _, item in sorted(self._items.items()))

    def put(self, item: ResourceSlice) -> None:
        """Add or replace one."""
        self.remove(item)
        origin = _origin(item)
        if origin not in self._told:
            self._told.add(origin)
            self._new.append(item)
        self._items[item.metadata.name] = item
        self._origins[origin] += 1

    def remove(self, item: ResourceSlice) -> None:
        """Take one out, if it is there."""
        old = self._items.pop(item.metadata.name, None)
        if old is not None:
            origin = _origin(old)
            self._origins[origin] -= 1
            if not self._origins[origin]:
                del self._origins[origin]

    def take(self) -> list[ResourceSlice]:
        """Return those to report: the first of each node and pool, until all of these are gone."""
        new, self._new = self._new, []
        self._told &= self._origins.keys()
        return new


def _origin(item: ResourceSlice) -> _Origin:
    return item.spec.node_name, item.spec.pool.name
