"""From the allocator's answer to what is written into each claim: interface names and addresses added.

The plugin learns of the pairs and interfaces from one config entry of kind Placement with source FromClass,
which no tenant can write. Every allocation of ours carries one, be it empty: by it we know our own again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import msgspec

from controller.addressbook import AddressBook
from controller.allocator.model import PoolDevice
from controller.allocator.traits import rail_of
from controller.allocator.verdict import Allocation, ClaimAllocation
from controller.attachments import choose
from controller.books import read
from controller.networks import Network
from driver.kube.objects import (
    AllocationResult,
    DeviceAllocationConfig,
    OpaqueConfig,
    ResourceClaim,
)
from driver.names import TYPE, TYPE_NIC, TYPE_VF, qualified
from driver.placement import PlacedInterface, PlacedPair, PlacedRoute, Placement, encode_placement


def compose(
    claims: Sequence[ResourceClaim],
    allocation: Allocation,
    *,
    driver_name: str,
    networks: Sequence[Mapping[str, Network]],
    addresses: AddressBook,
    names_in_use: Set[str],
    mtu: int | None,
) -> list[tuple[ResourceClaim, AllocationResult]]:
    """Each claim with what is to be written into it, all but the time stamp.

    Args:
        claims: as they were given to the allocator.
        allocation: its answer.
        driver_name: whose config it is.
        networks: for each claim those of its requests.
        addresses: in use; what is chosen is not taken in it yet.
        names_in_use: interface names that the pod has already; new ones are net1, net2 … over all its claims.
        mtu: for interfaces whose network says none, in bytes; None: as they are.

    Raises:
        NoAddressError: a NIC's rail has no subnet, or no address left.
    """
    answer = []
    names = (name for number in range(1, 10_000) if (name := f"net{number}") not in names_in_use)
    with addresses.trying() as take:
        for claim, share, by_request in zip(claims, allocation.claims, networks, strict=True):
            interfaces = []
            for device, result in zip(share.devices, share.result.devices.results, strict=True):
                if _text(device, TYPE) not in (TYPE_NIC, TYPE_VF):
                    continue
                rail, network = rail_of(device), by_request.get(result.request)
                placed = PlacedInterface(device.id.device, next(names), rail=rail, mtu=mtu)
                if network is not None:
                    given = choose(network, rail, addresses)
                    for one in given:
                        take(one)
                    placed = _on(network, placed, tuple(one.address for one in given))
                interfaces.append(placed)
            answer.append((claim, _result(share, Placement(_pairs(share), tuple(interfaces)), driver_name)))
    return answer


def _on(network: Network, placed: PlacedInterface, addresses: tuple[str, ...]) -> PlacedInterface:
    """The interface as the network wants it."""
    rail = network.rail(placed.rail)
    gateways = rail.gateways if rail is not None else {}
    return replace(
        placed,
        addresses=addresses,
        mtu=network.mtu or placed.mtu,
        network=network.name,
        routes=tuple(PlacedRoute(str(route), gateways[route.version]) for route in network.routes),
        vlan=network.vlan,
        traffic_class=network.traffic_class,
    )


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
