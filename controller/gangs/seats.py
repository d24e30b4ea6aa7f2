"""How many members may be at one place for each other's sake: what rules between pods mean to the search.

A place is a node or a zone. Pods that are there already make the numbers of one place differ from another's,
so that the search need not know of rules, pods or labels. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.gangs.packing import Members


@dataclass(frozen=True, slots=True)
class Count:
    """So many, at least and at most. `weights`: what one member counts, by shape."""

    weights: Members
    most: int
    least: int = 0

    def admits(self, members: Members) -> bool:
        """These may be at the place, and nobody else."""
        return self.least <= _total(self.weights, members) <= self.most

    def may_grow(self, members: Members) -> bool:
        """These may be at the place, perhaps with more of them."""
        return _total(self.weights, members) <= self.most


@dataclass(frozen=True, slots=True)
class Apart:
    """Whoever bears the rule has none of those it means beside it, but itself. Both by shape: how many of one
    member's pods they are.
    """

    bearing: Members
    meant: Members

    def admits(self, members: Members) -> bool:
        """These may be at the place, and nobody else."""
        bearing, meant = _total(self.bearing, members), _total(self.meant, members)
        if not bearing or not meant:
            return True
        alone = any(n and b and m for n, b, m in zip(members, self.bearing, self.meant, strict=True))
        return alone and bearing == meant == 1

    def may_grow(self, members: Members) -> bool:
        """These may be at the place, perhaps with more of them."""
        return self.admits(members)


Seats = tuple[Count | Apart, ...]
"""All of them hold."""


def admit(seats: Seats, members: Members) -> bool:
    """These may be at a place with such seats, and nobody else."""
    return all(seat.admits(members) for seat in seats)


def may_grow(seats: Seats, members: Members) -> bool:
    """These may be at a place with such seats, perhaps with more of them."""
    return all(seat.may_grow(members) for seat in seats)


def _total(weights: Sequence[int], members: Members) -> int:
    return sum(weight * count for weight, count in zip(weights, members, strict=True))
