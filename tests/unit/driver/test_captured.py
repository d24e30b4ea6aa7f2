"""The probes over trees captured from machines (`python -m tests.vm.capture`).

qemu-igb: the machine of tests/vm/topology.py. Its two GPUs are display devices whose vendor, class and
device files were covered by an NVIDIA GPU's; everything else is the kernel's own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from driver.devices import Gpu, Inventory, Netdev, PcieLink, Place, Tier
from driver.inventory import HostProbe
from driver.probes.pci import PciProbe
from driver.topology import tier
from tests.vm.capture import TREES, capture, plant

NIC0, NIC1, NIC2, NIC3, NIC4 = "0000:23:00.0", "0000:27:00.0", "0000:28:00.0", "0000:61:00.0", "0000:a3:00.0"
GPU0, GPU1 = "0000:24:00.0", "0000:a4:00.0"


class Gpus:
    def read(self) -> dict[str, Gpu]:
        return {address: Gpu(address, Place()) for address in (GPU0, GPU1)}


class NoNetdevs:
    def read(self) -> dict[str, Netdev]:
        return {}


@pytest.fixture(scope="module")
def sysfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(json.loads((TREES / "qemu-igb.json").read_text()), tmp_path_factory.mktemp("sys"))


@pytest.fixture(scope="module")
def inventory(sysfs: Path) -> Inventory:
    return HostProbe(sysfs, gpus=Gpus(), netdevs=NoNetdevs()).read()


def test_a_captured_tree_captures_as_itself(sysfs: Path) -> None:
    assert capture(sysfs) == json.loads((TREES / "qemu-igb.json").read_text())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (GPU0, NIC0, Tier.PIX),
        (GPU0, NIC1, Tier.PXB),
        (GPU0, NIC2, Tier.PHB),
        (GPU0, NIC3, Tier.NODE),
        (GPU0, NIC4, Tier.SYS),
        (GPU1, NIC4, Tier.PIX),
    ],
)
def test_tiers_are_those_of_the_machines_wiring(sysfs: Path, one: str, other: str, expected: Tier) -> None:
    functions = PciProbe(sysfs).read()
    assert tier(functions[one].place, functions[other].place) is expected


def test_a_cascaded_switch_is_the_leaf_of_what_hangs_on_it(sysfs: Path) -> None:
    assert PciProbe(sysfs).read()[NIC1].place == Place("0000:25:00.0", "0000:20:00.0", "pci0000:20", 0)


def test_vfs_meet_their_pf_and_have_its_place(inventory: Inventory) -> None:
    found = {nic.pci_address: nic for nic in inventory.nics}
    assert {address: len(nic.vfs) for address, nic in found.items()} == {
        NIC0: 7,
        NIC1: 0,
        NIC2: 0,
        NIC3: 0,
        NIC4: 2,
    }
    assert [vf.pci_address for vf in found[NIC4].vfs] == ["0000:a3:10.0", "0000:a3:10.2"]
    assert {vf.place for vf in found[NIC0].vfs} == {found[NIC0].place}


def test_pairs_on_one_switch_are_rails(inventory: Inventory) -> None:
    gpus = {gpu.pci_address: gpu.rail for gpu in inventory.gpus}
    nics = {nic.pci_address: nic.rail for nic in inventory.nics}
    assert (gpus[GPU0], nics[NIC0]) == (0, 0)
    assert (gpus[GPU1], nics[NIC4]) == (1, 1)


def test_links_are_those_that_the_kernel_speaks_of_and_a_vf_has_none_of_its_own(sysfs: Path) -> None:
    functions = PciProbe(sysfs).read()
    nic, gpu = functions[NIC0].pcie, functions[GPU0].pcie
    assert (nic.max_speed, nic.max_width, nic.current_speed, nic.current_width) == (2500, 1, 2500, 1)
    assert gpu == PcieLink(2500, 1)
    assert functions["0000:a3:10.0"].pcie == PcieLink()
