"""How the demo shows what it sees: short tables, in words that need no manual."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deploy.demo.facts import Inside, Pair, Ping

_SHOWN_PREFIXES = ("NVIDIA_", "NCCL_IB_HCA")
_DEVICE_KINDS = ("/dev/nvidia", "/dev/infiniband")
_WIDTH = 118


class Report:
    """Writes to stdout; in colours on a terminal, as wide as the tables need elsewhere."""

    def __init__(self) -> None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # into a pipe as well
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH
        self._console = Console(width=width, highlight=False, soft_wrap=False)
        self._begin = time.monotonic()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A line when something begins that takes a while, and how long it took."""
        begin = time.monotonic()
        self._console.print(f"[bold cyan]▸[/] {escape(what)}")
        yield
        self._console.print(f"  [dim]{time.monotonic() - begin:.1f} s[/]")

    def say(self, line: str) -> None:
        """One line."""
        self._console.print(Text(f"  {line}"))

    def title(self, line: str) -> None:
        """What comes next."""
        self._console.print(f"\n[bold]{escape(line)}[/]")

    def pairs(self, pairs: Sequence[Pair]) -> None:
        """A row for each pair."""
        table = _table("pod", "node", "GPU", "VF", "tier", "rail", "interface", "address")
        for pair in pairs:
            rail = "" if pair.rail is None else str(pair.rail)
            where = (pair.pod, pair.node, pair.gpu, pair.nic)
            table.add_row(*where, Text(pair.tier, "green"), rail, pair.interface, " ".join(pair.addresses))
        self._console.print(table)

    def insides(self, insides: Mapping[str, Inside]) -> None:
        """What each container sees."""
        for pod, inside in insides.items():
            shown = sorted(name for name in inside.environment if name.startswith(_SHOWN_PREFIXES))
            lines = [f"{name}={inside.environment[name]}" for name in shown]
            lines += [
                " ".join(path for path in inside.devices if path.startswith(kind)) for kind in _DEVICE_KINDS
            ]
            for first, line in zip([pod, *[""] * len(lines)], lines, strict=False):
                self._console.print(Text(f"  {first:<8} {line}"), soft_wrap=True)

    def pings(self, results: Sequence[tuple[Ping, str]]) -> None:
        """A row for each call."""
        table = _table("rail", "from", "over", "to", "address", "answer after")
        for ping, answer in results:
            shown = Text(f"{answer} ms", "green") if answer else Text("no answer", "red")
            table.add_row(str(ping.rail), ping.source, ping.interface, ping.target, ping.address, shown)
        self._console.print(table)

    def devices(self, counts: Mapping[str, int]) -> None:
        """Free devices, by node and kind."""
        names = {"gpu": "GPUs", "vf": "VFs", "nic": "NICs"}
        by_node: dict[str, list[str]] = {}
        for key, count in sorted(counts.items()):
            node, kind = key.rsplit(" ", 1)
            by_node.setdefault(node, []).append(f"{count} {names.get(kind, kind)}")
        for node, kinds in by_node.items():
            self.say(f"{node}: {', '.join(kinds)}")

    def complaints(self, lines: Sequence[str]) -> None:
        """What is not as promised."""
        for line in lines:
            self._console.print(Text(f"✗ {line}", "bold red"))

    def end(self, succeeded: bool) -> None:
        """The last line."""
        took = f"{time.monotonic() - self._begin:.0f} s"
        mark = "[bold green]✓ all as promised[/]" if succeeded else "[bold red]✗ not as promised[/]"
        self._console.print(f"\n{mark}, {took}")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
