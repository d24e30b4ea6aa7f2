"""Opaque configurations in claims, classes and allocations: what users ask for, and what the controller
decided.

Decoding is strict: an unknown field, a wrong kind or a contradiction is an error that names its path, since
a typo in a claim would otherwise be silence. `Alignment` is the users' kind; `Placement` is the
controller's word to the plugin, which believes it from source FromClass alone, and users' documents of that
kind are refused here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec

from driver.devices import Tier
from driver.errors import ConfigError
from driver.names import API_VERSION

ALIGNMENT: Final = "Alignment"
PLACEMENT: Final = "Placement"

TierName = Literal["PIX", "PXB", "PHB", "NODE", "SYS"]

_REQUEST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(/[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?")
_DEVICE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_INTERFACE_NAME = re.compile(r"[^\s/:]{1,15}")
_MSGSPEC_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MTU_MINIMUM, _MTU_MAXIMUM = 68, 65535

Parameters = bytes | msgspec.Raw | Mapping[str, Any]
"""An opaque configuration's `parameters`: JSON, raw or decoded."""


@dataclass(frozen=True, slots=True)
class RequestPair:
    """The two requests of a claim whose devices are paired, by name (``name`` or ``name/subrequest``)."""

    gpus: str
    nics: str


@dataclass(frozen=True, slots=True)
class Alignment:
    """What a user asks of the pairs of two requests.

    Attributes:
        pairs: which requests.
        prefer: tiers, best first; a tier that is not named comes after all that are.
        require: no pair may be worse than this.
    """

    pairs: RequestPair
    prefer: tuple[Tier, ...] = tuple(Tier)
    require: Tier = Tier.SYS


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


# --- on the wire ----------------------------------------------------------------------------------


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """Base of the wire structs."""


class _Header(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""


class _RequestPair(_Strict, frozen=True):
    gpus: str
    nics: str


class _Alignment(_Strict, frozen=True):
    api_version: str
    kind: str
    pairs: _RequestPair
    prefer: tuple[TierName, ...] | None = None
    require: TierName = "SYS"


class _Pair(_Strict, frozen=True):
    gpu: str
    nic: str
    tier: TierName
    rail: int | None = None


class _Interface(_Strict, frozen=True):
    device: str
    interface: str
    addresses: tuple[str, ...] = ()
    rail: int | None = None
    mtu: int | None = None


class _Placement(_Strict, frozen=True):
    api_version: str
    kind: str
    pairs: tuple[_Pair, ...] = ()
    interfaces: tuple[_Interface, ...] = ()


W = TypeVar("W", _Alignment, _Placement)


def decode_user(parameters: Parameters) -> Alignment:
    """Decode what a user (or an admin, in a DeviceClass) wrote for our driver.

    Raises:
        ConfigError: with the path of the field that is wrong.
    """
    wire = _decode(parameters, _Alignment, ALIGNMENT)
    for field, name in (("pairs.gpus", wire.pairs.gpus), ("pairs.nics", wire.pairs.nics)):
        if not _REQUEST_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name of a request (name or name/subrequest)", path=field)
    if wire.pairs.gpus == wire.pairs.nics:
        raise ConfigError(f"gpus and nics are both {wire.pairs.gpus!r}; name two requests", path="pairs")
    prefer = wire.prefer
    if prefer is not None and (not prefer or len(set(prefer)) < len(prefer)):
        raise ConfigError(
            f"is [{', '.join(prefer)}]; name each tier at most once, and one at least", path="prefer"
        )
    return Alignment(
        pairs=RequestPair(gpus=wire.pairs.gpus, nics=wire.pairs.nics),
        prefer=tuple(Tier[name] for name in prefer) if prefer is not None else tuple(Tier),
        require=Tier[wire.require],
    )


def decode_placement(parameters: Parameters) -> Placement:
    """Decode the controller's decision. The caller has made sure that it comes from source FromClass.

    Raises:
        ConfigError: with the path of the field that is wrong.
    """
    wire = _decode(parameters, _Placement, PLACEMENT)
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
        pairs=tuple(_Pair(p.gpu, p.nic, _tier_name(p.tier), p.rail) for p in placement.pairs),
        interfaces=tuple(
            _Interface(i.device, i.interface, i.addresses, i.rail, i.mtu) for i in placement.interfaces
        ),
    )
    return msgspec.json.encode(wire)


def kind_of(parameters: Parameters) -> str:
    """The document's kind, for telling a Placement from an Alignment before decoding it.

    Raises:
        ConfigError: not a JSON object, or of another apiVersion.
    """
    header = _convert(parameters, _Header)
    if header.api_version != API_VERSION:
        raise ConfigError(f"is {header.api_version!r}; this driver speaks {API_VERSION}", path="apiVersion")
    return header.kind


def _tier_name(tier: Tier) -> TierName:
    return tier.name  # type: ignore[return-value]  # the enum's names are the literals


def _decode(parameters: Parameters, wire: type[W], kind: str) -> W:
    found = kind_of(parameters)
    if found != kind:
        hint = "; only the controller writes that kind" if found == PLACEMENT else ""
        raise ConfigError(f"is {found!r}, but {kind} is expected here{hint}", path="kind")
    return _convert(parameters, wire)


S = TypeVar("S")


def _convert(parameters: Parameters, wire: type[S]) -> S:
    try:
        if isinstance(parameters, Mapping):
            return msgspec.convert(parameters, wire)
        return msgspec.json.decode(parameters, type=wire)
    except msgspec.ValidationError as error:
        text = str(error)
        match = _MSGSPEC_PATH.search(text)
        path = match[1] if match else ""
        raise ConfigError(_MSGSPEC_PATH.sub("", text), path=path) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"is no JSON: {error}") from error


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
