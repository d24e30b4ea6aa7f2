"""What the kernel says of real interfaces, in a namespace of their own."""

from __future__ import annotations

import struct

from pyroute2 import IPRoute

from driver.probes.net import NetdevProbe, in_use, link_facts
from driver.probes.rtnetlink import RouteNetlink, decode_link, default_route
from tests.unit.driver.machines import Namespace, needs_root

NIC, VF = "0000:18:00.0", "0000:18:00.1"


def make(netlink: IPRoute, name: str, *, address: str = "", **link: object) -> int:
    netlink.link("add", ifname=name, **link)
    index: int = netlink.link_lookup(ifname=name)[0]
    netlink.link("set", index=index, state="up")
    if address:
        netlink.addr("add", index=index, address=address, prefixlen=64 if ":" in address else 24)
    return index


@needs_root
def test_links_are_read_as_a_general_library_reads_them(namespace: Namespace) -> None:
    def compare() -> None:
        with IPRoute() as netlink:
            index = make(netlink, "pf0", kind="veth", peer="wire0")
            make(netlink, "vf0", kind="macvlan", link=index, macvlan_mode="private")
            netlink.link("property_add", index=index, altname="pci-0000-18-00-0")
            expected = {facts["index"]: facts for facts in map(link_facts, netlink.get_links())}
        with RouteNetlink() as raw:
            found = {facts["index"]: facts for facts in raw.links()}
        assert found.keys() == expected.keys()
        for index, facts in found.items():
            for name, value in facts.items():
                if name != "kind":
                    assert value == expected[index].get(name), name
        assert {facts["IFLA_IFNAME"]: facts["kind"] for facts in found.values()} == {
            "lo": "",
            "pf0": "veth",
            "wire0": "veth",
            "vf0": "macvlan",
        }

    namespace.run(compare)


@needs_root
def test_an_interface_with_an_address_or_below_one_is_in_use(namespace: Namespace) -> None:
    def look() -> None:
        with IPRoute() as netlink:
            free = make(netlink, "free", kind="veth", peer="free-peer")
            addressed = make(netlink, "own", kind="veth", peer="own-peer", address="192.0.2.1")
            below = make(netlink, "below", kind="veth", peer="below-peer")
            make(netlink, "above", kind="macvlan", link=below, address="2001:db8::1")
            bridge = make(netlink, "bridge", kind="bridge")
            member = make(netlink, "member", kind="veth", peer="member-peer")
            netlink.link("set", index=member, master=bridge)
            for index, number in ((free, 1), (addressed, 2), (below, 3), (member, 4)):
                netlink.link("property_add", index=index, altname=f"pci-0000-18-00-{number}")
        found = NetdevProbe().read()
        assert {address: netdev.uplink for address, netdev in found.items()} == {
            "0000:18:00.1": False,
            "0000:18:00.2": True,
            "0000:18:00.3": True,
            "0000:18:00.4": True,
        }

    namespace.run(look)


@needs_root
def test_a_default_route_is_found(namespace: Namespace) -> None:
    def look() -> None:
        with IPRoute() as netlink:
            index = make(netlink, "one", kind="veth", peer="peer", address="192.0.2.1")
            netlink.link("set", index=netlink.link_lookup(ifname="peer")[0], state="up")
            with RouteNetlink() as raw:
                assert raw.default_routes() == set()
            netlink.route("add", dst="default", gateway="192.0.2.9", oif=index)
            with RouteNetlink() as raw:
                assert raw.default_routes() == {index}

    namespace.run(look)


def test_every_next_hop_of_a_default_route_is_in_use() -> None:
    hops = struct.pack("=HBBi", 16, 0, 0, 3) + bytes(8) + struct.pack("=HBBi", 8, 0, 0, 5)
    multipath = struct.pack("=HH", 4 + len(hops), 9) + hops
    assert default_route(struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0) + multipath) == {3, 5}


def test_a_default_route_of_another_table_is_not_the_nodes() -> None:
    def route(table: int, *, bits: int = 0, kind: int = 1) -> bytes:
        attributes = struct.pack("=HHI", 8, 15, table) + struct.pack("=HHI", 8, 4, 7)
        return struct.pack("=BBBBBBBBI", 2, bits, 0, 0, table & 0xFF, 0, 0, kind, 0) + attributes

    assert default_route(route(254)) == {7}
    assert default_route(route(100)) == set()
    assert default_route(route(0x1FE)) == set()  # 254 in the short field
    assert default_route(route(254, bits=24)) == set()
    assert default_route(route(254, kind=7)) == set()  # unreachable


def test_a_default_route_from_a_routers_advertisement_is_not_the_nodes() -> None:
    def route(protocol: int) -> bytes:
        attribute = struct.pack("=HHI", 8, 4, 7)
        return struct.pack("=BBBBBBBBI", 10, 0, 0, 0, 254, protocol, 0, 1, 0) + attribute

    assert default_route(route(9)) == set()  # ra
    assert [default_route(route(protocol)) for protocol in (2, 3, 4, 16)] == [
        {7}
    ] * 4  # kernel, boot, static, dhcp


@needs_root
def test_a_nic_that_only_hears_routers_is_no_uplink(namespace: Namespace) -> None:
    def look() -> None:
        with IPRoute() as netlink:
            index = make(netlink, "heard", kind="veth", peer="router")
            netlink.link("set", index=netlink.link_lookup(ifname="router")[0], state="up")
            netlink.link("property_add", index=index, altname="pci-0000-18-00-0")
            route = {"dst": "default", "gateway": "fe80::1", "oif": index, "family": 10}
            netlink.route("add", proto=9, priority=1024, **route)
            assert not NetdevProbe().read()[NIC].uplink
            netlink.route("add", proto=4, priority=512, **route)
            assert NetdevProbe().read()[NIC].uplink

    namespace.run(look)


def test_a_veths_peer_is_not_below_it() -> None:
    links = [
        {"index": 2, "kind": "veth", "IFLA_LINK": 3},
        {"index": 4, "kind": "vlan", "IFLA_LINK": 5},
        {"index": 6, "kind": "macvlan", "IFLA_LINK": 7, "IFLA_LINK_NETNSID": 0},
        {"index": 8, "kind": "macvlan", "IFLA_LINK": 4},
    ]
    assert in_use(links, {2, 6, 8}) == {2, 6, 8, 4, 5}


def test_a_switch_port_says_its_switch_and_its_place_on_it() -> None:
    def attribute(number: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)

    body = struct.pack("=BxHiII", 0, 1, 7, 0, 0)
    body += attribute(36, bytes.fromhex("00e0ec38ab05")) + attribute(38, b"pf0vf1\0")
    found = decode_link(body)
    assert (found["IFLA_PHYS_SWITCH_ID"], found["IFLA_PHYS_PORT_NAME"]) == ("00e0ec38ab05", "pf0vf1")
