"""Just enough rtnetlink to move a link between namespaces: codec, links, addresses, routes, one socket.

Why not a library: pyroute2 is excellent and heavy. Importing any of it costs 26 MB and a quarter of a second,
of the 90 MB and 2 s that the whole plugin may take on every node. Needed here are a few messages, which
tests read back with pyroute2.

Formats: man 7 netlink, rtnetlink; constants from linux/{netlink,rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from driver.errors import TandemError

NETLINK_ROUTE: Final = 0

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths, TOS, table, protocol, scope, type, flags
_U32 = struct.Struct("=I")
_ERROR = struct.Struct("=i")

_REQUEST, _ACK, _DUMP, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_DUMP_INTERRUPTED, _ACK_HAS_TEXT = 0x10, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR, _NEWROUTE = 16, 18, 20, 22, 24
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
_IFF_UP = 1
_MAC, _IFNAME, _MTU, _AF_SPEC, _NET_NS_FD, _EXT_MASK = 1, 3, 4, 26, 28, 29
_PHYS_PORT_NAME, _PROP_LIST, _ALT_IFNAME, _PARENT_DEV_NAME = 38, 52, 53, 56
_SKIP_STATS = 8
_INET_CONF = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NODAD = 0x02
_TABLE_MAIN, _BY_STATIC, _UNIVERSE, _UNICAST = 254, 4, 0, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_TIMEOUT_SECONDS = 30


class NetlinkError(TandemError):
    """The kernel refused a message.

    Attributes:
        errno: as in `errno`; `code` its name, for example ``EEXIST``.
    """

    def __init__(self, what: str, number: int, text: str = "") -> None:
        super().__init__(f"{what}: {text or os.strerror(number)} ({errno.errorcode.get(number, number)})")
        self.errno = number


@dataclass(frozen=True, slots=True)
class Message:
    """One request; `what` names it in errors."""

    what: str
    type: int
    flags: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel describes it. `parent` is its device on the bus (a PCI address)."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    parent: str = ""
    altnames: tuple[str, ...] = ()
    phys_port_name: str = ""


# ---- codec: bytes to values and back


def attribute(number: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, number) + value + bytes(-len(value) % 4)


def nested(number: int, *values: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(number | _NESTED, b"".join(values))


def text(number: int, value: str) -> bytes:
    """A NUL-terminated string attribute."""
    return attribute(number, value.encode() + b"\0")


def u32(number: int, value: int) -> bytes:
    """A 32-bit attribute in host order."""
    return attribute(number, _U32.pack(value))


def attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """(number, value) of each attribute from `offset` on; stops at what is cut off."""
    while offset + 4 <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            return
        yield number & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def get_link(name: str) -> Message:
    """Ask for one link by its name or any of its alternative names (which may exceed 15 characters)."""
    key = text(_IFNAME if len(name) < 16 else _ALT_IFNAME, name)
    return Message(
        f"look up {name}", _GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + key + u32(_EXT_MASK, _SKIP_STATS)
    )


def dump_links() -> Message:
    """Ask for all links of the namespace."""
    return Message("list links", _GETLINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0) + u32(_EXT_MASK, _SKIP_STATS))


def link_message(what: str, type: int, index: int, *parts: bytes) -> Message:
    """A message about one link, of attributes that the caller knows."""
    return Message(what, type, 0, _LINK.pack(0, 0, index, 0, 0) + b"".join(parts))


def set_link(
    index: int,
    what: str,
    *,
    netns_fd: int | None = None,
    name: str | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    up: bool | None = None,
    ipv4_conf: Sequence[tuple[int, int]] = (),
) -> Message:
    """Change a link; what is None stays. All of it is one message, and the kernel applies it in this order.

    Args:
        index: interface index in the socket's namespace.
        what: names the message in errors.
        netns_fd: namespace to move to. `name` may then not be in use there.
        name, mtu, mac, up: as the link shall be afterwards; MTU in bytes.
        ipv4_conf: (IPV4_DEVCONF number, value) pairs, as below net.ipv4.conf.<name>.
    """
    flags, mask = (_IFF_UP if up else 0), (_IFF_UP if up is not None else 0)
    parts = [_LINK.pack(0, 0, index, flags, mask)]
    if netns_fd is not None:
        parts.append(u32(_NET_NS_FD, netns_fd))
    if name is not None:
        parts.append(text(_IFNAME, name))
    if mtu is not None:
        parts.append(u32(_MTU, mtu))
    if mac is not None:
        parts.append(attribute(_MAC, bytes.fromhex(mac.replace(":", ""))))
    if ipv4_conf:
        conf = nested(_INET_CONF, *(u32(number, value) for number, value in ipv4_conf))
        parts.append(nested(_AF_SPEC, nested(socket.AF_INET, conf)))
    return Message(what, _NEWLINK, 0, b"".join(parts))


def add_address(index: int, cidr: str, what: str) -> Message:
    """Give a link an address; IPv6 without duplicate address detection and its second of waiting."""
    interface = ipaddress.ip_interface(cidr)
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    packed = interface.ip.packed
    parts = [
        _ADDRESS.pack(family, interface.network.prefixlen, 0, 0, index),
        attribute(_IFA_LOCAL, packed),
        attribute(_IFA_ADDRESS, packed),
    ]
    if family == socket.AF_INET6:
        parts.append(u32(_IFA_FLAGS, _NODAD))
    return Message(what, _NEWADDR, _CREATE | _EXCL, b"".join(parts))


def add_route(index: int, to: str, via: str, metric: int, what: str) -> Message:
    """Reach a network by way of a router on the link; of several routes the lowest metric is taken."""
    network, router = ipaddress.ip_network(to), ipaddress.ip_address(via)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    parts = [
        _ROUTE.pack(family, network.prefixlen, 0, 0, _TABLE_MAIN, _BY_STATIC, _UNIVERSE, _UNICAST, 0),
        attribute(_RTA_DST, network.network_address.packed),
        u32(_RTA_OIF, index),
        attribute(_RTA_GATEWAY, router.packed),
        u32(_RTA_PRIORITY, metric),
    ]
    return Message(what, _NEWROUTE, _CREATE | _EXCL, b"".join(parts))


def dump_addresses(index: int) -> Message:
    """Ask for a link's addresses (needs a kernel with strict checking, 4.20)."""
    return Message("list addresses", _GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, index))


