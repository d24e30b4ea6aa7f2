"""`tandem topology`: which GPU is near which NIC on a node, and the pairs that Tandem would make."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.topology_view import View, to_json, view
from driver.devices import Gpu, Inventory, Netdev, Place, pci_address
from driver.errors import TandemError
from driver.inventory import HostProbe
from driver.overlay import Overlay
from driver.overlay_files import load as load_overlay

SYSFS = Path("/sys")


def run(argv: Sequence[str]) -> int:
    """Print the topology. Exit status 1 where the machine, a file or an overlay is wrong."""
    options = _parser().parse_args(argv)
    if options.list:
        from driver.mock.machine import known

        print("\n".join(known()))
        return 0
    try:
        shown = _view(options)
        sys.stdout.write(_render(shown, options.output))
    except TandemError as error:
        print(f"tandem topology: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem topology",
        description="Which GPU is near which NIC, and the pairs that Tandem would make.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--machine", metavar="NAME", help="a product that Tandem knows, or a machine file (.yaml)"
    )
    source.add_argument("--sysfs", metavar="DIR", type=Path, default=SYSFS, help="(%(default)s)")
    source.add_argument("--list", action="store_true", help="list the products that --machine takes")
    overlay = parser.add_mutually_exclusive_group()
    overlay.add_argument(
        "--overlay", metavar="FILE", type=Path, help="correct the PCIe tree: NCCL topology XML, or YAML"
    )
    overlay.add_argument(
        "--no-overlay", action="store_true", help="the bare tree, without a product's own overlay"
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "svg", "html"), default="table", help="(%(default)s)"
    )
    return parser


def _view(options: argparse.Namespace) -> View:
    overlay: Overlay | None = load_overlay(options.overlay) if options.overlay is not None else None
    if options.machine is None:
        inventory = _read_host(options.sysfs, overlay)
        return view(inventory, overlay=overlay.source if overlay is not None else "")
    from driver.mock import source
    from driver.mock.machine import load

    machine = load(options.machine, vfs_per_pf=0)
    if overlay is None and not options.no_overlay:
        overlay = machine.load_overlay()
    return view(
        source.read(machine, overlay),
        machine=machine.name,
        nvlinks=machine.gpu_model.nvlinks,
        overlay=overlay.source if overlay is not None else "",
    )


def _read_host(sysfs: Path, overlay: Overlay | None) -> Inventory:
    """This host, or a sysfs tree of another one, of which NVML and netlink here know nothing."""
    if sysfs.resolve() == SYSFS:
        return HostProbe(sysfs, overlay=overlay, strict=True).read()
    return HostProbe(
        sysfs, gpus=_GpusOfTree(sysfs), netdevs=_NoNetdevs(), overlay=overlay, strict=True
    ).read()


class _NoNetdevs:
    def read(self) -> Mapping[str, Netdev]:
        return {}


class _GpusOfTree:
    """GPUs by what sysfs alone says: their addresses."""

    def __init__(self, sysfs: Path) -> None:
        self._sysfs = sysfs

    def read(self) -> Mapping[str, Gpu]:
        found = {}
        for entry in (self._sysfs / "bus/pci/devices").iterdir():
            try:
                address = pci_address(entry.name)
            except ValueError:
                continue
            found[address] = Gpu(address, Place())
        return found


def _render(shown: View, output: str) -> str:
    if output == "json":
        return to_json(shown).decode() + "\n"
    if output == "svg":
        from cli.topology_svg import svg

        return svg(shown)
    if output == "html":
        from cli.topology_svg import html

        return html(shown)
    from cli.topology_table import table

    return table(shown)
