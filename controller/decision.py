"""From the allocator's answer to what is written into each claim: interface names and addresses added.

The plugin learns of the pairs and interfaces from one config entry of kind Placement with source FromClass,
which no tenant can write. Every allocation of ours carries one, be it empty: by it we know our own again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

import msgspec

from controller.addresses import RailSubnets
from controller.allocator.model import PoolDevice
from controller.allocator.verdict import Allocation, ClaimAllocation
from controller.books import read
from driver.kube.objects import (
    AllocationResult,
    DeviceAllocationConfig,
    OpaqueConfig,
    ResourceClaim,
)
from driver.names import RAIL, TYPE, TYPE_NIC, TYPE_VF, qualified
from driver.placement import PlacedInterface, PlacedPair, Placement, encode_placement


def compose(
    claims: Sequence[ResourceClaim],
    allocation: Allocation,
    *,
    driver_name: str,
    subnets: RailSubnets | None,
    addresses_in_use: Set[str],
    names_in_use: Set[str],
    mtu: int | None,
) -> Iterator[tuple[ResourceClaim, AllocationResult]]:
    """Each claim with what is to be written into it, all but the time stamp.

    Args:
        claims: as they were given to the allocator.
        allocation: its answer.
        driver_name: whose config it is.
        subnets: where addresses come from; None: none are given.
        addresses_in_use: with prefix length.
        names_in_use: interface names that the pod has already; new ones are net1, net2 … over all its claims.
        mtu: for all interfaces, in bytes; None: as they are.

    Raises:
        ConfigError: a rail has no subnet.
        AddressesExhaustedError: a rail has no address left.
    """
    in_use = set(addresses_in_use)
    names = (name for number in range(1, 10_000) if (name := f"net{number}") not in names_in_use)
    for claim, share in zip(claims, allocation.claims, strict=True):
        interfaces = []
        for device in share.devices:
            if _text(device, TYPE) not in (TYPE_NIC, TYPE_VF):
                continue
            rail = _number(device, RAIL)
            addresses: tuple[str, ...] = ()
            if subnets is not None and rail is not None:
                addresses = (subnets.choose(rail, in_use),)
                in_use.update(addresses)
            interfaces.append(PlacedInterface(device.id.device, next(names), addresses, rail, mtu))
        yield claim, _result(share, Placement(_pairs(share), tuple(interfaces)), driver_name)


def describe(node: str, result: AllocationResult, driver_name: str) -> str:
    """The decision in a sentence, for people."""
    placement = read(result, driver_name).placement or Placement()
    paired = {name for pair in placement.pairs for name in (pair.gpu, pair.nic)}
    parts = [f"{pair.gpu} + {pair.nic} ({pair.tier.name})" for pair in placement.pairs]
    parts += [r.device for r in result.devices.results if r.device not in paired]
    interfaces = [" ".join([i.interface, *i.addresses]) for i in placement.interfaces]
    text = f"node {node}: {', '.join(parts)}"
    return f"{text}; interfaces {', '.join(interfaces)}" if interfaces else text


def _pairs(share: ClaimAllocation) -> tuple[PlacedPair, ...]:
    return tuple(
        PlacedPair(pair.gpu.id.device, pair.nic.id.device, pair.tier, pair.rail) for pair in share.pairs
    )


def _result(share: ClaimAllocation, placement: Placement, driver_name: str) -> AllocationResult:
    """The allocator's result with our config added."""
    ours = DeviceAllocationConfig(
        source="FromClass",
        opaque=OpaqueConfig(driver=driver_name, parameters=msgspec.Raw(encode_placement(placement))),
    )
    devices = msgspec.structs.replace(share.result.devices, config=[*share.result.devices.config, ours])
    return msgspec.structs.replace(share.result, devices=devices)


def _text(device: PoolDevice, name: str) -> str:
    attribute = device.device.attributes.get(name) or device.device.attributes.get(qualified(name))
    return (attribute.string if attribute else None) or ""


def _number(device: PoolDevice, name: str) -> int | None:
    attribute = device.device.attributes.get(name) or device.device.attributes.get(qualified(name))
    return attribute.int_ if attribute else None
