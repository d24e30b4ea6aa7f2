"""A network as the controller uses it: which addresses each rail has, who may use it, what its NICs get.

Made once from a FabricNetwork when that changes, so that a decision asks only. Devices of one rail share a
subnet and reach each other without a router, on whatever node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from itertools import combinations, islice
from typing import Final

from controller.addressbook import IPNetwork, Span
from driver.errors import ConfigError
from driver.kube.fabric import (
    FabricNetwork,
    FabricNetworkSpec,
    LabelSelector,
    LabelSelectorRequirement,
)
from driver.placement import MTUS, TRAFFIC_CLASSES, VLANS

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""Every namespace carries its name in it."""

MAX_RAILS: Final = 256
"""Of a block that is cut; rails beyond it have no subnet."""

PKEYS: Final = range(1, 0x10000)


@dataclass(frozen=True, slots=True)
class Rail:
    """A rail's addresses: a span and a gateway for each family that it has. `gateways` by IP version."""

    spans: tuple[Span, ...] = ()
    gateways: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """A FabricNetwork, checked.

    Attributes:
        name: empty for the network of ``--fabric-cidr``, which is no object.
        rails: by number; empty where it has no addresses, or where `everywhere` has them.
        spans: of all rails.
        every_rail: it is cut from a block, so that a rail without a subnet is not to be expected.
        everywhere: one segment for NICs of all rails and of none.
        routes: destinations behind the rails' gateways.
        namespaces, selector: who may use it.
        default: for claims that name no network.
    """

    name: str
    rails: Mapping[int, Rail] = field(default_factory=dict)
    everywhere: Rail | None = None
    spans: tuple[Span, ...] = field(init=False, repr=False)
    every_rail: bool = False
    routes: tuple[IPNetwork, ...] = ()
    vlan: int | None = None
    pkey: int | None = None
    mtu: int | None = None
    traffic_class: int | None = None
    namespaces: frozenset[str] = frozenset()
    selector: LabelSelector | None = None
    default: bool = False

    def __post_init__(self) -> None:
        rails = [*self.rails.values(), *([self.everywhere] if self.everywhere else [])]
        object.__setattr__(self, "spans", tuple(span for rail in rails for span in rail.spans))

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"FabricNetwork {self.name}" if self.name else "the network of --fabric-cidr"

    def rail(self, number: int | None) -> Rail | None:
        """Where a NIC on that rail (None: on none) has its addresses from; None where it has none."""
        if self.everywhere is not None:
            return self.everywhere
        return self.rails.get(number) if number is not None else None

    def admits(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """May claims of the namespace use it? `labels` None: they are not known, and taken to match."""
        if namespace in self.namespaces:
            return True
        if self.selector is None:
            return False
        return labels is None or matches(self.selector, {NAMESPACE_LABEL: namespace, **labels})

    @classmethod
    def cut(cls, block: IPNetwork, prefix_length: int) -> Network:
        """The network of ``--fabric-cidr``, which everybody may use.

        Raises:
            ConfigError: no host fits into a subnet, or no subnet into the block.
        """
        rails = {
            number: Rail((Span.of(s),))
            for number, s in enumerate(_cut(block, prefix_length, "rail prefix length"))
        }
        return cls("", rails, every_rail=True, selector=LabelSelector())

    @classmethod
    def of(cls, item: FabricNetwork) -> Network:
        """The object's network.

        Raises:
            ConfigError: with the path in the object of what is wrong.
        """
        spec = item.spec
        _check_numbers(spec)
        forms = [name for name in ("blocks", "rails", "subnets") if getattr(spec, name)]
        if len(forms) > 1:
            raise ConfigError(f"is given beside {forms[0]}; right is one of them", path=f"spec.{forms[1]}")
        excluded = [_subnet(text, f"spec.exclude[{i}]") for i, text in enumerate(spec.exclude)]
        rails, everywhere = _rails(spec, excluded), None
        if spec.subnets:
            everywhere = _rail(spec.subnets, spec.gateways, excluded, "spec")
        elif spec.gateways:
            raise ConfigError("are given without subnets", path="spec.gateways")
        _check_apart(rails, everywhere, spec, excluded)
        routes = tuple(_subnet(route.to, f"spec.routes[{i}].to") for i, route in enumerate(spec.routes))
        for index, route in enumerate(routes):
            lacking = [r for r in [*rails.values(), everywhere] if r and route.version not in r.gateways]
            if lacking or not (rails or everywhere):
                raise ConfigError(
                    f"is {route}, but not every rail has an IPv{route.version} gateway",
                    path=f"spec.routes[{index}].to",
                )
        namespaces = spec.namespaces
        return cls(
            name=item.metadata.name,
            rails=rails,
            everywhere=everywhere,
            every_rail=bool(spec.blocks),
            routes=routes,
            vlan=spec.vlan,
            pkey=spec.pkey,
            mtu=spec.mtu,
            traffic_class=spec.traffic_class,
            namespaces=frozenset(namespaces.names if namespaces else ()),
            selector=namespaces.selector if namespaces else None,
            default=spec.default,
        )


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """As Kubernetes' label selectors: all of it must hold; an empty one always does."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(requirement, labels) for requirement in selector.match_expressions
    )


def _holds(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    match requirement.operator:
        case "In":
            return labels.get(requirement.key) in requirement.values
        case "NotIn":
            return labels.get(requirement.key) not in requirement.values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels
    return False


def _check_numbers(spec: FabricNetworkSpec) -> None:
    if spec.vlan is not None and spec.pkey is not None:
        raise ConfigError("is given beside vlan; right is one of them", path="spec.pkey")
    if spec.default and spec.pkey is not None:
        raise ConfigError("is true beside pkey, which no node can set", path="spec.default")
    for name, value, right in (
        ("vlan", spec.vlan, VLANS),
        ("pkey", spec.pkey, PKEYS),
        ("mtu", spec.mtu, MTUS),
        ("trafficClass", spec.traffic_class, TRAFFIC_CLASSES),
    ):
        if value is not None and value not in right:
            raise ConfigError(f"is {value}; right is {right[0]} to {right[-1]}", path=f"spec.{name}")


def _rails(spec: FabricNetworkSpec, excluded: Sequence[IPNetwork]) -> dict[int, Rail]:
    rails: dict[int, Rail] = {}
    for index, one in enumerate(spec.rails):
        path = f"spec.rails[{index}]"
        if one.rail in rails:
            raise ConfigError(f"is {one.rail} a second time", path=f"{path}.rail")
        if one.rail < 0:
            raise ConfigError(f"is {one.rail}; right is 0 or more", path=f"{path}.rail")
        rails[one.rail] = _rail(one.subnets, one.gateways, excluded, path)
    for index, block in enumerate(spec.blocks):
        path = f"spec.blocks[{index}]"
        network = _subnet(block.cidr, f"{path}.cidr")
        for number, subnet in enumerate(_cut(network, block.rail_prefix_length, f"{path}.railPrefixLength")):
            before = rails.get(number, Rail()).spans
            if any(span.subnet.version == subnet.version for span in before):
                raise ConfigError(f"is a second block of IPv{subnet.version}", path=f"{path}.cidr")
            rails[number] = Rail((*before, Span.of(subnet, excluded)))
    if len(spec.blocks) > 1:  # a rail has all families, or no subnet
        rails = {number: rail for number, rail in rails.items() if len(rail.spans) == len(spec.blocks)}
    return rails


def _rail(subnets: Sequence[str], gateways: Sequence[str], excluded: Sequence[IPNetwork], path: str) -> Rail:
    networks = [_subnet(text, f"{path}.subnets[{index}]") for index, text in enumerate(subnets)]
    if len({network.version for network in networks}) < len(networks):
        raise ConfigError(f"are {', '.join(subnets)}; right is one a family", path=f"{path}.subnets")
    routers: dict[int, str] = {}
    for index, text in enumerate(gateways):
        try:
            address = ip_address(text)
        except ValueError as error:
            raise ConfigError(str(error), path=f"{path}.gateways[{index}]") from error
        if not any(address in network for network in networks) or address.version in routers:
            raise ConfigError(
                f"is {text}; right is one address of each of the rail's subnets",
                path=f"{path}.gateways[{index}]",
            )
        routers[address.version] = str(address)
    holes = [*excluded, *(ip_network(router) for router in routers.values())]
    return Rail(tuple(Span.of(network, holes) for network in networks), routers)


def _cut(block: IPNetwork, prefix_length: int, path: str) -> Iterator[IPNetwork]:
    if not block.prefixlen <= prefix_length < block.max_prefixlen:
        raise ConfigError(
            f"is {prefix_length}; right is {block.prefixlen} to {block.max_prefixlen - 1}", path=path
        )
    yield from islice(block.subnets(new_prefix=prefix_length), MAX_RAILS)


def _subnet(text: str, path: str) -> IPNetwork:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(str(error), path=path) from error


def _check_apart(
    rails: Mapping[int, Rail], everywhere: Rail | None, spec: FabricNetworkSpec, excluded: Sequence[IPNetwork]
) -> None:
    """No subnet within another rail's, and no exclusion that excludes nothing (it would be a slip)."""
    subnets = [(number, span.subnet) for number, rail in rails.items() for span in rail.spans]
    if spec.rails:
        for (one, first), (other, second) in combinations(subnets, 2):
            if first.overlaps(second):
                raise ConfigError(
                    f"{first} of rail {one} overlaps with {second} of rail {other}", path="spec.rails"
                )
    whole = [*(_subnet(block.cidr, "") for block in spec.blocks)] or [subnet for _, subnet in subnets]
    whole += [span.subnet for span in (everywhere.spans if everywhere else ())]
    for index, hole in enumerate(excluded):
        if not any(hole.overlaps(subnet) for subnet in whole):
            raise ConfigError(f"is {hole}, which is in none of the subnets", path=f"spec.exclude[{index}]")
