"""Pods are placed as the pods around them allow, those included that are decided but not bound yet."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from driver.kube.objects import Pod
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import a_claim, a_node, a_pod

ZONE = "topology.kubernetes.io/zone"


def labelled(pod: Pod, **labels: str) -> Pod:
    return msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, labels=labels))


def apart(kind: str = "podAntiAffinity", app: str = "train", key: str = "kubernetes.io/hostname") -> Any:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def a_cluster(*zones: str) -> ModelCluster:
    cluster = ModelCluster()
    for index, zone in enumerate(zones):
        labels = {"kubernetes.io/hostname": f"n{index}", ZONE: zone}
        cluster.add_node(a_node(f"n{index}", labels=labels))
    return cluster


def wish(cluster: ModelCluster, name: str, *, app: str = "train", **spec: Any) -> None:
    cluster.put_claim(a_claim(f"{name}-claim"))
    cluster.put_pod(labelled(a_pod(name, [f"{name}-claim"], **spec), app=app))


def test_pods_that_keep_apart_get_nodes_of_their_own_before_any_is_bound() -> None:
    cluster = a_cluster("a", "a")
    for name in ("p", "q", "r"):
        wish(cluster, name, affinity=apart())
    cluster.run()
    assert {cluster.node_of("p-claim"), cluster.node_of("q-claim")} == {"n0", "n1"}
    assert cluster.node_of("r-claim") is None
    (message,) = cluster.messages("r", "Unsatisfiable")
    assert "anti-affinity (kubernetes.io/hostname)" in message


def test_a_pod_that_waits_for_another_elsewhere_to_leave_is_woken() -> None:
    cluster = a_cluster("a", "a")
    cluster.put_pod(labelled(a_pod("db", node="n0"), app="db"))
    wish(cluster, "p", affinity=apart(app="db", key=ZONE))
    cluster.wait(1)
    assert cluster.node_of("p-claim") is None
    cluster.delete_pod("db")
    cluster.wait(1)
    assert cluster.node_of("p-claim") is not None


def test_a_pod_that_waits_for_company_is_woken_when_that_is_bound_in_the_zone() -> None:
    cluster = a_cluster("a", "b", "b")
    wish(cluster, "p", affinity=apart("podAffinity", "db", ZONE))
    cluster.wait(1)
    assert cluster.node_of("p-claim") is None
    cluster.put_pod(labelled(a_pod("db", node="n2"), app="db"))
    cluster.wait(1)
    assert cluster.node_of("p-claim") in ("n1", "n2")


def test_spreading_counts_what_is_decided() -> None:
    cluster = a_cluster("a", "a", "b", "b")
    constraint = {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "train"}},
    }
    for name in ("p", "q", "r", "s"):
        wish(cluster, name, topologySpreadConstraints=[constraint])
    cluster.run()
    placed = [cluster.node_of(f"{name}-claim") for name in ("p", "q", "r", "s")]
    assert sum(node in ("n0", "n1") for node in placed) == 2
    assert sum(node in ("n2", "n3") for node in placed) == 2


def test_a_label_that_changes_is_seen() -> None:
    cluster = a_cluster("a")
    cluster.put_pod(labelled(a_pod("db", node="n0"), app="db"))
    wish(cluster, "p", affinity=apart(app="db", key=ZONE))
    cluster.wait(1)
    assert cluster.node_of("p-claim") is None
    cluster.put_pod(labelled(a_pod("db", node="n0"), app="retired"))
    cluster.wait(1)
    assert cluster.node_of("p-claim") == "n0"


@pytest.mark.parametrize("ports", [[], [{"containerPort": 80, "hostPort": 80}]])
def test_a_pod_that_another_kept_off_its_zone_is_woken_when_that_one_leaves_a_node_without_devices(
    ports: list[dict[str, int]],
) -> None:
    """The pod has no rule about others itself, and of its own nodes none has changed."""
    cluster = a_cluster("a")
    cluster.add_node(a_node("elsewhere", labels={ZONE: "a"}), slices=[])
    cluster.put_pod(labelled(a_pod("shy", node="elsewhere", affinity=apart(key=ZONE)), app="shy"))
    wish(cluster, "p", containers=[{"name": "main", "ports": ports}])
    cluster.wait(1)
    assert cluster.node_of("p-claim") is None
    cluster.delete_pod("shy")
    cluster.wait(1)
    assert cluster.node_of("p-claim") == "n0"
