from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.codec import kind_of
from driver.devices import Tier
from driver.errors import ConfigError
from driver.placement import (
    PlacedInterface,
    PlacedPair,
    PlacedRoute,
    Placement,
    decode_placement,
    encode_placement,
)


def placement(**more: Any) -> dict[str, Any]:
    return {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Placement", **more}


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
RAILS = st.one_of(st.none(), st.integers(0, 63))
ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(lambda a: f"{a}/24"), st.ip_addresses(v=6).map(lambda a: f"{a}/64")
)
PLACEMENTS = st.builds(
    Placement,
    st.lists(st.builds(PlacedPair, NAMES, NAMES, st.sampled_from(Tier), RAILS), max_size=8).map(tuple),
    st.lists(
        st.builds(
            PlacedInterface,
            NAMES,
            st.from_regex(r"net[0-9]{1,3}", fullmatch=True),
            st.lists(ADDRESSES, max_size=3).map(tuple),
            RAILS,
            st.one_of(st.none(), st.integers(68, 9216)),
            st.sampled_from(["", "blue"]),
            st.lists(st.just(PlacedRoute("10.0.0.0/8", "10.1.0.1")), max_size=2).map(tuple),
            st.one_of(st.none(), st.integers(1, 4094)),
            st.one_of(st.none(), st.integers(0, 255)),
        ),
        max_size=8,
        unique_by=lambda interface: interface.interface,
    ).map(tuple),
)


@given(PLACEMENTS)
def test_a_decision_survives_the_wire(decision: Placement) -> None:
    assert decode_placement(encode_placement(decision)) == decision


def test_a_decision_reads_on_the_wire_as_documented() -> None:
    decision = Placement(
        (PlacedPair("gpu-0000-1b-00-0", "vf-0000-18-00-1", Tier.PIX, 0),),
        (
            PlacedInterface("vf-0000-18-00-1", "net1", ("10.200.0.1/24",), 0, 4200),
            PlacedInterface(
                "vf-0000-18-00-2",
                "net2",
                (),
                0,
                None,
                "blue",
                (PlacedRoute("10.0.0.0/8", "10.1.0.1"),),
                7,
                106,
            ),
        ),
    )
    assert json.loads(encode_placement(decision)) == placement(
        pairs=[{"gpu": "gpu-0000-1b-00-0", "nic": "vf-0000-18-00-1", "tier": "PIX", "rail": 0}],
        interfaces=[
            {
                "device": "vf-0000-18-00-1",
                "interface": "net1",
                "addresses": ["10.200.0.1/24"],
                "rail": 0,
                "mtu": 4200,
            },
            {
                "device": "vf-0000-18-00-2",
                "interface": "net2",
                "rail": 0,
                "network": "blue",
                "routes": [{"to": "10.0.0.0/8", "via": "10.1.0.1"}],
                "vlan": 7,
                "trafficClass": 106,
            },
        ],
    )
    assert kind_of(encode_placement(decision)) == "Placement"


def interfaces(**fields: Any) -> dict[str, Any]:
    return placement(interfaces=[{"device": "vf-0000-18-00-1", "interface": "net1", **fields}])


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        (placement(pairs=[{"gpu": "gpu-1", "nic": "../x", "tier": "PIX"}]), "pairs[0].nic"),
        (placement(pairs=[{"gpu": "gpu-1", "nic": "nic-1"}]), "pairs[0]"),
        (interfaces(interface="a" * 16), "interfaces[0].interface"),
        (interfaces(interface="a/b"), "interfaces[0].interface"),
        (interfaces(interface=".."), "interfaces[0].interface"),
        (interfaces(device="VF"), "interfaces[0].device"),
        (interfaces(addresses=["10.0.0.300/24"]), "interfaces[0].addresses[0]"),
        (interfaces(addresses=["10.0.0.3"]), "interfaces[0].addresses[0]"),
        (interfaces(mtu=67), "interfaces[0].mtu"),
        (interfaces(vlan=4095), "interfaces[0].vlan"),
        (interfaces(trafficClass=256), "interfaces[0].trafficClass"),
        (interfaces(routes=[{"to": "10.0.0.1/8", "via": "10.0.0.1"}]), "interfaces[0].routes[0].to"),
        (interfaces(routes=[{"to": "10.0.0.0/8", "via": "router"}]), "interfaces[0].routes[0].via"),
        (interfaces(colour="blue"), "interfaces[0]"),
        (placement(interfaces=[{"device": d, "interface": "net1"} for d in "ab"]), "interfaces[1].interface"),
        ({**placement(), "kind": "Alignment"}, "kind"),
    ],
)
def test_a_wrong_decision_is_refused_with_its_path(parameters: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_placement(parameters)
    assert caught.value.path == path
