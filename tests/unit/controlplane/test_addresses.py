"""Which addresses a cluster takes."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.controlplane.addresses import MAX_NODES, Addresses, free_networks, in_use

NETWORK = IPv4Network("10.89.0.0/16")
networks = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(8, 32),
)


def test_the_parts_of_the_range_lie_in_it_and_do_not_overlap() -> None:
    addresses = Addresses(NETWORK)
    parts = [addresses.nodes, addresses.pods, addresses.services, addresses.machine_link]
    assert all(part.subnet_of(NETWORK) for part in parts)
    assert not any(a.overlaps(b) for a in parts for b in parts if a is not b)


def test_every_node_has_an_address_and_a_pod_range_of_its_own() -> None:
    addresses = Addresses(NETWORK)
    nodes = range(MAX_NODES)
    assert len({addresses.node(index) for index in nodes} | {addresses.api_server}) == MAX_NODES + 1
    assert all(addresses.node(index) in addresses.nodes for index in nodes)
    assert len({addresses.pods_of(index) for index in nodes}) == MAX_NODES
    assert all(addresses.pods_of(index).subnet_of(addresses.pods) for index in nodes)
    with pytest.raises(ValueError, match="at most"):
        addresses.node(MAX_NODES)


@given(st.lists(networks, max_size=8))
def test_a_free_network_overlaps_nothing_taken(taken: list[IPv4Network]) -> None:
    for free in free_networks(taken):
        assert not any(free.overlaps(other) for other in taken)


def test_a_route_to_a_whole_private_block_leaves_the_other_blocks() -> None:
    first = next(free_networks([IPv4Network("10.0.0.0/8")]))
    assert first.subnet_of(IPv4Network("172.16.0.0/12"))


def test_default_routes_take_nothing_and_all_else_counts() -> None:
    links = json.dumps([{"addr_info": [{"local": "192.0.2.7", "prefixlen": 24}]}, {"addr_info": [{}]}])
    routes = json.dumps(
        [{"dst": "default"}, {"dst": "0.0.0.0/0"}, {"dst": "10.89.0.0/16"}, {"dst": "10.1.2.3"}]
    )
    assert in_use(links, routes) == [
        IPv4Network("192.0.2.0/24"),
        IPv4Network("10.89.0.0/16"),
        IPv4Network("10.1.2.3/32"),
    ]
