"""Where kube-scheduler decides, on nodes in scheduler mode, the controller warns of nothing."""

from __future__ import annotations

from typing import Any

import pytest

from controller.explaining import explain, state_of
from controller.planning import plan
from controller.settings import PlacementSettings
from driver.names import DRIVER_NAME
from tests.unit.controller.gangs.troop import gang_claim, of_job
from tests.unit.controller.model import CEL, ModelCluster
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, a_request, an_inventory, slices_of

UNSCHEDULABLE = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
RESOURCE = "deviceclass.resource.kubernetes.io/gpu.tandem-dra.io"


def a_cluster(*, scheduler: int, controller: int = 0, pairs: int = 2) -> ModelCluster:
    """Nodes s0 … in scheduler mode with `pairs` pairs, c0 … in controller mode with one."""
    cluster = ModelCluster()
    for index in range(scheduler):
        slices = slices_of(f"s{index}", an_inventory(pairs), taint=False)
        cluster.add_node(a_node(f"s{index}"), slices)
    for index in range(controller):
        cluster.add_node(a_node(f"c{index}"), slices_of(f"c{index}", an_inventory(1)))
    return cluster


def ask(cluster: ModelCluster, name: str, **claim: Any) -> None:
    cluster.put_claim(a_claim(f"{name}-claim", **claim))
    cluster.put_pod(a_pod(name, [f"{name}-claim"]))


def asks_for_a_pair(cluster: ModelCluster) -> None:
    ask(cluster, "p", gpus=2, nics=2)


def asks_for_devices_of_two_drivers(cluster: ModelCluster) -> None:
    requests = [a_request("gpu", "gpu.tandem-dra.io"), a_request("x", "other.example.com")]
    ask(cluster, "p", requests=requests)


def asks_for_an_extended_resource(cluster: ModelCluster) -> None:
    containers = [{"name": "main", "resources": {"requests": {RESOURCE: "1"}}}]
    cluster.put_pod(a_pod("p", containers=containers, status=UNSCHEDULABLE))


def has_a_gang_that_is_incomplete(cluster: ModelCluster) -> None:
    cluster.put_claim(gang_claim("p-claim", "u", size=3, timeoutSeconds=10))
    cluster.put_pod(of_job(a_pod("p", ["p-claim"]), "job"))


def has_a_gang_that_has_no_room(cluster: ModelCluster) -> None:
    for name in ("p", "q", "r"):
        cluster.put_claim(gang_claim(f"{name}-claim", f"u-{name}", gpus=2, nics=2, size=3, timeoutSeconds=10))
        cluster.put_pod(of_job(a_pod(name, [f"{name}-claim"]), "job"))


def has_a_gang_that_nothing_makes_it_a_member_of(cluster: ModelCluster) -> None:
    cluster.put_claim(gang_claim("p-claim", "u", size=3))
    cluster.put_pod(a_pod("p", ["p-claim"]))


def disagrees_with_its_gang(cluster: ModelCluster) -> None:
    for number, name in enumerate(("p", "q")):
        cluster.put_claim(gang_claim(f"{name}-claim", f"u-{name}", size=2 + number))
        cluster.put_pod(of_job(a_pod(name, [f"{name}-claim"]), "job"))


POD = [
    asks_for_a_pair,
    asks_for_devices_of_two_drivers,
    asks_for_an_extended_resource,
    has_a_gang_that_is_incomplete,
    has_a_gang_that_has_no_room,
    has_a_gang_that_nothing_makes_it_a_member_of,
    disagrees_with_its_gang,
]
pods = pytest.mark.parametrize("comes", POD, ids=lambda comes: comes.__name__)


@pods
def test_of_a_pod_that_kube_scheduler_will_place_nothing_is_told(comes: Any) -> None:
    cluster = a_cluster(scheduler=2)
    comes(cluster)
    cluster.wait(30)
    assert cluster.told == []
    assert cluster.allocated == []


@pods
def test_nor_where_other_nodes_are_the_controllers(comes: Any) -> None:
    cluster = a_cluster(scheduler=2, controller=1)
    comes(cluster)
    cluster.wait(30)
    assert cluster.told == []


@pods
def test_without_such_nodes_each_of_them_is_told(comes: Any) -> None:
    cluster = a_cluster(scheduler=0, controller=1)
    comes(cluster)
    cluster.wait(30)
    assert cluster.told


def test_what_kube_scheduler_cannot_place_either_is_told_with_where_it_decides() -> None:
    cluster = a_cluster(scheduler=2, controller=1)
    ask(cluster, "p", gpus=3, nics=3)
    cluster.run()
    (message,) = cluster.messages("p", "Unsatisfiable")
    assert 'request "gpu": 3 wanted, 1 free' in message
    assert "; 2 nodes are in scheduler mode, where kube-scheduler decides" in message


def test_a_pod_that_does_not_fit_the_nodes_in_scheduler_mode_is_told() -> None:
    cluster = a_cluster(scheduler=1, controller=1)
    cluster.put_claim(a_claim("p-claim", gpus=2, nics=2))
    cluster.put_pod(a_pod("p", ["p-claim"], cpu="100"))
    cluster.run()
    assert cluster.messages("p", "Unsatisfiable")


def test_where_kube_scheduler_was_faster_nothing_is_told() -> None:
    for scheduler, told in ((1, []), (0, ["AllocationNotWritten"])):
        cluster = a_cluster(scheduler=scheduler, controller=1)
        cluster.slow = True
        ask(cluster, "p")
        cluster.run()
        cluster.deliver(refuse="the claim was allocated by another client")
        assert [tell.reason for tell in cluster.told] == told


def test_explain_says_that_kube_scheduler_decides() -> None:
    objects: list[Any] = [*CLASSES, a_node("s"), *slices_of("s", an_inventory(2), taint=False)]
    pod: list[Any] = [a_claim("c", gpus=2, nics=2), a_pod("p", ["c"])]
    found = explain(state_of([*objects, *pod], DRIVER_NAME), ("default", "c"), PlacementSettings(), CEL)
    assert found is not None
    assert found.text.startswith("kube-scheduler decides: all nodes with our devices are in scheduler mode")
    mixed = [*objects, a_node("c0"), *slices_of("c0", an_inventory(1)), *pod]
    found = explain(state_of(mixed, DRIVER_NAME), ("default", "c"), PlacementSettings(), CEL)
    assert found is not None
    assert found.text.startswith("kube-scheduler decides: a node in scheduler mode has the devices free")
    assert 'otherwise 0/1 nodes: 1 × request "gpu": 2 wanted, 1 free' in found.text


def test_the_plan_names_nodes_in_scheduler_mode() -> None:
    objects: list[Any] = [*CLASSES, a_claim("c"), a_pod("p", ["c"])]
    for name, taint in (("s", False), ("c0", True)):
        objects += [a_node(name), *slices_of(name, taint=taint)]
    assert plan(objects, PlacementSettings(), CEL, lambda: 0.0).scheduler_mode == ("s",)
