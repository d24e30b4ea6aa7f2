"""What users ask of the pods that belong together: how many, on which rails, how near to each other.

Part of kind Alignment (`driver.config`), in a module of its own, since the rules are the gang's and not the
pairs'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from driver.codec import Strict
from driver.errors import ConfigError

TIMEOUT_SECONDS: Final = 300
"""Unless the gang says otherwise."""

_SMALLEST, _LARGEST = 2, 10_000
_LONGEST_TIMEOUT = 7 * 24 * 3600
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Gang:
    """Pods that get their devices together or not at all.

    Attributes:
        size: so many pods are placed together; None: as many as their PodGroup says.
        same_rails: the NICs of all members are on the same rails.
        within: label of nodes; all members are on nodes with one value of it. Empty: anywhere.
        timeout_seconds: after so long without a place, people are told.
    """

    size: int | None = None
    same_rails: bool = True
    within: str = ""
    timeout_seconds: int = TIMEOUT_SECONDS


class WireGang(Strict, frozen=True):
    """`gang` of an Alignment."""

    size: int | None = None
    rails: Literal["same", "any"] = "same"
    within: str | None = None
    timeout_seconds: int = TIMEOUT_SECONDS


def gang_of(wire: WireGang) -> Gang:
    """The checked value.

    Raises:
        ConfigError: with the path of the field that is wrong.
    """
    if wire.size is not None and not _SMALLEST <= wire.size <= _LARGEST:
        raise ConfigError(f"is {wire.size}; right is {_SMALLEST} to {_LARGEST}", path="gang.size")
    if wire.within is not None:
        prefix, slash, name = wire.within.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not _LABEL_PREFIX.fullmatch(prefix)):
            raise ConfigError(f"{wire.within!r} is no key of a node label", path="gang.within")
    if not 1 <= wire.timeout_seconds <= _LONGEST_TIMEOUT:
        raise ConfigError(
            f"is {wire.timeout_seconds}; right is 1 to {_LONGEST_TIMEOUT} seconds", path="gang.timeoutSeconds"
        )
    return Gang(wire.size, wire.rails == "same", wire.within or "", wire.timeout_seconds)
