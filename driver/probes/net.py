"""Network interfaces of PCI functions in the current network namespace, by netlink.

An interface is known by its PCI parent (IFLA_PARENT_DEV_NAME, Linux 5.14) or, where it has none, by an
alternative name made from the PCI address; both survive a rename and a move between namespaces.

pyroute2 is used without its `netns` argument, which would fork: a process that serves gRPC must not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from driver.devices import Netdev, pci_address
from driver.errors import ProbeError

_ALTNAME = re.compile(r"pci-([0-9a-f]{4,8})-([0-9a-f]{2})-([0-9a-f]{2})-([0-7])")
_REPRESENTOR = re.compile(r"(c\d+)?pf\d+(vf|sf)\d+")  # phys_port_name in switchdev mode
_IFF_LOWER_UP = 0x10000


class NetdevProbe:
    """Reads the namespace that the calling thread is in."""

    def read(self) -> dict[str, Netdev]:
        """Interfaces by PCI address.

        Raises:
            ProbeError: the kernel does not answer.
        """
        try:
            with IPRoute() as netlink:
                links = [link_facts(message) for message in netlink.get_links()]
                uplinks = {
                    index for route in netlink.get_default_routes() for index in _interfaces_of_route(route)
                }
        except (NetlinkError, OSError) as error:
            raise ProbeError(f"netlink: cannot list network interfaces: {error}") from error
        return netdevs(links, uplinks)


def link_facts(message: Any) -> dict[str, Any]:
    """One RTM_NEWLINK message of pyroute2 as a plain mapping: its attributes, index, flags and altnames."""
    facts: dict[str, Any] = dict(message["attrs"])
    facts["index"] = message["index"]
    facts["flags"] = message["flags"]
    properties = facts.get("IFLA_PROP_LIST")
    facts["altnames"] = [value for _, value in properties["attrs"]] if properties is not None else []
    return facts


def netdevs(links: Iterable[Mapping[str, Any]], uplinks: set[int]) -> dict[str, Netdev]:
    """Pick the interface of each PCI function; `uplinks` are indices that carry a default route.

    Of several with one parent (representors of VFs, IPoIB children) the one with the lowest index that is no
    representor is the function's own.
    """
    found: dict[str, Netdev] = {}
    for link in sorted(links, key=lambda facts: int(facts["index"])):
        address = _pci_address_of(link)
        if address is None or address in found:
            continue
        if _REPRESENTOR.fullmatch(link.get("IFLA_PHYS_PORT_NAME") or ""):
            continue
        index = int(link["index"])
        found[address] = Netdev(
            name=link.get("IFLA_IFNAME", ""),
            index=index,
            mac=link.get("IFLA_ADDRESS") or "",
            mtu=link.get("IFLA_MTU", 1500),
            carrier=bool(link["flags"] & _IFF_LOWER_UP),
            uplink=index in uplinks or link.get("IFLA_MASTER") is not None,
        )
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


def _interfaces_of_route(route: Any) -> list[int]:
    hops = route.get_attr("RTA_MULTIPATH") or ()
    single = route.get_attr("RTA_OIF")
    return [*(hop["oif"] for hop in hops), *([single] if single is not None else [])]
