"""Which address a NIC gets: the lowest free one of its rail's subnet.

There is no store of addresses: what allocated claims carry is in use, all else is free, so that nothing leaks
and a new controller knows at once what the old one gave away. One network is cut into one subnet a rail,
hence devices of one rail reach each other without a router, on whatever node.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from driver.errors import ConfigError, RetryableError


class AddressesExhaustedError(RetryableError):
    """Every host address of a rail's subnet is in use; one is free again when a claim is."""

    def __init__(self, rail: int, subnet: IPv4Network | IPv6Network) -> None:
        super().__init__(f"rail {rail}: no free address left in {subnet}")
        self.rail = rail
        self.subnet = subnet


@dataclass(frozen=True, slots=True)
class RailSubnets:
    """One network, cut into subnets of `prefix_length`: rail 0 gets the first, rail 1 the second, and so on.

    Raises:
        ConfigError: no host fits into a subnet, or no subnet into the network.
    """

    network: IPv4Network | IPv6Network
    prefix_length: int
    _lengths: range = field(init=False, repr=False)

    def __post_init__(self) -> None:
        longest = self.network.max_prefixlen
        if not self.network.prefixlen <= self.prefix_length < longest:
            raise ConfigError(
                f"is {self.prefix_length}; right is {self.network.prefixlen} to {longest - 1}",
                path="rail prefix length",
            )
        object.__setattr__(self, "_lengths", range(longest + 1))

    def subnet(self, rail: int) -> IPv4Network | IPv6Network:
        """The rail's subnet.

        Raises:
            ConfigError: the network has not so many.
        """
        rails = 1 << (self.prefix_length - self.network.prefixlen)
        if not 0 <= rail < rails:
            raise ConfigError(
                f"rail {rail} has no subnet: {self.network} holds {rails} of /{self.prefix_length}",
                path="rail",
            )
        size = 1 << (self.network.max_prefixlen - self.prefix_length)
        first = self.network.network_address + rail * size
        if isinstance(first, IPv4Address):
            return IPv4Network((int(first), self.prefix_length))
        return IPv6Network((int(first), self.prefix_length))

    def choose(self, rail: int, in_use: Collection[str]) -> str:
        """The lowest free host address of the rail with its prefix length, ``10.200.0.1/24``.

        `in_use` (a set) holds addresses with a prefix length, of any length: an address that was given
        before the setting changed is in use all the same.

        Raises:
            ConfigError: the rail has no subnet.
            AddressesExhaustedError: all are in use.
        """
        subnet = self.subnet(rail)
        first, last = _hosts(subnet)
        make = IPv4Address if isinstance(subnet, IPv4Network) else IPv6Address
        suffix = f"/{self.prefix_length}"
        for number in range(first, last + 1):
            address = str(make(number))
            if address + suffix not in in_use and not any(f"{address}/{n}" in in_use for n in self._lengths):
                return address + suffix
        raise AddressesExhaustedError(rail, subnet)


def _hosts(subnet: IPv4Network | IPv6Network) -> tuple[int, int]:
    """First and last host address as numbers (both of a point-to-point subnet, RFC 3021 and 6164)."""
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if last - first == 1:
        return first, last
    # IPv6 knows no broadcast, but its first address is the routers' anycast address (RFC 4291).
    return first + 1, last - (subnet.version == 4)
