"""The devices that one node can reach, as the allocator sees them: an index built once for each change of the
slices.

Which pools count follows kube-scheduler (Kubernetes 1.36, structured parameters): a pool is used when all
slices of its newest generation are there and its device names and counters are sound; slices of older
generations do not exist.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, TypeVar

import msgspec

from controller.allocator import quantity
from controller.allocator.capacity import Amounts
from controller.fit import selects
from driver.devices import Place
from driver.kube.objects import (
    AllocationResult,
    Device,
    Node,
    NodeSelector,
    ResourceClaim,
    ResourceSlice,
    ResourceSliceSpec,
)
from driver.slices import place_of

T = TypeVar("T")

_KEPT_DERIVED: Final = 500
"""Things kept with each node, which different claims ask for."""


@dataclass(frozen=True, slots=True, order=True)
class DeviceId:
    """Names a device in the whole cluster."""

    driver: str
    pool: str
    device: str


@dataclass(frozen=True, slots=True, order=True)
class PoolId:
    """Names a pool in the whole cluster."""

    driver: str
    name: str


@dataclass(frozen=True, slots=True)
class PoolDevice:
    """A published device that the node can reach, in a pool that may be used.

    Attributes:
        content: what a selector can see of it (driver, attributes, capacity), as bytes: equal content,
            equal verdict.
        local: it belongs to this node alone.
        reach: of one that does not, the nodes that can reach it; None: all.
    """

    id: DeviceId
    device: Device
    place: Place
    content: bytes
    local: bool = True
    reach: NodeSelector | None = None


@dataclass(frozen=True, slots=True)
class BadPool:
    """A pool that must not be allocated from now; `reason` is for people."""

    pool: PoolId
    reason: str


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """What one node can reach, in the order in which ties are broken: pools by name, slices by name, devices
    as published.

    Attributes:
        counters: of each (pool, counter set, counter), as quantities.
        consumers: devices of these pools that the node cannot reach but that draw from the same counters.
        memo: what `derived` keeps.
    """

    node: str
    devices: tuple[PoolDevice, ...] = ()
    bad_pools: tuple[BadPool, ...] = ()
    counters: Mapping[tuple[PoolId, str, str], str] = field(default_factory=dict)
    consumers: Mapping[DeviceId, Device] = field(default_factory=dict)
    memo: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)

    def derived(self, key: object, make: Callable[[], T]) -> T:
        """What `make` makes of these devices, made once; `key` names it."""
        known: T | None = self.memo.get(key)
        if known is None:
            if len(self.memo) >= _KEPT_DERIVED:
                self.memo.clear()
            known = self.memo[key] = make()
        return known

    @classmethod
    def build(cls, slices: Iterable[ResourceSlice], node: Node) -> NodeDevices:
        """Index `slices`: all slices of each pool of which the node can reach at least one; more do no harm.

        Raises:
            ConfigError: a node selector in a slice is malformed.
        """
        pools: defaultdict[PoolId, list[ResourceSlice]] = defaultdict(list)
        for item in slices:
            pools[PoolId(item.spec.driver, item.spec.pool.name)].append(item)
        devices: list[PoolDevice] = []
        bad: list[BadPool] = []
        counters: dict[tuple[PoolId, str, str], str] = {}
        consumers: dict[DeviceId, Device] = {}
        late: list[PoolDevice] = []
        for pool in sorted(pools):
            current = _newest(pools[pool], node)
            if current is None:
                continue
            reason = _fault(current, node)
            if reason:
                bad.append(BadPool(pool, reason))
                continue
            reached = [
                PoolDevice(
                    id=DeviceId(pool.driver, pool.name, device.name),
                    device=device,
                    place=place_of(device, pool.driver),
                    content=content_of(pool.driver, device),
                    local=bool(where.node_name),
                    reach=where.node_selector,
                )
                for item in current
                for device in item.spec.devices
                if _selected(where := _where(item, device), node)
            ]
            # Pools that may need a condition before they can be bound come last. As with kube-scheduler all
            # devices of a slice count, also those that the node does not reach.
            conditional = any(
                device.binding_conditions
                for item in current
                if node_reaches(item, node)
                for device in item.spec.devices
            )
            (late if conditional else devices).extend(reached)
            for item in current:
                for counter_set in item.spec.shared_counters:
                    for name, counter in counter_set.counters.items():
                        counters[pool, counter_set.name, name] = counter.value
                for device in item.spec.devices:
                    if device.consumes_counters:
                        consumers[DeviceId(pool.driver, pool.name, device.name)] = device
        return cls(
            node=node.metadata.name,
            devices=(*devices, *late),
            bad_pools=tuple(bad),
            counters=counters,
            consumers=consumers,
        )


def taken_by(claims: Iterable[ResourceClaim]) -> set[DeviceId]:
    """Devices that allocated claims hold for themselves (admin access and shares hold nothing)."""
    return {
        DeviceId(result.driver, result.pool, result.device)
        for claim in claims
        if claim.status.allocation is not None
        for result in claim.status.allocation.devices.results
        if not result.admin_access and result.share_id is None
    }


def shared_by(claims: Iterable[ResourceClaim]) -> dict[DeviceId, dict[str, Fraction]]:
    """What allocated claims consume of devices that they share, by capacity. A share that says no amounts is
    there all the same.
    """
    shared: dict[DeviceId, dict[str, Fraction]] = {}
    for claim in claims:
        if claim.status.allocation is not None:
            for device, amounts in shares_of(claim.status.allocation):
                add_amounts(shared.setdefault(device, {}), amounts)
    return shared


def shares_of(allocation: AllocationResult) -> Iterable[tuple[DeviceId, Amounts]]:
    """The shares that one allocation holds."""
    for result in allocation.devices.results:
        if result.share_id is not None and not result.admin_access:
            amounts = {name: quantity.parse(value) for name, value in result.consumed_capacity.items()}
            yield DeviceId(result.driver, result.pool, result.device), amounts


def add_amounts(total: dict[str, Fraction], more: Amounts) -> None:
    """Add to `total`, in place."""
    for name, amount in more.items():
        total[name] = total.get(name, Fraction(0)) + amount


def node_reaches(item: ResourceSlice, node: Node) -> bool:
    """Does the slice, or one of its devices, belong to what the node can reach?"""
    if item.spec.per_device_node_selection:
        return any(_selected(device, node) for device in item.spec.devices)
    return _selected(item.spec, node)


def _where(item: ResourceSlice, device: Device) -> Device | ResourceSliceSpec:
    """What says which nodes reach the device."""
    return device if item.spec.per_device_node_selection else item.spec


def _selected(where: Device | ResourceSliceSpec, node: Node) -> bool:
    if where.node_name:
        return where.node_name == node.metadata.name
    return where.all_nodes or (where.node_selector is not None and selects(where.node_selector, node))


def _newest(slices: Sequence[ResourceSlice], node: Node) -> list[ResourceSlice] | None:
    """The pool's slices of the newest generation, by name; None where the node reaches none of them."""
    relevant = [s for s in slices if s.spec.shared_counters or node_reaches(s, node)]
    if not relevant:
        return None
    generation = max(s.spec.pool.generation for s in relevant)
    relevant = [s for s in relevant if s.spec.pool.generation == generation]
    if len(relevant) != relevant[0].spec.pool.resource_slice_count:
        if any(s.spec.pool.generation > generation for s in slices):
            return None  # a renewal that leaves nothing for this node is under way
        relevant = [s for s in slices if s.spec.pool.generation == generation]
    return sorted(relevant, key=lambda s: s.metadata.name)


