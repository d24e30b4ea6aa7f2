from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from driver.devices import Gpu, Inventory, Netdev
from driver.inventory import HostProbe
from driver.mock import sysfs
from driver.mock.machine import Machine
from driver.mock.nvml import FakeNvml
from driver.overlay_files import parse as parse_overlay

VF = "0000:18:00.1"


class Netdevs:
    def __init__(self, found: Mapping[str, Netdev]) -> None:
        self.found = dict(found)

    def read(self) -> Mapping[str, Netdev]:
        return self.found


@pytest.fixture
def netdevs(dgx: Machine) -> Netdevs:
    names = {nic.pci_address: nic.interface for nic in dgx.nics}
    names |= {vf.pci_address: vf.interface for nic in dgx.nics for vf in dgx.vfs_of(nic)}
    return Netdevs({address: Netdev(name, index) for index, (address, name) in enumerate(names.items(), 2)})


def read(root: Path, netdevs: Netdevs) -> Inventory:
    return HostProbe(root, netdevs=netdevs).read()


@pytest.mark.usefixtures("nvml")
def test_a_dgx_h100_is_eight_pairs_of_gpu_and_nic_with_eight_vfs_each(
    dgx_sysfs: Path, netdevs: Netdevs
) -> None:
    found = read(dgx_sysfs, netdevs)
    assert found.machine == "NVIDIA DGX H100"
    compute = [nic for nic in found.nics if nic.rail is not None]
    assert [gpu.rail for gpu in found.gpus] == [nic.rail for nic in compute] == list(range(8))
    assert [gpu.place.pcie_switch for gpu in found.gpus] == [nic.place.pcie_switch for nic in compute]
    assert [nic.name for nic in compute] == [f"mlx5_{n}" for n in (0, 3, 4, 5, 6, 9, 10, 11)]
    assert {len(nic.vfs) for nic in compute} == {8}
    assert {nic.speed_bits_per_second for nic in found.nics} == {400_000_000_000}
    others = [nic for nic in found.nics if nic.rail is None]
    assert [(nic.name, nic.vfs) for nic in others] == [(f"mlx5_{n}", ()) for n in (1, 2, 7, 8)]


@pytest.mark.usefixtures("nvml")
def test_two_reads_of_an_unchanged_machine_are_equal(dgx_sysfs: Path, netdevs: Netdevs) -> None:
    assert read(dgx_sysfs, netdevs) == read(dgx_sysfs, netdevs)


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("made", [True, False])
def test_an_overlay_may_list_vfs_whether_they_are_made_or_not(
    sysfs_root: Path, netdevs: Netdevs, made: bool
) -> None:
    dump = """<system version="1"><cpu numaid="0"><pci busid="0000:16:00.0" class="0x060400">
<pci busid="0000:1b:00.0" class="0x030200"><gpu dev="0"/></pci>
<pci busid="0000:18:00.0" class="0x020000"><nic><net name="mlx5_0"/></nic></pci>
<pci busid="0000:18:00.1" class="0x020000"><nic><net name="mlx5_12"/></nic></pci></pci></cpu></system>"""
    if not made:
        pf = sysfs_root / "bus/pci/devices/0000:18:00.0"
        for link in pf.resolve().glob("virtfn*"):
            (sysfs_root / "bus/pci/devices" / link.resolve().name).unlink()
            link.unlink()
    bare = read(sysfs_root, netdevs)
    assert bool(bare.nics[0].vfs) is made
    overlay = parse_overlay(dump.encode(), source="dump.xml")
    assert HostProbe(sysfs_root, netdevs=netdevs, overlay=overlay, strict=True).read() == bare


@pytest.mark.usefixtures("nvml")
def test_a_vf_whose_interface_is_in_a_pod_stays_in_the_inventory(dgx_sysfs: Path, netdevs: Netdevs) -> None:
    del netdevs.found[VF]
    vf = read(dgx_sysfs, netdevs).nics[0].vfs[0]
    assert (vf.pci_address, vf.netdev) == (VF, None)
    assert vf.rdma is not None


def test_a_gpu_without_an_nvml_answer_is_left_out_once_said_and_keeps_the_others_rails(
    dgx_sysfs: Path, netdevs: Netdevs, nvml: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.lost.add("0000:1b:00.0")
    probe = HostProbe(dgx_sysfs, netdevs=netdevs)
    assert probe.read() == probe.read()
    assert [gpu.rail for gpu in probe.read().gpus] == list(range(1, 8))
    assert sum("0000:1b:00.0" in record.message for record in caplog.records) == 1


def test_a_gpu_gone_from_the_bus_keeps_the_others_rails(
    tmp_path: Path, small_dgx: Machine, netdevs: Netdevs, nvml: FakeNvml
) -> None:
    root = sysfs.render(small_dgx, tmp_path)
    probe = HostProbe(root, netdevs=netdevs)
    before = {nic.name: nic.rail for nic in probe.read().nics}
    nvml.lost.add("0000:1b:00.0")
    (root / "bus/pci/devices/0000:1b:00.0").unlink()
    found = probe.read()
    assert [gpu.rail for gpu in found.gpus] == list(range(1, 8))
    assert {nic.name: nic.rail for nic in found.nics} == before


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("name", ["vfio-pci", "virtio-pci", None])
def test_functions_without_an_interface_of_their_own_are_left_out(
    sysfs_root: Path, netdevs: Netdevs, name: str | None
) -> None:
    driver = sysfs_root / "bus/pci/devices" / VF / "driver"
    driver.unlink()
    if name is not None:
        driver.symlink_to(f"../../../../../../bus/pci/drivers/{name}")
    nic = read(sysfs_root, netdevs).nics[0]
    assert nic.vfs == ()
    assert nic.sriov_num_vfs == 1


def test_nvml_is_not_asked_on_a_machine_without_gpus(sysfs_root: Path, netdevs: Netdevs) -> None:
    (sysfs_root / "bus/pci/devices/0000:1b:00.0").unlink()

    class Never:
        def read(self) -> Mapping[str, Gpu]:
            raise AssertionError("asked")

    assert HostProbe(sysfs_root, gpus=Never(), netdevs=netdevs).read().gpus == ()


@pytest.mark.usefixtures("nvml")
def test_a_nic_without_rdma_has_its_interfaces_name_and_speed(sysfs_root: Path, netdevs: Netdevs) -> None:
    (sysfs_root / "class/infiniband/mlx5_0").unlink()
    nic = read(sysfs_root, netdevs).nics[0]
    assert (nic.name, nic.rdma, nic.speed_bits_per_second) == ("enp24s0np0", None, 400_000_000_000)


@pytest.mark.usefixtures("nvml")
def test_an_infiniband_port_makes_the_nic_infiniband(sysfs_root: Path, netdevs: Netdevs) -> None:
    (sysfs_root / "class/infiniband/mlx5_0/ports/1/link_layer").write_text("InfiniBand\n")
    assert read(sysfs_root, netdevs).nics[0].link_type == "infiniband"
