"""The controller's word to the plugin: pairs and interfaces of one claim.

It is the one kind that no user may write: the plugin believes it from source FromClass alone, which only who
writes allocations can set. `driver.config` refuses it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import msgspec

from driver.codec import PLACEMENT, Parameters, Strict, TierName, decode, tier_name
from driver.devices import Tier
from driver.errors import ConfigError
from driver.names import API_VERSION

_DEVICE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_INTERFACE_NAME = re.compile(r"[^\s/:]{1,15}")
_MTU_MINIMUM, _MTU_MAXIMUM = 68, 65535


@dataclass(frozen=True, slots=True)
class PlacedPair:
    """Device names of a GPU and its NIC, how near they are, and the rail where both know one."""

    gpu: str
    nic: str
    tier: Tier
    rail: int | None = None


@dataclass(frozen=True, slots=True)
class PlacedInterface:
    """How a NIC's interface is to look in the pod: name, addresses with prefix length, rail, MTU in bytes."""

    device: str
    interface: str
    addresses: tuple[str, ...] = ()
    rail: int | None = None
    mtu: int | None = None


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


class _Interface(Strict, frozen=True):
    device: str
    interface: str
    addresses: tuple[str, ...] = ()
    rail: int | None = None
    mtu: int | None = None


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
        interfaces=tuple(
            PlacedInterface(i.device, i.interface, i.addresses, i.rail, i.mtu) for i in wire.interfaces
        ),
    )


def encode_placement(placement: Placement) -> bytes:
    """A decision as JSON, in the form that `decode_placement` takes; equal decisions give equal bytes."""
    wire = _Placement(
        api_version=API_VERSION,
        kind=PLACEMENT,
        pairs=tuple(_Pair(p.gpu, p.nic, tier_name(p.tier), p.rail) for p in placement.pairs),
        interfaces=tuple(
            _Interface(i.device, i.interface, i.addresses, i.rail, i.mtu) for i in placement.interfaces
        ),
    )
    return msgspec.json.encode(wire)


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
        try:
            ipaddress.ip_interface(address)
        except ValueError as error:
            raise ConfigError(str(error), path=f"{path}.addresses[{index}]") from error
        if "/" not in address:
            raise ConfigError(f"{address!r} has no prefix length", path=f"{path}.addresses[{index}]")
    if interface.mtu is not None and not _MTU_MINIMUM <= interface.mtu <= _MTU_MAXIMUM:
        raise ConfigError(
            f"is {interface.mtu}; right is {_MTU_MINIMUM} to {_MTU_MAXIMUM}", path=f"{path}.mtu"
        )