def _fault(slices: Sequence[ResourceSlice], node: Node) -> str:
    """Why the pool must not be used; empty if it may."""
    pool = slices[0].spec.pool
    if len(slices) != pool.resource_slice_count:
        return (
            f"incomplete: {len(slices)} of {pool.resource_slice_count} slices of generation {pool.generation}"
        )
    seen: set[str] = set()
    counters: dict[str, set[str]] = {}
    for item in slices:
        for counter_set in item.spec.shared_counters:
            if counter_set.name in counters:
                return f"invalid: counter set {counter_set.name!r} appears twice"
            counters[counter_set.name] = set(counter_set.counters)
        if not node_reaches(item, node):
            continue
        for device in item.spec.devices:
            if device.name in seen:
                return f"invalid: device {device.name!r} appears twice"
            seen.add(device.name)
    for item in slices:
        for device in item.spec.devices:
            for use in device.consumes_counters:
                if use.counter_set not in counters:
                    return f"invalid: device {device.name!r} uses unknown counter set {use.counter_set!r}"
                unknown = sorted(use.counters.keys() - counters[use.counter_set])
                if unknown:
                    return f"invalid: device {device.name!r} uses unknown counter {unknown[0]!r}"
    return ""


def content_of(driver: str, device: Device) -> bytes:
    """What a selector can see of the device, as bytes: equal content, equal verdict."""
    return msgspec.json.encode(
        (driver, device.allow_multiple_allocations, device.attributes, device.capacity), order="sorted"
    )
