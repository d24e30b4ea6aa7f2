"""A gang of many unlike members on nodes: one member after the other, the most demanding first, each where it
is best off, and back where that leads nowhere.

`controller.gangs.packing` counts all ways, of which there are as many as subsets of unlike members. Where
those are too many to count, a way is looked for here instead: it costs about members times kinds of nodes
where there is room, and is the best way only as far as every member's own choice goes. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from controller.gangs.packing import Members
from controller.gangs.seats import Seats, admit, may_grow

S = TypeVar("S", bound=Hashable)
S_co = TypeVar("S_co", bound=Hashable, covariant=True)

_FIT_STEPS: Final = 50
_TAKE_STEPS: Final = 5
_NODES_A_STEP: Final = 8
_SHAPES_A_STEP: Final = 16


class Step(Protocol[S_co]):
    """What one more member does to a node: the state in which it leaves it, and what that costs."""

    @property
    def state(self) -> S_co:
        """In which it leaves the node."""

    @property
    def tiers(self) -> int:
        """What the tiers of its pairs cost."""

    @property
    def other(self) -> int:
        """What else it costs."""


@dataclass(slots=True)
class Lot(Generic[S]):
    """Nodes in equal state. `must`: none of them may stay empty."""

    state: S
    nodes: Sequence[str]
    zone: Hashable
    seats: Seats
    must: bool


@dataclass(slots=True)
class _Taken(Generic[S]):
    """A node with members, and the state in which they leave it."""

    lot: int
    node: str
    state: S
    members: Members


class Filling(Generic[S]):
    """Looks for a way to place a demand on lots.

    Attributes:
        most: the most members that had a place at once so far.
        steps: that were taken.
    """

    def __init__(
        self,
        demand: Members,
        lots: Sequence[Lot[S]],
        zones: Mapping[Hashable, Seats],
        take: Callable[[int, S], Step[S] | None],
        fits: Callable[[str, Members], bool],
        steps: int,
    ) -> None:
        """Keep the question.

        Args:
            demand: how many of each shape, the most demanding shape first.
            lots: the nodes, those first that are to be used first.
            zones: seats of each zone.
            take: what one more member of a shape does to a node in a state; None where it cannot be there.
            fits: may these members be on the node, all but devices considered?
            steps: how far to go before it gives up; one is about a microsecond.
        """
        self._lots = lots
        self._zones = zones
        self._take = take
        self._fits = fits
        self._left = steps
        self.steps = 0
        self._nobody = (0,) * len(demand)
        self.most = self._nobody
        self._order = [shape for shape, count in enumerate(demand) for _ in range(count)]
        self._taken: dict[str, _Taken[S]] = {}
        self._may_grow: dict[tuple[Hashable, Members, int], bool] = {}
        self._in_zone: dict[Hashable, Members] = dict.fromkeys(zones, self._nobody)
        self._done: list[tuple[str, _Taken[S] | None, int, int]] = []
        """By member: its node, how that was before, and what the tiers and the rest cost."""

    def places(self) -> list[tuple[str, Members]] | None:
        """The nodes with the members that each takes; None where there is no way."""
        ways = [self._choices(self._order[0])]
        while ways and not self.gave_up:
            choice = next(ways[-1], None)
            if choice is None:
                ways.pop()
                if ways:
                    self._take_back()
                continue
            self._put(*choice)
            if len(ways) < len(self._order):
                ways.append(self._choices(self._order[len(ways)]))
            elif self._is_complete():
                return [(node, taken.members) for node, taken in self._taken.items()]
            else:
                self._take_back()
        return None

    @property
    def gave_up(self) -> bool:
        """The steps were used up before all was tried."""
        return self.steps > self._left

    @property
    def cost(self) -> tuple[int, int]:
        """What the tiers of the way that was found cost, and what else it costs."""
        return sum(tiers for _, _, tiers, _ in self._done), sum(other for _, _, _, other in self._done)

    def _put(self, lot: int, node: str, step: Step[S]) -> None:
        """The next member goes to this node."""
        shape = self._order[len(self._done)]
        before = self._taken.get(node)
        members = _plus(before.members if before is not None else self._nobody, shape)
        self._taken[node] = _Taken(lot, node, step.state, members)
        zone = self._lots[lot].zone
        if zone in self._in_zone:
            self._in_zone[zone] = _plus(self._in_zone[zone], shape)
        self._done.append((node, before, step.tiers, step.other))
        if len(self._done) > sum(self.most):
            self.most = self._placed(len(self._done))

    def _take_back(self) -> None:
        """The last member leaves its node."""
        node, before, _, _ = self._done.pop()
        zone = self._lots[self._taken[node].lot].zone
        if zone in self._in_zone:
            self._in_zone[zone] = _plus(self._in_zone[zone], self._order[len(self._done)], -1)
        if before is not None:
            self._taken[node] = before
        else:
            del self._taken[node]

    def _choices(self, shape: int) -> Iterator[tuple[int, str, Step[S]]]:
        """Where the member could be, the best first: on one node of those alike, then on the others."""
        known: dict[tuple[int, S], Step[S] | None] = {}
        found: list[tuple[tuple[int, int, bool, int], Step[S], Iterable[str]]] = []
        alike: dict[tuple[int, Members], list[str]] = {}
        self.steps += len(self._taken) // _NODES_A_STEP
        for taken in self._taken.values():
            alike.setdefault((taken.lot, taken.members), []).append(taken.node)
        for (lot, members), nodes in alike.items():
            state = self._taken[nodes[0]].state
            step = self._stepped(shape, lot, state, members, known)
            if step is not None:
                found.append(((step.tiers, step.other, False, lot), step, nodes))
        for lot, some in enumerate(self._lots):
            step = self._stepped(shape, lot, some.state, self._nobody, known)
            if step is not None:
                found.append(((step.tiers, step.other, not some.must, lot), step, self._free(some)))
        rest: list[tuple[int, Step[S], Iterator[str]]] = []
        for (_, _, _, lot), step, some_nodes in sorted(found, key=lambda one: one[0]):
            fitting = self._fitting(shape, some_nodes)
            node = next(fitting, None)
            if node is not None:
                yield lot, node, step
                rest.append((lot, step, fitting))
        for lot, step, fitting in rest:  # they are alike in devices, perhaps not in what else members need
            for node in fitting:
                yield lot, node, step

    def _fitting(self, shape: int, nodes: Iterable[str]) -> Iterator[str]:
        """Those of the nodes where one more member fits, devices aside."""
        for node in nodes:
            before = self._taken.get(node)
            members = _plus(before.members if before is not None else self._nobody, shape)
            self.steps += _FIT_STEPS + len(members) // _SHAPES_A_STEP
            if self._fits(node, members):
                yield node

    def _free(self, lot: Lot[S]) -> Iterator[str]:
        """Nodes without members."""
        return (node for node in lot.nodes if node not in self._taken)

    def _stepped(
        self,
        shape: int,
        lot: int,
        state: S,
        members: Members,
        known: dict[tuple[int, S], Step[S] | None],
    ) -> Step[S] | None:
        some = self._lots[lot]
        if not self._grows(some.seats, (lot, members, shape)):
            return None
        around = self._in_zone.get(some.zone)
        if around is not None and not self._grows(self._zones[some.zone], (some.zone, around, shape)):
            return None
        if (lot, state) not in known:
            self.steps += _TAKE_STEPS
            known[lot, state] = self._take(shape, state)
        return known[lot, state]

    def _grows(self, seats: Seats, key: tuple[Hashable, Members, int]) -> bool:
        """May one more member of the shape be at this place, beside the members that are there?"""
        self.steps += 1
        if not seats:
            return True
        known = self._may_grow.get(key)
        if known is None:
            _, members, shape = key
            self.steps += len(seats) + len(members) // _SHAPES_A_STEP
            known = self._may_grow[key] = may_grow(seats, _plus(members, shape))
        return known

    def _is_complete(self) -> bool:
        """What there must be at least is there, too."""
        if not all(admit(self._lots[taken.lot].seats, taken.members) for taken in self._taken.values()):
            return False
        if not all(admit(seats, self._in_zone[zone]) for zone, seats in self._zones.items()):
            return False
        return all(node in self._taken for lot in self._lots if lot.must for node in lot.nodes)

    def _placed(self, number: int) -> Members:
        placed = list(self._nobody)
        for shape in self._order[:number]:
            placed[shape] += 1
        return tuple(placed)


def _plus(members: Members, shape: int, more: int = 1) -> Members:
    return (*members[:shape], members[shape] + more, *members[shape + 1 :])
