"""Which IPv4 addresses a cluster takes: one /16 that nothing on this machine uses, and who gets what of it.

Only the machine's end of one cable is in the machine's own network namespace, but the whole range is routed
into the cluster, so that a test reaches the API server, nodes and pods directly, and several clusters side by
side.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tests.controlplane.commands import run
from tests.controlplane.errors import PrerequisiteError

MAX_NODES = 32
_CANDIDATES = tuple(
    IPv4Network(text)
    for text in (
        *(f"10.{second}.0.0/16" for second in range(89, 128)),
        *(f"172.{second}.0.0/16" for second in range(20, 32)),
        "198.18.0.0/16",  # RFC 2544, benchmarks
        "198.19.0.0/16",
    )
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """The parts of a cluster's /16."""

    network: IPv4Network

    def _part(self, offset: int, prefix: int) -> IPv4Network:
        return IPv4Network((int(self.network.network_address) + offset, prefix))

    @property
    def nodes(self) -> IPv4Network:
        """The segment of the nodes' eth0."""
        return self._part(0, 24)

    @property
    def api_server(self) -> IPv4Address:
        """The control plane's address on that segment; also the nodes' gateway."""
        return self.nodes[1]

    def node(self, index: int) -> IPv4Address:
        """The address of a node's eth0."""
        if not 0 <= index < MAX_NODES:
            raise ValueError(f"node {index}: a cluster has at most {MAX_NODES} nodes")
        return self.nodes[10 + index]

    @property
    def pods(self) -> IPv4Network:
        """All nodes' pods."""
        return self._part(64 << 8, 18)

    def pods_of(self, index: int) -> IPv4Network:
        """One node's pods."""
        return self._part((64 + index) << 8, 24)

    @property
    def services(self) -> IPv4Network:
        """Cluster IPs; its first address is the Service `kubernetes`."""
        return self._part(128 << 8, 18)

    @property
    def machine_link(self) -> IPv4Network:
        """The /30 of the cable into the cluster: [1] is the machine's end, [2] the cluster's."""
        return self._part(192 << 8, 30)


def in_use(links_json: str, routes_json: str) -> list[IPv4Network]:
    """The ranges in the output of `ip -json -4 address` and `ip -json -4 route show table all`, without
    default routes.
    """
    addresses = [
        IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for link in json.loads(links_json)
        for address in link.get("addr_info", [])
        if "local" in address
    ]
    routes = [IPv4Network(route["dst"]) for route in json.loads(routes_json) if route["dst"] != "default"]
    return addresses + [route for route in routes if route.prefixlen > 0]


def free_networks(
    taken: Iterable[IPv4Network], candidates: Iterable[IPv4Network] = _CANDIDATES
) -> Iterator[IPv4Network]:
    """The candidates that overlap nothing taken, in order."""
    taken = tuple(taken)
    for candidate in candidates:
        if not any(candidate.overlaps(other) for other in taken):
            yield candidate


@contextmanager
def hold_addresses() -> Iterator[Addresses]:
    """A free range, held against other clusters being started until the block ends; by then a route must show
    that it is taken.

    The hold is a socket with an abstract name: as wide as the network namespace, and gone with the process
    however that ends. Raises PrerequisiteError when every candidate is in use.
    """
    taken = in_use(
        run(["ip", "-json", "-4", "address"]).stdout,
        run(["ip", "-json", "-4", "route", "show", "table", "all"]).stdout,
    )
    for network in free_networks(taken):
        with socket.socket(socket.AF_UNIX) as hold:
            try:
                hold.bind(f"\0tandem-cluster/{network}")
            except OSError:
                continue
            # Whoever held it until now may have just put it to use.
            if run(["ip", "-json", "-4", "route", "show", str(network)]).stdout.strip() not in (
                "",
                "[]",
                "[ ]",
            ):
                continue
            yield Addresses(network)
            return
    raise PrerequisiteError(
        "no free /16 for a cluster among 10.89–127, 172.20–31 and 198.18–19; see `ip route`"
    )
