"""ResourceSlices of a real machine."""

from __future__ import annotations

from driver import names
from driver.devices import Inventory
from driver.kube.objects import Device
from driver.slices import ATTRIBUTES_AND_CAPACITIES, DEVICES_PER_SLICE, STRING_LENGTH, SliceOptions, build
from tests.vm.guest.stage import VFS


def published(inventory: Inventory) -> dict[str, Device]:
    slices = build(
        inventory,
        driver_name=names.DRIVER_NAME,
        node_name="node-a",
        node_uid="uid",
        generation=1,
        options=SliceOptions(),
    )
    assert all(len(item.spec.devices or ()) <= DEVICES_PER_SLICE for item in slices)
    return {device.name: device for item in slices for device in item.spec.devices or ()}


def test_gpus_vfs_and_pfs_without_vfs_are_published_and_pfs_with_vfs_are_not(
    machine: dict[str, str], inventory: Inventory
) -> None:
    found = published(inventory)
    kinds = [name.split("-")[0] for name in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {"gpu": 2, "vf": sum(VFS.values()), "nic": 3}
    for name in ("nic1", "nic2", "nic3"):
        assert names.device_name(names.TYPE_NIC, machine[name]) in found


def test_devices_of_one_switch_are_equal_in_what_match_attribute_compares(
    machine: dict[str, str], inventory: Inventory
) -> None:
    found = published(inventory)
    gpu = found[names.device_name(names.TYPE_GPU, machine["gpu1"])]
    vfs = [
        found[names.device_name(names.TYPE_VF, vf.pci_address)]
        for nic in inventory.nics
        if nic.pci_address == machine["nic4"]
        for vf in nic.vfs
    ]
    assert len(vfs) == VFS["nic4"]
    for name in (names.PCIE_SWITCH, names.PCIE_ROOT_PORT, names.PCIE_ROOT, names.NUMA_NODE):
        short = name.removeprefix(f"{names.DRIVER_NAME}/")
        values = {str(device.attributes[short]) for device in (gpu, *vfs)}
        assert len(values) == 1, f"{short}: {values}"


def test_every_device_is_within_the_apis_limits(inventory: Inventory) -> None:
    for device in published(inventory).values():
        assert len(device.attributes) + len(device.capacity) <= ATTRIBUTES_AND_CAPACITIES
        strings = [value.string for value in device.attributes.values() if value.string is not None]
        assert all(len(text) <= STRING_LENGTH for text in strings), device
