"""A machine as data: which GPUs and NICs one real product has, and where in its PCIe tree each of them sits.

Every function is given by its path in sysfs (root complex / root port / bridges … / function), which says
all that topology needs and lets a file describe any tree. The renderers (`sysfs`, `nvml`, `netdev`, `dev`)
take it from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec
import yaml

from driver import overlay as overlays
from driver.devices import Gpu, Inventory, Nic, Place, RdmaDevice, pci_address, pci_following, pci_order
from driver.errors import ConfigError
from driver.mock.mig_products import Cut, cuts
from driver.overlay import Overlay
from driver.overlay_files import parse as parse_overlay
from driver.topology import place, rails

_ROOT_COMPLEX = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")

_LONGEST_PF_NAME = 12

Hex16 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{4}$")]
NumaNode = Annotated[int, msgspec.Meta(ge=-1, le=1023)]
VfCount = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all parts of a machine file: no field that we do not know."""


class Function(_Data, frozen=True):
    """Where a PCI function sits: ``pci0000:15/0000:15:01.0/…/0000:1b:00.0`` and the NUMA node of its root
    (-1: the firmware does not say).
    """

    path: str
    numa_node: NumaNode

    @property
    def pci_address(self) -> str:
        """The function's own address, the last part of its path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def bridges(self) -> tuple[str, ...]:
        """PCI addresses from the root port down to the port above the function."""
        return tuple(self.path.split("/")[1:-1])

    @property
    def place(self) -> Place:
        """The function's place, computed as the probes would."""
        numa_node = self.numa_node if self.numa_node >= 0 else None
        return place(self.path.split("/", 1)[0], self.bridges, numa_node)


class GpuFunction(Function, frozen=True):
    """A GPU. `minor` is the number of ``/dev/nvidia<minor>``; with `mig` it is in MIG mode, and these are its
    instances.
    """

    minor: int
    mig: tuple[Cut, ...] = ()


class NicFunction(Function, frozen=True):
    """A NIC's physical function, with its RDMA device, its interface and how many VFs are made.

    `interface` is empty for a NIC without one (EFA, InfiniBand without IPoIB); `verbs` is the number of its
    verbs device where the RDMA device's name does not end in it.
    """

    rdma: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,31}$")]
    interface: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.-]{0,15}$")] = ""
    vfs: VfCount = 0
    verbs: int | None = None


class PcieModel(_Data, frozen=True):
    """What a function's PCIe link can do, and does: megatransfers a second on each lane, and lanes."""

    speed: Annotated[int, msgspec.Meta(ge=2500, le=128000)]
    width: Annotated[int, msgspec.Meta(ge=1, le=32)]


class GpuModel(_Data, frozen=True):
    """What NVML says of every GPU of the machine; brand and architecture in NVML's spelling. `nvlinks` is the
    number of links between each two of them.
    """

    device: Hex16
    product_name: str
    brand: str
    architecture: str
    compute_capability: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+$")]
    memory_mib: int
    vendor: Hex16 = "10de"
    pcie: PcieModel | None = None
    nvlinks: Annotated[int, msgspec.Meta(ge=0, le=32)] = 0


class NicModel(_Data, frozen=True):
    """What sysfs says of every NIC of the machine. VFs follow their PF by `vf_offset` + index ×
    `vf_stride`.
    """

    vendor: Hex16
    device: Hex16
    driver: str
    link_layer: str
    rate_gbit_per_second: int
    vf_device: Hex16 = "0000"
    total_vfs: VfCount = 0
    mtu: int = 1500
    pcie: PcieModel | None = None
    vf_offset: int = 1
    vf_stride: int = 1


class NvmlVersions(_Data, frozen=True):
    """Versions that NVML reports."""

    driver_version: str
    cuda_version: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+$")]


@dataclass(frozen=True, slots=True)
class VfFunction:
    """A VF as it follows from its PF: address, index, RDMA device, number of its verbs device, interface
    name.
    """

    pci_address: str
    path: str
    index: int
    rdma: str
    verbs: int
    interface: str


class Machine(_Data, frozen=True):
    """One product. `sources` names where its facts are published, `notes` what is our own reading, `overlay`
    the file beside it that corrects its PCIe tree.
    """

    name: str
    product: str
    sources: tuple[str, ...]
    nvml: NvmlVersions
    gpu_model: GpuModel
    nic_model: NicModel
    gpus: tuple[GpuFunction, ...]
    nics: tuple[NicFunction, ...]
    notes: str = ""
    overlay: str = ""

    def load_overlay(self) -> Overlay | None:
        """The product's own overlay; None where its PCIe tree needs no correction.

        Raises:
            ConfigError: the file is wrong.
        """
        if not self.overlay:
            return None
        file = resources.files("driver.machines").joinpath("overlays", self.overlay)
        return parse_overlay(file.read_bytes(), source=self.overlay)

    def rails(self) -> dict[str, int]:
        """Rail by PCI address of GPUs and PFs, as the probes will find it."""
        overlay = self.load_overlay()
        if overlay is None:
            return rails(
                {gpu.pci_address: gpu.place for gpu in self.gpus},
                {nic.pci_address: nic.place for nic in self.nics},
            )
        found = overlays.apply(self._bare(), overlay)
        everything = [(gpu.pci_address, gpu.rail) for gpu in found.gpus]
        everything += [(nic.pci_address, nic.rail) for nic in found.nics]
        return {address: rail for address, rail in everything if rail is not None}

    def _bare(self) -> Inventory:
        return Inventory(
            self.product,
            tuple(Gpu(gpu.pci_address, gpu.place) for gpu in self.gpus),
            tuple(Nic(nic.pci_address, nic.rdma, nic.place, rdma=RdmaDevice(nic.rdma)) for nic in self.nics),
        )

    def vfs_of(self, nic: NicFunction) -> tuple[VfFunction, ...]:
        """The VFs of a PF; RDMA devices of VFs are numbered after those of all PFs, PF by PF, as the kernel
        does.
        """
        number = 1 + max(verbs_number(pf) for pf in self.nics)
        for pf in sorted(self.nics, key=lambda pf: pci_order(pf.pci_address)):
            if pf.pci_address == nic.pci_address:
                break
            number += pf.vfs
        parent, base = nic.path.rsplit("/", 1)[0], nic.interface.removesuffix("np0")
        prefix = nic.rdma.rstrip("0123456789")
        found = []
        for index in range(nic.vfs):
            address = pci_following(
                nic.pci_address, self.nic_model.vf_offset + index * self.nic_model.vf_stride
            )
            found.append(
                VfFunction(
                    pci_address=address,
                    path=f"{parent}/{address}",
                    index=index,
                    rdma=f"{prefix}{number + index}",
                    verbs=number + index,
                    interface=f"{base}v{index}",
                )
            )
        return tuple(found)


