"""Which pod, or gang of pods, is looked at next, and when: by priority, then age; refused ones sleep until
something changed.

A refused pod is parked with the cluster's generation at its refusal. It is woken when that generation has
moved on, all parked pods at once and at most every `sweep_seconds`, and then looks only at the nodes that
changed since. Beyond that each parked pod is looked at again in full now and then, as a net under the
book-keeping. Pure: `now` is monotonic seconds.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from controller.gangs.membership import GangId
from controller.state import Key

Item = Key | GangId
"""What is placed at once: a pod, or the pods of a gang."""

Rank = tuple[int, str, Key]
"""Sorts first what is due first: negative priority, creation time (RFC 3339 sorts as text), name."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A pod (or gang) whose turn it is. `since` is the generation it has seen: 0 means look at all nodes."""

    item: Item
    since: int


@dataclass(slots=True)
class _Entry:
    rank: Rank
    since: int = 0
    parked_at: int | None = None
    due: float = 0.0


class PlacementQueue:
    """Everything is in here at most once. Not thread-safe."""

    def __init__(self, *, sweep_seconds: float = 0.2, resync_seconds: float = 300.0) -> None:
        self._sweep_seconds = sweep_seconds
        self._resync_seconds = resync_seconds
        self._entries: dict[Item, _Entry] = {}
        self._ready: list[tuple[Rank, Item]] = []
        self._timed: list[tuple[float, Rank, Item]] = []
        self._parked: set[Item] = set()
        self._swept_generation = 0
        self._swept_at = float("-inf")

    def add(self, item: Item, rank: Rank) -> None:
        """Look at it, at all nodes, as soon as its turn comes."""
        self._parked.discard(item)
        self._entries[item] = _Entry(rank)
        heapq.heappush(self._ready, (rank, item))

    def park(self, item: Item, rank: Rank, now: float, *, generation: int | None, full_at: float) -> None:
        """Refused, or to wait: wake it when the cluster moves on from `generation` (None: never for that),
        and in any case at `full_at` or after the resync period, for all nodes.
        """
        due = min(full_at, now + self._resync_seconds)
        self._entries[item] = _Entry(rank, parked_at=generation, due=due)
        heapq.heappush(self._timed, (due, rank, item))
        if generation is not None:
            self._parked.add(item)
        else:
            self._parked.discard(item)

    def remove(self, item: Item) -> None:
        """It needs no placement any more."""
        self._entries.pop(item, None)
        self._parked.discard(item)

    def pop(self, now: float, generation: int) -> Turn | None:
        """The next one that is due, None if there is none now."""
        self._wake_timed(now)
        self._sweep(now, generation)
        while self._ready:
            rank, item = heapq.heappop(self._ready)
            entry = self._entries.get(item)
            if entry is not None and entry.rank == rank and entry.parked_at is None and not entry.due:
                del self._entries[item]
                return Turn(item, entry.since)
        return None

    def next_due(self, generation: int) -> float | None:
        """When `pop` may give a pod though nothing changes; None: never."""
        if self._ready:
            return 0.0
        while self._timed and not self._is_current(*self._timed[0]):
            heapq.heappop(self._timed)
        due = [self._timed[0][0]] if self._timed else []
        if self._parked and generation > self._swept_generation:
            due.append(self._swept_at + self._sweep_seconds)
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

    def _sweep(self, now: float, generation: int) -> None:
        if generation <= self._swept_generation or now < self._swept_at + self._sweep_seconds:
            return
        self._swept_generation = generation
        for item in list(self._parked):
            entry = self._entries[item]
            if entry.parked_at is not None and entry.parked_at < generation:
                self._swept_at = now
                self._parked.discard(item)
                self._entries[item] = _Entry(entry.rank, since=entry.parked_at)
                heapq.heappush(self._ready, (entry.rank, item))
