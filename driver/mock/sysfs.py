"""Renders a machine as a sysfs tree that the real probes read.

The tree's content follows from the machine alone, so it lies under a name made from a digest of it, and a
symbolic link says which one is current: rendering again changes nothing, and a stop half way leaves the old
tree whole.

Interfaces of VFs are left out: on a real machine their entries come and go with the namespace they are in,
which files cannot; netlink says where they are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from driver.mock.machine import Function, Machine, NicFunction, PcieModel, verbs_number

_LAYOUT = "2"
"""Goes into the digest: raised when this module renders the same machine otherwise."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file (`text`) or symbolic link (`target`, relative to the tree's root) at `path` below the root."""

    path: str
    text: str = ""
    target: str | None = None


def render(machine: Machine, state_dir: Path) -> Path:
    """Render the tree below `state_dir` and return its root, ``<state_dir>/sys`` (a link to the current
    tree).

    Raises:
        OSError: the directory cannot be written.
    """
    digest = hashlib.sha256(_LAYOUT.encode() + msgspec.json.encode(machine)).hexdigest()[:16]
    tree, link = state_dir / f"sys-{digest}", state_dir / "sys"
    if not tree.is_dir():
        state_dir.mkdir(parents=True, exist_ok=True)
        unfinished = state_dir / f"sys-{digest}.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        _write(unfinished, entries(machine))
        unfinished.rename(tree)
    if not link.is_symlink() or link.readlink() != Path(tree.name):
        temporary = state_dir / "sys.link"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(tree.name)
        temporary.replace(link)
    for other in state_dir.glob("sys-*"):
        if other != tree:
            shutil.rmtree(other, ignore_errors=True)
    return link


def remove(state_dir: Path) -> None:
    """Take away whatever `render` made; nothing there is fine."""
    (state_dir / "sys").unlink(missing_ok=True)
    (state_dir / "sys.link").unlink(missing_ok=True)
    for tree in state_dir.glob("sys-*"):
        shutil.rmtree(tree, ignore_errors=True)


def entries(machine: Machine) -> Iterator[Entry]:
    """Every file and link of the tree."""
    yield Entry("class/dmi/id/product_name", machine.product)
    yield Entry("class/misc/rdma_cm/dev", "10:58")
    for driver in ("pcieport", "nvidia", machine.nic_model.driver):
        yield Entry(f"bus/pci/drivers/{driver}/uevent")
    yield from _bridges(machine)
    gpu = machine.gpu_model
    for function in machine.gpus:
        yield from _function(function.path, function.numa_node, "0x030200", gpu.vendor, gpu.device, "nvidia")
        yield from _link(function.path, gpu.pcie)
    for nic in machine.nics:
        yield from _nic(machine, nic)


def _bridges(machine: Machine) -> Iterator[Entry]:
    seen = set()
    functions: tuple[Function, ...] = (*machine.gpus, *machine.nics)
    for function in functions:
        parts = function.path.split("/")
        for depth in range(2, len(parts)):
            path = "/".join(parts[:depth])
            if path not in seen:
                seen.add(path)
                yield from _function(path, function.numa_node, "0x060400", "1000", "c030", "pcieport")


def _nic(machine: Machine, nic: NicFunction) -> Iterator[Entry]:
    model = machine.nic_model
    kind = "0x020700" if model.link_layer == "InfiniBand" else "0x020000"
    device = f"devices/{nic.path}"
    yield from _function(nic.path, nic.numa_node, kind, model.vendor, model.device, model.driver)
    yield from _link(nic.path, model.pcie)
    yield from _rdma(machine, nic.path, nic.rdma, verbs_number(nic))
    yield from _gids(f"{device}/infiniband/{nic.rdma}/ports/1", nic.pci_address, model.link_layer)
    if model.total_vfs:
        yield Entry(f"{device}/sriov_totalvfs", str(model.total_vfs))
        yield Entry(f"{device}/sriov_numvfs", str(nic.vfs))
        yield Entry(f"{device}/sriov_offset", str(model.vf_offset))
        yield Entry(f"{device}/sriov_stride", str(model.vf_stride))
    if nic.interface:
        net = f"{device}/net/{nic.interface}"
        yield Entry(f"{net}/speed", str(model.rate_gbit_per_second * 1000))
        yield Entry(f"{net}/device", target=device)
        yield Entry(f"class/net/{nic.interface}", target=net)
    for vf in machine.vfs_of(nic):
        yield from _function(vf.path, nic.numa_node, kind, model.vendor, model.vf_device, model.driver)
        yield from _rdma(machine, vf.path, vf.rdma, vf.verbs)
        yield Entry(f"devices/{vf.path}/physfn", target=device)
        yield Entry(f"{device}/virtfn{vf.index}", target=f"devices/{vf.path}")


