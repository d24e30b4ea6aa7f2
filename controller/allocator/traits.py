"""What tells a node's devices apart, derived once for each change of the slices.

A decision groups a thousand devices into a few kinds; all that does not depend on the claims is numbered here
beforehand, so that the grouping compares small integers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from controller.allocator import quantity
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice, PoolId
from driver.devices import Place
from driver.kube.objects import Device
from driver.names import DRIVER_NAME, NVLINK_DOMAIN, RAIL, TYPE, TYPE_GPU, TYPE_MIG

Counter = tuple[PoolId, str, str]
"""A pool's counter set and a counter in it."""

RAILS: Final = range(256)
"""As a FabricNetwork may number them."""


Near = tuple[frozenset[Hashable], int | None]
"""NVLink domain and NUMA node."""


@dataclass(frozen=True, slots=True)
class Traits:
    """By index of the device.

    Attributes:
        positions: the other way round.
        classes: equal numbers for devices that only attributes named in constraints could tell apart.
        types: GPU, NIC or whatever the device says it is.
        near: of a GPU or a part of one its NVLink domain and NUMA node; None for all else.
    """

    positions: dict[DeviceId, int]
    classes: tuple[int, ...]
    types: tuple[str, ...]
    near: tuple[Near | None, ...]


def traits(node: NodeDevices) -> Traits:
    """The node's traits, derived at the first call."""

    def derive() -> Traits:
        return Traits(
            positions={device.id: index for index, device in enumerate(node.devices)},
            classes=_numbered(_likeness(device) for device in node.devices),
            types=tuple(type_of(device) for device in node.devices),
            near=tuple(_near(device) for device in node.devices),
        )

    return node.derived("traits", derive)


def values(node: NodeDevices, attribute: str) -> Sequence[frozenset[Hashable]]:
    """By index: `values_of` the attribute."""
    return node.derived(("values", attribute), lambda: tuple(values_of(d, attribute) for d in node.devices))


def signatures(node: NodeDevices, attributes: Sequence[str], *, by_rail: bool = False) -> Sequence[int]:
    """By index: equal numbers for devices that are alike in class, in these attributes and, if asked for, in
    their rail.
    """

    def derive() -> Sequence[int]:
        columns: list[Iterable[Hashable]] = [traits(node).classes, *(values(node, a) for a in attributes)]
        if by_rail:
            columns.append(map(rail_of, node.devices))
        return _numbered(zip(*columns, strict=True))

    return node.derived(("signatures", by_rail, *attributes), derive)


def values_of(device: PoolDevice, attribute: str) -> frozenset[Hashable]:
    """The values of a qualified attribute, typed; more than one for a list, empty where the device does not
    have it.
    """
    found = device.device.attributes.get(attribute)
    if found is None:
        domain, _, short = attribute.partition("/")
        if domain == device.id.driver:
            found = device.device.attributes.get(short)
    if found is None:
        return frozenset()
    typed: tuple[tuple[str, Iterable[object] | None], ...] = (
        ("string", (found.string,) if found.string is not None else found.strings),
        ("int", (found.int_,) if found.int_ is not None else found.ints),
        ("bool", (found.bool_,) if found.bool_ is not None else found.bools),
        ("version", (found.version,) if found.version is not None else found.versions),
    )
    return frozenset((kind, value) for kind, some in typed if some is not None for value in some)


def rail_of(device: PoolDevice) -> int | None:
    """The rail that a device says it is on; None also for a number that is no rail's, which must not cost
    anybody else anything: rails are counted in bit masks.
    """
    attributes = device.device.attributes
    found = attributes.get(RAIL) or attributes.get(f"{DRIVER_NAME}/{RAIL}")
    return found.int_ if found and found.int_ in RAILS else None


def type_of(device: PoolDevice) -> str:
    """``gpu``, ``nic``, ``vf``, …; empty where it does not say."""
    attributes = device.device.attributes
    found = attributes.get(TYPE) or attributes.get(f"{DRIVER_NAME}/{TYPE}")
    return (found.string or "") if found else ""


def _near(device: PoolDevice) -> Near | None:
    if type_of(device) not in (TYPE_GPU, TYPE_MIG):
        return None
    return values_of(device, f"{device.id.driver}/{NVLINK_DOMAIN}"), device.place.numa_node


def held_back(device: PoolDevice) -> bool:
    """Does a taint say that the device is better left alone though it may be taken?"""
    return any(taint.effect == "None" for taint in device.device.taints)


def consumption(pool: PoolId, device: Device) -> Iterable[tuple[Counter, Fraction]]:
    """What the device draws from the pool's counters when it is allocated."""
    for use in device.consumes_counters:
        for name, counter in use.counters.items():
            yield (pool, use.counter_set, name), quantity.parse(counter.value)


def pool_of(device: PoolDevice) -> PoolId:
    """Where the device belongs."""
    return PoolId(device.id.driver, device.id.pool)


def _numbered(things: Iterable[Hashable]) -> tuple[int, ...]:
    """For each thing a number, equal for equal ones."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(thing, len(numbers)) for thing in things)


def _likeness(device: PoolDevice) -> Hashable:
    if device.device.allow_multiple_allocations:
        return device.id  # its capacities are its own
    return (
        device.place,
        held_back(device),
        device.id.driver if device.place == Place() else "",
        type_of(device),
        _near(device),
        tuple(consumption(pool_of(device), device.device)),
    )
