"""Network interfaces of a mock machine, in the current network namespace, by netlink.

A PF is one end of a cable: an interface ``cable<rail>`` that somebody plugged in, else of a veth pair of
our own. A VF is a macvlan on its PF. A macvlan dies with the namespace of a pod that held it, so VFs are
made anew; one that still lives in a pod must not be made twice. The kernel helps: two macvlans of one MAC
cannot both be up on one lower device, and creation with the link up fails as a whole then.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPBatch, IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from driver.errors import PermanentError
from driver.mock.machine import Machine
from driver.names import pci_altname
from driver.probes.net import link_facts

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_NLMSG_ERROR = 2
_NLM_F_ACK = 4
_BATCH = 64
"""Messages sent before their acknowledgements are read, so that these fit the socket's default buffer."""
_ANSWER_TIMEOUT_SECONDS = 10.0
_IFF_UP = 1

Link = dict[str, Any]
Step = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class VfPort:
    """A VF's interface."""

    pci_address: str
    interface: str
    mac: str


@dataclass(frozen=True, slots=True)
class PfPort:
    """A PF's interface; `cable` is the interface that becomes it, `wire` its veth peer where there is no
    cable.
    """

    pci_address: str
    interface: str
    mac: str
    mtu: int
    wire: str
    cable: str | None
    vfs: tuple[VfPort, ...]


def ports(machine: Machine, node_name: str) -> tuple[PfPort, ...]:
    """The interfaces of a machine on a node; MACs are locally administered and follow from node and PCI
    address.
    """
    rails = machine.rails()
    found = []
    for nic in machine.nics:
        if not nic.interface:
            continue
        rail = rails.get(nic.pci_address)
        found.append(
            PfPort(
                pci_address=nic.pci_address,
                interface=nic.interface,
                mac=mac_address(node_name, nic.pci_address),
                mtu=machine.nic_model.mtu,
                wire=f"{nic.rdma}-wire",
                cable=f"cable{rail}" if rail is not None else None,
                vfs=tuple(
                    VfPort(vf.pci_address, vf.interface, mac_address(node_name, vf.pci_address))
                    for vf in machine.vfs_of(nic)
                ),
            )
        )
    return tuple(found)


