"""What a pity it is to take a device by itself, so that whole pairs are left to others.

Weights only order the feasible; the tiers of pairs outweigh them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from controller.allocator.model import NodeDevices
from controller.allocator.traits import held_back, traits
from driver.names import TYPE_GPU, TYPE_NIC, TYPE_VF

_HELD: Final = 5_000
"""A device that a pod on the node still uses though the API calls it free."""
_BREAKS_PAIR: Final = 200
"""A GPU that leaves a NIC alone on its switch, or a NIC that leaves a GPU alone."""
_BESIDE_PAIR: Final = 50
"""A NIC of which the switch has more than it has GPUs."""

_PAIRED: Final = (TYPE_GPU, TYPE_NIC, TYPE_VF)


class Stranding:
    """The free GPUs and NICs of a node by switch, and what each device costs therefore."""

    def __init__(self, node: NodeDevices, taken: Collection[int]) -> None:
        self._node = node
        self._types = traits(node).types
        gpus, nics, gpus_by_numa = self._all()
        self._gpus, self._nics, self._gpus_by_numa = gpus, nics, gpus_by_numa
        if taken:
            self._gpus, self._nics, self._gpus_by_numa = Counter(gpus), Counter(nics), Counter(gpus_by_numa)
            for index in taken:
                self._count(index, -1, (self._gpus, self._nics, self._gpus_by_numa))

    def cost(self, index: int) -> int:
        """Of a device outside a near pair; nothing for what has no free mate on its switch."""
        kind, switch = self._types[index], self._node.devices[index].place.pcie_switch
        if switch is None or kind not in _PAIRED:
            return 0
        gpus, nics = self._gpus[switch], self._nics[switch]
        if kind == TYPE_GPU:
            return _BREAKS_PAIR if nics else 0
        if not gpus:
            return 0
        return _BESIDE_PAIR if nics > gpus else _BREAKS_PAIR

    def avoid(self, index: int) -> int:
        """Of a device in a pair too: one that is held, or whose NUMA node has many free GPUs (the one that
        is fullest already is filled up first).
        """
        device = self._node.devices[index]
        crowd = self._gpus_by_numa[device.id.pool, device.place.numa_node]
        return _HELD * held_back(device) + min(crowd, _BESIDE_PAIR - 1)

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
        if device.place.pcie_switch is not None and kind in _PAIRED:
            (gpus if kind == TYPE_GPU else nics)[device.place.pcie_switch] += number


_Counts = tuple[Counter[str], Counter[str], Counter[tuple[str, int | None]]]
"""GPUs by switch, NICs by switch, GPUs by pool and NUMA node."""
