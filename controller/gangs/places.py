"""What a gang's search answers: a place for each member, or how near it comes."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.allocator.limits import Limit
from controller.allocator.verdict import Allocation
from controller.wish import Wish


@dataclass(frozen=True, slots=True)
class Placed:
    """A member's place; `allocation` is of what its wish wants, with what those want who share a claim."""

    wish: Wish
    node: str
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class Tried:
    """What a search has looked at.

    Attributes:
        kinds: of members that ask for the same.
        nodes: that any of them could be on by itself.
        states: in which these nodes are.
        rail_sets: of which the members would share one; 0: rails do not matter.
        steps: taken in all; one is about a microsecond.
    """

    kinds: int
    nodes: int
    states: int
    rail_sets: int
    steps: int


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Not all have room. `most` of them would have room at once, on those rails in that domain; `short` is a
    member of the kind that has none. `unfinished`: asked again, the search goes on. `reason`: why rails were
    left out, if any. `limits`: what those rails mean for the claims of `short`. `kinds`: of members that ask
    for the same, the first, how many there are, and how many of them have room.
    """

    most: int
    short: Wish
    rails: frozenset[int] | None
    domain: str
    gave_up: bool = False
    unfinished: bool = False
    reason: str = ""
    limits: tuple[Limit | None, ...] = ()
    kinds: tuple[tuple[str, int, int], ...] = ()
    tried: Tried | None = field(default=None, compare=False)
