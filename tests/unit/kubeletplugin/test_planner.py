from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from driver.devices import Inventory
from driver.errors import PermanentError, RetryableError
from driver.kube.objects import ResourceClaim, ResourceSlice
from driver.placement import PlacedInterface
from driver.slices import SliceOptions, build
from kubeletplugin.attach.store import VfPort
from kubeletplugin.claims import AllocatedClaim, ClaimError, read
from kubeletplugin.planner import DeviceMissingError, DeviceNode, NodeFacts, plan
from tests.unit.kubeletplugin.world import (
    DEV_NODES,
    DRIVER,
    GPUS,
    MIG_NODES,
    MIGS,
    NODE,
    VFS,
    claim,
    config,
    in_mig_mode,
    inventory,
    placement,
)

FACTS = NodeFacts(inventory(), "/dev", frozenset(DEV_NODES))
CUT = NodeFacts(in_mig_mode(inventory()), "/dev", frozenset({*DEV_NODES, *MIG_NODES}))


def allocated(*devices: str, word: dict[str, Any] | None = None) -> AllocatedClaim:
    obj = claim("c", devices, configs=[config(word)] if word else [])
    return read(msgspec.json.decode(msgspec.json.encode(obj), type=ResourceClaim), DRIVER, NODE)


def slices_of(found: Inventory, options: SliceOptions) -> list[ResourceSlice]:
    return build(found, driver_name=DRIVER, node_name=NODE, node_uid="u", generation=1, options=options)


def test_a_gpu_brings_its_node_the_shared_ones_that_exist_and_its_uuid() -> None:
    (gpu,) = plan(allocated(GPUS[1]), FACTS).devices
    assert [node.path for node in gpu.nodes] == ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    assert gpu.env == (("NVIDIA_VISIBLE_DEVICES", "void"), ("TANDEM_GPU_0000_2B_00_0", "GPU-1"))


def test_a_vf_brings_its_rdma_nodes_and_an_attachment() -> None:
    made = plan(allocated(VFS[2]), FACTS)
    (nic,), (row,) = made.devices, made.attachments
    assert [node.path for node in nic.nodes] == ["/dev/infiniband/uverbs3", "/dev/infiniband/rdma_cm"]
    assert (nic.cdi_name, nic.rdma_device) == ("0000:2a:00.1", "mlx5_3")
    assert (row.pci_address, row.interface, row.rdma_device) == ("0000:2a:00.1", "net1", "mlx5_3")


def test_host_paths_are_below_the_device_root() -> None:
    (gpu,) = plan(allocated(GPUS[0]), replace(FACTS, dev_root="/mock/dev")).devices
    assert gpu.nodes[0] == DeviceNode("/dev/nvidia0", "/mock/dev/nvidia0")


def test_without_the_controllers_word_interfaces_are_named_in_order_around_taken_names() -> None:
    made = plan(allocated(VFS[2], VFS[0]), FACTS, {"net2"})
    assert [(row.device, row.interface) for row in made.attachments] == [(VFS[2], "net1"), (VFS[0], "net3")]


def test_the_controllers_word_names_interfaces_addresses_and_pairs() -> None:
    pair = {"gpu": GPUS[0], "nic": VFS[0], "tier": "PIX", "rail": 3}
    word = placement((VFS[0], "rail3", ["10.0.3.1/24"]), pairs=[pair])
    made = plan(allocated(GPUS[0], VFS[0], word=word), FACTS)
    assert made.attachments[0].interface == "rail3"
    assert made.attachments[0].addresses == ("10.0.3.1/24",)
    assert [device.pairs[0].rail for device in made.devices] == [3, 3]


def test_a_word_that_forgets_a_nic_is_refused() -> None:
    with pytest.raises(ClaimError, match=f"names no interface for {VFS[0]}"):
        plan(allocated(VFS[0], word=placement()), FACTS)


@pytest.mark.parametrize(
    ("facts", "device", "message"),
    [
        (replace(FACTS, dev_nodes=frozenset()), GPUS[0], "no character device /dev/nvidia0"),
        (replace(FACTS, dev_nodes=frozenset()), VFS[0], "no character device /dev/infiniband/uverbs1"),
        (FACTS, "gpu-0000-99-00-0", "not on this node now"),
        (
            replace(FACTS, inventory=replace(inventory(), gpus=(replace(inventory().gpus[0], minor=None),))),
            GPUS[0],
            "no minor number",
        ),
    ],
)
def test_what_is_missing_is_named_and_may_come_back(facts: NodeFacts, device: str, message: str) -> None:
    with pytest.raises(DeviceMissingError, match=message) as error:
        plan(allocated(device), facts)
    assert isinstance(error.value, RetryableError)


def test_a_nic_without_rdma_is_an_interface_alone() -> None:
    bare = inventory()
    nics = tuple(replace(nic, vfs=tuple(replace(vf, rdma=None) for vf in nic.vfs)) for nic in bare.nics)
    made = plan(allocated(VFS[0]), replace(FACTS, inventory=replace(bare, nics=nics)))
    assert made.devices[0].nodes == ()
    assert made.attachments[0].rdma_device is None


