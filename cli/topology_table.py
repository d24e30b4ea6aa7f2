"""The topology as tables for a terminal: nvidia-smi's matrix, the devices, the pairs."""

from __future__ import annotations

import io
import shutil
import sys
from collections import Counter
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.topology_view import View
from driver.devices import Gpu, Nic, Tier
from driver.topology import tier

STYLES: Final = {
    Tier.PIX: "bold green",
    Tier.PXB: "green",
    Tier.PHB: "cyan",
    Tier.NODE: "yellow",
    Tier.SYS: "dim",
}
MEANINGS: Final = {
    Tier.PIX: "at most one PCIe switch between",
    Tier.PXB: "several PCIe switches, below one root port",
    Tier.PHB: "through one PCIe host bridge",
    Tier.NODE: "within one NUMA node",
    Tier.SYS: "between NUMA nodes, or not known",
}


def table(shown: View) -> str:
    """The whole report; coloured where standard output is a terminal."""
    wide = 24 + 8 * (len(shown.gpus) + len(shown.nics))
    console = Console(
        file=io.StringIO(),
        force_terminal=sys.stdout.isatty(),
        width=max(shutil.get_terminal_size((100, 24)).columns, wide, 100),
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.print(Text(shown.machine or "This machine", "bold"), Text(_summary(shown), "dim"))
    if shown.gpus:
        console.print(_matrix(shown))
    console.print(_devices(shown))
    if shown.pairs:
        console.print(_pairs(shown))
    used = sorted({tier for row in shown.tiers for tier in row})
    for level in used:
        console.print(Text(f"  {level.name:<5}", STYLES[level]), Text(MEANINGS[level], "dim"), sep="")
    output = console.file
    assert isinstance(output, io.StringIO)  # noqa: S101  (made above)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


def _summary(shown: View) -> str:
    parts = [f"{len(shown.gpus)} GPUs", f"{len(shown.nics)} NICs"]
    if shown.fabric:
        parts.append(f"NV{shown.fabric} between GPUs")
    if shown.overlay:
        parts.append(f"corrected by {shown.overlay}")
    return " · ".join(parts)


def _grid(*columns: str) -> Table:
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(column, no_wrap=True)
    return grid


def _matrix(shown: View) -> Table:
    mates = {(pair.gpu.pci_address, pair.nic.pci_address) for pair in shown.pairs}
    grid = _grid("", *map(shown.gpu_name, shown.gpus), *map(shown.nic_name, shown.nics), "NUMA")
    for gpu, row in zip(shown.gpus, shown.tiers, strict=True):
        cells = [Text(shown.gpu_name(gpu), "bold")]
        cells += [Text(_gpus(shown, gpu, other), "dim") for other in shown.gpus]
        for nic, level in zip(shown.nics, row, strict=True):
            pair = (gpu.pci_address, nic.pci_address) in mates
            cells.append(Text(level.name, f"{STYLES[level]} reverse" if pair else STYLES[level]))
        grid.add_row(*cells, _number(gpu.place.numa_node))
    return grid


def _gpus(shown: View, one: Gpu, other: Gpu) -> str:
    if one is other:
        return "X"
    links = shown.nvlinks[shown.gpus.index(one)][shown.gpus.index(other)]
    return f"NV{links}" if links else tier(one.place, other.place).name


def _devices(shown: View) -> Table:
    grid = _grid("", "PCI address", "NUMA", "root", "switch", "rail", "device")
    rows: list[tuple[str, Gpu | Nic, str]] = [
        *((shown.gpu_name(gpu), gpu, gpu.product_name) for gpu in shown.gpus),
        *((shown.nic_name(nic), nic, _nic(nic.name, len(nic.vfs))) for nic in shown.nics),
    ]
    for name, device, what in rows:
        place = device.place
        grid.add_row(
            Text(name, "bold"),
            device.pci_address,
            _number(place.numa_node),
            place.pcie_root or "-",
            place.pcie_switch or "-",
            _number(device.rail),
            what,
        )
    return grid


def _nic(name: str, vfs: int) -> str:
    return f"{name}, {vfs} VFs" if vfs else name


def _pairs(shown: View) -> Table:
    grid = _grid("pair", "", "tier", "rail")
    for pair in shown.pairs:
        grid.add_row(
            Text(shown.gpu_name(pair.gpu), "bold"),
            f"{shown.nic_name(pair.nic)} {pair.nic.name}",
            Text(pair.tier.name, STYLES[pair.tier]),
            _number(pair.rail),
        )
    counts = Counter(pair.tier for pair in shown.pairs)
    grid.caption = ", ".join(f"{counts[level]} {level.name}" for level in sorted(counts))
    grid.caption_style = "dim"
    grid.caption_justify = "left"
    return grid


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
