"""When are two nodes equal? What they publish as one value, and what is taken of it as another.

Thousands of nodes are of few kinds, and of what is taken on them there are few patterns. So the allocator is
asked once for all nodes that are in equal state, and its answer is moved from one to the other.

Two nodes publish the same when only the names of node and pools, and what identifies single devices in the
world (`IDENTITIES`), differ. On one node devices are alike when only their names and what numbers them
(`NUMBERS`) differ: of a NIC's virtual functions it counts how many are taken, not which. A claim that looks
at what is left out here gets answers of its own; see `controller.answers`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from controller.allocator.capacity import Amounts
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice
from controller.books import Pool
from controller.pools import Pools
from driver.kube.objects import Device, DeviceAttribute, Node, ObjectMeta, ResourceSlice
from driver.names import PCI_BUS_ID

IDENTITIES: Final = frozenset({"uuid", "parentUUID"})
"""Attributes, without domain, by which like devices of different nodes differ."""
NUMBERS: Final = frozenset(
    {PCI_BUS_ID.rpartition("/")[2], "vfIndex", "rdmaDevice", "deviceID", "iommuGroup"} | IDENTITIES
)
"""Attributes, without domain, by which like devices of one node differ."""
_KEPT_DEVICES: Final = 100_000

Shared = tuple[tuple[int, tuple[tuple[str, Fraction], ...]], ...]
"""What is consumed of shared devices: by position, by capacity; sorted."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is taken of a node's devices: a bit for each position, and what is consumed of shared ones."""

    taken: int = 0
    shared: Shared = ()


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Published:
    """What equal nodes publish.

    Attributes:
        devices: as the allocator takes them; where `common`, the n-th pool by name is called so.
        common: nodes may share it. Else it is one node's, and its names are real.
        ids: by position: the node's devices, then those that only draw from the same counters.
        pools: as they are called in `devices`, by name.
        positions: of the devices, by name, for each pool.
        classes: positions that nothing but names and numbers tells apart; `class_of` is the other way round,
            `masks` has a bit for each member.
        groups: of nodes, by what is taken; kept by `controller.nodes`.
        memo: answers of claims that look closer; kept by `controller.answers`.
    """

    devices: NodeDevices
    common: bool
    ids: tuple[DeviceId, ...]
    pools: tuple[Pool, ...]
    positions: Sequence[Mapping[str, int]]
    classes: tuple[tuple[int, ...], ...]
    class_of: tuple[int, ...]
    masks: tuple[int, ...]
    groups: dict[Any, Any] = field(default_factory=dict, repr=False)
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, devices: NodeDevices, pools: Sequence[Pool], *, common: bool) -> Published:
        """`pools` are named as in `devices`, in their order."""
        ids = [device.id for device in devices.devices]
        there = set(ids)
        ids += [device for device in devices.consumers if device not in there]
        ranks = {pool: rank for rank, pool in enumerate(pools)}
        positions: list[dict[str, int]] = [{} for _ in pools]
        for position, device_id in enumerate(ids):
            positions[ranks[device_id.driver, device_id.pool]][device_id.device] = position
        classes: dict[Hashable, list[int]] = {}
        for position, device in enumerate(devices.devices):
            classes.setdefault(_likeness(device), []).append(position)
        found = [tuple(members) for members in classes.values()]
        found += [(position,) for position in range(len(devices.devices), len(ids))]
        class_of = {position: number for number, members in enumerate(found) for position in members}
        return cls(
            devices=devices,
            common=common,
            ids=tuple(ids),
            pools=tuple(pools),
            positions=positions,
            classes=tuple(found),
            class_of=tuple(class_of[position] for position in range(len(ids))),
            masks=tuple(sum(1 << position for position in members) for members in found),
        )

    def place(self, device: DeviceId) -> tuple[int, int]:
        """Which pool it is in, and its position."""
        rank = self.pools.index((device.driver, device.pool))
        return rank, self.positions[rank][device.device]

    def counts(self, taken: int) -> tuple[int, ...]:
        """How many of each class are taken."""
        return tuple([(taken & mask).bit_count() for mask in self.masks])

    def first(self, counts: Sequence[int]) -> int:
        """The taken devices, if the first of each class are."""
        return sum(
            1 << position
            for members, count in zip(self.classes, counts, strict=True)
            for position in members[:count]
        )

    def taken_ids(self, taken: int) -> set[DeviceId]:
        """As the allocator wants them."""
        return {device_id for position, device_id in enumerate(self.ids) if taken >> position & 1}

    def shared_ids(self, shared: Shared) -> dict[DeviceId, Amounts]:
        """As the allocator wants them."""
        return {self.ids[position]: dict(amounts) for position, amounts in shared}


