"""The waiting pods and gangs of one namespace: who is looked at next, and when. By priority, then age;
refused ones sleep until something changed.

A refused pod is parked with the cluster's generation at its refusal. It is woken when that generation has
moved on, and then looks only at the nodes that changed since. What came free is for those who waited: nobody
who comes later has a turn before they have looked. So that this does not eat up the time, sweeps over the
parked keep a distance that grows with their number, up to `sweep_seconds`; who comes later waits meanwhile.
What holds between namespaces is said in `controller.queue`.

Pods that ask for the same are refused together, so they are parked as one flock: its first is woken, and the
next only when the first was not refused. So each change costs a look for each flock, and a thousand that wait
for the same keep nobody else waiting. Beyond that each parked pod is looked at again in full now and then, as
a net under the book-keeping. Pure: `now` is monotonic seconds.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass, field

from controller.gangs.membership import GangId
from controller.state import Key

Item = Key | GangId
"""What is placed at once: a pod, or the pods of a gang."""

_NEVER = float("inf")
_POD_SECONDS, _GANG_SECONDS = 0.001, 0.05
"""Between sweeps, for each that was woken: twenty times what a look costs, or a few times."""

Rank = tuple[int, str, Key]
"""Sorts first what is due first: negative priority, creation time (RFC 3339 sorts as text), name."""

_LAST: Rank = (2**32, "", ("", ""))


@dataclass(frozen=True, slots=True)
class Turn:
    """A pod (or gang) whose turn it is. `since` is the generation it has seen: 0 means look at all nodes."""

    item: Item
    since: int
    rank: Rank


@dataclass(slots=True)
class _Entry:
    """`flock`: the one it is parked in or was woken from; `due`: when it is woken anyway; `since`: what it
    has seen, where it is in no flock.
    """

    rank: Rank
    flock: Hashable = None
    due: float = _NEVER
    parked: bool = False
    since: int = 0


@dataclass(slots=True)
class _Flock:
    """Parked ones that are refused together, in their order. `seen`: the generation up to which they are;
    `awake`: the one of them that waits for its turn.
    """

    seen: int
    awake: Item | None = None
    members: list[tuple[Rank, Item]] = field(default_factory=list)


class NamespaceQueue:
    """Everything is in here at most once. Not thread-safe."""

    def __init__(self, *, sweep_seconds: float, resync_seconds: float) -> None:
        self._sweep_seconds = sweep_seconds
        self._resync_seconds = resync_seconds
        self._entries: dict[Item, _Entry] = {}
        self._ready: list[tuple[Rank, Item]] = []
        self._timed: list[tuple[float, Rank, Item]] = []
        self._flocks: dict[Hashable, _Flock] = {}
        self._eldest = _LAST
        """Nobody who is parked until the cluster moves on comes before."""
        self._swept_generation = 0
        self._next_sweep = -_NEVER
        self._pause = 0.0

    def add(self, item: Item, rank: Rank, since: int = 0) -> None:
        """Look at it as soon as its turn comes: at all nodes, or at those that changed after `since`."""
        self._leave(item)
        self._entries[item] = _Entry(rank, since=since)
        heapq.heappush(self._ready, (rank, item))

    def park(
        self,
        item: Item,
        rank: Rank,
        now: float,
        *,
        generation: int | None,
        full_at: float,
        alike: Hashable = None,
    ) -> None:
        """Refused, or to wait: wake it when the cluster moves on from `generation` (None: never for that),
        and in any case at `full_at` or after the resync period, for all nodes. All that are parked with an
        equal `alike` are refused as well by what refuses one of them; None: like no other.
        """
        self._leave(item)
        due = min(full_at, now + self._resync_seconds)
        entry = self._entries[item] = _Entry(rank, due=due, parked=True)
        heapq.heappush(self._timed, (due, rank, item))
        if generation is not None:
            entry.flock = item if alike is None else alike
            flock = self._flocks.setdefault(entry.flock, _Flock(generation))
            flock.seen = max(flock.seen, generation)
            insort(flock.members, (rank, item))
            self._eldest = min(self._eldest, rank)

    def remove(self, item: Item) -> None:
        """It needs no placement any more."""
        self._leave(item)
        self._entries.pop(item, None)

    def first(self, now: float, generation: int) -> Rank | None:
        """The rank of the one that `pop` would give, None if none is due now."""
        self._wake_timed(now)
        self._sweep(now, generation)
        while self._ready:
            rank, item = self._ready[0]
            entry = self._entries.get(item)
            if entry is None or entry.rank != rank or entry.parked:
                heapq.heappop(self._ready)
                continue
            if self._overtakes(rank, generation):
                return None
            flock = self._flocks.get(entry.flock) if entry.flock is not None else None
            if flock is None or flock.seen < generation:
                return rank
            heapq.heappop(self._ready)  # the one before it was refused
            flock.awake = None
            entry.parked = True
            insort(flock.members, (rank, item))
        return None

    def pop(self, now: float, generation: int) -> Turn | None:
        """The next one that is due, None if there is none now."""
        if self.first(now, generation) is None:
            return None
        rank, item = heapq.heappop(self._ready)
        entry = self._entries.pop(item)
        flock = self._flocks.get(entry.flock) if entry.flock is not None else None
        if flock is None:
            return Turn(item, entry.since, rank)
        flock.awake = None
        seen = flock.seen
        self._wake_first(entry.flock, flock)
        return Turn(item, seen, rank)

    def eldest_to_look(self, generation: int, within: float) -> Rank | None:
        """The first of those who are parked and have not looked at what changed yet; None where there are
        none, or where the pause between sweeps is longer than `within` seconds.
        """
        if not self._flocks or generation <= self._swept_generation or self._pause > within:
            return None
        return self._eldest

    def changes_at(self, generation: int) -> float | None:
        """When time alone changes what `first` or `eldest_to_look` say; None: never."""
        while self._timed and not self._is_current(*self._timed[0]):
            heapq.heappop(self._timed)
        due = [self._timed[0][0]] if self._timed else []
        if self._flocks and generation > self._swept_generation:
            due.append(self._next_sweep)
        return min(due, default=None)

    def __len__(self) -> int:
        return len(self._entries)

    def _is_current(self, due: float, _rank: Rank, item: Item) -> bool:
        entry = self._entries.get(item)
        return entry is not None and entry.due == due

    def _wake_timed(self, now: float) -> None:
        while self._timed and self._timed[0][0] <= now:
            due, rank, item = heapq.heappop(self._timed)
            if self._is_current(due, rank, item):
                self.add(item, self._entries[item].rank)

    def _overtakes(self, rank: Rank, generation: int) -> bool:
        """Somebody who comes before has not looked at what changed yet."""
        return bool(self._flocks) and generation > self._swept_generation and rank > self._eldest

    def _sweep(self, now: float, generation: int) -> None:
        if generation <= self._swept_generation or now < self._next_sweep:
            return
        self._swept_generation = generation
        pause = 0.0
        for key, flock in list(self._flocks.items()):
            if flock.seen < generation:
                pause += _GANG_SECONDS if isinstance(key, GangId) else _POD_SECONDS
                self._wake_first(key, flock)
        self._pause = min(pause, self._sweep_seconds)
        self._next_sweep = now + self._pause
        self._eldest = min((f.members[0][0] for f in self._flocks.values() if f.members), default=_LAST)

    def _wake_first(self, key: Hashable, flock: _Flock) -> None:
        """Give the flock's first a turn; its next follows when that is over."""
        if flock.awake is not None:
            return
        if not flock.members:
            del self._flocks[key]
            return
        rank, item = flock.members.pop(0)
        self._entries[item].parked = False
        flock.awake = item
        heapq.heappush(self._ready, (rank, item))

    def _leave(self, item: Item) -> None:
        """Take it out of its flock."""
        entry = self._entries.get(item)
        flock = self._flocks.get(entry.flock) if entry is not None else None
        if entry is None or flock is None:
            return
        if entry.parked:
            del flock.members[bisect_left(flock.members, (entry.rank, item))]
            if not flock.members and flock.awake is None:
                del self._flocks[entry.flock]
        elif flock.awake == item:
            flock.awake = None
            self._wake_first(entry.flock, flock)
