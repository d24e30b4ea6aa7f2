"""RDMA devices between namespaces. In the kernel's shared mode (the default) there is nothing to move.

In exclusive mode (``rdma system set netns exclusive``) an RDMA device is seen in one network namespace only
and has to go where its netdev goes. Messages: include/uapi/rdma/rdma_netlink.h.
"""

from __future__ import annotations

import errno
import sys
from typing import Final

from kubeletplugin.attach.netlink import Message, Netlink, NetlinkError, attributes, u32
from kubeletplugin.attach.netns import Netns

NETLINK_RDMA: Final = 20
_NLDEV: Final = 5 << 10
_GET, _SET, _SYS_GET = _NLDEV | 1, _NLDEV | 2, _NLDEV | 6
_DUMP = 0x300
_DEV_INDEX, _DEV_NAME, _NETNS_MODE, _NET_NS_FD = 1, 2, 66, 68


def exclusive_mode() -> bool:
    """Does each RDMA device belong to one namespace? False too where the kernel has no RDMA."""
    try:
        with Netlink(NETLINK_RDMA) as socket:
            (bodies,) = socket.call(Message("read the RDMA netns mode", _SYS_GET, 0, b""))
    except OSError:
        return False
    except NetlinkError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return False  # older than 5.2: always shared
        raise
    mode = next(
        (value for body in bodies for number, value in attributes(body) if number == _NETNS_MODE), b"\1"
    )
    return mode[0] == 0


def move(socket: Netlink, device: str, to: Netns) -> bool:
    """Move an RDMA device out of the socket's namespace; False if it is not there.

    Raises:
        NetlinkError: refused.
    """
    for body in socket.dump(Message("list RDMA devices", _GET, _DUMP, b"")):
        found = dict(attributes(body))
        if found.get(_DEV_NAME, b"").rstrip(b"\0") == device.encode():
            index = int.from_bytes(found[_DEV_INDEX], sys.byteorder)
            payload = u32(_DEV_INDEX, index) + u32(_NET_NS_FD, to.fd)
            socket.call(Message(f"move RDMA device {device} between namespaces", _SET, 0, payload))
            return True
    return False
