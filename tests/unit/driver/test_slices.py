from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.devices import Gpu, Inventory, Netdev, Nic, Place
from driver.kube.objects import Device, DeviceAttribute, DeviceTaint, ResourceSlice
from driver.names import CONTROLLER_TAINT, HELD_TAINT, device_name, qualified
from driver.slices import SliceOptions, build, devices, place_of, semver, slice_name
from tests.unit.driver.machines import a_gpu, a_nic

DRIVER = "tandem-dra.io"
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

TEXT = st.text(max_size=80)
MAYBE = st.one_of(st.none(), st.text(min_size=1, max_size=80))
PLACES = st.builds(Place, MAYBE, MAYBE, MAYBE, st.one_of(st.none(), st.integers(0, 7)))
GPUS = st.builds(
    Gpu,
    pci_address=st.integers(0, 255).map(lambda bus: f"0000:{bus:02x}:00.0"),
    place=PLACES,
    rail=st.one_of(st.none(), st.integers(0, 63)),
    uuid=TEXT,
    product_name=TEXT,
    brand=TEXT,
    architecture=TEXT,
    compute_capability=TEXT,
    driver_version=st.one_of(TEXT, st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,4}", fullmatch=True)),
    cuda_driver_version=TEXT,
    memory_bytes=st.integers(0, 1 << 45),
    nvlink_domain=MAYBE,
)
NICS = st.builds(a_nic, st.integers(0, 255), vfs=st.integers(0, 64), place=PLACES)
INVENTORIES = st.builds(
    Inventory,
    machine=TEXT,
    gpus=st.lists(GPUS, max_size=9, unique_by=lambda gpu: gpu.pci_address).map(tuple),
    nics=st.lists(NICS, max_size=5, unique_by=lambda nic: nic.pci_address).map(tuple),
)


def slices_of(
    inventory: Inventory, options: SliceOptions | None = None, driver: str = DRIVER
) -> list[ResourceSlice]:
    return build(
        inventory,
        driver_name=driver,
        node_name="node-a",
        node_uid="8f1a",
        generation=7,
        options=options or SliceOptions(),
    )


def published(inventory: Inventory, options: SliceOptions | None = None) -> dict[str, Device]:
    return {d.name: d for d in devices(inventory, driver_name=DRIVER, options=options or SliceOptions())}


@given(INVENTORIES, st.booleans())
def test_whatever_the_node_has_the_pool_is_within_the_apis_limits(inventory: Inventory, taint: bool) -> None:
    found = slices_of(inventory, SliceOptions(controller_taint=taint))
    assert {s.spec.pool.resource_slice_count for s in found} == {len(found)}
    assert len({s.metadata.name for s in found}) == len(found)
    names = [device.name for s in found for device in s.spec.devices]
    assert len(set(names)) == len(names)
    for piece in found:
        assert len(piece.spec.devices) <= 64
        for device in piece.spec.devices:
            assert DNS_LABEL.fullmatch(device.name)
            assert len(device.attributes) + len(device.capacity) <= 32
            for name, value in device.attributes.items():
                assert C_IDENTIFIER.fullmatch(name.rsplit("/", 1)[-1])
                assert len([v for v in msgspec.structs.asdict(value).values() if v is not None]) == 1
                assert value.string is None or 0 < len(value.string.encode()) <= 64
                assert value.version is None or SEMVER.fullmatch(value.version)


@given(INVENTORIES)
def test_equal_inventories_in_any_order_give_equal_slices(inventory: Inventory) -> None:
    shuffled = replace(inventory, gpus=inventory.gpus[::-1], nics=inventory.nics[::-1])
    assert slices_of(inventory) == slices_of(shuffled)


@given(INVENTORIES, st.data())
def test_a_taint_that_comes_or_goes_moves_no_device(inventory: Inventory, data: st.DataObject) -> None:
    before = slices_of(inventory, SliceOptions(controller_taint=False))
    names = [device.name for s in before for device in s.spec.devices]
    held = data.draw(st.frozensets(st.sampled_from(names)) if names else st.just(frozenset[str]()))
    after = slices_of(inventory, SliceOptions(held=held))
    layout = [[d.name for d in s.spec.devices] for s in before]
    assert layout == [[d.name for d in s.spec.devices] for s in after]


