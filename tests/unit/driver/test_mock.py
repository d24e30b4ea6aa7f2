"""The mock machine: its file, its rendered trees, its interfaces in a private namespace."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from pyroute2 import IPRoute

from driver.errors import ConfigError, PermanentError
from driver.inventory import HostProbe
from driver.mock import dev, machine, sysfs
from driver.mock.hardware import MockHardware
from driver.mock.machine import Machine, load, parse
from driver.mock.netdev import MockNetdevs, mac_address, ports
from driver.names import pci_altname
from driver.probes.net import NetdevProbe
from tests.unit.driver.machines import Namespace, needs_root

VF = "0000:18:00.1"


def text_of(name: str) -> str:
    return (Path(machine.__file__).parent.parent / "machines" / f"{name}.yaml").read_text(encoding="utf-8")


# --- the machine file -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", machine.known())
def test_every_machine_that_comes_with_tandem_is_valid_and_names_its_sources(name: str) -> None:
    found = load(name)
    assert found.name == name
    assert any("http" in source for source in found.sources)


def test_vfs_follow_their_pf_and_are_numbered_after_all_pfs(dgx: Machine) -> None:
    first, second = dgx.vfs_of(dgx.nics[0]), dgx.vfs_of(dgx.nics[1])
    assert [vf.pci_address for vf in first] == [*(f"0000:18:00.{n}" for n in range(1, 8)), "0000:18:01.0"]
    assert [vf.rdma for vf in first] == [f"mlx5_{n}" for n in range(12, 20)]
    assert [vf.verbs for vf in second] == list(range(20, 28))
    assert first[3].interface == "enp24s0v3"


def test_the_number_of_vfs_can_be_set() -> None:
    found = load("dgx-h100", vfs_per_pf=64)
    assert sum(len(found.vfs_of(nic)) for nic in found.nics) == 512


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("numa_node: 0\n  minor: 0", "numa: 0\n  minor: 0", "unknown field `numa` - at `$.gpus[0]`"),
        ("vfs: 8", "vfs: 300", "$.nics[0].vfs"),
        ("total_vfs: 127", "total_vfs: 4", "nics[0].vfs: is 8"),
        ("0000:1b:00.0", "0000:18:00.0", "0000:18:00.0 is both"),
        ("0000:1b:00.0", "0000:18:00.3", "VF 2 of nics[0]"),
        ("pci0000:15/0000:15:01.0", "0000:15:01.0", "gpus[0].path"),
        ("0000:1b:00.0", "0000:1B:00.0", "write 0000:1b:00.0"),
        ("0000:1b:00.0", "0000:1b", "no PCI address"),
        ("rdma: mlx5_3", "rdma: mlx5_0", "nics.rdma: mlx5_0 is used more than once"),
        ('device: "2330"', "device: 2330", "$.gpu_model.device"),
        ("name: dgx-h100", "name: [", "no YAML"),
    ],
)
def test_a_mistake_in_a_machine_file_is_refused_with_its_place(old: str, new: str, says: str) -> None:
    text = text_of("dgx-h100")
    assert old in text
    with pytest.raises(ConfigError) as caught:
        parse(text.replace(old, new, 1), source="m.yaml")
    assert says in str(caught.value)
    assert "m.yaml" in str(caught.value)


def test_an_unknown_machine_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="dgx-h100"):
        load("dgx-h9000")


def test_a_machine_file_of_ones_own_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text_of("dgx-h100"), encoding="utf-8")
    assert load(str(path)) == load("dgx-h100")
    with pytest.raises(ConfigError, match=r"other\.yaml"):
        load(str(tmp_path / "other.yaml"))


# --- sysfs and character devices ------------------------------------------------------------------


def snapshot(root: Path) -> dict[str, str]:
    found = {}
    for directory, _, names in os.walk(root.resolve()):
        for name in names:
            path = Path(directory) / name
            found[str(path.relative_to(root.resolve()))] = str(path.lstat().st_ino)
    return found


def test_rendering_again_touches_nothing(small_dgx: Machine, tmp_path: Path) -> None:
    root = sysfs.render(small_dgx, tmp_path)
    before = snapshot(root)
    assert snapshot(sysfs.render(small_dgx, tmp_path)) == before


def test_another_machine_replaces_the_tree_whole(small_dgx: Machine, tmp_path: Path) -> None:
    sysfs.render(small_dgx, tmp_path)
    root = sysfs.render(replace(small_dgx, product="Other"), tmp_path)
    assert (root / "class/dmi/id/product_name").read_text() == "Other\n"
    assert len(list(tmp_path.glob("sys-*"))) == 1


def test_a_render_that_was_stopped_half_way_is_done_again(small_dgx: Machine, tmp_path: Path) -> None:
    tree = sysfs.render(small_dgx, tmp_path).resolve()
    whole = set(snapshot(tree))
    (tmp_path / "sys").unlink()
    unfinished = tree.rename(tree.with_name(tree.name + ".new"))
    (unfinished / "class/dmi/id/product_name").unlink()
    assert set(snapshot(sysfs.render(small_dgx, tmp_path))) == whole
    assert len(list(tmp_path.glob("sys-*"))) == 1


def test_every_link_of_the_tree_leads_somewhere_in_it(dgx_sysfs: Path) -> None:
    root = dgx_sysfs.resolve()
    for directory, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = Path(directory) / name
            if path.is_symlink():
                assert path.resolve(strict=True).is_relative_to(root), path


@needs_root
def test_character_devices_can_be_opened_and_are_made_once(small_dgx: Machine, tmp_path: Path) -> None:
    root = dev.render(small_dgx, tmp_path / "dev")
    names = {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}
    assert {"nvidia0", "nvidia7", "nvidiactl", "nvidia-uvm"} <= names
    assert {"infiniband/uverbs0", "infiniband/rdma_cm"} <= names
    assert len([n for n in names if "uverbs" in n]) == 12 + 16
    with (root / "nvidia0").open("r+b", buffering=0) as gpu:
        assert gpu.read(1) == b""
    before = snapshot(root)
    (root / "nvidia3").unlink()
    (root / "nvidia3").write_text("not a device")
    dev.render(small_dgx, root)
    assert stat.S_ISCHR((root / "nvidia3").stat().st_mode)
    assert {k: v for k, v in snapshot(root).items() if k != "nvidia3"} == {
        k: v for k, v in before.items() if k != "nvidia3"
    }


# --- interfaces -----------------------------------------------------------------------------------


def test_macs_are_stable_local_unicast_and_different(dgx: Machine) -> None:
    addresses = [nic.pci_address for nic in dgx.nics]
    addresses += [vf.pci_address for nic in dgx.nics for vf in dgx.vfs_of(nic)]
    macs = [mac_address(node, address) for node in ("node-a", "node-b") for address in addresses]
    assert len(set(macs)) == len(macs)
    assert {int(mac[:2], 16) & 3 for mac in macs} == {2}
    assert macs[0] == mac_address("node-a", addresses[0])


def test_interface_names_fit_the_kernel_even_with_the_most_vfs() -> None:
    found = ports(load("dgx-h100", vfs_per_pf=127), "node-a")
    names = [name for pf in found for name in (pf.interface, pf.wire, *(vf.interface for vf in pf.vfs))]
    assert max(map(len, names)) <= 15
    assert len(set(names)) == len(names)


def links() -> dict[str, dict[str, object]]:
    with IPRoute() as netlink:
        return {link.get_attr("IFLA_IFNAME"): link for link in netlink.get_links()}


def up(name: str) -> bool:
    return bool(int(str(links()[name]["flags"])) & 1)


def delete(name: str) -> None:
    with IPRoute() as netlink:
        netlink.link("del", ifname=name)


def plug(rail: int) -> None:
    with IPRoute() as netlink:
        netlink.link("add", ifname=f"cable{rail}", kind="veth", peer=f"far{rail}")
        netlink.link("set", ifname=f"far{rail}", state="up")


def move(name: str, pod: Namespace, *, set_up: bool) -> None:
    fd = os.open(pod.path, os.O_RDONLY)
    try:
        with IPRoute() as netlink:
            netlink.link("set", ifname=name, net_ns_fd=fd)
    finally:
        os.close(fd)
    if set_up:
        pod.run(lambda: _set_up(name))


def _set_up(name: str) -> None:
    with IPRoute() as netlink:
        netlink.link("set", ifname=name, state="up")


@pytest.fixture
def node(namespace: Namespace) -> Namespace:
    return namespace


@pytest.fixture
def pod() -> Iterator[Namespace]:
    found = Namespace()
    yield found
    found.close()


def netdevs(found: Machine) -> MockNetdevs:
    return MockNetdevs(ports(found, "node-a"))


def one_nic(found: Machine) -> Machine:
    return replace(found, nics=found.nics[:1])


@needs_root
def test_the_real_probe_finds_all_interfaces_pfs_up_and_vfs_down(node: Namespace, dgx: Machine) -> None:
    node.run(netdevs(dgx).ensure)
    found = node.run(NetdevProbe().read)
    expected = ports(dgx, "node-a")
    looks = {pf.pci_address: (pf.interface, pf.mac) for pf in expected}
    looks |= {vf.pci_address: (vf.interface, vf.mac) for pf in expected for vf in pf.vfs}
    assert {address: (netdev.name, netdev.mac) for address, netdev in found.items()} == looks
    for pf in expected:
        assert found[pf.pci_address].carrier
        assert found[pf.pci_address].mtu == 4200
        assert not any(found[vf.pci_address].carrier for vf in pf.vfs)


@needs_root
def test_sixty_four_vfs_take_less_than_300_ms_of_user_and_kernel_time(node: Namespace, dgx: Machine) -> None:
    mock = netdevs(dgx)

    def timed() -> float:
        started = time.thread_time()
        mock.ensure()
        return time.thread_time() - started

    assert node.run(timed) < 0.3


@needs_root
def test_ensuring_again_makes_nothing(node: Namespace, small_dgx: Machine) -> None:
    mock = netdevs(small_dgx)
    assert len(node.run(mock.ensure)) == 16
    before = node.run(NetdevProbe().read)
    assert node.run(mock.ensure) == []
    assert node.run(NetdevProbe().read) == before


@needs_root
def test_a_cable_becomes_the_pf_of_its_rail_and_is_given_back(node: Namespace, small_dgx: Machine) -> None:
    mock = netdevs(small_dgx)
    node.run(lambda: plug(1))
    node.run(mock.ensure)
    found = node.run(links)
    assert "cable1" not in found
    assert "mlx5_3-wire" not in found
    assert "mlx5_0-wire" in found
    pf = node.run(NetdevProbe().read)["0000:40:00.0"]
    assert (pf.name, pf.mac, pf.carrier) == ("enp64s0np0", mac_address("node-a", "0000:40:00.0"), True)
    node.run(mock.remove)
    left = node.run(links)
    assert set(left) == {"lo", "cable1", "far1"}
    assert "IFLA_IFALIAS" not in dict(left["cable1"]["attrs"])  # type: ignore[call-overload]
    assert "IFLA_PROP_LIST" not in dict(left["cable1"]["attrs"])  # type: ignore[call-overload]


@needs_root
@pytest.mark.parametrize("lost", ["altname", "name", "down"])
def test_a_pf_that_was_stopped_half_way_is_finished(node: Namespace, small_dgx: Machine, lost: str) -> None:
    one = one_nic(small_dgx)
    node.run(netdevs(one).ensure)
    before = node.run(NetdevProbe().read)

    def undo() -> None:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname="enp24s0np0")[0]
            if lost == "altname":
                netlink.link("property_del", index=index, altname=pci_altname("0000:18:00.0"))
            elif lost == "name":
                index = netlink.link_lookup(ifname="enp24s0v0")[0]
                netlink.link("property_del", index=index, altname=pci_altname(VF))
            else:
                netlink.link("set", index=index, state="down")

    node.run(undo)
    assert node.run(netdevs(one).ensure) == []
    assert node.run(NetdevProbe().read) == before


@needs_root
def test_a_vf_that_was_being_made_anew_is_named_and_set_down(node: Namespace, small_dgx: Machine) -> None:
    mock = netdevs(one_nic(small_dgx))
    node.run(mock.ensure)

    def stopped_before_its_altname() -> None:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname="enp24s0v0")[0]
            netlink.link("property_del", index=index, altname=pci_altname(VF))
            netlink.link("set", index=index, state="up")

    node.run(stopped_before_its_altname)
    assert node.run(mock.ensure) == []
    assert VF in node.run(NetdevProbe().read)
    assert not node.run(lambda: up("enp24s0v0"))


@needs_root
def test_a_vf_that_died_with_its_pod_is_made_anew_and_down(node: Namespace, small_dgx: Machine) -> None:
    mock = netdevs(one_nic(small_dgx))
    node.run(mock.ensure)
    before = node.run(NetdevProbe().read)[VF]
    node.run(lambda: delete("enp24s0v0"))
    assert node.run(mock.ensure) == [VF]
    after = node.run(NetdevProbe().read)[VF]
    assert (after.name, after.mac, after.mtu) == (before.name, before.mac, before.mtu)
    assert not node.run(lambda: up("enp24s0v0"))


@needs_root
def test_a_vf_in_a_pod_is_not_made_twice_when_the_caller_knows(
    node: Namespace, pod: Namespace, small_dgx: Machine
) -> None:
    mock = netdevs(one_nic(small_dgx))
    node.run(mock.ensure)
    node.run(lambda: move("enp24s0v0", pod, set_up=False))
    assert node.run(lambda: mock.ensure({VF})) == []
    assert VF not in node.run(NetdevProbe().read)


@needs_root
def test_a_vf_in_use_in_a_pod_is_not_made_twice_even_when_nobody_knows(
    node: Namespace, pod: Namespace, small_dgx: Machine
) -> None:
    mock = netdevs(one_nic(small_dgx))
    node.run(mock.ensure)
    node.run(lambda: move("enp24s0v0", pod, set_up=True))
    assert node.run(mock.ensure) == []
    assert VF not in node.run(NetdevProbe().read)


@needs_root
def test_a_vf_is_back_after_its_pods_namespace_is_gone(node: Namespace, small_dgx: Machine) -> None:
    mock = netdevs(one_nic(small_dgx))
    pod = Namespace()
    node.run(mock.ensure)
    node.run(lambda: move("enp24s0v0", pod, set_up=True))
    pod.close()
    deadline = time.monotonic() + 30  # the kernel takes namespaces down in the background
    while not node.run(mock.ensure):
        assert time.monotonic() < deadline
    assert VF in node.run(NetdevProbe().read)


@needs_root
def test_a_foreign_interface_of_a_pfs_name_is_a_clear_error(node: Namespace, small_dgx: Machine) -> None:
    def occupy() -> None:
        with IPRoute() as netlink:
            netlink.link("add", ifname="enp24s0np0", kind="bridge")

    node.run(occupy)
    with pytest.raises(PermanentError, match=r"enp24s0np0.*EEXIST"):
        node.run(netdevs(one_nic(small_dgx)).ensure)


@needs_root
def test_the_whole_mock_is_what_the_host_probe_reads_and_leaves_nothing(
    node: Namespace, dgx: Machine, tmp_path: Path
) -> None:
    hardware = MockHardware("dgx-h100", tmp_path, "node-a")
    roots = node.run(hardware.install)
    try:
        found = node.run(HostProbe(roots.sysfs).read)
        compute = [nic.rail for nic in found.nics if nic.vfs]
        assert [gpu.rail for gpu in found.gpus] == compute == list(range(8))
        assert all(nic.netdev is not None and nic.rdma is not None for nic in found.nics)
        assert all(vf.netdev is not None and vf.rdma is not None for nic in found.nics for vf in nic.vfs)
        for gpu in found.gpus:
            assert (roots.dev / f"nvidia{gpu.minor}").is_char_device()
        for nic in found.nics:
            for device in (nic.rdma, *(vf.rdma for vf in nic.vfs)):
                assert device is not None
                assert all((roots.dev / name).is_char_device() for name in device.char_devices)
        assert node.run(hardware.mend) == []
        node.run(hardware.install)
        assert node.run(HostProbe(roots.sysfs).read) == found
    finally:
        node.run(hardware.remove)
    assert set(node.run(links)) == {"lo"}
    assert list((tmp_path / "mock").iterdir()) == []
