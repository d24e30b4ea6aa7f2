"""How many members in which zone, and there on how many nodes: packings within a packing. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from controller.gangs.packing import Members, Packing, Stock
from controller.gangs.seats import Seats, admit


class Zones:
    """As a Packing, of which each zone's stocks take, all together, one of some parts of the demand."""

    def __init__(self, demand: Members, zones: Sequence[Sequence[Stock]], seats: Sequence[Seats]) -> None:
        """`seats`: of each zone."""
        self._zones = [Packing(demand, stocks) for stocks in zones]
        nobody = (0,) * len(demand)
        offers = [
            {part: cost for part, cost in zone.costs() if any(part) and admit(some, part)}
            for zone, some in zip(self._zones, seats, strict=True)
        ]
        whole = [Stock(some, 1, not admit(own, nobody)) for some, own in zip(offers, seats, strict=True)]
        self._whole = Packing(demand, whole)
        self.steps = self._whole.steps + sum(zone.steps for zone in self._zones)

    @property
    def cost(self) -> int | None:
        """As Packing's."""
        return self._whole.cost

    @property
    def most(self) -> Members:
        """As Packing's."""
        return self._whole.most

    def nodes(self) -> Iterator[tuple[int, int, Members]]:
        """Which zone and stock of it each node is of, and what it takes. Only where there is room."""
        for zone, part in self._whole.nodes():
            for stock, members in self._zones[zone].nodes(part):
                yield zone, stock, members