@given(PLACES)
def test_a_published_device_says_its_place(place: Place) -> None:
    short = replace(
        place,
        pcie_switch=place.pcie_switch and place.pcie_switch.encode()[:64].decode(errors="ignore"),
        pcie_root_port=place.pcie_root_port and place.pcie_root_port.encode()[:64].decode(errors="ignore"),
        pcie_root=place.pcie_root and place.pcie_root.encode()[:64].decode(errors="ignore"),
    )
    found = published(Inventory("m", gpus=(a_gpu(0x1B, place=place),)))["gpu-0000-1b-00-0"]
    assert place_of(found, DRIVER) == short


PCI_ADDRESSES = st.builds(
    "{:04x}:{:02x}:{:02x}.{:x}".format,
    st.integers(0, 0x1FFFF),
    st.integers(0, 255),
    st.integers(0, 31),
    st.integers(0, 7),
)


@given(PCI_ADDRESSES, PCI_ADDRESSES)
def test_a_device_name_is_a_dns_label_and_means_one_slot(one: str, other: str) -> None:
    assert DNS_LABEL.fullmatch(device_name("gpu", one))
    assert (device_name("gpu", one) == device_name("gpu", other)) == (one == other)
    assert device_name("gpu", one) == device_name("gpu", one.upper())


def test_eight_gpus_and_512_vfs_are_published() -> None:
    nics = tuple(a_nic(0x40 + n, vfs=64) for n in range(8))
    found = slices_of(Inventory("m", tuple(a_gpu(n) for n in range(8)), nics))
    assert len(found) == 9
    assert sum(len(s.spec.devices) for s in found) == 520


def test_a_gpu_says_all_that_claims_select_on() -> None:
    gpu = published(Inventory("m", gpus=(a_gpu(0x1B, rail=5),)))["gpu-0000-1b-00-0"]
    assert gpu.attributes == {
        "type": DeviceAttribute(string="gpu"),
        "uuid": DeviceAttribute(string="GPU-0000000000000000000000000000001b"),
        "productName": DeviceAttribute(string="NVIDIA H100 80GB HBM3"),
        "brand": DeviceAttribute(string="Nvidia"),
        "architecture": DeviceAttribute(string="Hopper"),
        "cudaComputeCapability": DeviceAttribute(version="9.0.0"),
        "driverVersion": DeviceAttribute(version="555.42.6"),
        "cudaDriverVersion": DeviceAttribute(version="12.5.0"),
        "nvlinkDomain": DeviceAttribute(string="c0ffee00-0000-0000-0000-000000000001.7"),
        "pcieMaxLinkSpeed": DeviceAttribute(int_=32000),
        "pcieMaxLinkWidth": DeviceAttribute(int_=16),
        "pcieSwitch": DeviceAttribute(string="0000:16:00.0"),
        "pcieRootPort": DeviceAttribute(string="0000:15:01.0"),
        "rail": DeviceAttribute(int_=5),
        "resource.kubernetes.io/pcieRoot": DeviceAttribute(string="pci0000:15"),
        "resource.kubernetes.io/pciBusID": DeviceAttribute(string="0000:1b:00.0"),
        "resource.kubernetes.io/numaNode": DeviceAttribute(int_=0),
    }
    assert gpu.capacity["memory"].value == "80Gi"


def test_a_vf_says_its_pf_its_index_and_what_multus_reads() -> None:
    found = published(Inventory("m", nics=(a_nic(0x18, vfs=8),)))
    assert list(found) == [device_name("vf", f"0000:18:{n >> 3:02x}.{n & 7}") for n in range(1, 9)]
    vf = found["vf-0000-18-01-0"]
    attributes = {
        "type": DeviceAttribute(string="vf"),
        "pf": DeviceAttribute(string="0000:18:00.0"),
        "pfName": DeviceAttribute(string="mlx5_24"),
        "vfIndex": DeviceAttribute(int_=7),
        "linkType": DeviceAttribute(string="ethernet"),
        "rdma": DeviceAttribute(bool_=True),
        "rdmaDevice": DeviceAttribute(string="mlx5_24007"),
        "vendor": DeviceAttribute(string="15b3"),
        "rail": DeviceAttribute(int_=3),
        "k8s.cni.cncf.io/deviceID": DeviceAttribute(string="0000:18:01.0"),
        "k8s.cni.cncf.io/resourceName": DeviceAttribute(string="tandem-dra.io/vf"),
    }
    assert attributes.items() <= vf.attributes.items()
    assert vf.capacity["bandwidth"].value == "400G"


