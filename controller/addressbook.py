"""Which addresses are in use, and the lowest free one of a subnet, at the cost of a look-up.

There is no store of addresses: what allocated claims carry is in use, all else is free, so that nothing leaks
and a new controller knows at once what the old one gave away. The book below turns the claims round and
remembers, for each subnet that was asked about, how far it is full: the lowest free address of ten thousand
in use costs as much as that of ten.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heappop, heappush
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface

IPNetwork = IPv4Network | IPv6Network

Number = tuple[int, int]
"""IP version and the address as a number."""


@dataclass(frozen=True, slots=True)
class Given:
    """An address, with its prefix length, in a network; two networks may have the same (they are VLANs)."""

    network: str
    address: str


@dataclass(frozen=True, slots=True)
class Span:
    """A subnet's addresses that may be given, as numbers: from `first` to `last` but for those in `holes`.

    Holes are (first, last), sorted and apart from each other.
    """

    subnet: IPNetwork
    first: int
    last: int
    holes: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, subnet: IPNetwork, excluded: Iterable[IPNetwork] = ()) -> Span:
        """All hosts of the subnet but the excluded ones, which may also lie elsewhere."""
        first, last = _hosts(subnet)
        holes: list[tuple[int, int]] = []
        for begin, end in sorted(_ends(hole) for hole in excluded if hole.version == subnet.version):
            if end < first or begin > last:
                continue
            if holes and begin <= holes[-1][1] + 1:
                holes[-1] = holes[-1][0], max(holes[-1][1], end)
            else:
                holes.append((begin, end))
        return cls(subnet, first, last, tuple(holes))

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.subnet.version

    @property
    def shift(self) -> int:
        """Bits of the address that are the host's."""
        return self.subnet.max_prefixlen - self.subnet.prefixlen

    @property
    def size(self) -> int:
        """Addresses that may be given."""
        held = sum(min(end, self.last) - max(begin, self.first) + 1 for begin, end in self.holes)
        return self.last - self.first + 1 - held

    def after_hole(self, number: int) -> int:
        """The number itself, or the first one behind the hole that it is in."""
        at = bisect_right(self.holes, number, key=lambda hole: hole[0]) - 1
        return self.holes[at][1] + 1 if at >= 0 and number <= self.holes[at][1] else number

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last and self.after_hole(number) == number

    def text(self, number: int) -> str:
        """The address with the subnet's prefix length, ``10.200.0.1/24``."""
        make = IPv4Address if self.version == 4 else IPv6Address
        return f"{make(number)}/{self.subnet.prefixlen}"


@dataclass(slots=True)
class _Fill:
    """How far a span is full: `free` addresses are left. All below `next` are in use, or holes, or in `freed`
    (a heap, which may hold some in use as well). `missed`: somebody wanted more than there were.
    """

    next: int
    free: int
    missed: bool = False
    freed: list[int] = field(default_factory=list)


class _Index:
    """The fill of a network's spans, which lie apart from each other."""

    def __init__(self, spans: tuple[Span, ...], holders: Iterable[Number]) -> None:
        self.spans = spans
        self.fills = {span: _Fill(span.first, span.size) for span in spans}
        self._by_prefix = {(s.version, s.shift, s.first >> s.shift): s for s in spans}
        self._shifts = {version: {s.shift for s in spans if s.version == version} for version in (4, 6)}
        self.full = {span for span in spans if not span.size}
        for number in holders:
            self.take(number)

    def take(self, number: Number) -> None:
        span = self._span_of(number)
        if span is not None:
            fill = self.fills[span]
            fill.free -= 1
            if not fill.free:
                self.full.add(span)

    def release(self, number: Number) -> _Fill | None:
        """It is free. Returns how full its span is now."""
        span = self._span_of(number)
        if span is None:
            return None
        fill = self.fills[span]
        fill.free += 1
        if number[1] < fill.next:
            heappush(fill.freed, number[1])
        self.full.discard(span)
        return fill

    def _span_of(self, number: Number) -> Span | None:
        version, value = number
        for shift in self._shifts[version]:
            span = self._by_prefix.get((version, shift, value >> shift))
            if span is not None:
                return span if value in span else None
        return None


