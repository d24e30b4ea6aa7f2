"""What kube-scheduler's allocator gives, for claims simple enough to say it without its search.

It takes the first solution in the order of nodes, pools, slices and devices (Kubernetes 1.36), looks at one
node after the other, and scores none of them. Of pairs that must share a switch the first solution is found
without going back: which GPU of a switch takes which function changes nothing for the pairs after it.
Packing nodes in their order is more than it does in a cluster, where it spreads pods by their other requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from controller.allocator.model import DeviceId, NodeDevices, PoolDevice
from controller.allocator.traits import consumption, pool_of, type_of
from driver.kube.objects import Device
from driver.names import TYPE_GPU, TYPE_MIG, TYPE_VF, qualified


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pod wants: so many GPUs, so many virtual functions, on the same switch by pairs where it wants
    both; or one partition of a GPU.
    """

    name: str
    gpus: int = 0
    vfs: int = 0
    profile: str = ""


@dataclass(slots=True)
class NodeBooks:
    """Who holds what on one node, kept by whoever allocates there.

    Attributes:
        taken: devices that are held.
        spent: of counters.
        limits: of counters.
        pairs: by switch, those that are held together.
    """

    node: NodeDevices
    taken: set[DeviceId] = field(default_factory=set)
    spent: Counter[object] = field(default_factory=Counter)
    limits: dict[object, int] = field(default_factory=dict)
    pairs: Counter[str | None] = field(default_factory=Counter)

    @classmethod
    def of(cls, node: NodeDevices) -> NodeBooks:
        """Nothing is taken."""
        return cls(node, limits={counter: int(value) for counter, value in node.counters.items()})

    def take(self, devices: Set[DeviceId], sign: int = 1) -> None:
        """Book devices; with `sign` -1 give them back."""
        gpus, vfs = Counter[str | None](), Counter[str | None]()
        for one in self.node.devices:
            if one.id in devices:
                (self.taken.add if sign > 0 else self.taken.discard)(one.id)
                (vfs if type_of(one) == TYPE_VF else gpus)[one.place.pcie_switch] += 1
                for counter, amount in consumption(pool_of(one), one.device):
                    self.spent[counter] += sign * int(amount)
        for switch in gpus:
            self.pairs[switch] += sign * min(gpus[switch], vfs[switch])

    def free(self, one: PoolDevice) -> bool:
        """Could it be taken now?"""
        return one.id not in self.taken and all(
            self.spent[counter] + amount <= self.limits[counter]
            for counter, amount in consumption(pool_of(one), one.device)
        )

    def of_type(self, kind: str) -> list[PoolDevice]:
        """Free devices of a type, in order."""
        of_kind = self.node.derived(
            ("bench", kind), lambda: [one for one in self.node.devices if type_of(one) == kind]
        )
        return [one for one in of_kind if self.free(one)]


def first_fit(nodes: Sequence[NodeBooks], shape: Shape) -> tuple[NodeBooks, frozenset[DeviceId]] | None:
    """The first node that can, and its first devices."""
    for books in nodes:
        found = on_node(books, shape)
        if found is not None:
            return books, frozenset(one.id for one in found)
    return None


def on_node(books: NodeBooks, shape: Shape) -> list[PoolDevice] | None:
    """The first devices there."""
    if shape.profile:
        parts = (one for one in books.of_type(TYPE_MIG) if profile_of(one.device) == shape.profile)
        part = next(parts, None)
        return None if part is None else [part]
    gpus, vfs = (books.of_type(TYPE_GPU) if shape.gpus else []), (books.of_type(TYPE_VF) if shape.vfs else [])
    if len(gpus) < shape.gpus or len(vfs) < shape.vfs:
        return None
    if not shape.gpus or not shape.vfs:
        return gpus[: shape.gpus] + vfs[: shape.vfs]
    found: list[PoolDevice] = []
    for gpu in gpus:
        mate = next((vf for vf in vfs if vf.place.pcie_switch == gpu.place.pcie_switch), None)
        if mate is not None and len(found) < 2 * shape.gpus:
            vfs.remove(mate)
            found += [gpu, mate]
    return found if len(found) == 2 * shape.gpus else None


def profile_of(device: Device) -> str:
    """Of a partition, for example ``1g.10gb``."""
    found = device.attributes.get("profile") or device.attributes.get(qualified("profile"))
    return (found.string or "") if found else ""
