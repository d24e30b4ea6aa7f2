"""The nodes, and an index from their state to them: cost per decision grows with states, not with nodes.

A node's state, as far as devices go, is what it publishes and what is taken of it (`controller.equal`). All
nodes of one state are a `Group`; a group keeps the allocator's answers. The index follows the books lazily:
what changed is noted, and read anew before the next question, once, however often it changed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from controller import fit
from controller.allocator.capacity import Amounts
from controller.allocator.model import DeviceId, NodeDevices, add_amounts
from controller.books import Books, Pool
from controller.draft import Draft
from controller.equal import Catalogue, Published, Shared, Standing, own
from controller.pools import Pools
from driver.kube.objects import Node, ObjectMeta

_KEPT_GROUPS: Final = 20_000
"""Of one kind of nodes. Groups that have no node now keep their answers, which may be of use again."""


@dataclass(slots=True, eq=False)
class Group:
    """Nodes in equal state, sorted by name. `full`: how many devices are taken on each."""

    published: Published
    counts: tuple[int, ...]
    shared: Shared
    full: int
    number: int
    names: list[str] = field(default_factory=list)
    answers: dict[Any, Any] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class NodeRecord:
    """One node. `used` and `promised` are what the pods take: bound ones, and by UID those nominated or
    pinned by an allocation, with their priority. `own` is what the node publishes by its real names, made
    when asked for.
    """

    name: str
    node: Node | None = None
    used: dict[str, int] = field(default_factory=dict)
    promised: dict[str, tuple[int, fit.Amounts]] = field(default_factory=dict)
    generation: int = 0
    devices_generation: int = 0
    pools: tuple[Pool, ...] = ()
    published: Published | None = None
    standing: Standing = field(default_factory=Standing)
    group: Group | None = None
    own: Published | None = None

    def used_beside(self, uids: Iterable[str], priority: int) -> dict[str, int]:
        """What all but the pods named take, as far as it counts for a pod of this priority."""
        mine = set(uids)
        others = [
            amounts for uid, (rank, amounts) in self.promised.items() if uid not in mine and rank >= priority
        ]
        return fit.total_of([self.used, *others]) if others else self.used


class NodeIndex:
    """Records by name, in the order of their last change for the better, and groups of equal ones."""

    def __init__(self, pools: Pools, books: Books, *, bare: bool) -> None:
        """`bare`: nodes without devices are in a group, too."""
        self.records: dict[str, NodeRecord] = {}
        self.generation = 1
        self.moved_on_at = 0
        self._pools = pools
        self._books = books
        self._bare = bare
        self._catalogue = Catalogue()
        self._stale: dict[str, None] = {}
        self._unread: set[str] = set()
        self._gone: set[str] = set()
        self._changed: dict[str, None] = {}
        self._order: list[tuple[int, int, Group]] = []
        self._made = 0

    def record(self, name: str) -> NodeRecord:
        """The node's record, made where there is none."""
        known = self.records.get(name)
        if known is None:
            known = self.records[name] = NodeRecord(name)
        return known

    def improved(self, name: str, *, devices: bool = False) -> None:
        """What was refused by the node may do now."""
        self.generation += 1
        record = self.record(name)
        if record.node is None:
            self._gone.add(name)
        record.generation = self.generation
        if devices:
            record.devices_generation = self.generation
        self._changed.pop(name, None)
        self._changed[name] = None

    def moved_on(self) -> None:
        """What was refused for more than one node's sake may do now."""
        self.generation += 1
        self.moved_on_at = self.generation

    def since(self, generation: int) -> Iterator[NodeRecord]:
        """Nodes that changed for the better after this generation, the last first."""
        for name in reversed(self._changed):
            record = self.records[name]
            if record.generation <= generation:
                return
            yield record

    def republished(self, name: str) -> None:
        """What the node publishes, or can reach, is another."""
        self._stale[name] = None
        self._unread.add(name)

    def rebooked(self, pool: Pool) -> None:
        """What is held of the pool is another."""
        self._stale.update(dict.fromkeys(self.concerned(pool)))

    def concerned(self, pool: Pool) -> Iterable[str]:
        """Nodes that the pool's devices may concern."""
        names = self._pools.nodes_of(pool)
        return self.records if names is None else names

    def groups(self) -> Iterator[Group]:
        """All that have nodes with devices, the fullest first."""
        self.settle()
        return (group for _, _, group in self._order)

    def own(self, record: NodeRecord) -> Published:
        """What the node publishes, by its real names."""
        self.settle()
        if record.published is not None and not record.published.common:
            return record.published
        if record.own is None:
            node = record.node or Node(metadata=ObjectMeta(name=record.name))
            record.own = own(node, record.pools, self._pools)
        return record.own

    def devices(self, record: NodeRecord) -> NodeDevices | None:
        """The index of what the node reaches and we allocate; None where the node is gone."""
        return self.own(record).devices if record.node is not None else None

    def reached(self, record: NodeRecord) -> tuple[Pool, ...]:
        """The pools that the node can reach."""
        self.settle()
        return record.pools

    def taken(self, record: NodeRecord) -> set[DeviceId]:
        """Devices of the node's pools that claims hold."""
        return {device for pool in self.reached(record) for device in self._books.taken(pool)}

    def shared(self, record: NodeRecord) -> dict[DeviceId, Amounts]:
        """What claims consume of the devices of the node's pools that they share."""
        return {
            d: amounts for pool in self.reached(record) for d, amounts in self._books.shared(pool).items()
        }

    def taken_count(self, record: NodeRecord) -> int:
        """How many they are."""
        return sum(len(self._books.taken(pool)) for pool in self.reached(record))

    def taken_version(self, record: NodeRecord) -> tuple[int, ...]:
        """Changes whenever they do."""
        return tuple(self._books.version(pool) for pool in self.reached(record))

    def published(self) -> Iterator[Published]:
        """What nodes publish, each value once."""
        seen: set[Published] = set()
        for group in self.groups():
            if group.published not in seen:
                seen.add(group.published)
                yield group.published

    def settle(self) -> None:
        """Read anew what changed.

        Raises:
            ConfigError: a node selector in a slice is malformed.
        """
        while self._stale:
            name = next(iter(self._stale))
            record = self.record(name)
            if name in self._unread:
                self._read(record)
                self._unread.discard(name)
            record.standing = self.standing(record)
            published = record.published
            self._place(record, self.group_of(published, record.standing) if published is not None else None)
            if record.node is None:
                self._gone.add(name)
            del self._stale[name]
        if self._gone:
            self._forget_gone()

    def standing(self, record: NodeRecord, draft: Draft | None = None) -> Standing:
        """What is taken of the node's devices, and by the draft."""
        published = record.published
        if published is None:
            return Standing()
        taken = 0
        shared: dict[int, dict[str, Fraction]] = {}
        for pool, positions in zip(record.pools, published.positions, strict=True):
            held: list[Iterable[DeviceId]] = [self._books.taken(pool)]
            parts: list[Mapping[DeviceId, Amounts]] = [self._books.shared(pool)]
            if draft is not None:
                held.append(draft.taken.get(pool, ()))
                parts.append(draft.shared.get(pool, {}))
            for devices in held:
                for device in devices:
                    position = positions.get(device.device)
                    if position is not None:
                        taken |= 1 << position
            for some in parts:
                for device, amounts in some.items():
                    position = positions.get(device.device)
                    if position is not None:
                        add_amounts(shared.setdefault(position, {}), amounts)
        return Standing(taken, tuple((p, tuple(sorted(shared[p].items()))) for p in sorted(shared)))

    def group_of(self, published: Published, standing: Standing) -> Group:
        """Of nodes that publish and stand so, though there be none."""
        key = published.counts(standing.taken), standing.shared
        groups: dict[object, Group] = published.groups
        known = groups.get(key)
        if known is None:
            if len(groups) >= _KEPT_GROUPS:
                for old in [k for k, group in groups.items() if not group.names]:
                    del groups[old]
            self._made += 1
            known = Group(published, *key, standing.taken.bit_count(), self._made)
            groups[key] = known
        return known

    def _forget_gone(self) -> None:
        """Nodes come and go under names of their own; once no pod is on one that is gone, it never was."""
        for name in list(self._gone):
            record = self.records.get(name)
            if record is not None and record.node is None:
                if any(record.used.values()) or record.promised or record.published is not None:
                    continue
                del self.records[name]
                self._changed.pop(name, None)
            self._gone.discard(name)

    def _read(self, record: NodeRecord) -> None:
        node = record.node
        record.own = record.published = None
        record.pools = self._pools.reached(node) if node is not None else ()
        if node is not None and (record.pools or self._bare):
            record.published = self._catalogue.published(node, record.pools, self._pools)

    def _place(self, record: NodeRecord, group: Group | None) -> None:
        old = record.group
        if old is group:
            return
        if old is not None:
            del old.names[bisect_left(old.names, record.name)]
            if not old.names:
                del self._order[bisect_left(self._order, (-old.full, old.number, old))]
        record.group = group
        if group is not None:
            if not group.names:
                insort(self._order, (-group.full, group.number, group))
            insort(group.names, record.name)


def placement_facts(node: Node) -> tuple[object, ...]:
    """What of a node matters to us: not its heartbeats."""
    return node.metadata.uid, node.metadata.labels, node.spec, node.status.allocatable
