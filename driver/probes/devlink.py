"""The mode of a NIC's embedded switch, by devlink over generic netlink.

Most machines have no devlink, and most of its devices no such switch: that is an answer, not a problem. A
request waits in the kernel while an admin changes the device (seconds), so nothing is asked twice as long as
all that can be seen of the function stays. Reading the mode needs CAP_NET_ADMIN.

Layouts: include/uapi/linux/{genetlink,devlink}.h; the request is `eswitch-get` of the kernel's
Documentation/netlink/specs/devlink.yaml.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Callable, Hashable
from typing import Final

from driver.probes.rtnetlink import attributes

log = logging.getLogger(__name__)

_NETLINK_GENERIC: Final = 16
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_COMMAND: Final = struct.Struct("=BBH")  # genlmsghdr: command, version, reserved
_ATTRIBUTE: Final = struct.Struct("=HH")
_REQUEST, _ERROR = 1, 2
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_ESWITCH_GET, _BUS_NAME, _DEVICE_NAME, _ESWITCH_MODE = 29, 1, 2, 25
_MODES: Final = {0: "legacy", 1: "switchdev", 2: "switchdev_inactive"}
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP})
"""No devlink, no such device in it, no switch in that."""
_TIMEOUT_SECONDS: Final = 5.0
_BUFFER_BYTES: Final = 1 << 16


class DevlinkProbe:
    """Asks for the modes of PCI functions; `connect` opens a generic netlink socket."""

    def __init__(self, connect: Callable[[], socket.socket] | None = None) -> None:
        self._connect = connect or _generic_netlink
        self._known: dict[str, tuple[Hashable, str]] = {}
        self._said: set[str] = set()

    def eswitch_mode(self, address: str, sign: Hashable) -> str:
        """``legacy`` or ``switchdev``; empty where the function has no such switch.

        `sign` is what changes when the mode may have; until then the last answer counts. Where nobody can
        say, that is one log line, and the last answer stays.
        """
        known = self._known.get(address)
        if known is not None and known[0] == sign:
            return known[1]
        try:
            with self._connect() as netlink:
                mode = _mode(netlink, address)
        except (OSError, struct.error, KeyError) as error:
            if not isinstance(error, OSError) or error.errno not in _ABSENT:
                self._say(f"{address}: cannot read the eswitch's mode: {error!r}")
                return known[1] if known is not None else ""
            mode = ""
        self._known[address] = sign, mode
        return mode

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            log.warning("devlink: %s", line)


def _mode(netlink: socket.socket, address: str) -> str:
    family = _ask(netlink, _CONTROLLER, _GET_FAMILY, {_FAMILY_NAME: "devlink"})[_FAMILY_ID]
    number = struct.unpack("=H", family)[0]
    answer = _ask(netlink, number, _ESWITCH_GET, {_BUS_NAME: "pci", _DEVICE_NAME: address})
    mode = answer.get(_ESWITCH_MODE)
    return _MODES.get(struct.unpack("=H", mode)[0], "") if mode is not None else ""


def _ask(netlink: socket.socket, family: int, command: int, texts: dict[int, str]) -> dict[int, bytes]:
    """Attributes of the answer to one request.

    Raises:
        OSError: what the kernel refuses with.
        struct.error: what comes is no answer.
    """
    body = _COMMAND.pack(command, 1, 0) + b"".join(_text(number, text) for number, text in texts.items())
    netlink.send(_HEADER.pack(_HEADER.size + len(body), family, _REQUEST, command, 0) + body)
    while True:
        data = netlink.recv(_BUFFER_BYTES)
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if sequence != command:
            continue
        if kind == _ERROR:
            number = -struct.unpack_from("=i", data, _HEADER.size)[0]
            raise OSError(number, "refused")
        return attributes(data[_HEADER.size + _COMMAND.size : length])


def _text(number: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), number) + value + bytes(-len(value) % 4)


def _generic_netlink() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
    netlink.settimeout(_TIMEOUT_SECONDS)
    return netlink
