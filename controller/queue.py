"""Which pod, or gang of pods, is looked at next: in order of rank among the namespaces that stay within their
share of the deciding time. A namespace that used more goes behind them; of several, the one that used least
goes first.

Every namespace has a queue of its own (`controller.namespace_queue`), and an account of the time that its
pods took, which fades. While others wait, a namespace whose account is above `_SHARE_SECONDS` goes behind
them, whatever the priority of its pods; so a thousand hopeless pods, or one costly one, cost the pods of
another namespace about that share, once. As the account fades, it comes back into the order of ranks: nobody
starves. What came free is for those who waited, across namespaces too, as long as their namespace is within
its share and they are few enough to look soon.

A namespace is asked for its first only when something of it changed, the cluster did, or its time has come,
so a turn costs little however many namespaces wait. Pure: `now` is monotonic seconds, and what turns took is
told.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from controller.gangs.membership import GangId
from controller.namespace_queue import Item, NamespaceQueue, Rank, Turn

__all__ = ["Item", "PlacementQueue", "Rank", "Turn"]

_SHARE_SECONDS: Final = 0.03
_HALF_LIFE_SECONDS: Final = 1.0
"""Of an account. Who uses less than about 2 % of the time stays within the share."""
_SOON_SECONDS: Final = 0.05
"""Nobody waits longer for others' next look at what changed."""
_ACCOUNTS: Final = 1000
_FORGOTTEN_SECONDS: Final = 1e-4


@dataclass(slots=True)
class _Account:
    """The seconds that a namespace's pods took, as they count at a time."""

    seconds: float = 0.0
    at: float = 0.0

    def used(self, now: float) -> float:
        """What is left of them."""
        return float(self.seconds * 0.5 ** (max(0.0, now - self.at) / _HALF_LIFE_SECONDS))