class Catalogue:
    """What nodes publish, each value once. Not thread-safe."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Hashable, Published] = WeakValueDictionary()
        self._numbers: dict[bytes, int] = {}
        self._devices: dict[int, tuple[Device, int]] = {}

    def published(self, node: Node, names: Sequence[Pool], pools: Pools) -> Published:
        """What a node publishes that reaches these pools.

        Raises:
            ConfigError: a node selector in a slice is malformed.
        """
        if not all(pools.is_plain(pool) for pool in names):
            return own(node, names, pools)
        slices = [pools.slices(pool) for pool in names]
        key = tuple(
            (driver, tuple(self._print(item) for item in items))
            for (driver, _), items in zip(names, slices, strict=True)
        )
        known = self._known.get(key)
        if known is None:
            anyone = Node(metadata=ObjectMeta(name="any"))
            common = [(driver, f"{rank:06d}") for rank, (driver, _) in enumerate(names)]
            renamed = [
                _renamed(item, pool, number, "any")
                for pool, items in zip(common, slices, strict=True)
                for number, item in enumerate(items)
            ]
            known = Published.of(NodeDevices.build(renamed, anyone), common, common=True)
            self._known[key] = known
        if known.devices.bad_pools:  # which refusals call by name
            return own(node, names, pools)
        return known

    def _print(self, item: ResourceSlice) -> tuple[object, ...]:
        counters = msgspec.json.encode(item.spec.shared_counters, order="sorted")
        return counters, *(self._number(device) for device in item.spec.devices)

    def _number(self, device: Device) -> int:
        """Equal for devices that differ in identity alone."""
        known = self._devices.get(id(device))
        if known is not None:
            return known[1]
        plain = msgspec.structs.replace(
            device,
            attributes=_without(device, IDENTITIES),
            taints=[msgspec.structs.replace(taint, time_added=None) for taint in device.taints],
        )
        content = msgspec.json.encode(plain, order="sorted")
        number = self._numbers.setdefault(content, len(self._numbers))
        if len(self._devices) >= _KEPT_DEVICES:
            self._devices.clear()
        self._devices[id(device)] = device, number  # which keeps the device, and so its id
        return number


def own(node: Node, names: Sequence[Pool], pools: Pools) -> Published:
    """What one node publishes, by its real names; positions are as in what it shares with others."""
    devices = NodeDevices.build([item for pool in names for item in pools.slices(pool)], node)
    return Published.of(devices, names, common=False)


def moved_positions(
    published: Published, source: int, target: int, positions: Collection[int]
) -> Mapping[int, int]:
    """Devices that are free by `source`, and which are free by `target` instead, class by class."""
    moved: dict[int, int] = {}
    for number in {published.class_of[position] for position in positions}:
        members = published.classes[number]
        free = [position for position in members if not target >> position & 1]
        mine = [position for position in members if not source >> position & 1]
        moved |= dict(zip(mine, free, strict=True))
    return moved


def _renamed(item: ResourceSlice, pool: Pool, number: int, node: str) -> ResourceSlice:
    change = msgspec.structs.replace
    spec = change(item.spec, pool=change(item.spec.pool, name=pool[1]), node_name=node)
    return change(item, metadata=ObjectMeta(name=f"{number:06d}"), spec=spec)


def _without(device: Device, names: Collection[str]) -> dict[str, DeviceAttribute]:
    return {k: v for k, v in device.attributes.items() if k.rpartition("/")[2] not in names}


def _likeness(device: PoolDevice) -> Hashable:
    """Equal for devices of one node that only names and numbers tell apart; shared ones are like none."""
    raw = device.device
    if raw.allow_multiple_allocations:
        return device.id
    plain = msgspec.structs.replace(
        raw,
        name="",
        attributes=_without(device.device, NUMBERS),
        taints=[msgspec.structs.replace(taint, time_added=None) for taint in raw.taints],
    )
    return device.id.driver, device.id.pool, msgspec.json.encode(plain, order="sorted")
