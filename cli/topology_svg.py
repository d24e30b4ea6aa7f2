"""The PCIe tree as a picture: boxes in boxes (NUMA node, root complex, switch), GPUs above, NICs below, and a
line for each pair in the colour of its tier. One file, no script, no font of its own, light and dark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from cli.topology_table import MEANINGS
from cli.topology_view import View
from driver.devices import Gpu, Nic, pci_order

CHIP_WIDTH, CHIP_WIDTH_WITH_DOMAIN, CHIP_HEIGHT, CHIP_GAP = 104, 130, 42, 8
PAD, LABEL, LINK = 10, 20, 46
MARGIN, HEADER, FOOTER = 28, 84, 56
ROW_WIDTH: Final = 1500
"""NUMA nodes are wrapped into rows of this width."""

STYLE: Final = """
text { font-family: ui-sans-serif, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: #1c2733 }
.mono { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 10px }
.title { font-size: 22px; font-weight: 650 } .name { font-size: 12px; font-weight: 650 }
.sub { font-size: 13px } .label { font-size: 10.5px } .sub, .label, .faint { fill: #667483 }
.page { fill: #ffffff } .numa { fill: #f4f6f8 } .root { fill: #ffffff; stroke: #d9e0e6 }
.port { fill: none; stroke: #c3cdd6; stroke-dasharray: 3 3 } .switch { fill: #eaf0f6; stroke: #cbd7e2 }
.gpu { fill: #1f7a4d } .gpu-text, .gpu-text.mono { fill: #ffffff } .nic { fill: #ffffff; stroke: #8fa0b0 }
.lone { opacity: 0.55 } .rail { fill: #1c2733; fill-opacity: 0.13 }
.on-gpu .rail { fill: #ffffff; fill-opacity: 0.24 }
.line { fill: none; stroke-width: 3.5; stroke-linecap: round }
.PIX { stroke: #1a9f5c } .PXB { stroke: #12a3a3 } .PHB { stroke: #2f7de1 } .NODE { stroke: #dd9a17 }
.SYS { stroke: #d0453a } .NODE, .SYS { stroke-dasharray: 1 7 }
"""
DARK: Final = """
text { fill: #e4eaf0 } .sub, .label, .faint { fill: #93a1af } .page { fill: #0f151b } .numa { fill: #171f27 }
.root { fill: #1c262f; stroke: #2f3c48 } .port { stroke: #435260 } .switch { fill: #24323f; stroke: #364858 }
.gpu { fill: #2b8f5e } .nic { fill: #141b22; stroke: #5d7081 } .rail { fill: #ffffff; fill-opacity: 0.17 }
.PIX { stroke: #35cf85 } .PXB { stroke: #2fc9c9 } .PHB { stroke: #62a5ff } .NODE { stroke: #f0b84a }
.SYS { stroke: #f2736a }
"""


@dataclass(slots=True)
class _Box:
    """A level of the tree: `inner` boxes, or at a leaf its devices."""

    kind: str
    label: str
    chip_width: int
    inner: list[_Box] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)
    nics: list[Nic] = field(default_factory=list)
    spread: int = 1

    @property
    def width(self) -> int:
        if self.inner:
            content = sum(box.width for box in self.inner) + CHIP_GAP * (len(self.inner) - 1)
        else:
            content = self.columns * (self.chip_width + CHIP_GAP) - CHIP_GAP
        return content + (2 * PAD if self.label else 0)

    @property
    def columns(self) -> int:
        return max(self.spread, len(self.gpus))

    @property
    def depth(self) -> int:
        own = 1 if self.label else 0
        return own + max((box.depth for box in self.inner), default=0)

    @property
    def has_gpus(self) -> bool:
        return bool(self.gpus) or any(box.has_gpus for box in self.inner)


def html(shown: View) -> str:
    """The picture as a page of its own."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(shown.machine)} topology</title>"
        "<style>body{margin:0;background:#fff}svg{display:block;margin:auto;max-width:100%;height:auto}"
        "@media (prefers-color-scheme:dark){body{background:#0f151b}}</style></head>\n"
        f"<body>\n{svg(shown)}</body></html>\n"
    )


def svg(shown: View) -> str:
    """The picture."""
    drawing = _Drawing(shown)
    drawing.draw()
    body = "\n".join(drawing.parts)
    width, height = drawing.width, drawing.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(shown.machine)}: PCIe topology">\n'
        f"<style>{STYLE}@media (prefers-color-scheme: dark) {{{DARK}}}</style>\n"
        f'<rect class="page" width="{width}" height="{height}"/>\n{body}\n</svg>\n'
    )


def _chip_width(shown: View) -> int:
    addresses = [gpu.pci_address for gpu in shown.gpus] + [nic.pci_address for nic in shown.nics]
    return CHIP_WIDTH if all(map(_is_short, addresses)) else CHIP_WIDTH_WITH_DOMAIN


def _tree(shown: View, chip: int) -> list[_Box]:
    """NUMA nodes; in them root complexes; in them root ports where one has several leaves; in them leaves."""
    devices: list[Gpu | Nic] = sorted([*shown.gpus, *shown.nics], key=lambda d: pci_order(d.pci_address))
    nodes: dict[int, _Box] = {}
    roots: dict[tuple[int, str], _Box] = {}
    ports: dict[tuple[int, str, str], dict[str, _Box]] = {}
    for device in devices:
        place = device.place
        numa = -1 if place.numa_node is None else place.numa_node
        root = place.pcie_root or ""
        port = place.pcie_root_port or device.pci_address.rsplit(".", 1)[0]
        leaf = place.pcie_switch or port
        node = nodes.setdefault(
            numa, _Box("numa", f"NUMA node {numa}" if numa >= 0 else "no NUMA node", chip)
        )
        if (numa, root) not in roots:
            roots[numa, root] = _Box("root", root or "root complex not known", chip)
            node.inner.append(roots[numa, root])
        leaves = ports.setdefault((numa, root, port), {})
        if leaf not in leaves:
            leaves[leaf] = _Box("switch", f"switch {_short(leaf)}" if place.pcie_switch else "", chip)
        (leaves[leaf].gpus if isinstance(device, Gpu) else leaves[leaf].nics).append(device)  # type: ignore[arg-type]
    for leaf_box in (box for leaves in ports.values() for box in leaves.values() if not box.gpus):
        mates = {pair.gpu.pci_address for pair in shown.pairs if pair.nic in leaf_box.nics}
        leaf_box.spread = max(1, len(mates))  # side by side, where their lines come from different GPUs
    for (numa, root, port), leaves in ports.items():
        inner = list(leaves.values())
        if len(inner) > 1:
            inner = [_Box("port", f"root port {_short(port)}", chip, inner)]
        roots[numa, root].inner += inner
    for node in nodes.values():
        node.inner.sort(key=lambda box: not box.has_gpus)  # what has no GPU stands at the end
    return sorted(nodes.values(), key=lambda box: not box.has_gpus)  # else in the order of their devices


class _Drawing:
    """Places boxes and chips, then lines over boxes and below chips."""

    def __init__(self, shown: View) -> None:
        self._shown = shown
        self._chip_width = _chip_width(shown)
        self._above: dict[str, str] = {}
        self._boxes: list[str] = []
        self._chips: list[str] = []
        self._at: dict[str, tuple[float, float]] = {}
        self._paired = {p.gpu.pci_address for p in shown.pairs} | {p.nic.pci_address for p in shown.pairs}
        self.parts: list[str] = []
        self.width = self.height = 0

    def draw(self) -> None:
        bottom, widest = HEADER, 560
        for row in _rows(_tree(self._shown, self._chip_width)):
            height = self._row(row, bottom)
            bottom += height + 16
            widest = max(widest, sum(box.width for box in row) + 16 * (len(row) - 1))
        self.width, self.height = widest + 2 * MARGIN, bottom + FOOTER
        self.parts = [*self._header(), *self._boxes, *self._lines(), *self._chips, *self._legend(bottom)]

    def _row(self, row: Sequence[_Box], top: int) -> int:
        depth = max(box.depth for box in row)
        gpu_row = top + depth * LABEL + PAD
        nic_row = gpu_row + (CHIP_HEIGHT + LINK if any(box.has_gpus for box in row) else 0)
        step = CHIP_HEIGHT + CHIP_GAP
        nic_rows, aside = max(map(self._nic_rows, row)), max(map(self._aside_rows, row))
        below = nic_row + nic_rows * step if nic_rows else gpu_row + step
        end = max(below, gpu_row + aside * step) - CHIP_GAP
        bottom = end + depth * 8 + 4
        x = float(MARGIN)
        for box in row:
            self._box(box, x, top, bottom, gpu_row, nic_row)
            x += box.width + 16
        return bottom - top

    def _box(self, box: _Box, x: float, top: float, bottom: float, gpu_row: float, nic_row: float) -> None:
        inner_x = x
        if box.label:
            radius = {"numa": 14, "root": 10}.get(box.kind, 7)
            self._boxes.append(
                f'<rect class="{box.kind}" x="{x}" y="{top}" width="{box.width}" height="{bottom - top}" '
                f'rx="{radius}"/><text class="label" x="{x + PAD}" y="{top + 15}">{escape(box.label)}</text>'
            )
            inner_x, top, bottom = x + PAD, top + LABEL, bottom - 8
        for inner in box.inner:
            self._box(inner, inner_x, top, bottom, gpu_row, nic_row)
            inner_x += inner.width + CHIP_GAP
        step = self._chip_width + CHIP_GAP
        for index, gpu in enumerate(box.gpus):
            self._chip(gpu, "gpu", self._shown.gpu_name(gpu), inner_x + index * step, gpu_row)
        if self._is_aside(box):
            nic_row = gpu_row
        rows = -(-len(box.nics) // box.columns)
        for index, nic in enumerate(box.nics):
            column, row = divmod(index, rows)
            y = nic_row + row * (CHIP_HEIGHT + CHIP_GAP)
            self._chip(nic, "nic", nic.name, inner_x + column * step, y)
            if row:
                self._above[nic.pci_address] = box.nics[index - 1].pci_address

    def _is_aside(self, box: _Box) -> bool:
        """Nothing but NICs that pair with none: they need no room for lines above them."""
        return not box.gpus and not any(nic.pci_address in self._paired for nic in box.nics)

    def _nic_rows(self, box: _Box) -> int:
        own = 0 if self._is_aside(box) else -(-len(box.nics) // box.columns)
        return max((own, *map(self._nic_rows, box.inner)))

    def _aside_rows(self, box: _Box) -> int:
        own = len(box.nics) if self._is_aside(box) else 0
        return max((own, *map(self._aside_rows, box.inner)))

    def _chip(self, device: Gpu | Nic, kind: str, name: str, x: float, y: float) -> None:
        self._at[device.pci_address] = (x + self._chip_width / 2, y)
        lone = "" if device.pci_address in self._paired else " lone"
        rail = ""
        if device.rail is not None:
            wide = 15 + 6 * len(str(device.rail))
            left = x + self._chip_width - wide - 6
            rail = (
                f'<rect class="rail" x="{left}" y="{y + 23}" width="{wide}" height="14" rx="7"/>'
                f'<text class="{kind}-text mono" text-anchor="middle" x="{left + wide / 2}" y="{y + 33.5}">'
                f"r{device.rail}</text>"
            )
        self._chips.append(
            f'<g class="on-{kind}{lone}"><title>{escape(_tip(device, name))}</title>'
            f'<rect class="{kind}" x="{x}" y="{y}" width="{self._chip_width}" height="{CHIP_HEIGHT}" rx="7"/>'
            f'<text class="{kind}-text name" x="{x + 9}" y="{y + 17}">{escape(name)}</text>'
            f'<text class="{kind}-text mono" x="{x + 9}" y="{y + 33.5}">{_short(device.pci_address)}</text>'
            f"{rail}</g>"
        )

    def _lines(self) -> Iterator[str]:
        mates = {(pair.gpu.pci_address, pair.nic.pci_address) for pair in self._shown.pairs}
        for pair in sorted(self._shown.pairs, key=lambda p: -p.tier):
            x1, y1 = self._at[pair.gpu.pci_address]
            x2, y2 = self._at[pair.nic.pci_address]
            above = self._above.get(pair.nic.pci_address, "")
            if (pair.gpu.pci_address, above) in mates:  # the line goes on from the NIC above
                yield f'<path class="line {pair.tier.name}" d="M{x2} {y2 - CHIP_GAP}V{y2}"/>'
                continue
            y1 += CHIP_HEIGHT + 3
            y2 -= 3
            bend = max(18.0, (y2 - y1) / 2)
            name = f"{self._shown.gpu_name(pair.gpu)} with {pair.nic.name}: {pair.tier.name}"
            way = f"M{x1} {y1}C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"
            yield f'<path class="line {pair.tier.name}" d="{way}"><title>{escape(name)}</title></path>'

    def _header(self) -> Iterator[str]:
        shown = self._shown
        facts = [f"{len(shown.gpus)} GPUs", f"{len(shown.nics)} NICs"]
        product = next((gpu.product_name for gpu in shown.gpus if gpu.product_name), "")
        facts += [product] if product else []
        if shown.fabric:
            facts.append(f"NV{shown.fabric} between all GPUs")
        if shown.overlay:
            facts.append(f"corrected by {shown.overlay.rsplit('/', 1)[-1]}")
        yield f'<text class="title" x="{MARGIN}" y="40">{escape(shown.machine or "This machine")}</text>'
        yield f'<text class="sub" x="{MARGIN}" y="62">{escape(" · ".join(facts))}</text>'

    def _legend(self, top: float) -> Iterator[str]:
        counts = Counter(pair.tier for pair in self._shown.pairs)
        x, y = float(MARGIN), top + 16.0
        for level in sorted(counts):
            text = (
                f"{counts[level]} {'pair' if counts[level] == 1 else 'pairs'} {level.name}: {MEANINGS[level]}"
            )
            yield f'<path class="line {level.name}" d="M{x + 2} {y}h26"/>'
            yield f'<text class="sub" x="{x + 38}" y="{y + 4.5}">{escape(text)}</text>'
            x += 38 + 7.2 * len(text) + 20
        if not counts:
            yield f'<text class="sub" x="{x}" y="{y + 4.5}">no pairs</text>'


def _rows(boxes: Sequence[_Box]) -> Iterator[list[_Box]]:
    row: list[_Box] = []
    for box in boxes:
        if row and sum(b.width + 16 for b in row) + box.width > ROW_WIDTH:
            yield row
            row = []
        row.append(box)
    if row:
        yield row


def _is_short(address: str) -> bool:
    return address.startswith("0000:")


def _short(address: str) -> str:
    """Without the domain that nearly all have."""
    return address.removeprefix("0000:")


def _tip(device: Gpu | Nic, name: str) -> str:
    place = device.place
    facts = [name, device.pci_address]
    facts += [f"NUMA node {place.numa_node}"] if place.numa_node is not None else []
    facts += [f"rail {device.rail}"] if device.rail is not None else []
    facts += [place.pcie_root] if place.pcie_root else []
    if isinstance(device, Gpu):
        return ", ".join([*facts, device.product_name])
    gigabits = device.speed_bits_per_second // 10**9
    return ", ".join([*facts, device.link_type, *([f"{gigabits} Gb/s"] if gigabits else [])])
