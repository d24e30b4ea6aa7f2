"""The real probes over a rendered tree, whole and broken."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from driver.devices import Gid, Netdev, PcieLink, Place
from driver.mock.machine import Machine
from driver.probes.net import NetdevProbe, netdevs
from driver.probes.pci import PciProbe
from driver.probes.rdma import RdmaProbe

GPU, NIC, VF = "0000:1b:00.0", "0000:18:00.0", "0000:18:00.1"
DEVICES = "bus/pci/devices"


def test_pci_finds_exactly_the_machines_gpus_nics_and_vfs(dgx: Machine, dgx_sysfs: Path) -> None:
    found = PciProbe(dgx_sysfs).read()
    vfs = {vf.pci_address for nic in dgx.nics for vf in dgx.vfs_of(nic)}
    assert {a for a, f in found.items() if f.is_gpu} == {gpu.pci_address for gpu in dgx.gpus}
    assert {a for a, f in found.items() if f.is_nic} == {nic.pci_address for nic in dgx.nics} | vfs
    assert len(vfs) == 64


def test_pci_reads_every_functions_place_as_the_machine_file_says(dgx: Machine, dgx_sysfs: Path) -> None:
    found = PciProbe(dgx_sysfs).read()
    for function in (*dgx.gpus, *dgx.nics):
        assert found[function.pci_address].place == function.place


def test_pci_links_vfs_to_their_pf_both_ways(dgx_sysfs: Path) -> None:
    found = PciProbe(dgx_sysfs).read()
    pf = found[NIC]
    assert [index for index, _ in pf.virtfns] == list(range(8))
    assert {found[address].physfn for _, address in pf.virtfns} == {NIC}
    assert (pf.sriov_num_vfs, pf.sriov_total_vfs) == (8, 127)
    assert (pf.vendor, pf.device, pf.driver, found[VF].device) == ("15b3", "1021", "mlx5_core", "101e")


def test_pci_numa_node_minus_one_is_unknown(sysfs_root: Path) -> None:
    (sysfs_root / DEVICES / GPU / "numa_node").write_text("-1\n")
    assert PciProbe(sysfs_root).read()[GPU].place == Place("0000:16:00.0", "0000:15:01.0", "pci0000:15", None)


@pytest.mark.parametrize("attribute", ["class", "vendor", "device"])
def test_pci_a_function_without_its_identity_is_left_out_and_its_path_logged(
    sysfs_root: Path, attribute: str, caplog: pytest.LogCaptureFixture
) -> None:
    (sysfs_root / DEVICES / GPU / attribute).unlink()
    found = PciProbe(sysfs_root).read()
    assert GPU not in found
    assert NIC in found
    assert [r.message for r in caplog.records if GPU in r.message and attribute in r.message]


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe", b"over 9000", b"0x"])
@pytest.mark.parametrize("attribute", ["numa_node", "sriov_totalvfs", "sriov_numvfs"])
def test_pci_garbage_in_a_lesser_attribute_costs_one_log_line_not_the_device(
    sysfs_root: Path, attribute: str, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (sysfs_root / DEVICES / NIC / attribute).write_bytes(garbage)
    probe = PciProbe(sysfs_root)
    assert NIC in probe.read()
    assert NIC in probe.read()
    assert len([r.message for r in caplog.records if attribute in r.message]) == 1


def test_pci_a_function_that_vanishes_is_not_there(sysfs_root: Path) -> None:
    target = (sysfs_root / DEVICES / VF).resolve()
    shutil.rmtree(target)  # the link in bus/pci/devices and virtfn0 dangle now
    found = PciProbe(sysfs_root).read()
    assert VF not in found
    assert found[NIC].virtfns == ((0, VF),)


def test_pci_a_strange_entry_on_the_bus_is_passed_over(sysfs_root: Path) -> None:
    (sysfs_root / DEVICES / "not-an-address").mkdir()
    assert {GPU, NIC, VF} <= PciProbe(sysfs_root).read().keys()


def test_probes_on_a_machine_without_pci_and_rdma_find_nothing(tmp_path: Path) -> None:
    assert PciProbe(tmp_path).read() == {}
    assert RdmaProbe(tmp_path).read() == {}


@pytest.mark.parametrize("seed", range(12))
def test_probes_never_raise_whatever_is_missing_or_garbled(sysfs_root: Path, seed: int) -> None:
    chance = random.Random(seed)
    files = [Path(d) / f for d, _, names in os.walk(sysfs_root.resolve()) for f in names]
    for path in chance.sample(files, len(files) // 3):
        damage = chance.choice(["remove", "empty", "binary", "directory"])
        if damage == "remove" or path.is_symlink():
            path.unlink()
        elif damage == "directory":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(b"" if damage == "empty" else bytes(chance.randrange(256) for _ in range(64)))
    PciProbe(sysfs_root).read()
    RdmaProbe(sysfs_root).read()


def test_rdma_names_link_layer_rate_and_character_devices(dgx_sysfs: Path) -> None:
    found = RdmaProbe(dgx_sysfs).read()
    assert len(found) == 12 + 64
    pf, vf = found["0000:40:00.0"], found[VF]
    assert (pf.name, pf.link_layer, pf.rate_bits_per_second) == ("mlx5_3", "Ethernet", 400_000_000_000)
    assert pf.char_devices == ("infiniband/uverbs3", "infiniband/rdma_cm")
    assert (vf.name, vf.char_devices[0]) == ("mlx5_12", "infiniband/uverbs12")


@pytest.mark.parametrize("address", [GPU, NIC])
def test_pci_reads_what_a_link_can_do_and_what_it_does_now(sysfs_root: Path, address: str) -> None:
    device = sysfs_root / DEVICES / address
    (device / "current_link_speed").write_text("2.5 GT/s PCIe\n")
    (device / "current_link_width").write_text("8\n")
    probe = PciProbe(sysfs_root)
    link = probe.read()[address].pcie
    assert (link.max_speed, link.max_width, link.current_speed, link.current_width) == (32000, 16, 2500, 8)
    (device / "current_link_speed").write_text("32.0 GT/s PCIe\n")
    again = probe.read()[address].pcie
    assert again.current_speed == 32000
    assert again == link  # what an idle GPU does to its link changes nothing that is published


@pytest.mark.parametrize(("speed", "width"), [("Unknown", "63"), ("Unknown speed", "255"), ("", "0")])
def test_pci_a_link_that_is_not_known_is_left_out(
    sysfs_root: Path, speed: str, width: str, caplog: pytest.LogCaptureFixture
) -> None:
    for which in ("max", "current"):
        (sysfs_root / DEVICES / NIC / f"{which}_link_width").write_text(f"{width}\n")
        if speed:
            (sysfs_root / DEVICES / NIC / f"{which}_link_speed").write_text(f"{speed}\n")
        else:
            (sysfs_root / DEVICES / NIC / f"{which}_link_speed").unlink()
    assert PciProbe(sysfs_root).read()[NIC].pcie == PcieLink()
    assert caplog.records == []


@pytest.mark.parametrize("garbage", ["fast", "1e9 GT/s", "-1", "\u0663"])
@pytest.mark.parametrize("attribute", ["max_link_speed", "max_link_width"])
def test_pci_a_garbled_link_costs_one_log_line(
    sysfs_root: Path, attribute: str, garbage: str, caplog: pytest.LogCaptureFixture
) -> None:
    (sysfs_root / DEVICES / NIC / attribute).write_text(garbage, encoding="utf-8")
    probe = PciProbe(sysfs_root)
    assert probe.read() == probe.read()
    assert getattr(probe.read()[NIC].pcie, attribute.replace("link_", "")) == 0
    assert len([r for r in caplog.records if attribute in r.message]) == 1


def gid(number: int) -> str:
    return f"fe80:0000:0000:0000:0200:0000:0000:{number:04x}"


def test_rdma_finds_the_first_roce_v2_gid_of_a_pf_and_none_of_a_vf(dgx_sysfs: Path) -> None:
    found = RdmaProbe(dgx_sysfs).read()
    (first,) = found[NIC].gids
    assert (first.port, first.index, first.protocol) == (1, 1, "RoCE v2")
    assert first.value == f"fe80:0000:0000:0000:{found[NIC].node_guid}"
    assert found[VF].gids == ()
    assert len({device.node_guid for device in found.values()}) == len(found)


def test_rdma_every_port_has_its_gid_empty_entries_and_those_of_elsewhere_passed_over(
    sysfs_root: Path,
) -> None:
    ports = sysfs_root / "class/infiniband/mlx5_0/ports"
    (ports / "2/gids").mkdir(parents=True)
    (ports / "2/gid_attrs/types").mkdir(parents=True)
    (ports / "2/link_layer").write_text("InfiniBand\n")
    (ports / "2/gids/0").write_text(f"{gid(2)}\n")
    (ports / "2/gid_attrs/types/0").write_text("IB/RoCE v1\n")
    (ports / "1/gids/0").write_text("0000:0000:0000:0000:0000:0000:0000:0000\n")
    (ports / "1/gid_attrs/types/1").unlink()  # as where the interface is in another namespace
    for index, kind in ((2, "IB/RoCE v1"), (3, "RoCE v2")):
        (ports / f"1/gids/{index}").write_text(f"{gid(index)}\n")
        (ports / f"1/gid_attrs/types/{index}").write_text(f"{kind}\n")
    assert RdmaProbe(sysfs_root).read()[NIC].gids == (Gid(1, 3, gid(3), "RoCE v2"), Gid(2, 0, gid(2), "IB"))


def test_rdma_a_gid_that_comes_later_is_seen_by_the_same_probe(sysfs_root: Path) -> None:
    entry = sysfs_root / "class/infiniband/mlx5_0/ports/1/gids/1"
    before = entry.read_text()
    entry.write_text("0000:0000:0000:0000:0000:0000:0000:0000\n")
    probe = RdmaProbe(sysfs_root)
    assert probe.read()[NIC].gids == ()
    entry.write_text(before)
    assert len(probe.read()[NIC].gids) == 1


def test_rdma_a_garbled_gid_costs_one_log_line(sysfs_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (sysfs_root / "class/infiniband/mlx5_0/ports/1/gids/1").write_text("over 9000\n")
    probe = RdmaProbe(sysfs_root)
    assert probe.read()[NIC].gids == ()
    assert probe.read()[NIC].gids == ()
    assert len([r for r in caplog.records if "gids/1" in r.message]) == 1


def test_rdma_umad_belongs_to_its_device_and_issm_to_nobody(sysfs_root: Path) -> None:
    for name in ("umad0", "issm0"):
        directory = sysfs_root / "class/infiniband_mad" / name
        directory.mkdir(parents=True)
        (directory / "ibdev").write_text("mlx5_0\n")
    (sysfs_root / "class/infiniband_mad/abi_version").write_text("5\n")
    assert RdmaProbe(sysfs_root).read()[NIC].char_devices == (
        "infiniband/uverbs0",
        "infiniband/umad0",
        "infiniband/rdma_cm",
    )


def test_rdma_a_soft_device_without_pci_function_is_left_out(sysfs_root: Path) -> None:
    (sysfs_root / "class/infiniband/rxe0").mkdir()
    assert set(RdmaProbe(sysfs_root).read()) == {NIC, VF}


def link(index: int, name: str, **facts: object) -> dict[str, object]:
    return {"index": index, "flags": 0, "IFLA_IFNAME": name, "altnames": [], **facts}


def on_pci(address: str) -> dict[str, object]:
    return {"IFLA_PARENT_DEV_BUS_NAME": "pci", "IFLA_PARENT_DEV_NAME": address}


def test_net_knows_an_interface_by_its_pci_parent_and_else_by_its_altname() -> None:
    found = netdevs(
        [
            link(2, "eth0", flags=0x10000, IFLA_MTU=9000, IFLA_ADDRESS="02:00:00:00:00:01", **on_pci(NIC)),
            link(3, "mock", altnames=["other", "pci-0000-18-00-1"]),
            link(4, "veth0"),
            link(5, "virtual", IFLA_PARENT_DEV_BUS_NAME="virtio", IFLA_PARENT_DEV_NAME="virtio0"),
        ],
        set(),
    )
    assert found == {
        NIC: Netdev("eth0", 2, "02:00:00:00:00:01", 9000, carrier=True),
        VF: Netdev("mock", 3),
    }


def test_net_a_representor_is_not_the_function_it_stands_for() -> None:
    links = [
        link(2, "pf0vf0", IFLA_PHYS_PORT_NAME="pf0vf0", **on_pci(NIC)),
        link(3, "uplink", IFLA_PHYS_PORT_NAME="p0", **on_pci(NIC)),
    ]
    assert netdevs(links, set())[NIC].name == "uplink"


def test_net_reading_the_kernel_forks_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fork() -> int:
        raise AssertionError("forked")

    monkeypatch.setattr(os, "fork", no_fork)
    NetdevProbe().read()


def test_net_the_default_route_and_a_bond_make_an_uplink() -> None:
    found = netdevs([link(2, "a", **on_pci(NIC)), link(3, "b", IFLA_MASTER=9, **on_pci(VF))], {2})
    assert found[NIC].uplink
    assert found[VF].uplink


REPRESENTORS = ["pf0vf0", "c1pf0vf3", "pf0", "c1pf0", "pf1sf88", "p0pf0vf1"]


@pytest.mark.parametrize("port", REPRESENTORS)
def test_net_a_representor_is_never_the_pfs_own_interface_even_if_it_is_the_only_one(port: str) -> None:
    alone = link(2, "rep", IFLA_PHYS_PORT_NAME=port, IFLA_PHYS_SWITCH_ID="aa", **on_pci(NIC))
    assert netdevs([alone], set()) == {}


@pytest.mark.parametrize("port", ["", "p0", "p1s0", "n0"])
def test_net_a_port_to_the_wire_is_the_pfs_own_interface(port: str) -> None:
    own = link(2, "own", IFLA_PHYS_PORT_NAME=port, IFLA_PHYS_SWITCH_ID="aa", **on_pci(NIC))
    assert netdevs([own], set())[NIC].name == "own"


def test_net_an_uplink_knows_its_switch_and_the_representors_of_its_own_vfs() -> None:
    ports = {"p0": "own", "pf0vf10": "rep10", "pf0vf2": "rep2", "c1pf0vf0": "other", "pf0sf8": "sf"}
    links = [
        link(index, name, IFLA_PHYS_PORT_NAME=port, IFLA_PHYS_SWITCH_ID="aabb", **on_pci(NIC))
        for index, (port, name) in enumerate(ports.items(), 2)
    ]
    found = netdevs([*links, link(9, "vf2", **on_pci(VF))], set())
    assert found[NIC] == Netdev("own", 2, switch_id="aabb", representors=((2, "rep2"), (10, "rep10")))
    assert found[VF] == Netdev("vf2", 9)
