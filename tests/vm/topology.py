"""The machine that the tests run in: its PCIe tree and NUMA nodes, as values and as QEMU's arguments.

One of each neighbourhood that there is, seen from gpu0: nic0 on its switch (PIX), nic1 on a switch below
(PXB), nic2 on another root port (PHB), nic3 on another root complex of the NUMA node (NODE), nic4 on the
other node (SYS), where it shares a switch with gpu1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal


@dataclass(frozen=True, slots=True)
class Device:
    """A leaf. A `nic` is an igb with seven VFs; a `gpu` is a display device that stands in for one."""

    name: str
    kind: Literal["nic", "gpu"]


@dataclass(frozen=True, slots=True)
class Switch:
    """A PCIe switch with a downstream port for each thing below."""

    below: tuple[Device | Switch, ...]


@dataclass(frozen=True, slots=True)
class RootComplex:
    """A PCIe host bridge of a NUMA node, its buses from `first_bus`, and a root port for each thing below."""

    numa_node: int
    first_bus: int
    below: tuple[Device | Switch, ...]


def _nic(number: int) -> Device:
    return Device(f"nic{number}", "nic")


def _gpu(number: int) -> Device:
    return Device(f"gpu{number}", "gpu")


MACHINE = (
    RootComplex(0, 0x20, (Switch((_nic(0), _gpu(0), Switch((_nic(1),)))), _nic(2))),
    RootComplex(0, 0x60, (_nic(3),)),
    RootComplex(1, 0xA0, (Switch((_nic(4), _gpu(1))),)),
)

MAC = {f"nic{number}": f"52:54:00:00:00:1{number}" for number in range(5)}
"""By these the guest knows which NIC is which."""

MEMORY_MIB = 1024
CPUS = 2


def arguments(machine: tuple[RootComplex, ...] = MACHINE) -> list[str]:
    """QEMU's arguments for memory, processors, NUMA nodes and the PCIe tree."""
    nodes = max(complex_.numa_node for complex_ in machine) + 1
    found = ["-m", str(MEMORY_MIB), "-smp", f"{CPUS},sockets={nodes}"]
    for node in range(nodes):
        found += ["-object", f"memory-backend-ram,id=memory{node},size={MEMORY_MIB // nodes}M"]
        found += ["-numa", f"node,nodeid={node},memdev=memory{node},cpus={node}"]
    numbers = count(1)
    for index, complex_ in enumerate(machine):
        bridge = (
            f"pxb-pcie,id=root{index},bus=pcie.0,bus_nr={complex_.first_bus},numa_node={complex_.numa_node}"
        )
        found += ["-device", bridge]
        for part in complex_.below:
            number = next(numbers)
            port = f"port{number}"
            found += ["-device", f"pcie-root-port,id={port},bus=root{index},chassis={number},slot={number}"]
            found += _below(port, part, numbers)
    return found


def _below(bus: str, part: Device | Switch, numbers: Iterator[int]) -> list[str]:
    if isinstance(part, Device):
        if part.kind == "gpu":
            return ["-device", f"bochs-display,id={part.name},bus={bus}"]
        card = f"igb,id={part.name},bus={bus},netdev=cable-{part.name},mac={MAC[part.name]},romfile="
        return ["-netdev", f"hubport,id=cable-{part.name},hubid=0", "-device", card]
    upstream = f"switch{next(numbers)}"
    found = ["-device", f"x3130-upstream,id={upstream},bus={bus}"]
    for child in part.below:
        number = next(numbers)
        port = f"port{number}"
        found += ["-device", f"xio3130-downstream,id={port},bus={upstream},chassis={number},slot={number}"]
        found += _below(port, child, numbers)
    return found
