"""Laws of devices that share hardware, checked by arithmetic of its own: whoever may be taken together by
counters must not overlap on the hardware.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.devices import Gpu, Inventory, Netdev, Nic, RdmaDevice
from driver.kube.objects import Device, ResourceSlice
from driver.mig import MigInstance, MigProfile, label
from driver.mock.mig_products import products
from driver.partitions import MigMode, partition_name
from driver.slices import SliceOptions, build
from tests.unit.driver.machines import a_gpu, a_nic

H100 = "NVIDIA H100 80GB HBM3"
DYNAMIC = SliceOptions(mig="dynamic", controller_taint=False)


def profiles_of(product: str) -> tuple[MigProfile, ...]:
    return tuple(
        MigProfile(
            p.name,
            p.id,
            p.memory_mib << 20,
            p.sm,
            p.ce,
            p.dec,
            0,
            p.jpeg,
            p.ofa,
            tuple((start, p.size) for start in p.starts),
        )
        for p in products()[product].profiles
    )


def mig_gpu(bus: int, product: str = H100, enabled: bool = True) -> Gpu:
    return replace(
        a_gpu(bus),
        product_name=product,
        mig_enabled=enabled,
        mig_profiles=profiles_of(product),
        iommu_group=bus,
    )


def pool(inventory: Inventory, options: SliceOptions) -> list[ResourceSlice]:
    return build(
        inventory,
        driver_name="tandem-dra.io",
        node_name="node-a",
        node_uid="8f1a",
        generation=1,
        options=options,
    )


def devices_of(slices: Iterable[ResourceSlice]) -> dict[str, Device]:
    return {device.name: device for s in slices for device in s.spec.devices}


def counters_of(slices: Iterable[ResourceSlice]) -> dict[tuple[str, str], int]:
    return {
        (s.name, counter): int(amount.value)
        for piece in slices
        for s in piece.spec.shared_counters
        for counter, amount in s.counters.items()
    }


def fit(chosen: Sequence[Device], counters: dict[tuple[str, str], int]) -> bool:
    """Can all of these be allocated at once, by counters alone?"""
    left = dict(counters)
    for device in chosen:
        for consumed in device.consumes_counters:
            for counter, amount in consumed.counters.items():
                left[consumed.counter_set, counter] -= int(amount.value)
    return all(amount >= 0 for amount in left.values())


def hardware(device: Device) -> set[tuple[str, int]]:
    """Memory slices of a GPU, or VF numbers of a PF, that the device stands on."""
    facts = device.attributes
    kind = facts["type"].string
    if kind in ("vf", "nic"):
        indices = range(256) if kind == "nic" else [facts["vfIndex"].int_ or 0]
        return {(f"pf {facts['pf'].string}", index) for index in indices}
    address = facts["resource.kubernetes.io/pciBusID"].string or ""
    if kind == "mig":
        start, size = facts["memorySliceStart"].int_ or 0, facts["memorySlices"].int_ or 0
        return {(address, number) for number in range(start, start + size)}
    return {(address, number) for number in range(8)}


def within_limits(slices: Sequence[ResourceSlice]) -> None:
    assert {s.spec.pool.resource_slice_count for s in slices} == {len(slices)}
    assert len({s.metadata.name for s in slices}) == len(slices)
    sets = [s for piece in slices for s in piece.spec.shared_counters]
    known = counters_of(slices)
    assert len({s.name for s in sets}) == len(sets)
    names = [device.name for piece in slices for device in piece.spec.devices]
    assert len(set(names)) == len(names)
    for piece in slices:
        assert not (piece.spec.devices and piece.spec.shared_counters)
        assert len(piece.spec.devices) <= 64
        assert len(piece.spec.shared_counters) <= 8
        assert all(1 <= len(s.counters) <= 32 for s in piece.spec.shared_counters)
        for device in piece.spec.devices:
            assert len(device.name) <= 63
            assert len(device.attributes) + len(device.capacity) <= 32
            assert len(device.consumes_counters) <= 2
            for consumed in device.consumes_counters:
                assert 1 <= len(consumed.counters) <= 32
                for counter, amount in consumed.counters.items():
                    assert 0 < int(amount.value) <= known[consumed.counter_set, counter]


@pytest.mark.parametrize("product", sorted(products()))
def test_partitions_that_fit_by_counters_never_overlap(product: str) -> None:
    slices = pool(Inventory("m", (mig_gpu(1, product),)), replace(DYNAMIC, vfio=True))
    within_limits(slices)
    found, counters = devices_of(slices), counters_of(slices)
    assert len(found) == 2 + sum(len(p.placements) for p in profiles_of(product))
    for one, other in itertools.combinations(found.values(), 2):
        overlap = bool(hardware(one) & hardware(other))
        assert not (overlap and fit([one, other], counters)), (one.name, other.name)


def test_what_the_hardware_offers_at_once_fits_by_counters() -> None:
    slices = pool(Inventory("m", (mig_gpu(0x1B),)), DYNAMIC)
    found, counters = devices_of(slices), counters_of(slices)

    def can(*parts: str) -> bool:
        return fit([found[f"mig-0000-1b-00-0-{part}"] for part in parts], counters)

    assert can(*(f"1g-10gb-{n}" for n in range(7)))
    assert can("4g-40gb-0", "3g-40gb-4")
    assert can("3g-40gb-0", "3g-40gb-4")
    assert can("4g-40gb-0", "2g-20gb-4", "1g-20gb-6")
    assert can("1g-20gb-0", "1g-20gb-2", "1g-20gb-4", "1g-20gb-6")
    assert can("1g-10gb-me-0", *(f"1g-10gb-{n}" for n in range(1, 7)))
    assert not can("1g-10gb-me-0", "1g-10gb-me-1")  # there is one optical flow engine
    assert not can("4g-40gb-0", "1g-10gb-3")
    assert not fit([found["gpu-0000-1b-00-0"], found["mig-0000-1b-00-0-1g-10gb-6"]], counters)


def test_sixteen_mig_gpus_have_two_slices_of_counters() -> None:
    slices = pool(Inventory("m", tuple(mig_gpu(n) for n in range(16))), DYNAMIC)
    within_limits(slices)
    assert [len(s.spec.shared_counters) for s in slices if s.spec.shared_counters] == [8, 8]
    assert len(devices_of(slices)) == 16 * 26


def test_static_partitions_are_published_instead_of_their_gpu() -> None:
    instances = (
        MigInstance("MIG-a", 19, 3, 0, 2, 1),
        MigInstance("MIG-b", 9, 1, 0, 4, 4, compute_slices=1),
        MigInstance("MIG-c", 9, 1, 1, 4, 4, compute_slices=2),
    )
    gpus = (replace(mig_gpu(0x1B), mig_instances=instances), a_gpu(0x1C))
    found = devices_of(pool(Inventory("m", gpus), SliceOptions()))
    assert list(found) == [
        "mig-0000-1b-00-0-1g-10gb-2",
        "mig-0000-1b-00-0-1c-3g-40gb-4-0",
        "mig-0000-1b-00-0-2c-3g-40gb-4-1",
        "gpu-0000-1c-00-0",
    ]
    part = found["mig-0000-1b-00-0-1g-10gb-2"]
    assert (part.attributes["uuid"].string, part.attributes["profile"].string) == ("MIG-a", "1g.10gb")
    assert part.attributes["parentUUID"].string == gpus[0].uuid
    assert part.attributes["pcieSwitch"] == found["gpu-0000-1c-00-0"].attributes["pcieSwitch"]
    assert {name: amount.value for name, amount in part.capacity.items()} == {
        "memory": "9984Mi",
        "multiprocessors": "16",
        "copyEngines": "1",
        "decoders": "1",
        "encoders": "0",
        "jpegEngines": "1",
        "ofaEngines": "0",
    }


def test_a_partition_made_on_demand_has_the_name_and_place_of_the_same_one_made_by_an_admin() -> None:
    instance = MigInstance("MIG-a", 19, 3, 0, 2, 1)
    gpu = replace(mig_gpu(0x1B), mig_instances=(instance,))
    (static,) = devices_of(pool(Inventory("m", (gpu,)), SliceOptions())).values()
    dynamic = devices_of(pool(Inventory("m", (gpu,)), DYNAMIC))[static.name]
    assert static.attributes.items() - {("uuid", static.attributes["uuid"])} == dynamic.attributes.items()
    assert static.capacity == dynamic.capacity


def test_instances_that_come_and_go_change_nothing_that_is_published_dynamically() -> None:
    gpu = mig_gpu(0x1B)
    used = replace(gpu, mig_instances=(MigInstance("MIG-a", 19, 3, 0, 2, 1),))
    assert pool(Inventory("m", (gpu,)), DYNAMIC) == pool(Inventory("m", (used,)), DYNAMIC)


def test_mig_off_publishes_no_gpu_that_is_in_mig_mode() -> None:
    gpus = (mig_gpu(0x1B), mig_gpu(0x1C, enabled=False))
    found = devices_of(pool(Inventory("m", gpus), SliceOptions(mig="off")))
    assert list(found) == ["gpu-0000-1c-00-0"]


def test_a_gpu_and_its_vfio_form_exclude_each_other() -> None:
    slices = pool(Inventory("m", (replace(a_gpu(0x1B), iommu_group=7),)), SliceOptions(vfio=True))
    within_limits(slices)
    found = devices_of(slices)
    assert list(found) == ["gpu-0000-1b-00-0", "vfio-0000-1b-00-0"]
    assert not fit(list(found.values()), counters_of(slices))
    assert fit([found["vfio-0000-1b-00-0"]], counters_of(slices))


def test_the_vfio_form_is_the_same_when_nvml_knows_the_gpu_no_more() -> None:
    gpu = replace(a_gpu(0x1B), iommu_group=7, kernel_driver="nvidia")
    bound = Gpu(gpu.pci_address, gpu.place, gpu.rail, iommu_group=7, kernel_driver="vfio-pci")
    options = SliceOptions(vfio=True)
    before, after = pool(Inventory("m", (gpu,)), options), pool(Inventory("m", silent_gpus=(bound,)), options)
    name = "vfio-0000-1b-00-0"
    assert devices_of(before)[name] == devices_of(after)[name]
    assert counters_of(before) == counters_of(after)
    assert list(devices_of(after)) == [name]


def test_a_gpu_without_a_driver_is_published_in_no_form() -> None:
    silent = Gpu("0000:1b:00.0", a_gpu(1).place, iommu_group=7)
    assert devices_of(pool(Inventory("m", silent_gpus=(silent,)), SliceOptions(vfio=True))) == {}


def test_a_pf_and_its_vfs_exclude_each_other_but_vfs_do_not() -> None:
    slices = pool(Inventory("m", nics=(a_nic(0x18, vfs=4),)), SliceOptions(pf_and_vfs=True))
    within_limits(slices)
    found, counters = devices_of(slices), counters_of(slices)
    pf = found.pop("nic-0000-18-00-0")
    assert len(found) == 4
    assert fit(list(found.values()), counters)
    assert fit([pf], counters)
    assert not any(fit([pf, vf], counters) for vf in found.values())


def test_what_a_pf_consumes_stays_when_vfs_are_made() -> None:
    options = SliceOptions(pf_and_vfs=True)
    few, many = (pool(Inventory("m", nics=(a_nic(0x18, vfs=n),)), options) for n in (1, 200))
    assert devices_of(few)["nic-0000-18-00-0"] == devices_of(many)["nic-0000-18-00-0"]
    assert counters_of(few) == counters_of(many)


def test_a_pf_that_the_node_lives_on_is_not_published_beside_its_vfs() -> None:
    nic = a_nic(0x18, vfs=2, netdev=Netdev("eth0", 2, uplink=True))
    found = devices_of(pool(Inventory("m", nics=(nic,)), SliceOptions(pf_and_vfs=True)))
    assert set(found) == {"vf-0000-18-00-1", "vf-0000-18-00-2"}


def test_without_its_pf_a_vf_that_the_node_lives_on_is_not_published() -> None:
    nic = a_nic(0x18, vfs=2)
    own = replace(nic.vfs[0], netdev=Netdev("eth0", 2, uplink=True))
    found = devices_of(pool(Inventory("m", nics=(replace(nic, vfs=(own, nic.vfs[1])),)), SliceOptions()))
    assert list(found) == ["vf-0000-18-00-2"]


def test_labels_of_profiles_differ_wherever_their_names_do() -> None:
    names = ["1g.10gb", "1g.10gb+me", "1g.10gb-me", "1g.10gb+me.all", "1g.10gb+gfx", "1c.1g.10gb"]
    labels = [label(name) for name in names]
    assert len(set(labels)) == len(names)
    assert labels[:3] == ["1g-10gb", "1g-10gb-me", "1g-10gb-nome"]
    assert len(partition_name("1ffff:ff:1f.7", "1g.180gb+me.all", 12, 15)) <= 63


MODES: tuple[MigMode, ...] = ("off", "static", "dynamic")
OPTIONS = st.builds(
    SliceOptions,
    mig=st.sampled_from(MODES),
    vfio=st.booleans(),
    pf_and_vfs=st.booleans(),
    shared=st.frozensets(st.sampled_from(["gpu", "mig", "nic", "vf"])),
)
PROFILES = st.lists(
    st.builds(
        MigProfile,
        name=st.from_regex(r"[1-7]g\.[1-9][0-9]{0,2}gb(\+me|-me|\+gfx|\+me\.all)?", fullmatch=True),
        id=st.integers(0, 40),
        memory_bytes=st.integers(1 << 30, 1 << 38),
        multiprocessors=st.integers(0, 200),
        copy_engines=st.integers(0, 9),
        decoders=st.integers(0, 9),
        placements=st.lists(
            st.tuples(st.integers(0, 7), st.integers(1, 4)), max_size=7, unique_by=lambda place: place[0]
        ).map(tuple),
    ),
    max_size=6,
    unique_by=lambda profile: profile.name,
).map(tuple)
GPUS = st.builds(
    lambda bus, enabled, profiles, group: replace(
        a_gpu(bus), mig_enabled=enabled, mig_profiles=profiles, iommu_group=group
    ),
    st.integers(0, 255),
    st.sampled_from([None, False, True]),
    st.one_of(st.just(profiles_of(H100)), PROFILES),
    st.one_of(st.none(), st.integers(0, 99)),
)
NICS = st.builds(
    a_nic,
    st.integers(0, 255),
    vfs=st.integers(0, 64),
    netdev=st.sampled_from([None, Netdev("a", 2), Netdev("b", 3, uplink=True)]),
)
MACHINES = st.builds(
    Inventory,
    machine=st.just("m"),
    gpus=st.lists(GPUS, max_size=16, unique_by=lambda gpu: gpu.pci_address).map(tuple),
    nics=st.lists(NICS, max_size=16, unique_by=lambda nic: nic.pci_address).map(tuple),
)


@given(MACHINES, OPTIONS)
def test_any_machine_in_any_mode_keeps_the_limits(machine: Inventory, options: SliceOptions) -> None:
    within_limits(pool(machine, options))


@given(MACHINES, OPTIONS, st.randoms(use_true_random=False))
def test_any_machine_in_any_order_gives_the_same_slices(
    machine: Inventory, options: SliceOptions, chance: st.DrawFn
) -> None:
    gpus, nics = list(machine.gpus), list(machine.nics)
    chance.shuffle(gpus)  # type: ignore[attr-defined]
    chance.shuffle(nics)  # type: ignore[attr-defined]
    shuffled = replace(machine, gpus=tuple(gpus), nics=tuple(nics))
    assert pool(machine, options) == pool(shuffled, options)


@given(MACHINES, OPTIONS, st.data())
def test_hot_plug_changes_no_other_device(
    machine: Inventory, options: SliceOptions, data: st.DataObject
) -> None:
    gpus = data.draw(st.sets(st.sampled_from(machine.gpus))) if machine.gpus else set()
    nics = data.draw(st.sets(st.sampled_from(machine.nics))) if machine.nics else set()
    less = replace(
        machine,
        gpus=tuple(gpu for gpu in machine.gpus if gpu not in gpus),
        nics=tuple(nic for nic in machine.nics if nic not in nics),
    )
    before, after = devices_of(pool(machine, options)), devices_of(pool(less, options))
    assert after.items() <= before.items()


@given(st.lists(GPUS, min_size=1, max_size=3, unique_by=lambda gpu: gpu.pci_address), OPTIONS, st.data())
def test_no_choice_that_fits_by_counters_takes_hardware_twice(
    gpus: list[Gpu], options: SliceOptions, data: st.DataObject
) -> None:
    machine = Inventory("m", tuple(gpus), (a_nic(0xF0, vfs=3), a_nic(0xF1, vfs=2)))
    slices = pool(machine, replace(options, shared=frozenset()))
    found, counters = devices_of(slices), counters_of(slices)
    chosen: list[Device] = []
    for name in data.draw(st.permutations(sorted(found))):
        if fit([*chosen, found[name]], counters):
            chosen.append(found[name])
    taken = [piece for device in chosen for piece in hardware(device)]
    assert len(set(taken)) == len(taken)


def test_a_shared_device_has_a_request_policy_whose_default_is_the_whole() -> None:
    options = SliceOptions(shared=frozenset({"gpu", "vf"}))
    found = devices_of(pool(Inventory("m", (a_gpu(1),), (a_nic(0x18, vfs=1), a_nic(0x19))), options))
    gpu, vf, nic = found["gpu-0000-01-00-0"], found["vf-0000-18-00-1"], found["nic-0000-19-00-0"]
    assert (gpu.allow_multiple_allocations, vf.allow_multiple_allocations) == (True, True)
    assert not nic.allow_multiple_allocations
    assert nic.capacity["bandwidth"].request_policy is None
    memory = gpu.capacity["memory"]
    assert msgspec.to_builtins(memory) == {
        "value": "80Gi",
        "requestPolicy": {"default": "80Gi", "validRange": {"min": "1Gi", "max": "80Gi", "step": "1Gi"}},
    }
    bandwidth = vf.capacity["bandwidth"].request_policy
    assert bandwidth is not None
    assert bandwidth.default == "400G"


def test_an_odd_amount_of_memory_is_shared_in_whole_steps() -> None:
    gpu = replace(a_gpu(1), memory_bytes=81559 << 20)
    found = devices_of(pool(Inventory("m", (gpu,)), SliceOptions(shared=frozenset({"gpu"}))))
    memory = found["gpu-0000-01-00-0"].capacity["memory"]
    assert memory.value == "81559Mi"
    assert memory.request_policy is not None
    assert memory.request_policy.default == "79Gi"


def test_a_device_with_counters_is_never_shared() -> None:
    options = replace(DYNAMIC, shared=frozenset({"gpu", "mig"}))
    found = devices_of(pool(Inventory("m", (mig_gpu(1),)), options))
    assert not any(device.allow_multiple_allocations for device in found.values())


def test_a_nic_of_unknown_speed_has_nothing_to_share() -> None:
    nic: Nic = replace(a_nic(0x18), speed_bits_per_second=0, rdma=RdmaDevice("mlx5_0"))
    found = devices_of(pool(Inventory("m", nics=(nic,)), SliceOptions(shared=frozenset({"nic"}))))
    assert not found["nic-0000-18-00-0"].allow_multiple_allocations
