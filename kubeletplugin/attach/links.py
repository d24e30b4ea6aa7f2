"""What is done to a netdev: found by its PCI address, moved into a pod and made usable there, taken home.

Each function takes sockets of the namespaces that it works in; nothing here remembers anything.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from driver.errors import PermanentError
from driver.names import is_representor, pci_altname
from kubeletplugin.attach import netlink
from kubeletplugin.attach.netlink import Link, Netlink, NetlinkError
from kubeletplugin.attach.netns import Netns
from kubeletplugin.attach.store import Attachment, HomeState

IPV4_CONF: Final[Mapping[str, tuple[int, int]]] = {
    # Several NICs in a pod, perhaps in one subnet: each answers for, and asks with, its own addresses only.
    "arp_ignore": (19, 1),
    "arp_announce": (18, 2),
    "rp_filter": (8, 2),
    # An address may have been another VF's a moment ago: tell the neighbours.
    "arp_notify": (22, 1),
}
"""net.ipv4.conf.<interface>.* in the pod: IPV4_DEVCONF number (linux/ip.h) and value."""

_FIRST_METRIC: Final = 1024
"""Of the first NIC's routes, the next one's is one more: the same destination by several rails is one route
each, and who binds to a NIC (as RDMA does) takes its own.
"""


def find(socket: Netlink, pci_address: str) -> Link | None:
    """The netdev of a PCI function in the socket's namespace; None if it is not there.

    By the alternative name made from the address, else by its parent device. A function may show several
    netdevs (switchdev mode): representors are left out, then the oldest is taken.
    """
    (outcome,) = socket.send([netlink.get_link(pci_altname(pci_address))])
    if not isinstance(outcome, NetlinkError):
        return netlink.parse_link(outcome[0])
    if outcome.errno not in (errno.ENODEV, errno.EINVAL):
        raise outcome
    needle = pci_address.encode() + b"\0"
    links = [netlink.parse_link(body) for body in socket.dump(netlink.dump_links()) if needle in body]
    return min(
        (x for x in links if x.parent == pci_address and not is_representor(x.phys_port_name)),
        key=lambda link: link.index,
        default=None,
    )


class NameTakenError(PermanentError):
    """The pod has an interface of that name already; attribute `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the pod has an interface {name} already")
        self.name = name


def move_into_pod(home: Netlink, pod: Netns, moves: Sequence[tuple[Attachment, Link]]) -> None:
    """Move links out of the socket's namespace, each named and sized on the way; all sent at once.

    Raises:
        NameTakenError, NetlinkError: the first that failed; it and others may have moved all the same.
    """
    outcomes = home.send(
        [
            netlink.set_link(
                link.index,
                f"move {link.name} into the pod as {row.interface}",
                netns_fd=pod.fd,
                name=row.interface,
                mtu=row.mtu,
                ipv4_conf=list(IPV4_CONF.values()),
            )
            for row, link in moves
        ]
    )
    for (row, _), outcome in zip(moves, outcomes, strict=True):
        if isinstance(outcome, NetlinkError):
            raise NameTakenError(row.interface) if outcome.errno == errno.EEXIST else outcome


def set_up(rows: Sequence[Attachment]) -> list[Link]:
    """Addresses, sysctls, IFF_UP and routes, by a thread in the pod's namespace.

    Returns the links, in the order of `rows`.

    Raises:
        NetlinkError, OSError: something was refused.
    """
    with Netlink() as socket:
        found = socket.call(*(netlink.get_link(row.interface) for row in rows))
        links = [netlink.parse_link(bodies[0]) for bodies in found]
        messages = []
        for row, link in zip(rows, links, strict=True):
            _refuse_router_advertisements(link.name)
            messages += [
                netlink.add_address(link.index, address, f"give {link.name} the address {address}")
                for address in row.addresses
            ]
            messages.append(netlink.set_link(link.index, f"set {link.name} up", up=True))
        for position, (row, link) in enumerate(zip(rows, links, strict=True)):
            messages += [
                netlink.add_route(
                    link.index, to, via, _FIRST_METRIC + position, f"route {to} via {via} on {link.name}"
                )
                for to, via in row.routes
            ]
        socket.call(*messages)
    return links


def addresses(socket: Netlink, link: Link) -> set[str]:
    """Addresses of a link in CIDR form, link-local ones too."""
    pairs = [netlink.parse_address(body) for body in socket.dump(netlink.dump_addresses(link.index))]
    return {cidr for index, cidr in pairs if index == link.index}


def restore(socket: Netlink, link: Link, home: HomeState, *, to: Netns | None = None) -> None:
    """Give a link its old name, MTU, MAC and up flag; with `to`, on the way to that namespace.

    Where the old name has been taken meanwhile the kernel makes one up; the rest is restored all the same.
    The move and the name are two steps to the kernel: look at what is there afterwards.

    Raises:
        NetlinkError: refused.
    """
    what = f"take {link.name} home as {home.name}" if to else f"restore {home.name} from {link.name}"

    def message(name: str) -> netlink.Message:
        return netlink.set_link(
            link.index,
            what,
            netns_fd=to.fd if to else None,
            name=name if to or link.name != name else None,
            mtu=home.mtu if link.mtu != home.mtu else None,
            mac=home.mac if link.mac != home.mac else None,
            up=home.up if to or link.up != home.up else None,
        )

    try:
        socket.call(message(home.name))
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
        (outcome,) = socket.send([message("nic%d")])
        if isinstance(outcome, NetlinkError) and not (to and outcome.errno == errno.ENODEV):  # it had moved
            raise outcome from error


def _refuse_router_advertisements(name: str) -> None:
    """A router on a rail must not give the pod a default route; there is no netlink message for this one."""
    with contextlib.suppress(FileNotFoundError):  # no IPv6
        Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra").write_text("0")
