"""Dumps of the kernel's network tables, with only what the probes need decoded.

A node with hundreds of VFs is asked every few seconds; a general netlink library takes a second of CPU to
decode all that the kernel knows of their interfaces. Layouts: rtnetlink(7), include/uapi/linux/if_link.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

from driver.errors import ProbeError

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE: Final = struct.Struct("=HH")
_LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # rtmsg: …, destination length, …, table, protocol, scope, type
_NEXT_HOP: Final = struct.Struct("=HBBi")

_ERROR, _DONE = 2, 3
_GET_LINK, _GET_ADDRESS, _GET_ROUTE = 18, 22, 26
_REQUEST_DUMP: Final = 0x301
_INTERRUPTED: Final = 0x10
_ATTEMPTS: Final = 5
_TIMEOUT_SECONDS: Final = 10.0
_BUFFER_BYTES: Final = 1 << 18

_EXT_MASK: Final = 29
_SKIP_STATISTICS: Final = 8

_TEXT: Final = {
    3: "IFLA_IFNAME",
    38: "IFLA_PHYS_PORT_NAME",
    56: "IFLA_PARENT_DEV_NAME",
    57: "IFLA_PARENT_DEV_BUS_NAME",
}
_NUMBERS: Final = {4: "IFLA_MTU", 5: "IFLA_LINK", 10: "IFLA_MASTER", 37: "IFLA_LINK_NETNSID"}
_IFLA_ADDRESS, _IFLA_LINKINFO, _IFLA_PROP_LIST, _IFLA_INFO_KIND = 1, 18, 52, 1
_IFLA_PHYS_SWITCH_ID: Final = 36
_NESTED: Final = 0x3FFF
"""Mask of an attribute's number: the two bits above say that it is nested, or in network byte order."""

_IFA_FLAGS: Final = 8
_PERMANENT: Final = 0x80
_SCOPE_LINK: Final = 253
_RTA_OIF, _RTA_MULTIPATH, _RTA_TABLE = 4, 9, 15
_MAIN_TABLE: Final = 254
_UNICAST: Final = 1
_ROUTER_ADVERTISEMENT: Final = 9  # RTPROT_RA

Facts = dict[str, Any]


class RouteNetlink:
    """A socket in the network namespace of the thread that opens it."""

    def __init__(self) -> None:
        """Raises ProbeError where there is no netlink."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        except OSError as error:
            raise ProbeError(f"netlink: cannot open a socket: {error}") from error
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _BUFFER_BYTES)

    def __enter__(self) -> RouteNetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def links(self) -> list[Facts]:
        """Interfaces: `index`, `flags`, `altnames`, `kind`, and attributes under the kernel's names.

        Raises:
            ProbeError: the kernel does not answer.
        """
        mask = struct.pack("=HHI", 8, _EXT_MASK, _SKIP_STATISTICS)
        return [decode_link(message) for message in self._dump(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0) + mask)]

    def addressed(self) -> set[int]:
        """Indices of interfaces that somebody gave an address: not link-local, nor an IPv6 address that the
        kernel made by itself from a router's advertisement.
        """
        found = set()
        for message in self._dump(_GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, _, short_flags, scope, index = _ADDRESS.unpack_from(message)
            flags = _number(attributes(message[_ADDRESS.size :]).get(_IFA_FLAGS), short_flags)
            if scope < _SCOPE_LINK and (family == socket.AF_INET or flags & _PERMANENT):
                found.add(index)
        return found

    def default_routes(self) -> set[int]:
        """Indices of interfaces that a default route of the main table leads through; one that the kernel
        made from a router's advertisement does not count, as an address of that origin does not.
        """
        messages = self._dump(_GET_ROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0))
        return {index for message in messages for index in default_route(message)}

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        for _ in range(_ATTEMPTS):
            try:
                self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, kind, 0) + body)
                found, whole = self._receive(kind)
            except OSError as error:
                raise ProbeError(f"netlink: cannot read table {kind}: {error}") from error
            if whole:
                return found
        return found  # changed all the while; the next poll will see the rest

    def _receive(self, sequence: int) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        whole = True
        while True:
            data = self._socket.recv(_BUFFER_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
                if length < _HEADER.size:
                    raise OSError("garbled message")
                body = data[at + _HEADER.size : at + length]
                at += length + 3 & ~3
                if number != sequence:
                    continue
                whole = whole and not flags & _INTERRUPTED
                if kind == _DONE:
                    return found, whole
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, "refused")
                found.append(body)


def default_route(message: bytes) -> set[int]:
    """Indices of a route's interfaces, if it is a default route of the main table that somebody has set."""
    _, destination_bits, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(message)
    found = attributes(message[_ROUTE.size :])
    if (
        protocol == _ROUTER_ADVERTISEMENT
        or destination_bits
        or kind != _UNICAST
        or _number(found.get(_RTA_TABLE), table) != _MAIN_TABLE
    ):
        return set()
    single = {_number(found[_RTA_OIF], 0)} if _RTA_OIF in found else set()
    return single | set(_next_hops(found.get(_RTA_MULTIPATH, b"")))


def decode_link(message: bytes) -> Facts:
    """The facts of one message of a dump of links (RTM_NEWLINK without its netlink header)."""
    _, _, index, flags, _ = _LINK.unpack_from(message)
    facts: Facts = {"index": index, "flags": flags, "altnames": [], "kind": ""}
    at, end = _LINK.size, len(message)
    while at + 4 <= end:
        length, number = _ATTRIBUTE.unpack_from(message, at)
        if length < 4:
            break
        number &= _NESTED
        if number in _TEXT:
            facts[_TEXT[number]] = _text(message[at + 4 : at + length])
        elif number in _NUMBERS:
            facts[_NUMBERS[number]] = _number(message[at + 4 : at + length], 0)
        elif number == _IFLA_ADDRESS:
            facts["IFLA_ADDRESS"] = message[at + 4 : at + length].hex(":")
        elif number == _IFLA_PHYS_SWITCH_ID:
            facts["IFLA_PHYS_SWITCH_ID"] = message[at + 4 : at + length].hex()
        elif number == _IFLA_PROP_LIST:
            facts["altnames"] = [_text(value) for _, value in _each(message[at + 4 : at + length])]
        elif number == _IFLA_LINKINFO:
            kind = attributes(message[at + 4 : at + length]).get(_IFLA_INFO_KIND, b"")
            facts["kind"] = _text(kind)
        at += length + 3 & ~3
    return facts


def _next_hops(data: bytes) -> Iterator[int]:
    at = 0
    while at + _NEXT_HOP.size <= len(data):
        length, _, _, index = _NEXT_HOP.unpack_from(data, at)
        if length < _NEXT_HOP.size:
            return
        yield index
        at += length + 3 & ~3


def _each(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield number & _NESTED, data[at + 4 : at + length]
        at += length + 3 & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by number; what is cut off is left out."""
    return dict(_each(data))


def _number(value: bytes | None, default: int) -> int:
    return struct.unpack_from("=I", value)[0] if value is not None and len(value) >= 4 else default


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