def verbs_number(nic: NicFunction) -> int:
    """Number of a PF's verbs character device: that of its RDMA device (``mlx5_10`` → 10), or as given."""
    if nic.verbs is not None:
        return nic.verbs
    return int(re.sub(r"^.*?(\d*)$", r"\1", nic.rdma) or 0)


def load(name: str, *, vfs_per_pf: int | None = None) -> Machine:
    """Load a machine that comes with Tandem, by its name (``dgx-h100``), or any file by its path
    (``….yaml``).

    `vfs_per_pf` replaces the file's number of VFs on each PF that has any.

    Raises:
        ConfigError: there is no such machine, or the file is wrong; it names the file and the field.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"machine file {name} cannot be read: {error}") from error
        return parse(text, source=name, vfs_per_pf=vfs_per_pf)
    file = resources.files("driver.machines").joinpath(f"{name}.yaml")
    if not file.is_file():
        raise ConfigError(f"there is no machine {name!r}; known are {', '.join(known())}")
    return parse(file.read_text(encoding="utf-8"), source=f"{name}.yaml", vfs_per_pf=vfs_per_pf)


def known() -> list[str]:
    """Names of the machines that come with Tandem."""
    entries = (entry.name for entry in resources.files("driver.machines").iterdir())
    return sorted(entry.removesuffix(".yaml") for entry in entries if entry.endswith(".yaml"))


def parse(text: str, *, source: str, vfs_per_pf: int | None = None) -> Machine:
    """Decode and check a machine file's text.

    Raises:
        ConfigError: not YAML, an unknown or missing field, or facts that contradict each other.
    """
    try:
        machine = msgspec.convert(yaml.safe_load(text), Machine)
    except yaml.YAMLError as error:
        raise ConfigError(f"is no YAML: {error}", path=source) from error
    except msgspec.ValidationError as error:
        raise ConfigError(str(error), path=source) from error
    if vfs_per_pf is not None:
        nics = tuple(msgspec.structs.replace(nic, vfs=vfs_per_pf) if nic.vfs else nic for nic in machine.nics)
        machine = msgspec.structs.replace(machine, nics=nics)
    _check(machine, source)
    return machine


def _check(machine: Machine, source: str) -> None:
    seen: dict[str, str] = {}

    def claim(address: str, owner: str) -> None:
        if address in seen:
            raise ConfigError(f"{address} is both {seen[address]} and {owner}", path=source)
        seen[address] = owner

    for field, functions in (("gpus", machine.gpus), ("nics", machine.nics)):
        for index, function in enumerate(functions):
            _check_path(function.path, f"{source}: {field}[{index}].path")
            claim(function.pci_address, f"{field}[{index}]")
    for index, gpu in enumerate(machine.gpus):
        try:
            cuts(machine.gpu_model.product_name, gpu.mig)
        except ConfigError as error:
            raise ConfigError(str(error), path=f"{source}: gpus[{index}].mig") from error
    for index, nic in enumerate(machine.nics):
        if nic.vfs > machine.nic_model.total_vfs:
            raise ConfigError(
                f"is {nic.vfs}, but nic_model.total_vfs is {machine.nic_model.total_vfs}",
                path=f"{source}: nics[{index}].vfs",
            )
        if nic.vfs and not 1 <= len(nic.interface) <= _LONGEST_PF_NAME:
            raise ConfigError(
                f"is {nic.interface!r}; with VFs it has 1 to {_LONGEST_PF_NAME} characters, so that"
                " theirs fit",
                path=f"{source}: nics[{index}].interface",
            )
        for vf in machine.vfs_of(nic):
            claim(vf.pci_address, f"VF {vf.index} of nics[{index}]")
    for field, names in (
        ("gpus.minor", [str(gpu.minor) for gpu in machine.gpus]),
        ("nics.rdma", [nic.rdma for nic in machine.nics]),
        ("nics.verbs", [str(verbs_number(nic)) for nic in machine.nics]),
        ("nics.interface", [nic.interface for nic in machine.nics if nic.interface]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{', '.join(twice)} is used more than once", path=f"{source}: {field}")


def _check_path(path: str, where: str) -> None:
    root, *functions = path.split("/")
    if not _ROOT_COMPLEX.fullmatch(root) or not functions:
        raise ConfigError(
            f"is {path!r}; right is root complex to function, such as pci0000:15/0000:15:01.0/…",
            path=where,
        )
    for part in functions:
        try:
            normal = pci_address(part)
        except ValueError as error:
            raise ConfigError(str(error), path=where) from error
        if normal != part:
            raise ConfigError(f"says {part}; write {normal}", path=where)
