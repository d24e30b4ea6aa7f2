"""A VF's port at its PF: the VLAN with which the NIC tags what the VF sends, and which the VF cannot see.

It is set through the PF's netdev, on the node's side, so that nothing in the pod can undo it. A NIC whose
driver has no such setting (or whose switch is in switchdev mode) says so: EOPNOTSUPP.

Formats: rtnetlink's IFLA_VFINFO_LIST, linux/if_link.h.
"""

from __future__ import annotations

import struct
from typing import Final

from driver.errors import PermanentError, RetryableError
from kubeletplugin.attach import links
from kubeletplugin.attach.netlink import (
    Link,
    Message,
    Netlink,
    attribute,
    attributes,
    link_message,
    nested,
    u32,
)
from kubeletplugin.attach.store import VfPort, Vlan

_NEWLINK, _GETLINK = 16, 18
_VFINFO_LIST, _EXT_MASK = 22, 29
_VF_INFO, _VF_VLAN = 1, 2
_WITH_VFS, _SKIP_STATS = 1, 8
_LINK_SIZE: Final = 16
_VLAN = struct.Struct("=III")  # VF, VLAN ID, priority


class PfMissingError(RetryableError):
    """The PF of a VF has no interface in the node's network namespace; attribute `port`."""

    def __init__(self, port: VfPort) -> None:
        super().__init__(f"PF {port.pf_address} has no interface in the node's network namespace")
        self.port = port


class VlanUnsupportedError(PermanentError):
    """The PF tells no VLANs of its VFs, so that none can be set; attribute `port`."""

    def __init__(self, port: VfPort) -> None:
        super().__init__(f"PF {port.pf_address} has no VLAN setting for its VF {port.index}")
        self.port = port


def vlan(home: Netlink, port: VfPort) -> Vlan:
    """The VLAN that the port has now.

    Raises:
        PfMissingError: there is no PF.
        VlanUnsupportedError: its driver does not tell.
        NetlinkError: the kernel refused.
    """
    pf = _pf(home, port)
    (bodies,) = home.call(_get(pf))
    found = parse(bodies[0]).get(port.index)
    if found is None:
        raise VlanUnsupportedError(port)
    return found


def set_vlan(home: Netlink, port: VfPort, wanted: Vlan) -> None:
    """Let the port tag so.

    Raises:
        PfMissingError: there is no PF.
        NetlinkError: the kernel refused; EOPNOTSUPP where the NIC cannot.
    """
    home.call(_set(_pf(home, port), port.index, wanted))


def parse(payload: bytes) -> dict[int, Vlan]:
    """The body of an RTM_NEWLINK of a PF → VLAN by VF."""
    answer: dict[int, Vlan] = {}
    for number, listed in attributes(payload, _LINK_SIZE):
        if number == _VFINFO_LIST:
            for _, info in attributes(listed):
                for kind, value in attributes(info):
                    if kind == _VF_VLAN:
                        index, id_, priority = _VLAN.unpack_from(value)
                        answer[index] = Vlan(id_, priority)
    return answer


def _pf(home: Netlink, port: VfPort) -> Link:
    link = links.find(home, port.pf_address)
    if link is None:
        raise PfMissingError(port)
    return link


def _get(pf: Link) -> Message:
    return link_message(
        f"list the VFs of {pf.name}", _GETLINK, pf.index, u32(_EXT_MASK, _WITH_VFS | _SKIP_STATS)
    )


def _set(pf: Link, index: int, wanted: Vlan) -> Message:
    value = attribute(_VF_VLAN, _VLAN.pack(index, wanted.id, wanted.priority))
    info = nested(_VFINFO_LIST, nested(_VF_INFO, value))
    return link_message(f"set VLAN {wanted.id} on VF {index} of {pf.name}", _NEWLINK, pf.index, info)
