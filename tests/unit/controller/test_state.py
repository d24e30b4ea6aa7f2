from __future__ import annotations

from typing import Any

import msgspec

from controller.state import ClusterState
from driver.kube.objects import AllocationResult, ResourceClaim
from driver.names import CLAIM_FINALIZER, DRIVER_NAME
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import a_claim, a_node, a_pod, an_inventory, slices_of


def allocated() -> tuple[ModelCluster, AllocationResult]:
    """A cluster with one decision that is on its way, for pod p and claim c."""
    cluster = ModelCluster(slow=True)
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=2, vfs=1)))
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"]))
    cluster.run()
    (assumed,) = cluster.state.assumed.values()
    return cluster, assumed.allocation


def with_version(
    cluster: ModelCluster, allocation: AllocationResult | None, version: int, **status: Any
) -> None:
    """The watch shows the claim so."""
    claim = cluster.claims["c"]
    metadata = msgspec.structs.replace(
        claim.metadata, resource_version=str(version), finalizers=[CLAIM_FINALIZER]
    )
    new = msgspec.structs.replace(
        claim,
        metadata=metadata,
        status=msgspec.structs.replace(claim.status, allocation=allocation, **status),
    )
    cluster.state.apply_claim(claim, new, cluster.now)
    cluster.claims["c"] = new


def taken(state: ClusterState) -> int:
    return state.index.taken_count(state.nodes["n0"])


def test_the_finalizers_own_change_does_not_end_the_assumption() -> None:
    cluster, _ = allocated()
    with_version(cluster, None, 200)
    assert taken(cluster.state) == 2
    assert cluster.state.failures == []


def test_the_watch_may_be_faster_than_the_answer() -> None:
    cluster, allocation = allocated()
    with_version(cluster, allocation, 201)
    assert cluster.state.assumed == {}
    cluster.state.written("uid-c", "201", cluster.now)
    assert taken(cluster.state) == 2
    assert cluster.state.failures == []
    assert cluster.state.duplicates == []


def test_the_answer_may_be_faster_than_the_watch() -> None:
    cluster, allocation = allocated()
    cluster.state.written("uid-c", "201", cluster.now)
    with_version(cluster, None, 200)  # the finalizer's, late
    assert taken(cluster.state) == 2
    with_version(cluster, allocation, 201)
    assert cluster.state.assumed == {}
    assert taken(cluster.state) == 2


def test_an_allocation_that_came_and_went_between_two_lists_is_a_failed_placement() -> None:
    cluster, _ = allocated()
    cluster.state.written("uid-c", "201", cluster.now)
    with_version(cluster, None, 205)
    (failure,) = cluster.state.failures
    assert (failure.node, failure.pods) == ("n0", (("default", "p"),))
    assert taken(cluster.state) == 0


def test_the_same_when_the_answer_comes_last() -> None:
    cluster, _ = allocated()
    with_version(cluster, None, 205)
    assert taken(cluster.state) == 2
    cluster.state.written("uid-c", "201", cluster.now)
    assert len(cluster.state.failures) == 1
    assert taken(cluster.state) == 0


def test_a_claim_made_anew_under_its_name_owes_nothing_to_the_old_one() -> None:
    cluster, _ = allocated()
    cluster.delete_claim("c")
    assert taken(cluster.state) == 0
    assert cluster.state.assumed == {}
    cluster.put_claim(a_claim("c", uid="new"))
    cluster.state.written("uid-c", "201", cluster.now)
    cluster.state.not_written("uid-c")
    assert taken(cluster.state) == 0


def test_an_end_without_the_finalizer_is_the_end_of_use() -> None:
    cluster, allocation = allocated()
    with_version(cluster, allocation, 201)
    claim = cluster.claims["c"]
    done = msgspec.structs.replace(
        claim,
        metadata=msgspec.structs.replace(claim.metadata, finalizers=[], resource_version="202"),
        status=msgspec.structs.replace(claim.status, allocation=None),
    )
    cluster.state.apply_claim(claim, done, cluster.now)
    assert cluster.state.failures == []


def test_admin_access_takes_nothing_from_others() -> None:
    cluster, allocation = allocated()
    results = [msgspec.structs.replace(r, admin_access=True) for r in allocation.devices.results]
    devices = msgspec.structs.replace(allocation.devices, results=results)
    with_version(cluster, msgspec.structs.replace(allocation, devices=devices), 201)
    assert taken(cluster.state) == 0


def test_pods_come_and_go_and_the_nodes_load_is_as_before() -> None:
    state = ClusterState(DRIVER_NAME)
    state.apply_node(None, a_node("n0"))
    pending = a_pod("p", cpu="2", status={"nominatedNodeName": "n0"})
    bound = a_pod("p", cpu="2", node="n0")
    record = state.nodes["n0"]
    state.apply_pod(None, pending)
    assert record.used_beside([], 0)["cpu"] == 2000
    assert record.used_beside([], 1) == {}, "nominated for less than our priority: it would be preempted"
    assert record.used_beside(["uid-p"], 0) == {}
    state.apply_pod(pending, bound)
    assert (record.used["cpu"], record.promised) == (2000, {})
    generation = record.generation
    state.apply_pod(bound, None)
    assert record.used == {}
    assert record.generation > generation


def test_a_heartbeat_is_no_change() -> None:
    state = ClusterState(DRIVER_NAME)
    node = a_node("n0")
    state.apply_node(None, node)
    before = state.generation
    beat = msgspec.structs.replace(node.metadata, resource_version="2")
    state.apply_node(node, msgspec.structs.replace(node, metadata=beat))
    assert state.generation == before


def test_a_claim_of_another_namespace_is_another_claim() -> None:
    state = ClusterState(DRIVER_NAME)
    elsewhere = a_claim("c")
    other: ResourceClaim = msgspec.structs.replace(
        elsewhere, metadata=msgspec.structs.replace(elsewhere.metadata, namespace="other", uid="o")
    )
    state.apply_claim(None, other, 0.0)
    assert state.claims_of(a_pod("p", ["c"])) is None
    state.apply_claim(None, elsewhere, 0.0)
    assert state.claims_of(a_pod("p", ["c"])) == [elsewhere]
