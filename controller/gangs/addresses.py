"""Has each rail as many free addresses as the members need there? Asked before a gang's rails are chosen.

The allocator looks at one member at a time, for which a rail with one free address will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from controller.addressbook import AddressBook
from controller.gangs.kinds import Kind, rails_in
from controller.networks import Network
from controller.state import ClusterState


class Addresses:
    """What the members need of the networks that they are on. Valid until the cluster changes."""

    def __init__(self, state: ClusterState, kinds: Sequence[Kind]) -> None:
        """Raises NetworkRefusedError. A claim whose NICs may be on several networks is not counted."""
        self._book = state.books.addresses
        self._claims: Counter[tuple[str, int]] = Counter()
        self._networks: dict[str, Network] = {}
        for kind in kinds:
            networks = state.networks_of(kind.quest.wanted)
            for asks, nics, by_request in zip(kind.asking, kind.nics, networks, strict=True):
                names = {network.name for network in by_request.values()}
                if asks and nics and len(names) == 1:
                    self._networks.update((network.name, network) for network in by_request.values())
                    self._claims[names.pop(), nics] += len(kind.units)

    def short(self, rails: int) -> str:
        """Why the members cannot all be on these rails (a bit mask); empty where they can."""
        size, needed = rails.bit_count(), Counter[str]()
        for (name, nics), claims in self._claims.items():
            # With fewer NICs than rails it may use others, with more of them several on one.
            needed[name] += claims * (nics if size == 1 else nics >= size)
        for name, count in needed.items():
            network = self._networks[name]
            for rail in rails_in(rails):
                free = _free(network, rail, self._book)
                if free is not None and free < count:
                    return f"rail {rail} has {free} free addresses of {network.title}, {count} are needed"
        return ""


def _free(network: Network, rail: int, book: AddressBook) -> int | None:
    """How many NICs can have their addresses on the rail; None where the network gives none by rail."""
    source = network.rails.get(rail)
    if source is None:
        return 0 if network.rails and network.everywhere is None else None
    return min((book.free(network.name, network.spans, span) for span in source.spans), default=None)
