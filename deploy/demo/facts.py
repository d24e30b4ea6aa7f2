"""What the demo has seen, as values, and what of it is not as promised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface
from itertools import groupby

from driver.codec import PLACEMENT, kind_of
from driver.kube.objects import Pod, ResourceClaim, ResourceSlice
from driver.names import CONTROLLER_TAINT, DRIVER_NAME
from driver.placement import Placement, decode_placement

SECTION = "--- tandem demo ---"
LOOK_INSIDE = (
    f"env; echo '{SECTION}'; ip -o -4 addr show; echo '{SECTION}'; "
    "find /dev -name 'nvidia[0-9]*' -o -name 'uverbs*'"
)
"""For the pod's shell; `Inside.parse` reads what it prints."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A GPU and its NIC, as the controller decided, and how the NIC's interface is to look in the pod."""

    pod: str
    node: str
    gpu: str
    nic: str
    tier: str
    rail: int | None
    interface: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inside:
    """What a container sees: environment, IPv4 addresses (CIDR) by interface, GPU and verbs device nodes."""

    environment: Mapping[str, str]
    interfaces: Mapping[str, tuple[str, ...]]
    devices: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Inside:
        """Reads the output of `LOOK_INSIDE`."""
        environment, interfaces, devices = (part.strip().splitlines() for part in text.split(f"{SECTION}\n"))
        addresses = [(fields[1], fields[3]) for line in interfaces if len(fields := line.split()) > 3]
        by_name = {
            name: tuple(cidr for _, cidr in found) for name, found in groupby(addresses, lambda item: item[0])
        }
        return cls(
            dict(line.split("=", 1) for line in environment if "=" in line),
            by_name,
            tuple(sorted(devices)),
        )

    @property
    def rdma_devices(self) -> tuple[str, ...]:
        """The RDMA devices that NCCL is told to use."""
        listed = self.environment.get("NCCL_IB_HCA", "").removeprefix("=")
        return tuple(item.split(":")[0] for item in listed.split(",") if item)


@dataclass(frozen=True, slots=True)
class Ping:
    """Two pods on two nodes, the rail between them, and the address that is called."""

    source: str
    interface: str
    target: str
    address: str
    rail: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """What Tandem keeps on a node: network interfaces of the host, rows of the ledger by table, files."""

    interfaces: frozenset[str]
    ledger_rows: Mapping[str, int]
    files: tuple[str, ...]


def pairs_of(pod: Pod, claim: ResourceClaim) -> list[Pair]:
    """The pairs that the controller wrote into an allocated claim, in its order.

    Raises:
        ConfigError: the decision cannot be read.
    """
    placement = _placement(claim)
    interfaces = {item.device: item for item in placement.interfaces}
    return [
        Pair(
            pod=pod.metadata.name,
            node=pod.spec.node_name,
            gpu=pair.gpu,
            nic=pair.nic,
            tier=pair.tier.name,
            rail=pair.rail,
            interface=interfaces[pair.nic].interface if pair.nic in interfaces else "",
            addresses=interfaces[pair.nic].addresses if pair.nic in interfaces else (),
        )
        for pair in placement.pairs
    ]


def complaints(pod: str, pairs: Sequence[Pair], wanted: int, inside: Inside) -> Iterator[str]:
    """Each way in which a pod that wants so many PIX pairs did not get them."""
    if len(pairs) != wanted:
        yield f"{pod}: {len(pairs)} pairs, {wanted} were asked for"
    for pair in pairs:
        if pair.tier != "PIX":
            yield f"{pod}: {pair.gpu} and {pair.nic} are {pair.tier}, not PIX"
        if not pair.addresses:
            yield f"{pod}: {pair.nic} was given no address"
        seen = inside.interfaces.get(pair.interface, ())
        if set(pair.addresses) - set(seen):
            has, wants = ", ".join(seen) or "no address", ", ".join(pair.addresses)
            yield f"{pod}: {pair.interface} has {has}, not {wants}"
    counts = {
        "GPU device nodes": sum("nvidia" in path for path in inside.devices),
        "verbs device nodes": sum("uverbs" in path for path in inside.devices),
        "devices in NCCL_IB_HCA": len(set(inside.rdma_devices)),
    }
    for what, count in counts.items():
        if count != wanted:
            yield f"{pod}: the container sees {count} {what}, not {wanted}"


def shared_devices(pairs: Iterable[Pair]) -> list[str]:
    """Devices that two pods were given: there must be none."""
    used = [(pair.node, device) for pair in pairs for device in (pair.gpu, pair.nic)]
    return sorted({f"{device} on {node}" for node, device in used if used.count((node, device)) > 1})


def apart(pairs: Sequence[Pair], gang: Sequence[str]) -> Iterator[str]:
    """Members of a gang that are not on the rails of its first one."""
    rails = {pod: sorted(str(pair.rail) for pair in pairs if pair.pod == pod) for pod in gang}
    first = gang[0]
    for pod in gang[1:]:
        if rails[pod] != rails[first]:
            yield f"{pod}: rails {', '.join(rails[pod])}, but {first} has {', '.join(rails[first])}"


def pings(pairs: Sequence[Pair]) -> list[Ping]:
    """Who calls whom: on each rail that two nodes use, the first pod there calls one on the other node."""
    rails = sorted({pair.rail for pair in pairs if pair.rail is not None})
    found = []
    for rail in rails:
        here = next(pair for pair in pairs if pair.rail == rail)
        there = next((pair for pair in pairs if pair.rail == rail and pair.node != here.node), None)
        if there and here.interface and there.addresses:
            address = str(IPv4Interface(there.addresses[0]).ip)
            found.append(Ping(here.pod, here.interface, there.pod, address, rail))
    return found


def devices(slices: Iterable[ResourceSlice]) -> dict[str, int]:
    """Published devices by node and kind, but for those with any taint besides the controller's."""
    counts: dict[str, int] = {}
    for item in slices:
        if item.spec.driver == DRIVER_NAME:
            for device in item.spec.devices:
                if all(taint.key == CONTROLLER_TAINT for taint in device.taints):
                    key = f"{item.spec.node_name} {device.name.split('-')[0]}"
                    counts[key] = counts.get(key, 0) + 1
    return counts


def differences(node: str, before: NodeState, after: NodeState) -> Iterator[str]:
    """What a node has now that it had not before, or no more."""
    for name in sorted(before.interfaces - after.interfaces):
        yield f"{node}: interface {name} did not come back"
    for name in sorted(after.interfaces - before.interfaces):
        yield f"{node}: interface {name} is left behind"
    for table, rows in after.ledger_rows.items():
        if rows != before.ledger_rows.get(table):
            yield f"{node}: the ledger holds {rows} rows of {table}"
    for path in sorted(set(after.files) - set(before.files)):
        yield f"{node}: {path} is left behind"


def _placement(claim: ResourceClaim) -> Placement:
    allocation = claim.status.allocation
    for item in allocation.devices.config if allocation else []:
        opaque = item.opaque
        if opaque is None or opaque.driver != DRIVER_NAME or item.source != "FromClass":
            continue
        if kind_of(opaque.parameters) == PLACEMENT:
            return decode_placement(opaque.parameters)
    return Placement()
