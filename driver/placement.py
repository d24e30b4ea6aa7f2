"""The controller's word to the plugin: pairs and interfaces of one claim.

It is the one kind that no user may write: the plugin believes it from source FromClass alone, which only who
writes allocations can set. `driver.config` refuses it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from driver.codec import PLACEMENT, Parameters, Strict, TierName, decode, tier_name
from driver.devices import Tier
from driver.errors import ConfigError
from driver.names import API_VERSION

_DEVICE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_INTERFACE_NAME = re.compile(r"[^\s/:]{1,15}")

MTUS: Final = range(68, 65536)
VLANS: Final = range(1, 4095)
TRAFFIC_CLASSES: Final = range(256)


@dataclass(frozen=True, slots=True)
class PlacedPair:
    """Device names of a GPU and its NIC, how near they are, and the rail where both know one."""

    gpu: str
    nic: str
    tier: Tier
    rail: int | None = None


@dataclass(frozen=True, slots=True)
class PlacedRoute:
    """A destination (a network) and the router's address."""

    to: str
    via: str


@dataclass(frozen=True, slots=True)
class PlacedInterface:
    """How a NIC's interface is to look in the pod, and what its network wants of it.

    Attributes:
        device: the NIC, by its device name.
        interface: its name in the pod.
        addresses: with prefix length.
        mtu: in bytes; None leaves it.
        network: name of the FabricNetwork, empty for none.
        vlan: ID that the VF's port tags with; None leaves the port as it is.
        traffic_class: of RoCE: DSCP and ECN, the whole byte; None leaves it to the application.
    """

    device: str
    interface: str
    addresses: tuple[str, ...] = ()
    rail: int | None = None
    mtu: int | None = None
    network: str = ""
    routes: tuple[PlacedRoute, ...] = ()
    vlan: int | None = None
    traffic_class: int | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """The controller's decision about one claim: its pairs in order, an interface for each NIC result."""

    pairs: tuple[PlacedPair, ...] = ()
    interfaces: tuple[PlacedInterface, ...] = ()


class _Pair(Strict, frozen=True):
    gpu: str
    nic: str
    tier: TierName
    rail: int | None = None


class _Route(Strict, frozen=True):
    to: str
    via: str


class _Interface(Strict, frozen=True):
    device: str
    interface: str
    addresses: tuple[str, ...] = ()
    rail: int | None = None
    mtu: int | None = None
    network: str = ""
    routes: tuple[_Route, ...] = ()
    vlan: int | None = None
    traffic_class: int | None = None


class _Placement(Strict, frozen=True):
    api_version: str
    kind: str
    pairs: tuple[_Pair, ...] = ()
    interfaces: tuple[_Interface, ...] = ()


def decode_placement(parameters: Parameters) -> Placement:
    """Decode the controller's decision. The caller has made sure that it comes from source FromClass.

    Raises:
        ConfigError: with the path of the field that is wrong.
    """
    wire = decode(parameters, {PLACEMENT: _Placement})
    for index, pair in enumerate(wire.pairs):
        for field, name in (("gpu", pair.gpu), ("nic", pair.nic)):
            _check_device(name, f"pairs[{index}].{field}")
    names: set[str] = set()
    for index, interface in enumerate(wire.interfaces):
        _check_interface(interface, f"interfaces[{index}]", names)
    return Placement(
        pairs=tuple(PlacedPair(p.gpu, p.nic, Tier[p.tier], p.rail) for p in wire.pairs),
        interfaces=tuple(_read(interface) for interface in wire.interfaces),
    )


def encode_placement(placement: Placement) -> bytes:
    """A decision as JSON, in the form that `decode_placement` takes; equal decisions give equal bytes."""
    wire = _Placement(
        api_version=API_VERSION,
        kind=PLACEMENT,
        pairs=tuple(_Pair(p.gpu, p.nic, tier_name(p.tier), p.rail) for p in placement.pairs),
        interfaces=tuple(_written(interface) for interface in placement.interfaces),
    )
    return msgspec.json.encode(wire)


def _read(wire: _Interface) -> PlacedInterface:
    return PlacedInterface(
        device=wire.device,
        interface=wire.interface,
        addresses=wire.addresses,
        rail=wire.rail,
        mtu=wire.mtu,
        network=wire.network,
        routes=tuple(PlacedRoute(route.to, route.via) for route in wire.routes),
        vlan=wire.vlan,
        traffic_class=wire.traffic_class,
    )


def _written(placed: PlacedInterface) -> _Interface:
    return _Interface(
        device=placed.device,
        interface=placed.interface,
        addresses=placed.addresses,
        rail=placed.rail,
        mtu=placed.mtu,
        network=placed.network,
        routes=tuple(_Route(route.to, route.via) for route in placed.routes),
        vlan=placed.vlan,
        traffic_class=placed.traffic_class,
    )


def _check_device(name: str, path: str) -> None:
    if not _DEVICE_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no device name (a DNS label)", path=path)


def _check_interface(interface: _Interface, path: str, names: set[str]) -> None:
    _check_device(interface.device, f"{path}.device")
    name = interface.interface
    if not _INTERFACE_NAME.fullmatch(name) or name in (".", ".."):
        raise ConfigError(f"{name!r} is no interface name (1 to 15 characters)", path=f"{path}.interface")
    if name in names:
        raise ConfigError(f"{name!r} is given to two interfaces", path=f"{path}.interface")
    names.add(name)
    for index, address in enumerate(interface.addresses):
        at = f"{path}.addresses[{index}]"
        _check_parsed(ipaddress.ip_interface, address, at)
        if "/" not in address:
            raise ConfigError(f"{address!r} has no prefix length", path=at)
    for index, route in enumerate(interface.routes):
        _check_parsed(ipaddress.ip_network, route.to, f"{path}.routes[{index}].to")
        _check_parsed(ipaddress.ip_address, route.via, f"{path}.routes[{index}].via")
    _check_number(interface.mtu, MTUS, f"{path}.mtu")
    _check_number(interface.vlan, VLANS, f"{path}.vlan")
    _check_number(interface.traffic_class, TRAFFIC_CLASSES, f"{path}.trafficClass")


def _check_parsed(parse: Callable[[str], object], text: str, path: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise ConfigError(str(error), path=path) from error


def _check_number(value: int | None, right: range, path: str) -> None:
    if value is not None and value not in right:
        raise ConfigError(f"is {value}; right is {right[0]} to {right[-1]}", path=path)
