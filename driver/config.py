"""What users and admins ask of us in claims and DeviceClasses: opaque configuration of our kinds.

Decoding is strict (`driver.codec`); the controller's own kind is refused here, or a tenant could forge it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from driver.codec import Parameters, Strict, TierName, decode
from driver.devices import Tier
from driver.errors import ConfigError
from driver.gang import Gang, WireGang, gang_of

ALIGNMENT: Final = "Alignment"
ATTACHMENT: Final = "Attachment"

_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_REQUEST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(/[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class RequestPair:
    """The two requests of a claim whose devices are paired, by name (``name`` or ``name/subrequest``)."""

    gpus: str
    nics: str


@dataclass(frozen=True, slots=True)
class Alignment:
    """What a user asks of the pairs of two requests, and of the pods that belong together.

    Attributes:
        pairs: which requests; None: it is about the gang alone.
        prefer: tiers, best first; those that are not named come after them, near before far.
        require: no pair may be worse than this.
        gang: the pod is one of several that are placed together.
    """

    pairs: RequestPair | None
    prefer: tuple[Tier, ...] = ()
    require: Tier = Tier.SYS
    gang: Gang | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """Which network the NICs of a configuration's requests are on.

    Attributes:
        network: name of a FabricNetwork.
        enforce: in a DeviceClass: claims may not name another one.
    """

    network: str
    enforce: bool = False


UserConfig = Alignment | Attachment
"""What users and admins may write for our driver."""


class _RequestPair(Strict, frozen=True):
    gpus: str
    nics: str


class _Alignment(Strict, frozen=True):
    api_version: str
    kind: str
    pairs: _RequestPair | None = None
    prefer: tuple[TierName, ...] | None = None
    require: TierName = "SYS"
    gang: WireGang | None = None


class _Attachment(Strict, frozen=True):
    api_version: str
    kind: str
    network: str
    enforce: bool = False


def decode_user(parameters: Parameters) -> UserConfig:
    """Decode what a user (or an admin, in a DeviceClass) wrote for our driver.

    Raises:
        ConfigError: with the path of the field that is wrong.
    """
    kinds: dict[str, type[_Alignment | _Attachment]] = {ALIGNMENT: _Alignment, ATTACHMENT: _Attachment}
    wire = decode(parameters, kinds)
    return _attachment(wire) if isinstance(wire, _Attachment) else _alignment(wire)


def _attachment(wire: _Attachment) -> Attachment:
    if not _OBJECT_NAME.fullmatch(wire.network):
        raise ConfigError(f"{wire.network!r} is no name of a FabricNetwork", path="network")
    return Attachment(wire.network, wire.enforce)


def _alignment(wire: _Alignment) -> Alignment:
    gang = gang_of(wire.gang) if wire.gang is not None else None
    if wire.pairs is None:
        if gang is None:
            raise ConfigError("is missing; right is {gpus: REQUEST, nics: REQUEST}", path="pairs")
        if wire.prefer is not None or wire.require != "SYS":
            raise ConfigError("is missing, and prefer and require are about pairs", path="pairs")
        return Alignment(pairs=None, gang=gang)
    for field, name in (("pairs.gpus", wire.pairs.gpus), ("pairs.nics", wire.pairs.nics)):
        if not _REQUEST_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name of a request (name or name/subrequest)", path=field)
    if wire.pairs.gpus.split("/")[0] == wire.pairs.nics.split("/")[0]:
        both = f"gpus is {wire.pairs.gpus!r} and nics {wire.pairs.nics!r}, which are one request"
        raise ConfigError(f"{both}; name two requests", path="pairs")
    prefer = wire.prefer
    if prefer is not None and (not prefer or len(set(prefer)) < len(prefer)):
        raise ConfigError(
            f"is [{', '.join(prefer)}]; name each tier at most once, and one at least", path="prefer"
        )
    return Alignment(
        pairs=RequestPair(gpus=wire.pairs.gpus, nics=wire.pairs.nics),
        prefer=tuple(Tier[name] for name in prefer) if prefer is not None else (),
        require=Tier[wire.require],
        gang=gang,
    )
