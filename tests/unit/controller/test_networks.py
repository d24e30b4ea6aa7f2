"""FabricNetworks as the controller reads them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.networks import Network, matches
from driver.errors import ConfigError
from driver.kube.fabric import FabricNetwork, LabelSelector


def network(**spec: Any) -> Network:
    return Network.of(msgspec.convert({"metadata": {"name": "blue"}, "spec": spec}, FabricNetwork))


def subnets(found: Network) -> dict[int, list[str]]:
    return {number: [str(span.subnet) for span in rail.spans] for number, rail in found.rails.items()}


def test_a_block_is_cut_into_a_subnet_for_each_rail() -> None:
    found = network(blocks=[{"cidr": "10.200.0.0/16", "railPrefixLength": 24}])
    assert list(subnets(found).items())[:2] == [(0, ["10.200.0.0/24"]), (1, ["10.200.1.0/24"])]
    assert len(found.rails) == 256


def test_two_blocks_are_two_families_and_a_rail_has_both_or_none() -> None:
    found = network(
        blocks=[
            {"cidr": "10.200.0.0/22", "railPrefixLength": 24},
            {"cidr": "fd00::/48", "railPrefixLength": 64},
        ]
    )
    assert list(subnets(found).items())[1:] == [
        (1, ["10.200.1.0/24", "fd00:0:0:1::/64"]),
        (2, ["10.200.2.0/24", "fd00:0:0:2::/64"]),
        (3, ["10.200.3.0/24", "fd00:0:0:3::/64"]),
    ]


def test_rails_may_be_listed_and_gateways_are_never_given() -> None:
    found = network(
        rails=[{"rail": 3, "subnets": ["10.3.0.0/30", "fd03::/64"], "gateways": ["10.3.0.1"]}],
        routes=[{"to": "10.0.0.0/8"}],
    )
    rail = found.rail(3)
    assert rail is not None
    assert (rail.gateways, rail.spans[0].size) == ({4: "10.3.0.1"}, 1)
    assert found.rail(0) is None


def test_one_segment_serves_nics_of_all_rails_and_of_none() -> None:
    found = network(subnets=["10.1.0.0/16"], exclude=["10.1.0.0/24"])
    assert found.rail(None) is found.rail(7) is not None


def test_a_network_may_have_no_addresses_at_all() -> None:
    found = network(vlan=7, mtu=9000, trafficClass=106)
    assert (found.rail(0), found.vlan, found.mtu, found.traffic_class) == (None, 7, 9000, 106)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"blocks": [{"cidr": "10.0.0.0/16", "railPrefixLength": 15}]}, "spec.blocks[0].railPrefixLength"),
        ({"blocks": [{"cidr": "10.0.0.0/16", "railPrefixLength": 32}]}, "spec.blocks[0].railPrefixLength"),
        ({"blocks": [{"cidr": "10.0.0.1/16", "railPrefixLength": 24}]}, "spec.blocks[0].cidr"),
        ({"blocks": [{"cidr": "10.0.0.0/16", "railPrefixLength": 24}] * 2}, "spec.blocks[1].cidr"),
        ({"subnets": ["10.0.0.0/16"], "rails": [{"rail": 0, "subnets": ["10.0.0.0/24"]}]}, "spec.subnets"),
        ({"subnets": ["10.0.0.0/16", "10.1.0.0/16"]}, "spec.subnets"),
        ({"gateways": ["10.0.0.1"]}, "spec.gateways"),
        ({"rails": [{"rail": 0, "subnets": ["10.0.0.0/24"]}] * 2}, "spec.rails[1].rail"),
        ({"rails": [{"rail": r, "subnets": ["10.0.0.0/24"]} for r in (0, 1)]}, "spec.rails"),
        (
            {"rails": [{"rail": 0, "subnets": ["10.0.0.0/24"], "gateways": ["10.0.1.1"]}]},
            "spec.rails[0].gateways[0]",
        ),
        ({"subnets": ["10.0.0.0/16"], "exclude": ["10.1.0.0/24"]}, "spec.exclude[0]"),
        ({"subnets": ["10.0.0.0/16"], "routes": [{"to": "10.1.0.0/16"}]}, "spec.routes[0].to"),
        ({"routes": [{"to": "10.1.0.0/16"}]}, "spec.routes[0].to"),
        ({"vlan": 0}, "spec.vlan"),
        ({"vlan": 4095}, "spec.vlan"),
        ({"vlan": 7, "pkey": 7}, "spec.pkey"),
        ({"pkey": 7, "default": True}, "spec.default"),
        ({"mtu": 67}, "spec.mtu"),
        ({"trafficClass": 256}, "spec.trafficClass"),
    ],
)
def test_a_wrong_network_is_refused_with_its_path(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        network(**spec)
    assert caught.value.path == path


def test_nobody_may_use_a_network_that_says_nothing_of_namespaces() -> None:
    assert not network().admits("team-a", {})


def test_namespaces_are_admitted_by_name_or_label() -> None:
    named = network(namespaces={"names": ["team-a"], "selector": {"matchLabels": {"tier": "gold"}}})
    assert named.admits("team-a", {})
    assert named.admits("team-b", {"tier": "gold"})
    assert not named.admits("team-b", {"tier": "iron"})
    assert named.admits("team-b", None)  # labels unknown
    assert not network(namespaces={"names": ["team-a"]}).admits("team-b", None)
    assert network(namespaces={"selector": {}}).admits("anybody", {})
    own_name = {"matchLabels": {"kubernetes.io/metadata.name": "team-c"}}
    assert network(namespaces={"selector": own_name}).admits("team-c", {})


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ({"key": "a", "operator": "In", "values": ["1", "2"]}, True),
        ({"key": "a", "operator": "In", "values": ["2"]}, False),
        ({"key": "b", "operator": "NotIn", "values": ["1"]}, True),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, False),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "b", "operator": "Exists"}, False),
        ({"key": "b", "operator": "DoesNotExist"}, True),
        ({"key": "a", "operator": "DoesNotExist"}, False),
    ],
)
def test_selectors_mean_what_kubernetes_means(expression: dict[str, Any], holds: bool) -> None:
    selector = msgspec.convert({"matchExpressions": [expression]}, LabelSelector)
    assert matches(selector, {"a": "1"}) is holds
