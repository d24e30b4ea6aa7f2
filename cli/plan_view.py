"""What `tandem plan` shows of the nodes, computed once for all its forms: switches, their GPUs and NICs, and
who holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from controller.allocator.model import DeviceId, PoolDevice
from controller.planning import Plan
from driver.devices import Tier
from driver.kube.objects import AllocationResult
from driver.names import PCI_BUS_ID, TYPE, TYPE_GPU, TYPE_MIG, TYPE_VF, TYPE_VFIO, qualified

GPU_TYPES = (TYPE_GPU, TYPE_MIG, TYPE_VFIO)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a device: the pod, or the claim where no pod is known. `new`: by this plan."""

    name: str
    new: bool


@dataclass(frozen=True, slots=True)
class Chip:
    """A GPU, a NIC with its VFs, or another device: `devices` with their holders (None: free)."""

    label: str
    is_gpu: bool
    devices: tuple[tuple[DeviceId, Holder | None], ...]

    @property
    def free(self) -> int:
        """Devices that nobody holds."""
        return sum(holder is None for _, holder in self.devices)


@dataclass(frozen=True, slots=True)
class SwitchView:
    """Chips that share a PCIe switch (or, where none is known, a root, a NUMA node or nothing)."""

    label: str
    numa_node: int | None
    chips: tuple[Chip, ...]


@dataclass(frozen=True, slots=True)
class PairView:
    """A pair on a node."""

    gpu: DeviceId
    nic: DeviceId
    tier: Tier


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with everything that it reaches."""

    name: str
    switches: tuple[SwitchView, ...]
    pairs: tuple[PairView, ...]

    def counts(self, *, gpus: bool) -> tuple[int, int]:
        """GPUs (or all else) that are free, and all of them."""
        chips = [chip for switch in self.switches for chip in switch.chips if chip.is_gpu == gpus]
        return sum(chip.free for chip in chips), sum(len(chip.devices) for chip in chips)

    @property
    def changed(self) -> bool:
        """The plan gives something of it away."""
        return any(h and h.new for s in self.switches for chip in s.chips for _, h in chip.devices)


def nodes(plan: Plan) -> list[NodeView]:
    """All nodes that reach devices, by name."""
    holders = _holders(plan)
    found = []
    for _, record in sorted(plan.state.nodes.items()):
        index = plan.state.index.devices(record)
        if index is None or not index.devices:
            continue
        switches: dict[tuple[int, str], list[PoolDevice]] = {}
        for device in index.devices:
            switches.setdefault(_switch(device), []).append(device)
        views = [
            SwitchView(label, members[0].place.numa_node, tuple(_chips(members, holders)))
            for (_, label), members in sorted(switches.items())
        ]
        mine = {device.id for device in index.devices}
        pairs = tuple(pair for pair in _pairs(plan) if pair.gpu in mine and pair.nic in mine)
        found.append(NodeView(record.name, tuple(views), pairs))
    return found


def _switch(device: PoolDevice) -> tuple[int, str]:
    place = device.place
    numa = 2**31 if place.numa_node is None else place.numa_node
    return numa, place.pcie_switch or place.pcie_root_port or place.pcie_root or ""


def _chips(devices: list[PoolDevice], holders: Mapping[DeviceId, Holder]) -> Iterator[Chip]:
    """GPUs first; the VFs of one PF are one chip."""
    groups: dict[tuple[bool, str], list[PoolDevice]] = {}
    for device in devices:
        gpu = text(device, TYPE) in GPU_TYPES
        parent = text(device, "pfName") or text(device, "pf")
        label = parent if text(device, TYPE) == TYPE_VF and parent else ""
        groups.setdefault((not gpu, label or _label(device)), []).append(device)
    for (not_gpu, label), members in sorted(groups.items()):
        held = tuple((d.id, holders.get(d.id)) for d in members)
        yield Chip(label, not not_gpu, held)


def _label(device: PoolDevice) -> str:
    return text(device, "pfName") or text(device, PCI_BUS_ID) or device.id.device


def _holders(plan: Plan) -> dict[DeviceId, Holder]:
    users = {
        (claim.namespace, claim.name): Holder(pod.name or claim.name, new=not pod.settled)
        for pod in plan.pods
        for claim in pod.claims
        if pod.node is not None
    }
    found: dict[DeviceId, Holder] = {}
    for key, claim in sorted(plan.state.claims.items()):
        for device in _devices(claim.status.allocation):
            found[device] = users.get(key) or Holder(key[1], new=False)
    return found


def _devices(allocation: AllocationResult | None) -> Iterator[DeviceId]:
    for result in allocation.devices.results if allocation is not None else ():
        yield DeviceId(result.driver, result.pool, result.device)


def _pairs(plan: Plan) -> Iterator[PairView]:
    for pod in plan.pods:
        # A pair may be of two claims.
        at = {device.device: device for claim in pod.claims for device in _devices(claim.allocation)}
        for claim in pod.claims:
            for pair in claim.pairs:
                yield PairView(at[pair.gpu], at[pair.nic], pair.tier)


def text(device: PoolDevice, name: str) -> str:
    """A text attribute of ours, empty where there is none."""
    attribute = device.device.attributes.get(name) or device.device.attributes.get(qualified(name))
    return (attribute.string if attribute else None) or ""
