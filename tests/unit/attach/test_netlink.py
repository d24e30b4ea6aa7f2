"""The codec against another's: pyroute2 has to read what we write, and we what the kernel writes."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from driver.names import pci_altname
from kubeletplugin.attach import links, netlink, rdma, vfport
from kubeletplugin.attach.netlink import Netlink, NetlinkError
from kubeletplugin.attach.netns import Netns, inode_at
from kubeletplugin.attach.store import Vlan
from tests.unit.attach.machine import Machine, ip


def decoded(kind: type, message: netlink.Message) -> object:
    parsed = kind(netlink._frame(message, 7))
    parsed.decode()
    assert parsed["header"]["type"] == message.type
    assert parsed["header"]["sequence_number"] == 7
    return parsed


@given(
    st.integers(1, 2**31 - 1),
    st.none() | st.from_regex(r"[a-z0-9]{1,15}", fullmatch=True),
    st.none() | st.integers(68, 65535),
    st.none() | st.binary(min_size=6, max_size=6),
    st.none() | st.booleans(),
)
def test_pyroute2_reads_our_link_messages(
    index: int, name: str | None, mtu: int | None, mac: bytes | None, up: bool | None
) -> None:
    text = mac.hex(":") if mac is not None else None
    message = netlink.set_link(index, "x", netns_fd=9, name=name, mtu=mtu, mac=text, up=up)
    parsed = decoded(ifinfmsg, message)
    assert parsed["index"] == index  # type: ignore[index]
    assert (parsed["flags"], parsed["change"]) == (int(bool(up)), int(up is not None))  # type: ignore[index]
    found = dict(parsed["attrs"])  # type: ignore[index]
    assert found.pop("IFLA_NET_NS_FD") == 9
    expected = {"IFLA_IFNAME": name, "IFLA_MTU": mtu, "IFLA_ADDRESS": text}
    assert found == {key: value for key, value in expected.items() if value is not None}


@given(st.integers(1, 2**31 - 1), st.ip_addresses(), st.integers(0, 32))
def test_pyroute2_reads_our_address_messages_and_we_read_them_back(
    index: int, address: object, prefix_length: int
) -> None:
    cidr = f"{address}/{prefix_length}"
    message = netlink.add_address(index, cidr, "x")
    parsed = decoded(ifaddrmsg, message)
    assert (parsed["index"], parsed["prefixlen"]) == (index, prefix_length)  # type: ignore[index]
    assert ipaddress.ip_address(dict(parsed["attrs"])["IFA_LOCAL"]) == address  # type: ignore[index]
    assert netlink.parse_address(message.payload) == (index, cidr)


@pytest.mark.parametrize(
    ("to", "via"), [("10.0.0.0/8", "10.1.0.1"), ("fd00::/16", "fd01::1"), ("0.0.0.0/0", "10.1.0.1")]
)
def test_pyroute2_reads_our_route_messages(to: str, via: str) -> None:
    parsed = decoded(rtmsg, netlink.add_route(5, to, via, 1024, "x"))
    network = ipaddress.ip_network(to)
    assert (parsed["dst_len"], parsed["table"], parsed["type"]) == (network.prefixlen, 254, 1)  # type: ignore[index]
    found = dict(parsed["attrs"])  # type: ignore[index]
    assert (found["RTA_OIF"], found["RTA_GATEWAY"], found["RTA_PRIORITY"]) == (5, via, 1024)
    assert found["RTA_DST"] == str(network.network_address)


def test_pyroute2_reads_our_vlan_messages_and_we_read_them_back() -> None:
    pf = netlink.Link(5, "pf", "", 1500, up=True)
    message = vfport._set(pf, 3, Vlan(7, 2))
    parsed = decoded(ifinfmsg, message)
    (info,) = dict(parsed["attrs"])["IFLA_VFINFO_LIST"]["attrs"]  # type: ignore[index]
    tag = dict(info[1]["attrs"])["IFLA_VF_VLAN"]
    assert (tag["vf"], tag["vlan"], tag["qos"]) == (3, 7, 2)
    assert vfport.parse(message.payload) == {3: Vlan(7, 2)}


@given(st.binary(max_size=200))
def test_attributes_of_any_bytes_end(data: bytes) -> None:
    assert all(len(value) <= len(data) for _, value in netlink.attributes(data))


def test_we_read_the_kernels_links() -> None:
    with Netlink() as ours:
        found = {link.name: link for link in map(netlink.parse_link, ours.dump(netlink.dump_links()))}
        assert found["lo"].index == 1
        assert {name for _, name in socket.if_nameindex()} == set(found)
        assert netlink.parse_link(ours.call(netlink.get_link("lo"))[0][0]) == found["lo"]


def test_errors_keep_their_place_in_a_batch_and_name_what_was_asked() -> None:
    with Netlink() as ours:
        outcomes = ours.send([netlink.get_link("lo"), netlink.get_link("no-such"), netlink.get_link("lo")])
        assert [isinstance(outcome, NetlinkError) for outcome in outcomes] == [False, True, False]
        with pytest.raises(NetlinkError, match=r"look up no-such.*ENODEV") as caught:
            ours.call(netlink.get_link("no-such"))
        assert caught.value.errno == errno.ENODEV


def test_the_kernels_own_words_are_in_the_error(machine: Machine) -> None:
    address = machine.vf(1)
    with Netlink() as ours:
        link = links.find(ours, address)
        assert link is not None
        with pytest.raises(NetlinkError, match=r"set mtu: mtu less than .*\(EINVAL\)"):
            ours.call(netlink.set_link(link.index, "set mtu", mtu=10))


def test_a_netdev_is_found_by_its_altname_or_not_at_all(machine: Machine) -> None:
    address = machine.vf(1)
    with Netlink() as ours:
        link = links.find(ours, address)
        assert link is not None
        assert link.name == machine.vfs[address]
        assert pci_altname(address) in link.altnames
        ip("link", "delete", link.name)
        assert links.find(ours, address) is None


def _body(index: int, parent: str, port: str) -> bytes:
    return (
        netlink._LINK.pack(0, 1, index, 0, 0)
        + netlink.text(3, f"eth{index}")
        + netlink.text(56, parent)
        + (netlink.text(38, port) if port else b"")
    )


class _Recorded(Netlink):
    """Stands where a kernel with PCI netdevs would: no altname, these links."""

    def __init__(self, bodies: list[bytes]) -> None:
        super().__init__()
        self.bodies = bodies

    def dump(self, message: netlink.Message) -> list[bytes]:
        return self.bodies


@pytest.fixture
def switchdev() -> Iterator[Netlink]:
    parent = "ffff:3b:00.0"
    with _Recorded(
        [
            _body(9, parent, "pf0vf1"),
            _body(8, parent, "p0"),
            _body(7, "ffff:3b:00.1", ""),
            _body(10, parent, ""),
        ]
    ) as recorded:
        yield recorded


def test_a_real_function_is_found_by_its_parent_and_not_by_its_representors(switchdev: Netlink) -> None:
    link = links.find(switchdev, "ffff:3b:00.0")
    assert link is not None
    assert link.index == 8


def test_a_function_runs_in_the_namespace_and_the_caller_stays(machine: Machine) -> None:
    path = f"/run/netns/{machine.pod()}"
    before = inode_at("/proc/thread-self/ns/net")
    pod = Netns.at(path)
    assert pod is not None
    with pod:
        assert pod.run(lambda: inode_at("/proc/thread-self/ns/net")) == pod.inode == inode_at(path)
        with pod.netlink() as inside:
            names = [netlink.parse_link(body).name for body in inside.dump(netlink.dump_links())]
        assert "lo" in names
        assert len(names) < len(socket.if_nameindex())
        with pytest.raises(ZeroDivisionError):
            pod.run(lambda: 1 // 0)
    assert inode_at("/proc/thread-self/ns/net") == before
    assert Netns.at(path, inode=1) is None
    assert Netns.at("/run/netns/no-such") is None


def test_entering_what_is_no_namespace_fails_and_leaves_no_thread() -> None:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    with Netns(fd) as wrong, pytest.raises(OSError, match="setns"):
        wrong.run(lambda: None)
    assert all(thread.name != "netns" for thread in threading.enumerate())


def test_a_kernel_without_rdma_has_nothing_to_move() -> None:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, rdma.NETLINK_RDMA).close()
    except OSError:
        assert rdma.exclusive_mode() is False
    else:
        pytest.skip("this kernel has RDMA")
