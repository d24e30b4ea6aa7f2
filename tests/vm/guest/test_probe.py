"""The probes over a real sysfs and a real netlink."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.devices import Gpu, Inventory, Nic, Place, Tier
from driver.inventory import HostProbe
from driver.probes.net import NetdevProbe
from driver.probes.pci import PciProbe
from driver.topology import tier
from tests.vm.guest.stage import DEVICES, VFS


def bridges(address: str) -> list[str]:
    """PCI bridges from the root port down, by the kernel's own path."""
    return list((DEVICES / address).resolve().parts[4:-1])


def place(inventory: Inventory, address: str) -> Place:
    devices: list[Gpu | Nic] = [*inventory.gpus, *inventory.nics]
    return next(device.place for device in devices if device.pci_address == address)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("gpu0", "nic0", Tier.PIX),
        ("gpu0", "nic1", Tier.PXB),
        ("gpu0", "nic2", Tier.PHB),
        ("gpu0", "nic3", Tier.NODE),
        ("gpu0", "nic4", Tier.SYS),
        ("gpu1", "nic4", Tier.PIX),
        ("nic0", "nic1", Tier.PXB),
        ("nic2", "nic3", Tier.NODE),
    ],
)
def test_the_tier_of_two_devices_is_that_of_the_machines_wiring(
    machine: dict[str, str], inventory: Inventory, one: str, other: str, expected: Tier
) -> None:
    assert tier(place(inventory, machine[one]), place(inventory, machine[other])) is expected


def test_a_device_below_a_switch_has_the_switchs_upstream_port_root_port_root_complex_and_numa_node(
    machine: dict[str, str], inventory: Inventory
) -> None:
    root_port, upstream, downstream = bridges(machine["gpu1"])
    assert place(inventory, machine["gpu1"]) == Place(upstream, root_port, "pci0000:a0", 1)
    assert downstream not in (upstream, root_port)


def test_a_device_on_a_root_port_has_no_switch(machine: dict[str, str], inventory: Inventory) -> None:
    (root_port,) = bridges(machine["nic3"])
    assert place(inventory, machine["nic3"]) == Place(None, root_port, "pci0000:60", 0)


def test_vfs_are_found_with_index_pf_and_place_of_the_pf(
    machine: dict[str, str], inventory: Inventory
) -> None:
    functions = PciProbe(Path("/sys")).read()
    for name, number in VFS.items():
        pf = functions[machine[name]]
        assert (pf.driver, pf.sriov_total_vfs, pf.sriov_num_vfs, len(pf.virtfns)) == (
            "igb",
            7,
            number,
            number,
        )
        nic = next(nic for nic in inventory.nics if nic.pci_address == pf.address)
        assert [vf.index for vf in nic.vfs] == list(range(number))
        for vf in nic.vfs:
            function = functions[vf.pci_address]
            assert (function.driver, function.physfn) == ("igbvf", pf.address)
            assert vf.pci_address != pf.address
            assert vf.place == nic.place


def test_interfaces_are_found_by_their_pci_parent_as_sysfs_has_them(machine: dict[str, str]) -> None:
    found = NetdevProbe().read()
    expected = {
        device.name: [entry.name for entry in (device / "net").iterdir()]
        for device in DEVICES.iterdir()
        if (device / "net").is_dir()
    }
    assert {address: [netdev.name] for address, netdev in found.items()} == expected
    assert len(found) == 5 + sum(VFS.values())


def test_vfs_that_are_made_later_are_there_at_the_next_read(
    machine: dict[str, str], probe: HostProbe
) -> None:
    def vfs() -> int:
        return next(len(nic.vfs) for nic in probe.read().nics if nic.pci_address == machine["nic3"])

    switch = DEVICES / machine["nic3"] / "sriov_numvfs"
    before = vfs()
    switch.write_text("1")
    after = vfs()
    switch.write_text("0")
    assert (before, after, vfs()) == (0, 1, 0)


def test_pairs_on_one_switch_share_a_rail(machine: dict[str, str], inventory: Inventory) -> None:
    devices: list[Gpu | Nic] = [*inventory.gpus, *inventory.nics]
    rails = {device.pci_address: device.rail for device in devices}
    assert rails[machine["gpu0"]] == rails[machine["nic0"]] == 0
    assert rails[machine["gpu1"]] == rails[machine["nic4"]] == 1