def _function(
    path: str, numa_node: int, class_code: str, vendor: str, device: str, driver: str
) -> Iterator[Entry]:
    address = path.rsplit("/", 1)[-1]
    directory = f"devices/{path}"
    yield Entry(f"{directory}/class", class_code)
    yield Entry(f"{directory}/vendor", f"0x{vendor}")
    yield Entry(f"{directory}/device", f"0x{device}")
    yield Entry(f"{directory}/numa_node", str(numa_node))
    yield Entry(f"{directory}/driver", target=f"bus/pci/drivers/{driver}")
    yield Entry(f"bus/pci/devices/{address}", target=directory)


def _link(path: str, pcie: PcieModel | None) -> Iterator[Entry]:
    if pcie is not None:
        for which in ("max", "current"):
            yield Entry(f"devices/{path}/{which}_link_speed", f"{pcie.speed / 1000:.1f} GT/s PCIe")
            yield Entry(f"devices/{path}/{which}_link_width", str(pcie.width))


def _rdma(machine: Machine, path: str, name: str, verbs: int) -> Iterator[Entry]:
    model = machine.nic_model
    directory = f"devices/{path}/infiniband/{name}"
    yield Entry(f"{directory}/device", target=f"devices/{path}")
    yield Entry(f"{directory}/ports/1/link_layer", model.link_layer)
    yield Entry(f"{directory}/ports/1/state", "4: ACTIVE")
    yield Entry(f"{directory}/node_guid", _guid(path.rsplit("/", 1)[-1]))
    yield Entry(f"{directory}/ports/1/rate", f"{model.rate_gbit_per_second} Gb/sec (4X NDR)")
    yield Entry(f"class/infiniband/{name}", target=directory)
    verbs_directory = f"devices/{path}/infiniband_verbs/uverbs{verbs}"
    yield Entry(f"{verbs_directory}/ibdev", name)
    yield Entry(f"{verbs_directory}/dev", f"231:{192 + verbs}")
    yield Entry(f"{verbs_directory}/device", target=f"devices/{path}")
    yield Entry(f"class/infiniband_verbs/uverbs{verbs}", target=verbs_directory)


def _guid(address: str) -> str:
    """A GUID of the kind that makers do not give out."""
    digest = hashlib.sha256(address.encode()).hexdigest()
    return ":".join((f"02{digest[:2]}", digest[2:6], digest[6:10], digest[10:14]))


def _gids(port: str, address: str, link_layer: str) -> Iterator[Entry]:
    """The link-local GIDs of a PF's port: of RoCE there is one for each version."""
    kinds = {"InfiniBand": ("IB/RoCE v1",), "Ethernet": ("IB/RoCE v1", "RoCE v2")}.get(link_layer, ())
    for index, kind in enumerate(kinds):
        yield Entry(f"{port}/gids/{index}", f"fe80:0000:0000:0000:{_guid(address)}")
        yield Entry(f"{port}/gid_attrs/types/{index}", kind)


def _write(root: Path, all_entries: Iterator[Entry]) -> None:
    directories: set[Path] = set()
    for entry in all_entries:
        path = root / entry.path
        if path.parent not in directories:
            directories.add(path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
        if entry.target is None:
            path.write_text(entry.text + "\n", encoding="utf-8")
        else:
            # As the kernel writes links: the target's name is always the last part, even if it is a parent.
            target = root / entry.target
            path.symlink_to(Path(os.path.relpath(target.parent, path.parent)) / target.name)
