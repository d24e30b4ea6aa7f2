"""Rails that a claim's NICs may be on, as somebody else has decided.

A network closes rails where it has no subnet or no free address left; a gang's members are all on the rails
of the first one. The allocator must know beforehand, so that other rails and other nodes are tried.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from controller.allocator.model import NodeDevices, PoolDevice
from controller.allocator.traits import rail_of, traits
from driver.names import TYPE_NIC, TYPE_VF

_NICS: Final = (TYPE_NIC, TYPE_VF)


@dataclass(frozen=True, slots=True)
class Limit:
    """Restricts the NICs of one claim; GPUs and all other devices are as free as without it.

    Attributes:
        rails: those that are open.
        reason: why the others are closed, for people; follows a number of devices ("on rails without a free
            address of FabricNetwork blue").
        exactly: every one of the rails must be used, too. Then a NIC without a rail is closed.
        requests: those of the claim that it is for, by name (``name`` or ``name/subrequest``); empty: all.
        railed: a NIC without a rail is closed; else it is not restricted.
    """

    rails: frozenset[int]
    reason: str
    exactly: bool = False
    requests: frozenset[str] = frozenset()
    railed: bool = False

    def covers(self, request: str) -> bool:
        """Is it for this request, or subrequest?"""
        return not self.requests or request in self.requests

    def opens(self, rail: int | None) -> bool:
        """May a NIC be on this rail (None: on none)?"""
        return not (self.exactly or self.railed) if rail is None else rail in self.rails

    def closes(self, device: PoolDevice, kind: str) -> bool:
        """May the claim not have this device, which is a `kind`?"""
        return kind in _NICS and not self.opens(rail_of(device))


def rails(node: NodeDevices) -> Sequence[int | None]:
    """By index: the rail of each NIC, None for all other devices."""

    def derive() -> Sequence[int | None]:
        return tuple(
            rail_of(device) if kind in _NICS else None
            for device, kind in zip(node.devices, traits(node).types, strict=True)
        )

    return node.derived("rails", derive)


def listed(numbers: Collection[int]) -> str:
    """``rail 3``, ``rails 0, 2, 3``."""
    return f"rail{'s' * (len(numbers) != 1)} {', '.join(map(str, sorted(numbers)))}"