class AddressBook:
    """Addresses in use by network. Not thread-safe.

    Attributes:
        opened: how often a subnet that was full, or of which more were wanted, got a free address.
    """

    def __init__(self) -> None:
        self._holders: dict[str, Counter[Number]] = {}
        self._indices: dict[str, _Index] = {}
        self.opened = 0

    def take(self, given: Given) -> None:
        """A claim has it. Two may have the same: it is free when both have let go."""
        number = _number(given.address)
        holders = self._holders.setdefault(given.network, Counter())
        holders[number] += 1
        if holders[number] == 1 and given.network in self._indices:
            self._indices[given.network].take(number)

    def release(self, given: Given) -> None:
        """A claim that had it has let go."""
        fill = self._put_back(given)
        if fill is not None and (fill.free == 1 or fill.missed):
            fill.missed = False
            self.opened += 1

    def full(self, network: str, spans: tuple[Span, ...]) -> Set[Span]:
        """Those of the network's spans that have no free address. A live view."""
        return self._index(network, spans).full

    def free(self, network: str, spans: tuple[Span, ...], span: Span) -> int:
        """How many addresses of one of the network's spans are free."""
        return self._index(network, spans).fills[span].free

    def lowest(self, network: str, spans: tuple[Span, ...], span: Span) -> str | None:
        """The lowest free address, with prefix length, of one of the network's spans; None where none is."""
        fill = self._index(network, spans).fills[span]
        if not fill.free:
            fill.missed = True
            return None
        holders = self._holders.get(network, Counter())
        while fill.freed and (span.version, fill.freed[0]) in holders:
            heappop(fill.freed)
        if fill.freed:
            return span.text(fill.freed[0])
        while True:
            behind = span.after_hole(fill.next)
            if behind != fill.next:
                fill.next = behind
            elif (span.version, fill.next) in holders:
                fill.next += 1
            else:
                return span.text(fill.next)

    def __contains__(self, given: Given) -> bool:
        return _number(given.address) in self._holders.get(given.network, ())

    def __len__(self) -> int:
        return sum(map(len, self._holders.values()))

    @contextmanager
    def trying(self) -> Iterator[Callable[[Given], None]]:
        """A `take` for the block alone: at its end all is released again."""
        taken: list[Given] = []

        def take(given: Given) -> None:
            self.take(given)
            taken.append(given)

        try:
            yield take
        finally:
            for given in taken:
                self._put_back(given)

    def _put_back(self, given: Given) -> _Fill | None:
        """Returns how full the address's subnet is now, if it is free."""
        number = _number(given.address)
        holders = self._holders[given.network]
        holders[number] -= 1
        if holders[number]:
            return None
        del holders[number]
        index = self._indices.get(given.network)
        return index.release(number) if index is not None else None

    def _index(self, network: str, spans: tuple[Span, ...]) -> _Index:
        index = self._indices.get(network)
        if index is None or (index.spans is not spans and index.spans != spans):
            index = self._indices[network] = _Index(spans, self._holders.get(network, ()))
        return index


@lru_cache(maxsize=65536)
def _number(address: str) -> Number:
    ip = ip_interface(address).ip
    return ip.version, int(ip)


def _ends(network: IPNetwork) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def _hosts(subnet: IPNetwork) -> tuple[int, int]:
    """First and last host address as numbers (both of a point-to-point subnet, RFC 3021 and 6164)."""
    first, last = _ends(subnet)
    if last - first <= 1:
        return first, last
    # IPv6 knows no broadcast, but its first address is the routers' anycast address (RFC 4291).
    return first + 1, last - (subnet.version == 4)
