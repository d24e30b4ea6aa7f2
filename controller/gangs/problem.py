"""What the gang search is asked, and what it answers, as values. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from controller.gangs.packing import Members
from controller.gangs.seats import Seats, admit

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Taken(Generic[S]):
    """One more member is on a node.

    Attributes:
        state: in which it leaves the node.
        tiers: what the tiers of its pairs cost.
        other: what else it costs.
        rails: on which its NICs are, as a bit mask.
    """

    state: S
    tiers: int
    other: int = 0
    rails: int = 0


class Provider(Protocol[S]):
    """What the search asks. Equal questions must get equal answers."""

    def take(self, shape: int, state: S, rails: int | None) -> Taken[S] | None:
        """One more member of this shape on a node in this state, on these rails (a bit mask; None: any);
        None where it cannot be. Tiers get no better by rails, nor by members that are there already.

        Raises:
            Interrupted: that is enough work for now; the search passes it on, unless it has found a way
                with the best tiers that there can be.
        """

    def fits(self, node: str, members: Members) -> bool:
        """May these members be on the node, all but devices considered? More of them never fit better."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Members that ask for the same. `nics`: of its largest claim; 0 where rails do not matter."""

    count: int
    nics: int


@dataclass(frozen=True, slots=True)
class Group(Generic[S]):
    """Nodes of one domain and zone in equal state; `rails` (a bit mask) have a free NIC there. `seats` are of
    each of them.
    """

    domain: Hashable
    state: S
    nodes: Sequence[str]
    rails: int = 0
    zone: Hashable = None
    seats: Seats = ()

    def must_take(self, nobody: Members) -> bool:
        """None of them may stay empty."""
        return not admit(self.seats, nobody)


@dataclass(slots=True)
class Tries:
    """How far the search has come in several turns: what it does not try again.

    Attributes:
        failed: the most members that had room at once, by what was tried.
        closed: by node, members that turned out not to fit it.
        steps: taken in all.
        turn: taken in this turn.
        gave_up: something was not tried to its end.
    """

    failed: dict[Hashable, Members] = field(default_factory=dict)
    closed: dict[str, frozenset[Members]] = field(default_factory=dict)
    steps: int = 0
    turn: int = 0
    gave_up: bool = False


@dataclass(frozen=True, slots=True)
class Question(Generic[S]):
    """Where do these go?

    Attributes:
        shapes: most demanding first: in this order members are put on a node.
        groups: the fullest nodes first.
        rails: the sets that all members may be on (bit masks), of which one is chosen; (None,): any.
        zones: all that there are, with their seats; none where zones do not matter.
        musts: so many nodes must not stay empty, be they in a group or not.
        steps: how far the search may go before it gives up; one is about a microsecond.
        turn_steps: how far it may go without a way before it is interrupted.
        patience: steps after which it is content with a way that it has found.
        tries: of the turns before.
    """

    shapes: Sequence[Shape]
    groups: Sequence[Group[S]]
    rails: Sequence[int | None] = (None,)
    zones: Mapping[Hashable, Seats] = field(default_factory=dict)
    musts: int = 0
    steps: int = 2_000_000
    turn_steps: int = 30_000
    patience: int = 4_000
    tries: Tries = field(default_factory=Tries)

    @property
    def demand(self) -> Members:
        """How many of each shape."""
        return tuple(shape.count for shape in self.shapes)


@dataclass(frozen=True, slots=True)
class Found:
    """A way: the nodes with the members that each takes. `cost` compares ways of one question."""

    domain: Hashable
    rails: int | None
    places: tuple[tuple[str, Members], ...]
    cost: int


@dataclass(frozen=True, slots=True)
class NotFound:
    """No way, or (`gave_up`) none found. `most`: so many have room at once, in that domain on those rails."""

    most: Members
    domain: Hashable
    rails: int | None
    gave_up: bool = False
