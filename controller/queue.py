"""Which pod is looked at next, and when: by priority, then age; refused ones sleep until something changed.

A refused pod is parked with the cluster's generation at its refusal. It is woken when that generation has
moved on, all parked pods at once and at most every `sweep_seconds`, and then looks only at the nodes that
changed since. Beyond that each parked pod is looked at again in full now and then, as a net under the
book-keeping. Pure: `now` is monotonic seconds.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from controller.state import Key

Rank = tuple[int, str, Key]
"""Sorts first what is due first: negative priority, creation time (RFC 3339 sorts as text), name."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A pod whose turn it is. `since` is the generation it has seen: 0 means look at all nodes."""

    pod: Key
    since: int


@dataclass(slots=True)
class _Entry:
    rank: Rank
    since: int = 0
    parked_at: int | None = None
    due: float = 0.0


class PlacementQueue:
    """Every pod is in here at most once. Not thread-safe."""

    def __init__(self, *, sweep_seconds: float = 0.2, resync_seconds: float = 300.0) -> None:
        self._sweep_seconds = sweep_seconds
        self._resync_seconds = resync_seconds
        self._entries: dict[Key, _Entry] = {}
        self._ready: list[tuple[Rank, Key]] = []
        self._timed: list[tuple[float, Key]] = []
        self._parked: set[Key] = set()
        self._swept_generation = 0
        self._swept_at = float("-inf")

    def add(self, pod: Key, rank: Rank) -> None:
        """Look at the pod, at all nodes, as soon as its turn comes."""
        self._parked.discard(pod)
        self._entries[pod] = _Entry(rank)
        heapq.heappush(self._ready, (rank, pod))

    def park(self, pod: Key, rank: Rank, now: float, *, generation: int | None, full_at: float) -> None:
        """Refused, or to wait: wake it when the cluster moves on from `generation` (None: never for that),
        and in any case at `full_at` or after the resync period, for all nodes.
        """
        due = min(full_at, now + self._resync_seconds)
        self._entries[pod] = _Entry(rank, parked_at=generation, due=due)
        heapq.heappush(self._timed, (due, pod))
        if generation is not None:
            self._parked.add(pod)
        else:
            self._parked.discard(pod)

    def remove(self, pod: Key) -> None:
        """It needs no placement any more."""
        self._entries.pop(pod, None)
        self._parked.discard(pod)

    def pop(self, now: float, generation: int) -> Turn | None:
        """The next pod that is due, None if there is none now."""
        self._wake_timed(now)
        self._sweep(now, generation)
        while self._ready:
            rank, pod = heapq.heappop(self._ready)
            entry = self._entries.get(pod)
            if entry is not None and entry.rank == rank and entry.parked_at is None and not entry.due:
                del self._entries[pod]
                return Turn(pod, entry.since)
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

    def _is_current(self, due: float, pod: Key) -> bool:
        entry = self._entries.get(pod)
        return entry is not None and entry.due == due

    def _wake_timed(self, now: float) -> None:
        while self._timed and self._timed[0][0] <= now:
            due, pod = heapq.heappop(self._timed)
            if self._is_current(due, pod):
                self.add(pod, self._entries[pod].rank)

    def _sweep(self, now: float, generation: int) -> None:
        if generation <= self._swept_generation or now < self._swept_at + self._sweep_seconds:
            return
        self._swept_generation = generation
        for pod in list(self._parked):
            entry = self._entries[pod]
            if entry.parked_at is not None and entry.parked_at < generation:
                self._swept_at = now
                self._parked.discard(pod)
                self._entries[pod] = _Entry(entry.rank, since=entry.parked_at)
                heapq.heappush(self._ready, (entry.rank, pod))
