"""Minimum-cost flow over small integer networks: the matching under both counts and pairs.

Successive shortest paths with potentials, all paths of one length at once; costs are non-negative integers.
Equal input gives equal flow, which makes the allocator deterministic.
"""

from __future__ import annotations

import heapq
from typing import Final

_FAR: Final = 1 << 256
"""Farther than any node: costs grow with the fifth power of the number of pairs (`pairing.rank_cost`)."""


class Network:
    """A directed network; nodes are integers below `nodes`. Built, sent through once or more, then read."""

    def __init__(self, nodes: int) -> None:
        self._edges: list[list[int]] = [[] for _ in range(nodes)]
        self._head: list[int] = []
        self._room: list[int] = []
        self._cost: list[int] = []

    def edge(self, tail: int, head: int, capacity: int, cost: int = 0) -> int:
        """Add an edge; the answer names it for `flow`."""
        name = len(self._head)
        self._edges[tail].append(name)
        self._edges[head].append(name + 1)
        self._head += (head, tail)
        self._room += (capacity, 0)
        self._cost += (cost, -cost)
        return name

    def flow(self, edge: int) -> int:
        """Units that run through the edge."""
        return self._room[edge ^ 1]

    def send(self, source: int, sink: int, amount: int) -> tuple[int, int]:
        """Send up to `amount` units as cheaply as can be: how many went, and what they cost together."""
        nodes = len(self._edges)
        height = [0] * nodes
        sent = total = 0
        while sent < amount:
            distance = self._distances(source, sink, height)
            if distance[sink] >= _FAR:
                break
            for node in range(nodes):
                height[node] += min(distance[node], distance[sink])
            price = height[sink] - height[source]
            at = [0] * nodes
            while sent < amount:
                went = self._augment(source, sink, amount - sent, height, at, [False] * nodes)
                if not went:
                    break
                sent += went
                total += went * price
        return sent, total

    def _distances(self, source: int, sink: int, height: list[int]) -> list[int]:
        """Of nodes as near as the sink; of others at least the sink's."""
        head, room, cost = self._head, self._room, self._cost
        distance = [_FAR] * len(self._edges)
        distance[source] = 0
        queue = [(0, source)]
        while queue:
            far, node = heapq.heappop(queue)
            if node == sink:
                break
            if far > distance[node]:
                continue
            base = far + height[node]
            for edge in self._edges[node]:
                if room[edge]:
                    other = head[edge]
                    reach = base + cost[edge] - height[other]
                    if reach < distance[other]:
                        distance[other] = reach
                        heapq.heappush(queue, (reach, other))
        return distance

    def _augment(
        self, node: int, sink: int, amount: int, height: list[int], at: list[int], seen: list[bool]
    ) -> int:
        """One path over edges that cost nothing more than the height says; `at` remembers the dead ends."""
        if node == sink:
            return amount
        seen[node] = True
        edges = self._edges[node]
        while at[node] < len(edges):
            edge = edges[at[node]]
            other = self._head[edge]
            if self._room[edge] and not seen[other] and self._cost[edge] + height[node] == height[other]:
                went = self._augment(other, sink, min(amount, self._room[edge]), height, at, seen)
                if went:
                    self._room[edge] -= went
                    self._room[edge ^ 1] += went
                    seen[node] = False
                    return went
            at[node] += 1
        seen[node] = False
        return 0
