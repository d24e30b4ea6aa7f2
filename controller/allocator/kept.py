"""A cache with a bound: what was put in first is dropped first."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key, of which the weights are `most` together, one value aside that is heavier by itself."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[K, tuple[V, int]] = {}
        self._weight = 0

    def get(self, key: K) -> V | None:
        """The value, None where it is not kept."""
        entry = self._values.get(key)
        return None if entry is None else entry[0]

    def put(self, key: K, value: V, weight: int = 1) -> list[tuple[K, V]]:
        """Keep a value; what had to go for it."""
        gone: list[tuple[K, V]] = []
        before = self._values.pop(key, None)
        self._weight += weight - (before[1] if before is not None else 0)
        while self._weight > self._most and self._values:
            oldest = next(iter(self._values))
            old, old_weight = self._values.pop(oldest)
            self._weight -= old_weight
            gone.append((oldest, old))
        self._values[key] = value, weight
        return gone

    @property
    def weight(self) -> int:
        """Of all values."""
        return self._weight

    def __len__(self) -> int:
        return len(self._values)