def mac_address(node_name: str, address: str) -> str:
    """A stable unicast MAC of the locally administered kind (second bit of the first octet set)."""
    digest = hashlib.sha256(f"{node_name}/{address}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


class MockNetdevs:
    """Makes, mends and removes the interfaces of some ports; every call may be repeated at any time."""

    def __init__(self, machine_ports: Sequence[PfPort]) -> None:
        self._ports = tuple(machine_ports)

    def ensure(self, attached: Set[str] = frozenset()) -> list[str]:
        """Make what is missing; `attached` are PCI addresses of VFs that pods hold now, which are left alone.

        Returns:
            PCI addresses of the VFs that were made.

        Raises:
            PermanentError: the kernel refuses (no CAP_NET_ADMIN, a name is taken, no macvlan or veth).
        """
        links = _Links.read()
        fresh = self._make_pfs(links)
        links = _Links.read()
        self._settle_pfs(links)
        return self._make_vfs(links, fresh, attached)

    def remove(self) -> None:
        """Delete the VFs and our own veth pairs; give cables their name back.

        Raises:
            PermanentError: the kernel refuses.
        """
        links = _Links.read()
        vfs = [link for pf in self._ports for vf in pf.vfs if (link := links.vf(vf)) is not None]
        _do([_step("del", index=link["index"]) for link in vfs], "delete VFs")
        for pf in self._ports:
            link = links.pf(pf)
            if link is None:
                continue
            index, cable, altname = link["index"], link.get("IFLA_IFALIAS"), pci_altname(pf.pci_address)
            if cable is None:
                _do([_step("del", index=index)], f"delete {pf.interface}")
                continue
            # The alias goes together with our name: stopped before that, we still know whose cable this is.
            steps = [_step("set", index=index, state="down")]
            if altname in link["altnames"]:
                steps.append(_step("property_del", index=index, altname=altname))
            steps += [
                _step("set", index=index, ifname=cable, ifalias=""),
                _step("set", index=index, state="up"),
            ]
            _do(steps, f"give {pf.interface} its name {cable} back")

    def _make_pfs(self, links: _Links) -> set[str]:
        """Adopt a cable or make a veth pair for each PF that is missing; returns those PFs' PCI addresses."""
        fresh = set()
        for pf in self._ports:
            if links.pf(pf) is not None:
                continue
            fresh.add(pf.pci_address)
            cable = links.by_name.get(pf.cable) if pf.cable is not None else None
            look = {"ifname": pf.interface, "address": pf.mac, "mtu": pf.mtu}
            if cable is None:
                pair = _step("add", kind="veth", peer={"ifname": pf.wire, "mtu": pf.mtu}, **look)
                _do([pair], f"make {pf.interface}")
            else:
                # Down first: before Linux 6.2 nothing that is up is renamed. The alias keeps the old name.
                index = cable["index"]
                steps = [
                    _step("set", index=index, state="down"),
                    _step("set", index=index, ifalias=pf.cable, **look),
                ]
                _do(steps, f"turn {pf.cable} into {pf.interface}")
        return fresh

    def _settle_pfs(self, links: _Links) -> None:
        """Altnames, and everything up: what a stop half way may have left undone."""
        steps: list[Step] = []
        for pf in self._ports:
            link, wire, altname = links.pf(pf), links.by_name.get(pf.wire), pci_altname(pf.pci_address)
            if link is None:
                raise PermanentError(
                    f"interface {pf.interface} of {pf.pci_address} vanished while it was made"
                )
            if altname not in link["altnames"]:
                steps.append(_step("property_add", index=link["index"], altname=altname))
            steps += [
                _step("set", index=end["index"], state="up")
                for end in (link, wire)
                if end is not None and not end["flags"] & _IFF_UP
            ]
        _do(steps, "set PFs up")

    def _make_vfs(self, links: _Links, fresh: set[str], attached: Set[str]) -> list[str]:
        """Make the VFs that are missing here and not in a pod.

        On a PF made by this very call nothing can be away. On an older one, a missing VF may be in a pod that
        nobody told us of, so it is made with the link up, which the kernel refuses then, and set down after.
        """
        certain: list[tuple[PfPort, VfPort]] = []
        doubtful: list[tuple[PfPort, VfPort]] = []
        nameless: list[VfPort] = []
        for pf in self._ports:
            for vf in pf.vfs:
                link = links.vf(vf)
                if link is not None:
                    if pci_altname(vf.pci_address) not in link["altnames"]:
                        nameless.append(vf)
                elif vf.pci_address not in attached:
                    (certain if pf.pci_address in fresh else doubtful).append((pf, vf))
        _do([_macvlan(links, pf, vf) for pf, vf in certain], "make VFs")
        revived: list[VfPort] = []
        codes = _transact([_macvlan(links, pf, vf, state="up") for pf, vf in doubtful])
        for (_, vf), code in zip(doubtful, codes, strict=True):
            if code == 0:
                revived.append(vf)
            elif code not in (errno.EADDRINUSE, errno.EBUSY):
                raise _refused(f"make VF {vf.interface}", code)
        _do([_step("set", ifname=vf.interface, state="down") for vf in (*revived, *nameless)], "set VFs down")
        made = [*(vf for _, vf in certain), *revived]
        altnames = [
            _step("property_add", ifname=vf.interface, altname=pci_altname(vf.pci_address))
            for vf in (*made, *nameless)
        ]
        _do(altnames, "name VFs")
        return [vf.pci_address for vf in made]


class _Links:
    """The interfaces of the namespace, once read, by their names."""

    def __init__(self, links: list[Link]) -> None:
        self.by_name = {link["IFLA_IFNAME"]: link for link in links}
        self._by_altname = {name: link for link in links for name in link["altnames"]}

    @classmethod
    def read(cls) -> _Links:
        try:
            with IPRoute() as netlink:
                return cls([link_facts(message) for message in netlink.get_links()])
        except (NetlinkError, OSError) as error:
            raise PermanentError(f"netlink: cannot list network interfaces: {error}") from error

    def pf(self, port: PfPort) -> Link | None:
        """A PF by its altname, or by name and MAC where we were stopped before the altname."""
        return self._find(port.pci_address, port.interface, port.mac)

    def vf(self, port: VfPort) -> Link | None:
        """A VF, likewise."""
        return self._find(port.pci_address, port.interface, port.mac)

    def _find(self, address: str, name: str, mac: str) -> Link | None:
        link = self._by_altname.get(pci_altname(address))
        if link is None:
            candidate = self.by_name.get(name)
            if candidate is not None and candidate.get("IFLA_ADDRESS") == mac:
                link = candidate
        return link


def _step(verb: str, **fields: Any) -> Step:
    """One link operation in pyroute2's terms."""
    return verb, fields


def _macvlan(links: _Links, pf: PfPort, vf: VfPort, **more: str) -> Step:
    lower = links.pf(pf)
    if lower is None:
        raise PermanentError(
            f"interface {pf.interface} of {pf.pci_address} vanished before its VFs were made"
        )
    look = {"ifname": vf.interface, "address": vf.mac, "link": lower["index"], **more}
    return _step("add", kind="macvlan", macvlan_mode="bridge", **look)


def _do(steps: Sequence[Step], what: str) -> None:
    """Carry out link operations in order, all in few system calls; the first refusal is raised."""
    for code in _transact(steps):
        if code:
            raise _refused(what, code)


def _refused(what: str, code: int) -> PermanentError:
    return PermanentError(f"netlink: cannot {what}: {os.strerror(code)} ({errno.errorcode.get(code, code)})")


def _transact(steps: Sequence[Step]) -> list[int]:
    """Send link operations in batches; returns an errno for each, 0 where it was done."""
    results: list[int] = []
    if not steps:
        return results
    with contextlib.closing(IPBatch()) as batch, _socket() as channel:
        for start in range(0, len(steps), _BATCH):
            batch.reset()
            for verb, fields in steps[start : start + _BATCH]:
                batch.link(verb, **fields)
            results += _exchange(channel, bytearray(batch.batch))
    return results


def _exchange(channel: socket.socket, raw: bytearray) -> list[int]:
    count = 0
    for offset, length, kind, flags in _messages(raw):
        _HEADER.pack_into(raw, offset, length, kind, flags | _NLM_F_ACK, count, 0)
        count += 1
    codes: dict[int, int] = {}
    try:
        channel.sendall(raw)
        while len(codes) < count:
            answer = channel.recv(1 << 16)
            for offset, _, kind, _ in _messages(answer):
                if kind == _NLMSG_ERROR:
                    sequence = _HEADER.unpack_from(answer, offset)[3]
                    codes[sequence] = -struct.unpack_from("=i", answer, offset + _HEADER.size)[0]
    except OSError as error:
        raise PermanentError(f"netlink: no answer from the kernel: {error}") from error
    return [codes[sequence] for sequence in range(count)]


def _messages(raw: bytes | bytearray) -> Iterator[tuple[int, int, int, int]]:
    """Offset, length, type and flags of each netlink message in a buffer."""
    offset = 0
    while offset + _HEADER.size <= len(raw):
        length, kind, flags, _, _ = _HEADER.unpack_from(raw, offset)
        yield offset, length, kind, flags
        offset += (max(length, _HEADER.size) + 3) & ~3


def _socket() -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    channel.settimeout(_ANSWER_TIMEOUT_SECONDS)
    channel.bind((0, 0))
    return channel
