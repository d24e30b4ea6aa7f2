"""What a pity it is to take a device, so that whole pairs and whole GPUs are left to others (`weights`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from controller.allocator.candidates import Taken
from controller.allocator.model import NodeDevices
from controller.allocator.partitions import Partitions
from controller.allocator.traits import Near, held_back, traits
from controller.allocator.weights import (
    APART,
    BESIDE_PAIR,
    BREAKS_GPU,
    BREAKS_PAIR,
    COULD_BE_PARTS,
    CROWD,
    HELD,
    MOST_CROWD,
    SPOILS,
    sets,
)
from driver.names import TYPE_GPU, TYPE_NIC, TYPE_VF

_PAIRED: Final = (TYPE_GPU, TYPE_NIC, TYPE_VF)


class Stranding:
    """The free GPUs and NICs of a node by switch, and what each device costs therefore."""

    def __init__(self, node: NodeDevices, taken: Taken) -> None:
        self._node = node
        self._types, self._near = traits(node).types, traits(node).near
        self._partitions = Partitions(node, taken.spent)
        gpus, nics, gpus_by_numa = self._all()
        self._gpus, self._nics, self._gpus_by_numa = gpus, nics, gpus_by_numa
        gone = {*taken.indices, *self._partitions.gone()}
        if gone:
            self._gpus, self._nics, self._gpus_by_numa = Counter(gpus), Counter(nics), Counter(gpus_by_numa)
            for index in gone:
                self._count(index, -1, (self._gpus, self._nics, self._gpus_by_numa))

    def cost(self, index: int) -> int:
        """Of a device outside a near pair; nothing for what has no free mate on its switch."""
        kind, switch = self._types[index], self._node.devices[index].place.pcie_switch
        if switch is None or kind not in _PAIRED:
            return 0
        mine, mates = self._gpus[switch], self._nics[switch]
        if kind != TYPE_GPU:
            mine, mates = mates, mine
        if not mates:
            return 0
        return BESIDE_PAIR if mine > mates else BREAKS_PAIR

    def avoid(self, index: int, near: Near | None = None) -> int:
        """Of a device in a pair too; GPUs should be `near`."""
        device = self._node.devices[index]
        crowd = self._gpus_by_numa[device.id.pool, device.place.numa_node]
        return (
            HELD * held_back(device)
            + BREAKS_GPU * self._partitions.breaks(index)
            + SPOILS * self._partitions.spoils(index)
            + COULD_BE_PARTS * self._partitions.whole(index)
            + CROWD * min(crowd, MOST_CROWD)
            + _apart(self._near[index], near)
        )

    def fullness(self, using: Iterable[int]) -> tuple[int, int]:
        """Of the node once these devices are taken: sets of pairs that are none any more (`sets`), and whole
        GPUs that are left.
        """
        gpus, nics = Counter(self._gpus), Counter(self._nics)
        before = _pairs(gpus, nics)
        for index in using:
            kind, switch = self._types[index], self._node.devices[index].place.pcie_switch
            if kind in _PAIRED:
                (gpus if kind == TYPE_GPU else nics)[switch] -= 1
            elif self._partitions.breaks(index):
                gpus[switch] -= 1
        return sets(before) - sets(_pairs(gpus, nics)), gpus.total()

    def _all(self) -> _Counts:
        """Of all the node's devices, counted once."""

        def derive() -> _Counts:
            counts: _Counts = (Counter(), Counter(), Counter())
            for index in range(len(self._node.devices)):
                self._count(index, 1, counts)
            return counts

        return self._node.derived("stranding", derive)

    def _count(self, index: int, number: int, counts: _Counts) -> None:
        gpus, nics, gpus_by_numa = counts
        kind, device = self._types[index], self._node.devices[index]
        if kind == TYPE_GPU and device.place.numa_node is not None:
            gpus_by_numa[device.id.pool, device.place.numa_node] += number
        if kind in _PAIRED:
            (gpus if kind == TYPE_GPU else nics)[device.place.pcie_switch] += number


def _apart(mine: Near | None, wanted: Near | None) -> int:
    if mine is None or wanted is None:
        return 0
    return sum(weight for weight, a, b in zip(APART, mine, wanted, strict=True) if a != b)


def _pairs(gpus: Counter[str | None], nics: Counter[str | None]) -> int:
    """GPUs that could have a NIC of their own switch; all of them where there are no NICs."""
    if not nics:
        return gpus.total()
    return sum(min(number, nics[switch]) for switch, number in gpus.items())


_Counts = tuple[Counter[str | None], Counter[str | None], Counter[tuple[str, int | None]]]
"""GPUs by switch, NICs by switch, GPUs by pool and NUMA node."""
