"""A plan for a terminal: what goes where with which pairs, what waits and why, what the nodes have left."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Set
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.plan_view import NodeView, nodes
from cli.topology_table import STYLES
from controller.planning import Plan, PlannedClaim, PlannedPod

_NODES_SHOWN: Final = 16
_NAMED: Final = 3
_WIDTH: Final = 110


def table(plan: Plan) -> str:
    """The whole report; coloured where standard output is a terminal."""
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=sys.stdout.isatty(),
        width=max(shutil.get_terminal_size((_WIDTH, 24)).columns, 80),
        highlight=False,
        emoji=False,
        markup=False,
    )
    placed = [pod for pod in plan.pods if pod.node is not None and not pod.settled]
    waiting = [pod for pod in plan.pods if pod.node is None]
    console.print(_summary(plan, placed, waiting))
    if placed:
        console.print(_placed(placed))
    for pod in waiting:
        console.print(_waiting(pod))
        console.print()
    if plan.scheduler_mode and plan.pods:
        console.print(_scheduler_mode(plan.scheduler_mode))
    notes = [f"claim {c.name}: {note}" for pod in plan.pods for c in pod.claims for note in c.notes]
    for note in dict.fromkeys(notes):
        console.print(Text("note ", "yellow").append(note))
    shown = [node for node in nodes(plan) if node.changed]
    if shown:
        console.print(_nodes(shown[:_NODES_SHOWN]))
        if len(shown) > _NODES_SHOWN:
            console.print(Text(f"and {len(shown) - _NODES_SHOWN} more nodes", "dim"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip() + "\n"


def _summary(plan: Plan, placed: list[PlannedPod], waiting: list[PlannedPod]) -> Text:
    if not plan.pods:
        return Text("Nothing to place: no pod has claims, and no claim waits.", "dim")
    text = Text(f"{len(placed)} placed", "bold green" if placed else "dim")
    if waiting:
        text.append(", ", "dim").append(f"{len(waiting)} waiting", "bold yellow")
    if settled := sum(pod.settled for pod in plan.pods):
        text.append(f", {settled} bound before", "dim")
    return text.append(f" · {plan.micros / 1000:.1f} ms", "dim")


def _grid(*columns: str, right: int = 0) -> Table:
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(columns):
        is_number = number >= len(columns) - right
        grid.add_column(column, justify="right" if is_number else "left", overflow="fold")
    return grid


def _name(pod: PlannedPod) -> str:
    return pod.name if pod.name is not None else f"claim {pod.claims[0].name}"


def _placed(pods: list[PlannedPod]) -> Table:
    grid = _grid("pod", "node", "devices", "tier", "rail", right=1)
    for pod in pods:
        head = [Text(_name(pod), "bold"), Text(pod.node or "")]
        paired = {name for claim in pod.claims for pair in claim.pairs for name in (pair.gpu, pair.nic)}
        for claim in pod.claims:
            for devices, tier, rail in _rows(claim, paired):
                grid.add_row(*head, devices, tier, rail)
                head = [Text(""), Text("")]
        if head[0]:
            grid.add_row(*head, "no devices", "", "")
    return grid


def _rows(claim: PlannedClaim, paired: Set[str]) -> list[tuple[Text, Text, str]]:
    """The claim's pairs, then its devices that are not `paired`, by this claim or another of the pod's."""
    rows = []
    for pair in claim.pairs:
        devices = Text(pair.gpu).append(" + ", "dim").append(pair.nic)
        rail = "-" if pair.rail is None else str(pair.rail)
        rows.append((devices, Text(pair.tier.name, STYLES[pair.tier]), rail))
    results = claim.allocation.devices.results if claim.allocation is not None else []
    rows += [(Text(r.device), Text(""), "") for r in results if r.device not in paired]
    return rows


def _waiting(pod: PlannedPod) -> Padding:
    first, *others = (pod.reason or "").split("; ")
    head, colon, rest = first.partition(": ") if first.startswith("0/") else (first, "", "")
    text = Text(_name(pod), "bold").append(" waits", "yellow").append(f": {head}", "dim" if colon else "")
    for part in [rest, *others] if colon else others:
        text.append(f"\n  {part}")
    return Padding(text, (0, 0, 0, 0))


def _scheduler_mode(names: tuple[str, ...]) -> Text:
    named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    said = "kube-scheduler decides there; shown is what the controller would choose"
    return Text(f"Without the controller's taint (scheduler mode): {named}; {said}.\n", "dim")


def _nodes(shown: list[NodeView]) -> Table:
    grid = _grid("node", "GPUs left", "NICs and VFs left", right=2)
    for node in shown:
        cells = [f"{free} of {count}" for free, count in (node.counts(gpus=True), node.counts(gpus=False))]
        grid.add_row(node.name, *cells)
    return grid
