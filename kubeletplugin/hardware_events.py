"""Where the kernel says that hardware comes, goes or loses its link: sockets and descriptors, and what they
say.

Links by rtnetlink (RTNLGRP_LINK), PCI functions by uevents (which reach only the network namespaces of the
first user namespace), files by inotify: device nodes that a driver makes, such as those of MIG instances, and
a rendered sysfs tree (the kernel's own tells inotify nothing, which is what uevents are for).

Formats: man 7 netlink, rtnetlink, inotify; linux/if_link.h; Documentation/ABI/testing/sysfs-uevent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from driver.devices import pci_address
from driver.names import address_of_altname, is_representor
from kubeletplugin.attach.netlink import NETLINK_ROUTE, attributes

NETLINK_KOBJECT_UEVENT: Final = 15

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_INOTIFY = struct.Struct("=iIII")  # watch, mask, cookie, length of the name
_NEWLINK, _DELLINK = 16, 17
_RTMGRP_LINK, _KERNEL_UEVENTS = 1, 1
_LOWER_UP = 0x10000
_MASTER, _PHYS_PORT_NAME, _PROP_LIST, _ALT_IFNAME, _PARENT_DEV_NAME = 10, 38, 52, 53, 56
_CREATE, _DELETE, _MOVED = 0x100, 0x200, 0xC0
_OVERFLOW = 0x4000
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20
_DATAGRAM_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """The interface of a PCI function as it is now; `present` is False where it left the namespace.

    Attributes:
        enslaved: a bond or bridge has it.
    """

    pci_address: str
    present: bool
    carrier: bool = False
    enslaved: bool = False


def link_events(data: bytes) -> Iterator[LinkEvent]:
    """Events of PCI functions' interfaces in a datagram of RTNLGRP_LINK; other interfaces, and functions'
    representors, are left out.
    """
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        body = data[offset + _HEADER.size : offset + length]
        if kind in (_NEWLINK, _DELLINK) and len(body) >= _LINK.size:
            event = _link_event(body, present=kind == _NEWLINK)
            if event is not None:
                yield event
        offset += (length + 3) & ~3


def _link_event(body: bytes, *, present: bool) -> LinkEvent | None:
    family, _, _, flags, _ = _LINK.unpack_from(body)
    if family != socket.AF_UNSPEC:  # a bridge speaks of its ports in the same group
        return None
    found = dict(attributes(body, _LINK.size))
    if is_representor(found.get(_PHYS_PORT_NAME, b"").rstrip(b"\0").decode(errors="replace")):
        return None
    address = _address(found)
    if address is None:
        return None
    return LinkEvent(address, present, carrier=bool(flags & _LOWER_UP), enslaved=_MASTER in found)


def _address(found: dict[int, bytes]) -> str | None:
    try:
        return pci_address(_text(found.get(_PARENT_DEV_NAME, b"")))
    except ValueError:
        pass
    names = (_text(value) for kind, value in attributes(found.get(_PROP_LIST, b"")) if kind == _ALT_IFNAME)
    return next((address for name in names if (address := address_of_altname(name))), None)


def is_pci(data: bytes) -> bool:
    """Does a uevent speak of a PCI function that came, went, or changed its driver?"""
    return b"\0SUBSYSTEM=pci\0" in data


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def open_links() -> socket.socket:
    """Events of the calling thread's network namespace.

    Raises:
        OSError: the kernel refuses.
    """
    return _open(NETLINK_ROUTE, _RTMGRP_LINK)


def open_uevents() -> socket.socket:
    """The kernel's events, as far as they reach the calling thread's network namespace.

    Raises:
        OSError: the kernel refuses.
    """
    return _open(NETLINK_KOBJECT_UEVENT, _KERNEL_UEVENTS)


def _open(protocol: int, groups: int) -> socket.socket:
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
    )
    try:
        with contextlib.suppress(PermissionError):  # the default then; an overflow is seen
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        made.bind((0, groups))
    except OSError:
        made.close()
        raise
    return made


def drain(source: socket.socket) -> tuple[list[bytes], bool]:
    """All datagrams that wait, and whether some were lost. Those that no kernel sent are left out."""
    found: list[bytes] = []
    lost = False
    while True:
        try:
            data, (port, _) = source.recvfrom(_DATAGRAM_BYTES)
        except BlockingIOError:
            return found, lost
        except OSError:  # ENOBUFS
            if lost:
                return found, lost
            lost = True
            continue
        if port == 0:
            found.append(data)


class FileEvents:
    """Entries that are made in, moved to or removed from some directories; one that is not there is passed
    over.
    """

    def __init__(self, directories: Iterable[Path]) -> None:
        """Raises OSError where the kernel refuses."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._directories: dict[int, Path] = {}
        for directory in directories:
            self.add(directory)

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return int(self._fd)

    def add(self, directory: Path) -> None:
        """Watch one more directory, if it is there."""
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _CREATE | _DELETE | _MOVED)
        if watch >= 0:
            self._directories[watch] = directory

    def read(self) -> list[Path]:
        """What was made or removed; the directory itself where events were lost."""
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return []
        found: list[Path] = []
        offset = 0
        while offset + _INOTIFY.size <= len(data):
            watch, mask, _, length = _INOTIFY.unpack_from(data, offset)
            offset += _INOTIFY.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            if mask & _OVERFLOW:
                found += self._directories.values()
            elif watch in self._directories and name:
                found.append(self._directories[watch] / os.fsdecode(name))
        return found

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)
