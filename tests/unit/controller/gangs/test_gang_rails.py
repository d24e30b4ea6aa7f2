"""On which rails, with which addresses and in which domain a gang's members are."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from controller.addressbook import Span
from controller.networks import Network, Rail
from driver.kube.fabric import LabelSelector
from tests.unit.controller.gangs.troop import (
    BLOCK,
    a_cluster,
    join,
    members,
    nodes_of,
    rails_of,
)
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import a_node, an_inventory, slices_of


def test_all_members_are_on_the_same_rails_on_as_few_nodes_as_can_be() -> None:
    cluster = a_cluster(4, pairs=4, vfs=2)
    join(cluster, "a", *members("a", 4))
    cluster.run()
    rails = [rails_of(cluster, name) for name in members("a", 4)]
    assert all(one == rails[0] and len(one) == 1 for one in rails)
    # a rail has one GPU beside it on each node, so the best tiers take a node for each member
    assert len(set(nodes_of(cluster, members("a", 4)))) == 4


def test_with_any_rails_they_share_a_node() -> None:
    cluster = a_cluster(4, pairs=4, vfs=2)
    join(cluster, "a", *members("a", 4), rails="any")
    cluster.run()
    assert len(set(nodes_of(cluster, members("a", 4)))) == 1


def test_where_no_set_of_rails_has_room_for_all_nobody_is_placed_and_the_nearest_change_is_told() -> None:
    cluster = ModelCluster()
    inventory = an_inventory(pairs=2, vfs=1)
    for nic in inventory.nics:
        cluster.add_node(a_node(f"n{nic.rail}"), slices_of(f"n{nic.rail}", replace(inventory, nics=(nic,))))
    join(cluster, "a", *members("a", 2), size=2)
    cluster.wait(5)
    assert cluster.allocated == []
    (message,) = cluster.messages("a-0", "Unsatisfiable")
    assert "1 of 2 members have room at once on rail 0; pod a-1 has none" in message
    assert message.endswith("nearest: rails: any would do")


def test_within_a_label_all_are_in_one_domain_and_nodes_without_it_do_not_count() -> None:
    labels = [{BLOCK: "x"}, {BLOCK: "y"}, {BLOCK: "y"}, {}]
    cluster = a_cluster(4, pairs=1, vfs=1, labels=labels)
    join(cluster, "a", *members("a", 2), size=2, within=BLOCK)
    cluster.run()
    assert sorted(map(str, nodes_of(cluster, members("a", 2)))) == ["n1", "n2"]
    join(cluster, "b", *members("b", 2), size=2, within=BLOCK)
    cluster.wait(5)
    assert nodes_of(cluster, members("b", 2)) == [None, None]
    (message,) = cluster.messages("b-0", "Unsatisfiable")
    assert f"nearest: to leave out within: {BLOCK} would do" in message


def test_where_an_address_is_missing_for_one_member_none_is_placed() -> None:
    cluster = a_cluster(4, pairs=1, vfs=1, fabric=Network.cut(IPv4Network("10.0.0.0/29"), 30))
    join(cluster, "a", *members("a", 3), size=3)
    cluster.wait(3)
    assert nodes_of(cluster, members("a", 3)) == [None] * 3
    assert cluster.state.assumed == {}
    (message,) = cluster.messages("a-0", "Unsatisfiable")
    assert message.endswith("rail 0 has 2 free addresses of the network of --fabric-cidr, 3 are needed")


def a_network(*prefixes: int) -> Network:
    """Rail 0, 1 … with a subnet of such a prefix length."""
    rails = {n: Rail((Span.of(IPv4Network(f"10.0.{n}.0/{p}")),)) for n, p in enumerate(prefixes)}
    return Network("", rails, selector=LabelSelector())


def test_rails_with_too_few_addresses_for_all_members_are_left_out() -> None:
    cluster = a_cluster(4, pairs=2, vfs=1, fabric=a_network(30, 29))
    join(cluster, "a", *members("a", 4), require="PIX")
    cluster.run()
    assert [rails_of(cluster, name) for name in members("a", 4)] == [{1}] * 4


def test_where_no_rail_has_addresses_for_all_members_one_is_named() -> None:
    cluster = a_cluster(4, pairs=2, vfs=1, fabric=a_network(30, 30))
    join(cluster, "a", *members("a", 4), require="PIX")
    cluster.wait(3)
    assert nodes_of(cluster, members("a", 4)) == [None] * 4
    (message,) = cluster.messages("a-0", "Unsatisfiable")
    assert "rail 0 has 2 free addresses of the network of --fabric-cidr, 4 are needed" in message


@pytest.mark.parametrize("number", [-1, 256, 10**7])
def test_a_node_whose_nics_are_on_no_possible_rail_holds_up_no_gang(number: int) -> None:
    cluster = a_cluster(2)
    inventory = an_inventory(1, 2)
    nics = tuple(
        replace(nic, rail=number, vfs=tuple(replace(vf, rail=number) for vf in nic.vfs))
        for nic in inventory.nics
    )
    cluster.add_node(a_node("odd", cpu="64"), slices_of("odd", replace(inventory, nics=nics)))
    join(cluster, "a", *members("a", 2), gpus=0, size=2)
    cluster.run()
    assert None not in nodes_of(cluster, members("a", 2))
    assert rails_of(cluster, "a-0") == rails_of(cluster, "a-1") != {number}
