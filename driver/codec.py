"""How our opaque configuration is read: strictly, with the path of what is wrong.

An unknown field, a wrong kind or another version is an error, since a typo in a claim would otherwise be
silence. The kinds themselves are in `driver.config` (what users and admins ask for) and `driver.placement`
(what the controller decided).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from driver.devices import Tier
from driver.errors import ConfigError
from driver.names import API_VERSION

PLACEMENT: Final = "Placement"
"""The controller's kind, which users' documents may not have."""

Parameters = bytes | msgspec.Raw | Mapping[str, Any]
"""An opaque configuration's `parameters`: JSON, raw or decoded."""

TierName = Literal["PIX", "PXB", "PHB", "NODE", "SYS"]

_MSGSPEC_PATH = re.compile(r" - at `\$\.?(.*)`$")

_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF_A_PAIR = re.compile(rb"%b(?!%b)|(?<!%b)%b" % (_HIGH, _LOW, _HIGH, _LOW))

T = TypeVar("T")


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """Base of what is on the wire."""


class _Header(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""


def kind_of(parameters: Parameters) -> str:
    """The document's kind, for telling one from another before decoding it.

    Raises:
        ConfigError: not a JSON object, or of another apiVersion.
    """
    header = _convert(parameters, _Header)
    if header.api_version != API_VERSION:
        raise ConfigError(f"is {header.api_version!r}; this driver speaks {API_VERSION}", path="apiVersion")
    return header.kind


def decode(parameters: Parameters, kinds: Mapping[str, type[T]]) -> T:
    """The document as the struct of its kind.

    Raises:
        ConfigError: with the path of the field that is wrong.
    """
    found = kind_of(parameters)
    if found not in kinds:
        hint = "; only the controller writes that kind" if found == PLACEMENT else ""
        expected = " or ".join(kinds)
        raise ConfigError(f"is {found!r}, but {expected} is expected here{hint}", path="kind")
    return _convert(parameters, kinds[found])


def tier_name(tier: Tier) -> TierName:
    """The tier as it is written."""
    return tier.name  # type: ignore[return-value]  # the enum's names are the literals


def _convert(parameters: Parameters, wire: type[T]) -> T:
    try:
        if isinstance(parameters, Mapping):
            return msgspec.convert(parameters, wire)
        return msgspec.json.decode(parameters, type=wire)
    except msgspec.ValidationError as error:
        text = str(error)
        match = _MSGSPEC_PATH.search(text)
        path = match[1] if match else ""
        raise ConfigError(_MSGSPEC_PATH.sub("", text), path=path) from error
    except RecursionError as error:
        raise ConfigError("is nested too deeply for a document of this driver") from error
    except msgspec.DecodeError as error:
        half = _HALF_A_PAIR.search(bytes(parameters)) if not isinstance(parameters, Mapping) else None
        if half is not None:
            raise ConfigError(f"has {half[0].decode()}, half a surrogate pair and no character") from error
        raise ConfigError(f"is no JSON: {error}") from error