def parse_link(payload: bytes) -> Link:
    """The body of an RTM_NEWLINK → Link."""
    _, _, index, flags, _ = _LINK.unpack_from(payload)
    name = mac = parent = port = ""
    mtu, altnames = 0, []
    for number, value in attributes(payload, _LINK.size):
        if number == _IFNAME:
            name = _string(value)
        elif number == _MAC:
            mac = value.hex(":")
        elif number == _MTU:
            (mtu,) = _U32.unpack(value)
        elif number == _PARENT_DEV_NAME:
            parent = _string(value)
        elif number == _PHYS_PORT_NAME:
            port = _string(value)
        elif number == _PROP_LIST:
            altnames = [_string(inner) for kind, inner in attributes(value) if kind == _ALT_IFNAME]
    return Link(index, name, mac, mtu, bool(flags & _IFF_UP), parent, tuple(altnames), port)


def parse_address(payload: bytes) -> tuple[int, str]:
    """The body of an RTM_NEWADDR → (interface index, address in CIDR form)."""
    _, prefix_length, _, _, index = _ADDRESS.unpack_from(payload)
    found = dict(attributes(payload, _ADDRESS.size))
    packed = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return index, f"{ipaddress.ip_address(packed)}/{prefix_length}"


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


# ---- socket


class Netlink:
    """A netlink socket of the calling thread's network namespace, where it stays whatever the thread does.

    Opening one costs some microseconds, so there is no pool. Not for use by two threads at once.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        """Raises OSError where the kernel has no such protocol."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._sequence = 0
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.settimeout(_TIMEOUT_SECONDS)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, messages: Sequence[Message]) -> list[list[bytes] | NetlinkError]:
        """Send messages (no dumps) at once; the kernel works through all of them, in order.

        Returns:
            For each message the bodies of its answers, or the error.
        """
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(b"".join(_frame(message, first + n) for n, message in enumerate(messages)))
        outcomes: list[list[bytes] | NetlinkError] = [[] for _ in messages]
        pending = len(messages)
        while pending:
            for _, number, flags, sequence, body in self._receive():
                at = sequence - first
                if not 0 <= at < len(messages):
                    continue  # a late answer to a call that timed out
                bodies = outcomes[at]
                if number == _NLMSG_ERROR:
                    pending -= 1
                    (code,) = _ERROR.unpack_from(body)
                    if code:
                        outcomes[at] = NetlinkError(messages[at].what, -code, _kernel_text(body, flags))
                elif isinstance(bodies, list):
                    bodies.append(body)
        return outcomes

    def call(self, *messages: Message) -> list[list[bytes]]:
        """As `send`, but raises the first error."""
        answers = []
        for outcome in self.send(messages):
            if isinstance(outcome, NetlinkError):
                raise outcome
            answers.append(outcome)
        return answers

    def dump(self, message: Message) -> list[bytes]:
        """The bodies of all answers to a dump; asked again when the kernel says that it changed meanwhile."""
        bodies: list[bytes] = []
        for _ in range(10):
            bodies, whole = self._dump(message)
            if whole:
                break
        return bodies

    def _dump(self, message: Message) -> tuple[list[bytes], bool]:
        self._sequence += 1
        self._socket.send(_frame(message, self._sequence))
        bodies: list[bytes] = []
        whole = True
        while True:
            for _, number, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & _DUMP_INTERRUPTED
                if number in (_NLMSG_DONE, _NLMSG_ERROR):
                    code = _ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
                    if code:
                        raise NetlinkError(message.what, -code)
                    return bodies, whole
                bodies.append(body)

    def _receive(self) -> Iterator[tuple[int, int, int, int, bytes]]:
        data = self._socket.recv(1 << 17)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, number, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield length, number, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def _frame(message: Message, sequence: int) -> bytes:
    flags = message.flags | _REQUEST
    if message.flags & _DUMP != _DUMP:
        flags |= _ACK
    length = _HEADER.size + len(message.payload)
    return _HEADER.pack(length, message.type, flags, sequence, 0) + message.payload


def _kernel_text(body: bytes, flags: int) -> str:
    """NLMSGERR_ATTR_MSG, the kernel's own words; the original header (capped) comes before it."""
    if not flags & _ACK_HAS_TEXT:
        return ""
    return next((_string(value) for number, value in attributes(body, 4 + _HEADER.size) if number == 1), "")
