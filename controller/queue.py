"""Which pod, or gang of pods, is looked at next: in order of rank among the namespaces that stay within their
share of the deciding time; whoever used more goes behind them, those who used least first.

Every namespace has a queue of its own (`controller.namespace_queue`), and an account of the time that its
pods took, which fades. While others wait, a namespace whose account is above `_SHARE_SECONDS` goes behind
them, whatever the priority of its pods; so a thousand hopeless pods, or one costly one, cost the pods of
another namespace about that share, once. As the account fades, it comes back into the order of ranks: nobody
starves. What came free is for those who waited, across namespaces too, as long as their namespace is within
its share and they are few enough to look soon. Pure: `now` is monotonic seconds, and what turns took is told.
"""

from __future__ import annotations

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
        self._now = 0.0

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
            if not len(queue):
                del self._queues[namespace]

    def pop(self, now: float, generation: int) -> Turn | None:
        """The next one that is due, None if there is none now."""
        self._now = now
        namespace = self._next(generation)
        return None if namespace is None else self._queues[namespace].pop(now, generation)

    def charge(self, item: Item, seconds: float, now: float) -> None:
        """So long took the turn of this pod or gang."""
        account = self._accounts.setdefault(namespace_of(item), _Account())
        account.seconds, account.at = account.used(now) + seconds, now
        if len(self._accounts) > _ACCOUNTS:
            self._accounts = {
                name: one for name, one in self._accounts.items() if one.used(now) > _FORGOTTEN_SECONDS
            }

    def next_due(self, generation: int) -> float | None:
        """When `pop` may give a pod though nothing changes; None: never."""
        if self._next(generation) is not None:
            return 0.0
        due = [at for queue in self._queues.values() if (at := queue.next_due(generation))]
        return min(due, default=None)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def _queue(self, namespace: str) -> NamespaceQueue:
        queue = self._queues.get(namespace)
        if queue is None:
            queue = self._queues[namespace] = NamespaceQueue(
                sweep_seconds=self._sweep_seconds, resync_seconds=self._resync_seconds
            )
        return queue

    def _next(self, generation: int) -> str | None:
        """The namespace whose turn it is."""
        due: list[tuple[tuple[bool, float], Rank, str]] = []
        for namespace, queue in self._queues.items():
            rank = queue.first(self._now, generation)
            if rank is not None:
                used = self._used(namespace)
                due.append(((True, used) if used > _SHARE_SECONDS else (False, 0.0), rank, namespace))
        promised = self._promised(generation) if due else []
        for _, rank, namespace in sorted(due):
            if not any(eldest < rank for name, eldest in promised if name != namespace):
                return namespace
        return None

    def _promised(self, generation: int) -> list[tuple[str, Rank]]:
        """By namespace, the first of those who are to look at what changed before others do."""
        return [
            (namespace, rank)
            for namespace, queue in self._queues.items()
            if (rank := queue.eldest_to_look(generation, _SOON_SECONDS)) is not None
            and self._used(namespace) <= _SHARE_SECONDS
        ]

    def _used(self, namespace: str) -> float:
        account = self._accounts.get(namespace)
        return 0.0 if account is None else account.used(self._now)


def namespace_of(item: Item) -> str:
    """The namespace of a pod or a gang."""
    return item.namespace if isinstance(item, GangId) else item[0]