def test_a_pf_with_vfs_is_not_published_even_when_none_of_them_can_be() -> None:
    taken: Nic = replace(a_nic(0x18), sriov_num_vfs=4)
    assert published(Inventory("m", nics=(taken,))) == {}


def test_a_pf_without_vfs_is_published_unless_the_node_lives_on_it() -> None:
    free, own = a_nic(0x18), a_nic(0x19, netdev=Netdev("eth0", 2, uplink=True))
    assert list(published(Inventory("m", nics=(free, own)))) == ["nic-0000-18-00-0"]


def test_taints_say_who_allocates_and_what_is_held() -> None:
    extra = DeviceTaint(key="example.com/broken", effect="NoExecute")
    options = SliceOptions(held=frozenset({"gpu-0000-01-00-0"}), taints={"gpu-0000-02-00-0": (extra,)})
    found = published(Inventory("m", gpus=(a_gpu(1), a_gpu(2))), options)
    controller = DeviceTaint(key=CONTROLLER_TAINT, effect="NoSchedule")
    assert found["gpu-0000-01-00-0"].taints == [controller, DeviceTaint(key=HELD_TAINT, effect="None")]
    assert found["gpu-0000-02-00-0"].taints == [controller, extra]


def test_scheduler_mode_publishes_no_taint() -> None:
    options = SliceOptions(controller_taint=False)
    assert published(Inventory("m", gpus=(a_gpu(1),)), options)["gpu-0000-01-00-0"].taints == []


def test_an_empty_node_has_one_empty_slice_that_makes_its_pool_complete() -> None:
    (only,) = slices_of(Inventory("m"))
    assert only.spec.devices == []
    assert (only.spec.pool.name, only.spec.pool.generation) == ("tandem-dra.io/node-a", 7)


def test_every_slice_belongs_to_its_node() -> None:
    (only,) = slices_of(Inventory("m", gpus=(a_gpu(1),)))
    (owner,) = only.metadata.owner_references
    assert (owner.api_version, owner.kind, owner.name, owner.uid) == ("v1", "Node", "node-a", "8f1a")
    assert owner.controller
    assert only.spec.node_name == "node-a"


def test_under_another_driver_name_our_attributes_stay_in_our_domain() -> None:
    (only,) = slices_of(Inventory("m", gpus=(a_gpu(1),)), driver="other.example.com")
    (gpu,) = only.spec.devices
    assert qualified("pcieSwitch") in gpu.attributes
    assert "tandem-dra.io/memory" in gpu.capacity
    assert place_of(gpu, "other.example.com").pcie_switch == "0000:16:00.0"


def test_another_drivers_unqualified_attribute_is_not_ours() -> None:
    device = Device(name="d", attributes={"pcieSwitch": DeviceAttribute(string="x")})
    assert place_of(device, "gpu.example.com") == Place()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("555.42.06", "555.42.6"),
        ("9.0", "9.0.0"),
        ("13", "13.0.0"),
        ("1.2.3.4", "1.2.3"),
        ("580.00.00", "580.0.0"),
        ("", None),
        ("N/A", None),
        ("1..2", None),
        ("١.٢.٣", None),
    ],
)
def test_versions_become_semver_or_nothing(text: str, expected: str | None) -> None:
    assert semver(text) == expected


def test_slice_names_sort_by_number_and_fit_for_the_longest_node_name() -> None:
    assert slice_name(DRIVER, "node-a", 2) < slice_name(DRIVER, "node-a", 10)
    assert len(slice_name(DRIVER, "n" * 253, 0)) <= 253
    assert slice_name(DRIVER, "n" * 253, 0) != slice_name(DRIVER, "m" * 253, 0)


def test_the_wire_form_is_what_the_api_takes() -> None:
    (only,) = slices_of(Inventory("m", nics=(a_nic(0x18),)), SliceOptions(controller_taint=False))
    wire = msgspec.json.decode(msgspec.json.encode(only))
    (device,) = wire["spec"]["devices"]
    assert wire["apiVersion"] == "resource.k8s.io/v1"
    assert device["attributes"]["rdma"] == {"bool": True}
    assert device["attributes"]["rail"] == {"int": 3}
    assert device["capacity"] == {"bandwidth": {"value": "400G"}}
