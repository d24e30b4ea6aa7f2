"""Addresses of rails."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.addresses import AddressesExhaustedError, RailSubnets
from driver.errors import ConfigError

FABRIC = RailSubnets(ip_network("10.200.0.0/16"), 24)


def test_each_rail_has_the_next_subnet() -> None:
    assert [FABRIC.choose(rail, set()) for rail in (0, 1, 255)] == [
        "10.200.0.1/24",
        "10.200.1.1/24",
        "10.200.255.1/24",
    ]


def test_the_lowest_free_address_is_taken_again() -> None:
    assert FABRIC.choose(0, {"10.200.0.1/24", "10.200.0.3/24"}) == "10.200.0.2/24"


def test_an_address_given_with_another_prefix_length_is_in_use() -> None:
    assert FABRIC.choose(0, {"10.200.0.1/16"}) == "10.200.0.2/24"


def test_the_same_number_on_another_rail_is_free() -> None:
    assert FABRIC.choose(1, {"10.200.0.1/24"}) == "10.200.1.1/24"


def test_ipv6_leaves_out_the_anycast_address() -> None:
    assert RailSubnets(ip_network("fd00::/48"), 64).choose(2, set()) == "fd00:0:0:2::1/64"


def test_both_addresses_of_a_point_to_point_subnet_are_hosts() -> None:
    small = RailSubnets(ip_network("10.0.0.0/30"), 31)
    assert [small.choose(1, used) for used in (set(), {"10.0.0.2/31"})] == ["10.0.0.2/31", "10.0.0.3/31"]


def test_a_rail_beyond_the_network_is_named() -> None:
    with pytest.raises(ConfigError, match="rail 256 has no subnet"):
        FABRIC.choose(256, set())


def test_a_full_subnet_is_worth_waiting_for() -> None:
    small = RailSubnets(ip_network("10.0.0.0/29"), 30)
    with pytest.raises(AddressesExhaustedError, match=r"rail 0: no free address left in 10\.0\.0\.0/30"):
        small.choose(0, {"10.0.0.1/30", "10.0.0.2/30"})


@pytest.mark.parametrize("length", [15, 32])
def test_a_prefix_length_that_does_not_fit_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match="right is 16 to 31"):
        RailSubnets(ip_network("10.200.0.0/16"), length)


@given(st.integers(0, 3), st.sets(st.integers(0, 15), max_size=16))
def test_what_is_chosen_is_a_free_host_of_the_rail(rail: int, numbers: set[int]) -> None:
    fabric = RailSubnets(ip_network("10.0.0.0/26"), 28)
    subnet = fabric.subnet(rail)
    used = {f"{subnet[number]}/28" for number in numbers}
    free = [str(host) for host in subnet.hosts() if f"{host}/28" not in used]
    if not free:
        with pytest.raises(AddressesExhaustedError):
            fabric.choose(rail, used)
        return
    assert str(ip_interface(fabric.choose(rail, used)).ip) == free[0]
