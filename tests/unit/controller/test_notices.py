"""What others did is told once, on the right objects, and what can still step aside is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from controller.allocator.cel import CelCache
from controller.notices import Notices, take
from controller.ownership import Ownership
from controller.state import ClusterState
from driver.kube.objects import AllocationResult, CounterSet, ResourceClaim, ResourceSlice
from driver.names import DRIVER_NAME
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, slices_of

OWNERSHIP = Ownership(DRIVER_NAME, CelCache())
PLACEMENT = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Placement", "pairs": [], "interfaces": []}


def a_state() -> ClusterState:
    state = ClusterState(DRIVER_NAME)
    for device_class in CLASSES:
        state.apply_class(None, device_class)
    state.apply_node(None, a_node("n0"))
    return state


def publish(state: ClusterState, *, taint: bool = True) -> list[ResourceSlice]:
    slices = slices_of("n0", taint=taint)
    for published in slices:
        state.apply_slice(None, published)
    return slices


def allocated(name: str, slices: list[ResourceSlice], *, ours: bool) -> ResourceClaim:
    """A claim that holds the node's first GPU."""
    result = {
        "request": "gpu",
        "driver": DRIVER_NAME,
        "pool": slices[0].spec.pool.name,
        "device": slices[0].spec.devices[0].name,
    }
    word = [{"source": "FromClass", "opaque": {"driver": DRIVER_NAME, "parameters": PLACEMENT}}]
    made: Mapping[str, Any] = {"devices": {"results": [result], "config": word if ours else []}}
    claim = a_claim(name, nics=0)
    allocation = msgspec.json.decode(msgspec.json.encode(made), type=AllocationResult)
    return msgspec.structs.replace(claim, status=msgspec.structs.replace(claim.status, allocation=allocation))


def noticed(state: ClusterState) -> tuple[Notices, Counter[str]]:
    counts: Counter[str] = Counter()
    return take(state, OWNERSHIP, counts), counts


def test_a_device_of_two_claims_is_told_on_both_and_ours_can_step_aside() -> None:
    state = a_state()
    slices = publish(state)
    state.apply_claim(None, allocated("ours", slices, ours=True), 0.0)
    state.apply_claim(None, allocated("theirs", slices, ours=False), 0.0)
    notices, counts = noticed(state)
    told = {tell.regarding.metadata.name for tell in notices.tells if tell.reason == "DuplicateAllocation"}
    assert told == {"ours", "theirs"}
    assert notices.contested == (("default", "ours"),)
    assert counts["duplicate_devices"] == 1


def test_while_our_write_is_under_way_nothing_is_told_and_if_it_is_refused_never() -> None:
    state = a_state()
    slices = publish(state)
    ours = allocated("ours", slices, ours=True)
    waiting = a_claim("ours", nics=0)
    state.apply_claim(None, waiting, 0.0)
    assert ours.status.allocation is not None
    state.assume(waiting, ours.status.allocation)
    state.apply_claim(None, allocated("theirs", slices, ours=False), 0.0)
    assert {tell.reason for tell in noticed(state)[0].tells} == {"ForeignAllocation"}
    state.not_written("uid-ours")
    assert noticed(state) == (Notices(), Counter())
    assert state.duplicates == []


def test_an_allocation_by_another_client_is_told_once() -> None:
    state = a_state()
    claim = allocated("theirs", publish(state), ours=False)
    state.apply_claim(None, claim, 0.0)
    notices, counts = noticed(state)
    assert [tell.reason for tell in notices.tells] == ["ForeignAllocation"]
    assert counts["foreign_allocations"] == 1
    state.apply_claim(claim, claim, 1.0)
    assert noticed(state) == (Notices(), Counter())


def test_it_is_noticed_as_well_where_the_slices_come_later() -> None:
    state = a_state()
    state.apply_claim(None, allocated("theirs", slices_of("n0"), ours=False), 0.0)
    assert noticed(state)[0] == Notices()
    publish(state)
    assert [tell.reason for tell in noticed(state)[0].tells] == ["ForeignAllocation"]


def test_nodes_in_scheduler_mode_and_our_own_allocations_are_as_they_should_be() -> None:
    untainted = a_state()
    untainted.apply_claim(None, allocated("theirs", publish(untainted, taint=False), ours=False), 0.0)
    assert noticed(untainted)[0] == Notices()
    managed = a_state()
    managed.apply_claim(None, allocated("ours", publish(managed), ours=True), 0.0)
    assert noticed(managed)[0] == Notices()


def test_counters_make_no_pool_the_controllers() -> None:
    """In scheduler mode a slice of counters has no devices, and so no taint that could be missing."""
    state = a_state()
    slices = slices_of("n0", taint=False)
    spec = msgspec.structs.replace(
        slices[0].spec, devices=[], shared_counters=[CounterSet(name="gpu-0", counters={})]
    )
    metadata = msgspec.structs.replace(slices[0].metadata, name="counters")
    for published in (*slices, msgspec.structs.replace(slices[0], metadata=metadata, spec=spec)):
        state.apply_slice(None, published)
    state.apply_claim(None, allocated("theirs", slices, ours=False), 0.0)
    assert noticed(state)[0] == Notices()
    assert state.index.reached(state.nodes["n0"]) == ()


def test_a_slice_that_changes_does_not_tell_of_the_same_allocation_again() -> None:
    state = a_state()
    slices = publish(state)
    state.apply_claim(None, allocated("theirs", slices, ours=False), 0.0)
    assert [tell.reason for tell in noticed(state)[0].tells] == ["ForeignAllocation"]
    changed = msgspec.structs.replace(slices[0].spec, devices=slices[0].spec.devices[:1])
    state.apply_slice(slices[0], msgspec.structs.replace(slices[0], spec=changed))
    assert noticed(state)[0] == Notices()


def test_a_pod_that_asks_for_our_class_as_an_extended_resource_is_told_why_it_waits() -> None:
    state = a_state()
    requests = {"deviceclass.resource.kubernetes.io/gpu.tandem-dra.io": "1"}
    containers = [{"name": "main", "resources": {"requests": requests}}]
    refused = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
    state.apply_pod(None, a_pod("p", containers=containers, status=refused))
    (tell,) = noticed(state)[0].tells
    assert (tell.regarding.metadata.name, tell.reason) == ("p", "ExtendedResource")
    assert noticed(state)[0] == Notices()
