"""A plan as a picture: each node's switches with GPUs above and NICs below, coloured by the pod that gets
them, and a line for each pair in the colour of its tier. One file, no script, light and dark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Final

from cli.plan_view import Chip, Holder, NodeView, SwitchView, nodes
from cli.topology_table import MEANINGS
from controller.allocator.model import DeviceId
from controller.planning import Plan, PlannedPod
from driver.devices import Tier

CHIP, CHIP_HEIGHT, GAP, PAD, LINK = 128, 40, 8, 10, 34
MARGIN, HEADER, LABEL, TITLE = 28, 92, 20, 34
WIDTH: Final = 1240
LINE: Final = 20
COLOURS: Final = 8
NODES_SHOWN: Final = 24
WAITING_SHOWN: Final = 12
REASON_LENGTH: Final = 170

STYLE: Final = """
text { font-family: ui-sans-serif, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: #1c2733 }
.title { font-size: 22px; font-weight: 650 } .node-name { font-size: 15px; font-weight: 650 }
.name { font-size: 11.5px; font-weight: 650 } .who { font-size: 10.5px } .sub { font-size: 13px }
.label { font-size: 10.5px } .sub, .label { fill: #667483 } .page { fill: #ffffff } .node { fill: #f4f6f8 }
.switch { fill: #ffffff; stroke: #d3dce4 } .free { fill: #ffffff; stroke: #a9b7c4 }
.free-cell { fill: #dde4ea } .old { fill: #a9b4bf } .on text { fill: #ffffff }
.c0 { fill: #2266c3 } .c1 { fill: #1f7a4d } .c2 { fill: #a8470f } .c3 { fill: #7a3fb0 } .c4 { fill: #a3265f }
.c5 { fill: #0f7482 } .c6 { fill: #75620a } .c7 { fill: #4a5a6b }
.line { fill: none; stroke-width: 3; stroke-linecap: round } .waits { fill: #a8470f; font-weight: 650 }
.PIX { stroke: #1a9f5c } .PXB { stroke: #12a3a3 } .PHB { stroke: #2f7de1 } .NODE { stroke: #dd9a17 }
.SYS { stroke: #d0453a } .NODE, .SYS { stroke-dasharray: 1 6 }
"""
DARK: Final = """
text { fill: #e4eaf0 } .sub, .label { fill: #93a1af } .page { fill: #0f151b } .node { fill: #171f27 }
.switch { fill: #1c262f; stroke: #364858 } .free { fill: #141b22; stroke: #5d7081 }
.free-cell { fill: #33414e }
.old { fill: #5d6b78 } .c0 { fill: #3b82e0 } .c1 { fill: #2b8f5e } .c2 { fill: #c0622a } .c3 { fill: #9460cc }
.c4 { fill: #c2457e } .c5 { fill: #1d8fa0 } .c6 { fill: #8f7a18 } .c7 { fill: #687b8e }
.waits { fill: #f0b84a }
.PIX { stroke: #35cf85 } .PXB { stroke: #2fc9c9 } .PHB { stroke: #62a5ff } .NODE { stroke: #f0b84a }
.SYS { stroke: #f2736a }
"""


@dataclass(slots=True)
class _Canvas:
    """What is drawn so far, and where each device is, for the lines."""

    parts: list[str]
    at: dict[DeviceId, tuple[float, float]]
    colours: dict[str, int]

    def rect(self, css: str, x: float, y: float, width: float, height: float, radius: float = 6) -> None:
        self.parts.append(
            f'<rect class="{css}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"/>'
        )

    def text(self, css: str, x: float, y: float, text: str) -> None:
        self.parts.append(f'<text class="{css}" x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def colour(self, holder: Holder) -> str:
        if not holder.new:
            return "old"
        return f"c{self.colours.setdefault(holder.name, len(self.colours)) % COLOURS}"


def svg(plan: Plan) -> str:
    """The picture of all nodes of which the plan gives something away (all, where it gives nothing)."""
    everything = nodes(plan)
    shown = ([node for node in everything if node.changed] or everything)[:NODES_SHOWN]
    canvas = _Canvas([], {}, {})
    placed = [pod for pod in plan.pods if pod.node is not None and not pod.settled]
    waiting = [pod for pod in plan.pods if pod.node is None]
    canvas.text("title", MARGIN, 44, "What goes where")
    canvas.text("sub", MARGIN, 68, _summary(placed, waiting, len(everything) - len(shown)))
    y: float = HEADER
    for node in shown:
        y = _node(canvas, node, y) + 16
    y = _legend(canvas, shown, y + 12)
    y = _waiting(canvas, waiting, y)
    body = "\n".join(canvas.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + MARGIN:g}" '
        f'viewBox="0 0 {WIDTH} {y + MARGIN:g}" role="img" aria-label="Which pod gets which devices">\n'
        f"<style>{STYLE}@media (prefers-color-scheme: dark) {{{DARK}}}</style>\n"
        f'<rect class="page" width="100%" height="100%"/>\n{body}\n</svg>\n'
    )


def _summary(placed: list[PlannedPod], waiting: list[PlannedPod], hidden: int) -> str:
    parts = [f"{len(placed)} placed", f"{len(waiting)} waiting"]
    if hidden > 0:
        parts.append(f"{hidden} nodes of which nothing is given are left out")
    return " · ".join(parts)


def _node(canvas: _Canvas, node: NodeView, top: float) -> float:
    """Draw the card of a node; returns where it ends."""
    at = len(canvas.parts)
    (gpus, all_gpus), (others, all_others) = node.counts(gpus=True), node.counts(gpus=False)
    canvas.text("node-name", MARGIN + 16, top + 25, node.name)
    left = f"left: {gpus} of {all_gpus} GPUs, {others} of {all_others} NICs and VFs"
    canvas.text("sub", MARGIN + 16 + 9.5 * len(node.name) + 12, top + 25, left)
    x, y, height = MARGIN + 12.0, top + TITLE, 0.0
    in_one_row = sum(_size(switch)[0] + GAP for switch in node.switches) <= WIDTH - 2 * MARGIN - 24
    numa_node = node.switches[0].numa_node
    for switch in node.switches:
        width, needed = _size(switch)
        new_numa_node = not in_one_row and switch.numa_node != numa_node
        numa_node = switch.numa_node
        if x > MARGIN + 12 and (new_numa_node or x + width > WIDTH - MARGIN - 12):
            x, y, height = MARGIN + 12.0, y + height + GAP, 0.0
        _switch(canvas, switch, x, y)
        x, height = x + width + GAP, max(height, needed)
    bottom = y + height + 12
    for pair in node.pairs:
        (x1, y1), (x2, y2) = canvas.at[pair.gpu], canvas.at[pair.nic]
        if y1 < y2:
            y1 += CHIP_HEIGHT
        bend = (y1 + y2) / 2
        canvas.parts.append(
            f'<path class="line {pair.tier.name}" '
            f'd="M{x1:g} {y1:g} C{x1:g} {bend:g} {x2:g} {bend:g} {x2:g} {y2:g}"/>'
        )
    body, canvas.parts[at:] = canvas.parts[at:], []
    canvas.rect("node", MARGIN, top, WIDTH - 2 * MARGIN, bottom - top, 10)
    canvas.parts += body
    return bottom


def _rows(switch: SwitchView) -> tuple[list[Chip], list[Chip]]:
    return [c for c in switch.chips if c.is_gpu], [c for c in switch.chips if not c.is_gpu]


def _size(switch: SwitchView) -> tuple[float, float]:
    gpus, others = _rows(switch)
    width = 2 * PAD + max(len(gpus), len(others)) * (CHIP + GAP) - GAP
    height = LABEL + PAD + (CHIP_HEIGHT if gpus else 0) + (CHIP_HEIGHT if others else 0)
    return width, height + (LINK if gpus and others else 0) + 4


def _switch(canvas: _Canvas, switch: SwitchView, x: float, y: float) -> None:
    width, height = _size(switch)
    canvas.rect("switch", x, y, width, height)
    numa = "" if switch.numa_node is None else f" · NUMA {switch.numa_node}"
    canvas.text("label", x + PAD, y + 15, f"{switch.label or 'place not known'}{numa}")
    gpus, others = _rows(switch)
    top = y + LABEL + 2
    for number, chip in enumerate(gpus):
        _chip(canvas, chip, x + PAD + number * (CHIP + GAP), top)
    top += CHIP_HEIGHT + LINK if gpus else 0
    for number, chip in enumerate(others):
        _chip(canvas, chip, x + PAD + number * (CHIP + GAP), top)


def _chip(canvas: _Canvas, chip: Chip, x: float, y: float) -> None:
    if len(chip.devices) == 1:
        device, holder = chip.devices[0]
        canvas.at[device] = (x + CHIP / 2, y)
        css = canvas.colour(holder) if holder is not None else "free"
        canvas.parts.append(f'<g class="{"on" if holder else "off"}">')
        canvas.rect(css, x, y, CHIP, CHIP_HEIGHT)
        canvas.text("name", x + 9, y + 17, chip.label)
        canvas.text("who" if holder else "label", x + 9, y + 31, _short(holder.name) if holder else "free")
        canvas.parts.append("</g>")
        return
    canvas.rect("free", x, y, CHIP, CHIP_HEIGHT)
    canvas.text("name", x + 9, y + 19, chip.label)
    canvas.text("label", x + 9 + 7 * len(chip.label) + 8, y + 19, f"{chip.free} of {len(chip.devices)} left")
    cell = (CHIP - 18) / len(chip.devices)
    for number, (device, holder) in enumerate(chip.devices):
        left = x + 9 + number * cell
        css = canvas.colour(holder) if holder is not None else "free-cell"
        canvas.rect(css, left, y + 26, max(cell - 1.5, 0.8), 7, min(2.0, cell / 4))
        canvas.at[device] = (left + (cell - 1.5) / 2, y)


def _short(name: str) -> str:
    return name if len(name) <= 19 else f"{name[:9]}…{name[-9:]}"


def _legend(canvas: _Canvas, shown: list[NodeView], y: float) -> float:
    tiers = sorted({pair.tier for node in shown for pair in node.pairs})
    x = float(MARGIN)
    for tier in tiers:
        canvas.parts.append(f'<path class="line {tier.name}" d="M{x:g} {y - 4:g} h26"/>')
        words = f"{tier.name}: {MEANINGS[Tier(tier)]}"
        canvas.text("label", x + 34, y, words)
        x += 34 + 5.8 * len(words) + 20
    return y + LINE if tiers else y


def _waiting(canvas: _Canvas, waiting: list[PlannedPod], y: float) -> float:
    for text, css in _waiting_lines(waiting):
        canvas.text(css, MARGIN, y + 4, text)
        y += LINE
    return y


def _waiting_lines(waiting: list[PlannedPod]) -> Iterator[tuple[str, str]]:
    for pod in waiting[:WAITING_SHOWN]:
        yield f"{pod.name or pod.claims[0].name} waits", "sub waits"
        for part in _split(pod.reason or ""):
            yield (part if len(part) <= REASON_LENGTH else f"{part[:REASON_LENGTH]}…"), "label"
    if len(waiting) > WAITING_SHOWN:
        yield f"and {len(waiting) - WAITING_SHOWN} more", "label"


def _split(reason: str) -> list[str]:
    """The reasons, and the nearest change, which must not be cut off."""
    reasons, semicolon, nearest = reason.rpartition("; nearest ")
    return [reasons, f"nearest {nearest}"] if semicolon else [reason]