class PlacementQueue:
    """Everything is in here at most once. Not thread-safe."""

    def __init__(self, *, sweep_seconds: float = 0.2, resync_seconds: float = 300.0) -> None:
        self._sweep_seconds = sweep_seconds
        self._resync_seconds = resync_seconds
        self._queues: dict[str, NamespaceQueue] = {}
        self._accounts: dict[str, _Account] = {}
        self._above: set[str] = set()
        """Namespaces above their share when they were last charged; few, since only so much time passes."""
        self._now = 0.0
        self._generation = 0
        self._changed: set[str] = set()
        """Namespaces of which the next three are not known."""
        self._first: dict[str, Rank] = {}
        self._promised: dict[str, Rank] = {}
        """The eldest of those who are to look at what changed before others do."""
        self._due: dict[str, float] = {}
        """When time alone changes something."""
        self._by_rank: list[tuple[Rank, str]] = []
        self._by_due: list[tuple[float, str]] = []

    def add(self, item: Item, rank: Rank, since: int = 0) -> None:
        """Look at it as soon as its turn comes: at all nodes, or at those that changed after `since`."""
        self._queue(namespace_of(item)).add(item, rank, since)

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
        and in any case at `full_at` or after the resync period, for all nodes. All of its namespace that are
        parked with an equal `alike` are refused as well by what refuses one of them; None: like no other.
        """
        queue = self._queue(namespace_of(item))
        queue.park(item, rank, now, generation=generation, full_at=full_at, alike=alike)

    def remove(self, item: Item) -> None:
        """It needs no placement any more."""
        namespace = namespace_of(item)
        queue = self._queues.get(namespace)
        if queue is not None:
            queue.remove(item)
            self._changed.add(namespace)
            if not len(queue):
                del self._queues[namespace]

    def pop(self, now: float, generation: int) -> Turn | None:
        """The next one that is due, None if there is none now."""
        self._now = now
        namespace = self._next(generation)
        if namespace is None:
            return None
        self._changed.add(namespace)
        return self._queues[namespace].pop(now, generation)

    def charge(self, item: Item, seconds: float, now: float) -> None:
        """So long took the turn of this pod or gang."""
        namespace = namespace_of(item)
        account = self._accounts.setdefault(namespace, _Account())
        account.seconds, account.at = account.used(now) + seconds, now
        if account.seconds > _SHARE_SECONDS:
            self._above.add(namespace)
        if len(self._accounts) > _ACCOUNTS:
            self._accounts = {
                name: one for name, one in self._accounts.items() if one.used(now) > _FORGOTTEN_SECONDS
            }

    def next_due(self, generation: int) -> float | None:
        """When `pop` may give a pod though nothing changes; None: never."""
        if self._next(generation) is not None:
            return 0.0
        while self._by_due and self._due.get(self._by_due[0][1]) != self._by_due[0][0]:
            heapq.heappop(self._by_due)
        return self._by_due[0][0] if self._by_due else None

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def _queue(self, namespace: str) -> NamespaceQueue:
        self._changed.add(namespace)
        queue = self._queues.get(namespace)
        if queue is None:
            queue = self._queues[namespace] = NamespaceQueue(
                sweep_seconds=self._sweep_seconds, resync_seconds=self._resync_seconds
            )
        return queue

    def _next(self, generation: int) -> str | None:
        """The namespace whose turn it is."""
        self._ask_changed(generation)
        self._let_back()
        order = sorted(
            ((True, used) if (used := self._used_above(name)) else (False, 0.0), self._first[name], name)
            for name in self._candidates()
        )
        promised = [(name, rank) for name, rank in self._promised.items() if name not in self._above]
        for _, rank, namespace in order:
            if not any(eldest < rank for name, eldest in promised if name != namespace):
                return namespace
        return None

    def _candidates(self) -> set[str]:
        """The namespaces of which one may be next: of those within their share the first in rank (what holds
        it up holds up all that come after), and those above theirs.
        """
        while self._by_rank and not self._is_within(*self._by_rank[0]):
            heapq.heappop(self._by_rank)
        found = {self._by_rank[0][1]} if self._by_rank else set()
        return found | (self._above & self._first.keys())

    def _is_within(self, rank: Rank, namespace: str) -> bool:
        return namespace not in self._above and self._first.get(namespace) == rank

    def _ask_changed(self, generation: int) -> None:
        """Ask again those of which something changed."""
        if generation != self._generation:
            self._generation = generation
            self._changed.update(self._queues)
        while self._by_due and self._by_due[0][0] <= self._now:
            due, namespace = heapq.heappop(self._by_due)
            if self._due.get(namespace) == due:
                self._changed.add(namespace)
        for namespace in self._changed:
            for known in (self._first, self._promised, self._due):
                known.pop(namespace, None)
            queue = self._queues.get(namespace)
            if queue is not None:
                self._ask(namespace, queue)
        self._changed.clear()

    def _ask(self, namespace: str, queue: NamespaceQueue) -> None:
        first = queue.first(self._now, self._generation)
        if first is not None:
            self._first[namespace] = first
            heapq.heappush(self._by_rank, (first, namespace))
        eldest = queue.eldest_to_look(self._generation, _SOON_SECONDS)
        if eldest is not None:
            self._promised[namespace] = eldest
        due = queue.changes_at(self._generation)
        if due is not None:
            self._due[namespace] = due
            heapq.heappush(self._by_due, (due, namespace))

    def _let_back(self) -> None:
        """Namespaces whose accounts have faded are in the order of ranks again."""
        for namespace in [name for name in self._above if not self._used_above(name)]:
            self._above.discard(namespace)
            if namespace in self._first:
                heapq.heappush(self._by_rank, (self._first[namespace], namespace))

    def _used_above(self, namespace: str) -> float:
        """The seconds on its account; 0 where they are within its share."""
        if namespace not in self._above:
            return 0.0
        account = self._accounts.get(namespace)
        used = account.used(self._now) if account is not None else 0.0
        return used if used > _SHARE_SECONDS else 0.0


def namespace_of(item: Item) -> str:
    """The namespace of a pod or a gang."""
    return item.namespace if isinstance(item, GangId) else item[0]
