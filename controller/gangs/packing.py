"""How many members on how many nodes: the cheapest way to place a gang on nodes that are counted, not named.

Nodes that offer the same are one `Stock` with a count, so the work grows with the kinds of nodes and the size
of the gang. Exact: a dynamic programme over how many members of each shape are placed so far. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

_ROWS_A_STEP = 16
"""Of one shape so many costs are compared in the time of one."""
Members = tuple[int, ...]
"""How many members, by shape."""


@dataclass(frozen=True, slots=True)
class Stock:
    """`nodes` nodes, each of which can take any one of the `offers`, at a cost. `must`: none stays empty."""

    offers: Mapping[Members, int]
    nodes: int
    must: bool = False


@dataclass(frozen=True, slots=True)
class _Stage:
    """Costs by index of what is placed, before and after one node (or any number of nodes) more."""

    stock: int
    many: bool
    must: bool
    before: list[int | None]
    after: list[int | None]


def least_steps(demand: int, stocks: Sequence[Stock]) -> int:
    """So many steps `Packing` takes at least, of one shape: as many nodes more as have room for all."""
    steps, left = 0, demand
    for stock in stocks:
        most = max(map(sum, stock.offers), default=0)
        if most and left > 0:
            nodes = 1 if _has_plenty(stock, demand) else min(stock.nodes, -(-left // most))
            steps += nodes * ((demand + 1) * len(stock.offers) // _ROWS_A_STEP)
            left -= most * stock.nodes
    return steps


def _has_plenty(stock: Stock, total: int) -> bool:
    """The number of its nodes is no limit."""
    return stock.nodes >= total and not stock.must


class Packing:
    """The cheapest ways to place each part of a demand; `steps` is the work that it took."""

    def __init__(self, demand: Members, stocks: Sequence[Stock]) -> None:
        """Of ways that cost the same the one that uses the first stocks is taken."""
        self._demand = demand
        self._total = sum(demand)
        self._vectors = list(product(*(range(count + 1) for count in demand)))
        self._index = {vector: index for index, vector in enumerate(self._vectors)}
        self._stocks = [self._indexed(stock) for stock in stocks]
        self._stages: list[_Stage] = []
        self.steps = 0
        costs: list[int | None] = [None] * len(self._vectors)
        costs[0] = 0
        for number, stock in enumerate(stocks):
            costs = self._add(number, stock, costs)
        self._costs = costs

    @property
    def cost(self) -> int | None:
        """Of the whole demand; None where it has no room."""
        return self._costs[-1]

    @property
    def most(self) -> Members:
        """The most members that have room at once."""
        return max(
            (vector for vector, _ in self.costs()),
            key=lambda vector: (sum(vector), vector),
            default=self._vectors[0],
        )

    def costs(self) -> Iterator[tuple[Members, int]]:
        """Of each part of the demand that has room."""
        for vector, cost in zip(self._vectors, self._costs, strict=True):
            if cost is not None:
                yield vector, cost

    def nodes(self, part: Members | None = None) -> Iterator[tuple[int, Members]]:
        """Of the demand, or a part of it: which stock each node is of, and what it takes. Only where there is
        room.
        """
        at = len(self._vectors) - 1 if part is None else self._index[part]
        for stage in reversed(self._stages):
            while stage.must or stage.after[at] != stage.before[at]:
                source = stage.after if stage.many else stage.before
                at, taken = next(
                    (rest, self._vectors[offer])
                    for offer, cost in self._stocks[stage.stock]
                    if (rest := self._less(at, offer)) is not None
                    and (base := source[rest]) is not None
                    and base + cost == stage.after[at]
                )
                yield stage.stock, taken
                if not stage.many:
                    break

    def _indexed(self, stock: Stock) -> list[tuple[int, int]]:
        return sorted((self._index[offer], cost) for offer, cost in stock.offers.items())

    def _less(self, index: int, offer: int) -> int | None:
        """What is left of a vector; indices of vectors add up as the vectors do."""
        if len(self._demand) == 1:
            return index - offer if index >= offer else None
        vector, taken = self._vectors[index], self._vectors[offer]
        enough = all(have >= less for have, less in zip(vector, taken, strict=True))
        return index - offer if enough else None

    def _add(self, number: int, stock: Stock, costs: list[int | None]) -> list[int | None]:
        many = _has_plenty(stock, self._total)
        for _ in range(1 if many else stock.nodes):
            after = self._one_more(number, costs, many=many, must=stock.must)
            if after == costs and not stock.must:
                break
            self._stages.append(_Stage(number, many, stock.must, costs, after))
            costs = after
        return costs

    def _one_more(self, number: int, costs: list[int | None], *, many: bool, must: bool) -> list[int | None]:
        offers = self._stocks[number]
        after: list[int | None] = [None] * len(costs) if must else list(costs)
        source = after if many else costs
        if len(self._demand) == 1 and not many:
            self.steps += len(after) * len(offers) // _ROWS_A_STEP
            for offer, cost in offers:
                more = [base if base is None else base + cost for base in costs[: len(costs) - offer]]
                after[offer:] = map(_less_of, after[offer:], more)
            return after
        self.steps += len(after) * len(offers)
        for index in range(len(after)):
            best = after[index]
            for offer, cost in offers:
                if offer > index:
                    break
                rest = self._less(index, offer)
                if rest is None or (base := source[rest]) is None:
                    continue
                if best is None or base + cost < best:
                    best = base + cost
            after[index] = best
        return after


def _less_of(one: int | None, other: int | None) -> int | None:
    return other if one is None or (other is not None and other < one) else one
