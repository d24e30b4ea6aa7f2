"""A machine's sysfs, as far as the probes read it, as one small JSON file; and the way back.

What a real machine's tree looks like is then a unit test's input. `python -m tests.vm.capture` writes the
virtual machine's; `--here` prints that of the machine it runs on, whichever it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypedDict

from tests.controlplane.build import say

TREES: Final = Path(__file__).parents[1] / "data/sysfs"
_CLASSES = ("0x0200", "0x0207", "0x0300", "0x0302")
_ATTRIBUTES = (
    *("class", "vendor", "device", "numa_node", "sriov_totalvfs", "sriov_numvfs"),
    *("max_link_speed", "max_link_width", "current_link_speed", "current_link_width"),
)
_LINKS = ("driver", "iommu_group", "physfn")
_PRODUCT = "class/dmi/id/product_name"


class Tree(TypedDict):
    """Paths are relative to /sys; the value of a link is its target as it stands."""

    files: dict[str, str]
    links: dict[str, str]


def capture(root: Path) -> Tree:
    """Read the GPUs and NICs on the PCI bus below a sysfs root."""
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    _read(root, Path(_PRODUCT), files)
    for entry in sorted((root / "bus/pci/devices").iterdir()):
        if not (entry / "class").read_text().startswith(_CLASSES):
            continue
        links[str(entry.relative_to(root))] = str(entry.readlink())
        device = entry.resolve().relative_to(root.resolve())
        for name in _ATTRIBUTES:
            _read(root, device / name, files)
        names = [*_LINKS, *(link.name for link in sorted((root / device).glob("virtfn*")))]
        for path in (device / name for name in names):
            if (root / path).is_symlink():
                links[str(path)] = str((root / path).readlink())
        for speed in sorted((root / device).glob("net/*/speed")):
            _read(root, speed.relative_to(root.resolve()), files)
    return {"files": files, "links": links}


def plant(tree: Mapping[str, Mapping[str, str]], root: Path) -> Path:
    """Make the tree below an empty folder; returns the folder."""
    for path, text in tree["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path, target in tree["links"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    return root


def _read(root: Path, path: Path, files: dict[str, str]) -> None:
    try:
        files[str(path)] = (root / path).read_text()
    except OSError:  # speed without carrier: the probes meet the same
        return


def _encode(tree: Tree) -> str:
    return json.dumps(tree, indent=1, sort_keys=True) + "\n"


def _in_guest() -> Tree:
    from tests.vm.guest import stage

    stage.set_up()
    return capture(Path("/sys"))


def _from_guest() -> None:
    from tests.vm import image
    from tests.vm.machine import Machine

    made = image.find()
    with tempfile.TemporaryDirectory() as shared:
        command = "python3 -m tests.vm.capture --here >/out/tree"
        with Machine(made, command, Path(shared)) as machine:
            outcome = machine.wait()
        if outcome.status:
            raise SystemExit(outcome.output)
        target = TREES / "qemu-igb.json"
        target.write_text((Path(shared) / "tree").read_text())
    say(f"vm: wrote {target}")


def main() -> None:
    """Write or print a tree."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.capture", description=__doc__)
    parser.add_argument("--here", action="store_true", help="print this machine's own")
    if not parser.parse_args().here:
        _from_guest()
        return
    sys.stdout.write(_encode(_in_guest() if "TANDEM_IN_VM" in os.environ else capture(Path("/sys"))))


if __name__ == "__main__":
    main()
