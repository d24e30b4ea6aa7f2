"""How many members may be at one place for each other's sake: what rules between pods mean to the search.

A place is a node or a zone. Pods that are there already make the numbers of one place differ from another's,
so that the search need not know of rules, pods or labels. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.gangs.packing import Members

Present = Sequence[tuple[int, int]]
"""The shapes of which there are members, and how many."""


@dataclass(frozen=True, slots=True)
class Count:
    """So many, at least and at most. `weights`: what one member counts, by shape."""

    weights: Members
    most: int
    least: int = 0

    def admits(self, present: Present) -> bool:
        """These may be at the place, and nobody else."""
        return self.least <= _total(self.weights, present) <= self.most

    def may_grow(self, present: Present) -> bool:
        """These may be at the place, perhaps with more of them."""
        return _total(self.weights, present) <= self.most


@dataclass(frozen=True, slots=True)
class Apart:
    """Whoever bears the rule has none of those it means beside it, but itself. Both by shape: how many of one
    member's pods they are.
    """

    bearing: Members
    meant: Members

    def admits(self, present: Present) -> bool:
        """These may be at the place, and nobody else."""
        bearing, meant = _total(self.bearing, present), _total(self.meant, present)
        if not bearing or not meant:
            return True
        alone = any(self.bearing[shape] and self.meant[shape] for shape, _ in present)
        return alone and bearing == meant == 1

    def may_grow(self, present: Present) -> bool:
        """These may be at the place, perhaps with more of them."""
        return self.admits(present)


Seats = tuple[Count | Apart, ...]
"""All of them hold."""


def admit(seats: Seats, members: Members) -> bool:
    """These may be at a place with such seats, and nobody else."""
    present = _present(members) if seats else ()
    return all(seat.admits(present) for seat in seats)


def may_grow(seats: Seats, members: Members) -> bool:
    """These may be at a place with such seats, perhaps with more of them."""
    present = _present(members) if seats else ()
    return all(seat.may_grow(present) for seat in seats)


def _present(members: Members) -> Present:
    """Of many unlike members few are at one place."""
    return [(shape, count) for shape, count in enumerate(members) if count]


def _total(weights: Members, present: Present) -> int:
    return sum([weights[shape] * count for shape, count in present])
