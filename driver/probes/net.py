"""Network interfaces of PCI functions in the current network namespace, by netlink.

An interface is known by its PCI parent (IFLA_PARENT_DEV_NAME, Linux 5.14) or, where it has none, by an
alternative name made from the PCI address; both survive a rename and a move between namespaces.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from driver.devices import Netdev, pci_address
from driver.names import REPRESENTOR_PORT
from driver.probes.rtnetlink import RouteNetlink

_ALTNAME = re.compile(r"pci-([0-9a-f]{4,8})-([0-9a-f]{2})-([0-9a-f]{2})-([0-7])")
_IFF_LOWER_UP = 0x10000
_STACKED: Final = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"})
"""Kinds of interfaces whose IFLA_LINK is the interface below them (a veth's is its peer)."""


class NetdevProbe:
    """Reads the namespace that the calling thread is in."""

    def read(self) -> dict[str, Netdev]:
        """Interfaces by PCI address.

        Raises:
            ProbeError: the kernel does not answer.
        """
        with RouteNetlink() as netlink:
            links = netlink.links()
            own = netlink.default_routes() | netlink.addressed()
        return netdevs(links, in_use(links, own))


def in_use(links: Sequence[Mapping[str, Any]], own: set[int]) -> set[int]:
    """Indices of interfaces that the node itself uses: `own`, and what they stand on (VLANs and the like).

    Members of a bond or bridge are seen by their master, in `netdevs`.
    """
    below = {
        int(link["index"]): int(link["IFLA_LINK"])
        for link in links
        if link.get("kind") in _STACKED and "IFLA_LINK" in link and "IFLA_LINK_NETNSID" not in link
    }
    found = set(own)
    for index in own:
        while (lower := below.get(index)) is not None and lower not in found:
            found.add(lower)
            index = lower
    return found


def link_facts(message: Any) -> dict[str, Any]:
    """One RTM_NEWLINK message of pyroute2 as a plain mapping: its attributes, index, flags and altnames."""
    facts: dict[str, Any] = dict(message["attrs"])
    facts["index"] = message["index"]
    facts["flags"] = message["flags"]
    properties = facts.get("IFLA_PROP_LIST")
    facts["altnames"] = [value for _, value in properties["attrs"]] if properties is not None else []
    return facts


def netdevs(links: Iterable[Mapping[str, Any]], uplinks: set[int]) -> dict[str, Netdev]:
    """Pick the interface of each PCI function; `uplinks` are indices of those that the node itself uses.

    Of several with one parent (representors of VFs, IPoIB children) the one with the lowest index that is no
    representor is the function's own; where all are representors, it has none here.
    """
    found: dict[str, Netdev] = {}
    standing: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for link in sorted(links, key=lambda facts: int(facts["index"])):
        address = _pci_address_of(link)
        if address is None:
            continue
        if port := REPRESENTOR_PORT.fullmatch(link.get("IFLA_PHYS_PORT_NAME") or ""):
            if port["vf"] and not port["other"]:
                standing[address].append((int(port["vf"]), link.get("IFLA_IFNAME", "")))
            continue
        if address in found:
            continue
        index = int(link["index"])
        found[address] = Netdev(
            name=link.get("IFLA_IFNAME", ""),
            index=index,
            mac=link.get("IFLA_ADDRESS") or "",
            mtu=link.get("IFLA_MTU", 1500),
            carrier=bool(link["flags"] & _IFF_LOWER_UP),
            uplink=index in uplinks or link.get("IFLA_MASTER") is not None,
            switch_id=link.get("IFLA_PHYS_SWITCH_ID") or "",
        )
    for address in standing.keys() & found.keys():
        found[address] = replace(found[address], representors=tuple(sorted(standing[address])))
    return found


def _pci_address_of(link: Mapping[str, Any]) -> str | None:
    if link.get("IFLA_PARENT_DEV_BUS_NAME") == "pci":
        try:
            return pci_address(link.get("IFLA_PARENT_DEV_NAME", ""))
        except ValueError:
            return None
    for name in link["altnames"]:
        match = _ALTNAME.fullmatch(name)
        if match:
            return f"{match[1]}:{match[2]}:{match[3]}.{match[4]}"
    return None