def test_an_interface_is_as_the_controller_placed_it() -> None:
    word = placement((VFS[0], "net1", []))
    word["interfaces"][0]["mtu"] = 4200
    made = plan(allocated(VFS[0], word=word), FACTS)
    assert made.attachments[0].mtu == PlacedInterface(VFS[0], "net1", mtu=4200).mtu


def test_a_mig_instance_brings_its_gpus_node_its_two_capabilities_and_its_uuid() -> None:
    one, other = plan(allocated(*MIGS), CUT).devices
    shared = ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    caps = "/dev/nvidia-caps/nvidia-cap"
    assert [node.path for node in one.nodes] == ["/dev/nvidia0", f"{caps}12", f"{caps}13", *shared]
    assert [node.path for node in other.nodes] == ["/dev/nvidia0", f"{caps}21", f"{caps}22", *shared]
    void = ("NVIDIA_VISIBLE_DEVICES", "void")
    assert one.env == (void, ("TANDEM_MIG_0000_1B_00_0_3G_40GB_0", "MIG-1"))
    assert other.env == (void, ("TANDEM_MIG_0000_1B_00_0_1G_10GB_4", "MIG-2"))
    assert {one.parent, other.parent} == {GPUS[0]}
    assert one.exclusive


def test_every_published_gpu_and_instance_can_be_planned() -> None:
    published = {
        device.name
        for slice_ in slices_of(CUT.inventory, SliceOptions())
        for device in slice_.spec.devices
        if not device.name.startswith("vf-")
    }
    assert published == {*MIGS, GPUS[1]}
    assert {device.device for device in plan(allocated(*sorted(published)), CUT).devices} == published


@pytest.mark.parametrize(
    ("facts", "device", "message"),
    [
        (CUT, GPUS[0], f"device {GPUS[0]} is in MIG mode"),
        (FACTS, MIGS[0], "no such MIG instance on this node now"),
        (CUT, "mig-0000-1b-00-0-1g-10gb-5", "no such MIG instance on this node now"),
        (
            replace(CUT, dev_nodes=CUT.dev_nodes - {"nvidia-caps/nvidia-cap13"}),
            MIGS[0],
            "no character device /dev/nvidia-caps/nvidia-cap13",
        ),
        (
            replace(CUT, inventory=in_mig_mode(inventory(), capabilities=False)),
            MIGS[0],
            "capabilities/gpu0/mig/gi1 in procfs does not tell the minor numbers",
        ),
    ],
)
def test_what_an_instance_lacks_is_named_and_may_come(facts: NodeFacts, device: str, message: str) -> None:
    with pytest.raises(DeviceMissingError, match=message):
        plan(allocated(device), facts)


def test_a_gpu_for_virtual_machines_is_refused_for_good() -> None:
    gpus = tuple(replace(gpu, iommu_group=7) for gpu in inventory().gpus)
    found = Inventory(machine="test", gpus=gpus)
    (slice_,) = (s for s in slices_of(found, SliceOptions(vfio=True)) if s.spec.devices)
    vfio = next(device.name for device in slice_.spec.devices if device.name.startswith("vfio-"))
    with pytest.raises(ClaimError, match=f"device {vfio} is a GPU for virtual machines") as error:
        plan(allocated(vfio), replace(FACTS, inventory=found))
    assert isinstance(error.value, PermanentError)


def tagged(device: str) -> dict[str, Any]:
    word: dict[str, Any] = placement()
    routes = [{"to": "10.0.0.0/8", "via": "10.200.0.254"}]
    interface = {"device": device, "interface": "net1", "network": "blue", "routes": routes}
    word["interfaces"] = [{**interface, "vlan": 7, "trafficClass": 106}]
    return word


def test_what_the_network_wants_of_a_vf_is_in_its_row() -> None:
    made = plan(allocated(VFS[0], word=tagged(VFS[0])), FACTS)
    (nic,), (row,) = made.devices, made.attachments
    pf = FACTS.inventory.nics[0]
    assert (row.vlan, row.port) == (7, VfPort(pf.pci_address, pf.vfs[0].index))
    assert row.routes == (("10.0.0.0/8", "10.200.0.254"),)
    assert nic.traffic_class == 106


def with_nics(**changes: Any) -> NodeFacts:
    nics = tuple(replace(nic, **changes) for nic in FACTS.inventory.nics)
    return replace(FACTS, inventory=replace(FACTS.inventory, nics=nics))


@pytest.mark.parametrize(
    ("facts", "device", "says"),
    [
        (with_nics(link_type="infiniband"), VFS[0], "is infiniband"),
        (with_nics(eswitch_mode="switchdev"), VFS[0], "is in switchdev mode"),
        (FACTS, "nic-0000-1a-00-0", "only VFs can be"),
    ],
)
def test_what_cannot_be_put_into_a_vlan_is_refused_for_good(facts: NodeFacts, device: str, says: str) -> None:
    with pytest.raises(ClaimError, match=f"FabricNetwork blue has VLAN 7, and {device} cannot be .*{says}"):
        plan(allocated(device, word=tagged(device)), facts)
