"""Counts of pods by topology value, kept up change by change.

A rule between pods asks "how many such pods has this zone". A `Tally` counts such pods by node; a `Domain`
says which topology value each node stands for; a tally seen through a domain gives the numbers by value.
Pods and nodes may come in any order: what is counted on a node that is not known yet shows as soon as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TypeVar

from driver.kube.objects import Node

K = TypeVar("K")


class Domain:
    """The value of one label on each node, but for nodes left out. Not thread-safe.

    Attributes:
        values: by node name; nodes without the label, or left out, are not in it.
        sizes: how many nodes have each value.
    """

    def __init__(self, key: str, left_out: Callable[[Node], bool] | None = None) -> None:
        self._key = key
        self._left_out = left_out
        self.values: dict[str, str] = {}
        self.sizes: Counter[str] = Counter()

    def apply(self, name: str, node: Node | None) -> tuple[str | None, str | None]:
        """A node changed, or went. Returns its value before and after."""
        before = self.values.pop(name, None)
        after = node.metadata.labels.get(self._key) if node is not None else None
        if after is not None and node is not None and self._left_out is not None and self._left_out(node):
            after = None
        if after is not None:
            self.values[name] = after
        if before != after:
            _shift(self.sizes, before, -1)
            _shift(self.sizes, after, 1)
        return before, after


class View:
    """A tally's pods by a domain's values.

    Attributes:
        counts: of the values that have any.
    """

    def __init__(self, domain: Domain, by_node: Mapping[str, int]) -> None:
        self._domain = domain
        self._levels: Counter[int] = Counter()  # how many values have so many pods
        self.counts: dict[str, int] = {}
        for node, number in by_node.items():
            self.shift(domain.values.get(node), number)

    def shift(self, value: str | None, number: int) -> None:
        """So many more of this value; None is no value."""
        if value is not None and number:
            before = self.counts.get(value, 0)
            _shift(self._levels, before or None, -1)
            _shift(self._levels, before + number or None, 1)
            _shift(self.counts, value, number)

    def lowest(self, extra: Mapping[str, int]) -> int:
        """The least that any value of the domain has, with `extra` ones by value; 0 where it has no value."""
        levels = Counter(self._levels)
        levels[0] = len(self._domain.sizes) - len(self.counts)
        for value, number in extra.items():
            before = self.counts.get(value, 0)
            levels[before] -= 1
            levels[before + number] += 1
        return min((level for level, values in levels.items() if values > 0), default=0)


class Tally:
    """How many of certain pods each node has. Not thread-safe."""

    def __init__(self) -> None:
        self._by_node: dict[str, int] = {}
        self._views: dict[Domain, View] = {}

    def __bool__(self) -> bool:
        return bool(self._by_node)

    def add(self, node: str, number: int) -> None:
        """So many more on the node."""
        _shift(self._by_node, node, number)
        for domain, view in self._views.items():
            view.shift(domain.values.get(node), number)

    def by(self, domain: Domain) -> View:
        """The numbers by the domain's values; a live view."""
        view = self._views.get(domain)
        if view is None:
            view = self._views[domain] = View(domain, self._by_node)
        return view

    def moved(self, domain: Domain, node: str, before: str | None, after: str | None) -> None:
        """The node stands for another value of the domain."""
        view, number = self._views.get(domain), self._by_node.get(node, 0)
        if view is not None:
            view.shift(before, -number)
            view.shift(after, number)

    def forget(self, domain: Domain) -> None:
        """The domain will not be kept up any more."""
        self._views.pop(domain, None)


class Near:
    """Pods of one tally by the values of one domain, with some that it does not count yet."""

    def __init__(self, domain: Domain, tally: Tally, extra: Mapping[str, int]) -> None:
        self._domain = domain
        self._view = tally.by(domain)
        self._extra = extra

    def at(self, value: str | None) -> int:
        """How many share the value; None is shared by nobody."""
        return self._view.counts.get(value, 0) + self._extra.get(value, 0) if value is not None else 0

    @property
    def anywhere(self) -> bool:
        """There is one at all."""
        return any(self.at(value) > 0 for value in chain(self._extra, self._view.counts))

    @property
    def lowest(self) -> int:
        """The least that any value of the domain has."""
        return self._view.lowest(self._extra)

    @property
    def values(self) -> int:
        """How many values the domain has."""
        return len(self._domain.sizes)

    @property
    def sizes(self) -> Mapping[str, int]:
        """How many nodes have each value of the domain."""
        return self._domain.sizes

    @property
    def by_node(self) -> Mapping[str, str]:
        """The values of the domain's nodes."""
        return self._domain.values


def _shift(counts: dict[K, int], key: K | None, number: int) -> None:
    if key is None:
        return
    left = counts.get(key, 0) + number
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)
