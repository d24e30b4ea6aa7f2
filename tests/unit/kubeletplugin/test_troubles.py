from __future__ import annotations

from dataclasses import replace
from functools import partial

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from driver.devices import Inventory, Netdev, RdmaDevice
from driver.kube.objects import Counter, CounterSet, DeviceCounterConsumption, ResourceSlice
from driver.slices import COUNTER_SETS_PER_SLICE, DEVICES_PER_SLICE, SliceOptions, build, slice_name
from kubeletplugin.troubles import link_taints, lost_devices, with_lost
from tests.unit.driver.machines import a_gpu, a_nic
from tests.unit.kubeletplugin.world import DRIVER, GPUS, NODE, VFS, inventory

NAME = partial(slice_name, DRIVER, NODE)


def slices(found: Inventory) -> list[ResourceSlice]:
    return build(
        found, driver_name=DRIVER, node_name=NODE, node_uid="u", generation=0, options=SliceOptions()
    )


def names(found: list[ResourceSlice]) -> list[str]:
    return [device.name for slice_ in found for device in slice_.spec.devices]


def wired(*, carrier: bool, vfs: bool = True) -> Inventory:
    first, *others = inventory().nics
    nic = replace(first, netdev=Netdev("pf", 9, carrier=carrier), vfs=first.vfs if vfs else ())
    return replace(inventory(), nics=(nic, *others))


def test_vfs_of_a_pf_without_link_are_tainted_and_no_others() -> None:
    assert link_taints(wired(carrier=True)) == {}
    found = link_taints(wired(carrier=False))
    assert found.keys() == {"nic-0000-1a-00-0", *VFS[:2]}
    assert {(t.key, t.effect) for taints in found.values() for t in taints} == {
        ("tandem-dra.io/link-down", "NoSchedule")
    }


def test_a_pf_that_is_offered_itself_may_be_down_until_somebody_uses_it() -> None:
    assert link_taints(wired(carrier=False, vfs=False)) == {}


def test_infiniband_goes_by_its_port_and_not_by_its_interface() -> None:
    def ib(rate: int) -> Inventory:
        port = RdmaDevice("mlx5_0", "InfiniBand", rate_bits_per_second=rate)
        nic = replace(
            a_nic(1, vfs=1), link_type="infiniband", rdma=port, netdev=Netdev("ib0", 3, carrier=False)
        )
        return Inventory("test", nics=(nic,))

    assert link_taints(ib(400)) == {}
    assert link_taints(ib(0)).keys() == {"nic-0000-01-00-0", "vf-0000-01-00-1"}


def test_only_devices_that_claims_have_and_slices_had_are_lost() -> None:
    before, now = slices(inventory()), slices(replace(inventory(), gpus=()))
    assert lost_devices(now, before, {GPUS[0], VFS[0], "gpu-of-another-life"}) == {GPUS[0]}
    assert lost_devices(now, [], {GPUS[0]}) == frozenset()


def test_a_partition_keeps_the_counters_it_draws_on() -> None:
    (before,) = slices(inventory())
    gpu = msgspec.structs.replace(
        before.spec.devices[0],
        consumes_counters=[DeviceCounterConsumption(counter_set="c", counters={"m": Counter(value="1")})],
    )
    spec = msgspec.structs.replace(before.spec, devices=[gpu])
    with_device = msgspec.structs.replace(before, spec=spec)
    counters = CounterSet(name="c", counters={"m": Counter(value="1")})
    with_counters = msgspec.structs.replace(
        before, spec=msgspec.structs.replace(before.spec, devices=[], shared_counters=[counters])
    )
    now = slices(replace(inventory(), gpus=()))
    found = with_lost(now, [with_device, with_counters], {gpu.name}, NAME)
    assert [slice_.spec.shared_counters for slice_ in found] == [[], [counters]]
    assert [slice_.spec.pool.resource_slice_count for slice_ in found] == [2, 2]
    assert names(found)[-1] == gpu.name
    # Nobody knows the counters any more: the device alone would make the pool invalid.
    assert gpu.name not in names(with_lost(now, [with_device], {gpu.name}, NAME))


@settings(max_examples=25)
@given(st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)))
def test_whatever_is_lost_limits_hold_and_nothing_is_twice(gone: set[int], claimed: set[int]) -> None:
    nics = tuple(a_nic(bus + 1, vfs=5) for bus in range(16))
    whole = Inventory("test", gpus=tuple(a_gpu(bus + 64) for bus in range(16)), nics=nics)
    rest = replace(
        whole,
        gpus=tuple(gpu for index, gpu in enumerate(whole.gpus) if index not in gone),
        nics=tuple(nic for index, nic in enumerate(nics) if index not in gone),
    )
    before, now = slices(whole), slices(rest)
    in_use = {f"gpu-0000-{index + 64:02x}-00-0" for index in claimed}
    lost = lost_devices(now, before, in_use)
    assert len(lost) == len(gone & claimed)
    found = with_lost(now, before, lost, NAME)
    assert len(set(names(found))) == len(names(found)) == len(names(now)) + len(lost)
    assert len({slice_.metadata.name for slice_ in found}) == len(found)
    for slice_ in found:
        assert len(slice_.spec.devices) <= DEVICES_PER_SLICE
        assert len(slice_.spec.shared_counters) <= COUNTER_SETS_PER_SLICE
        assert slice_.spec.pool.resource_slice_count == len(found)
    again = with_lost(now, found, lost, NAME)
    assert again == found  # what the API gives back after a restart leads to the same
