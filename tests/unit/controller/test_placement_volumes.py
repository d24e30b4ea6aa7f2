"""Pods with volumes go where these are, at the first try; no devices are held while they are not ready."""

from __future__ import annotations

from controller.explaining import explain
from controller.gangs.book import GangBook
from controller.planning import plan
from controller.settings import PlacementSettings
from controller.wish import Wishes
from driver.kube.objects import Pod
from driver.kube.storage import StorageObject
from tests.unit.controller.gangs.troop import gang_claim, of_job
from tests.unit.controller.model import CEL, ModelCluster, wish
from tests.unit.controller.storage import ZONE, a_pv, a_pvc, a_storage_class, ephemeral, mounts
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, slices_of

HOST = "kubernetes.io/hostname"


def a_cluster(*storage: StorageObject, nodes: int = 6) -> ModelCluster:
    cluster = ModelCluster()
    for index in range(nodes):
        labels = {ZONE: "abc"[index * 3 // nodes], HOST: f"n{index}"}
        cluster.add_node(a_node(f"n{index}", labels=labels))
    for item in storage:
        cluster.state.apply_storage(None, item)
    return cluster


def come(cluster: ModelCluster, pod: Pod) -> None:
    cluster.put_claim(a_claim("c", uid="uid-c"))
    cluster.put_pod(pod)
    cluster.run()


def test_a_pod_goes_where_its_local_volume_is_at_the_first_try() -> None:
    cluster = a_cluster(a_pvc(volume="pv"), a_pv(claim="data", on={HOST: ["n5"]}))
    come(cluster, a_pod("p", ["c"], **mounts("data")))
    assert [node for _, _, node in cluster.allocated] == ["n5"]


def test_no_devices_are_held_before_an_immediate_volume_is_bound() -> None:
    cluster = a_cluster(a_pvc(), a_storage_class(mode="Immediate"))
    come(cluster, a_pod("p", ["c"], **mounts("data")))
    cluster.wait(5)
    assert cluster.allocated == []
    cluster.state.apply_storage(None, a_pv(claim="data", on={ZONE: ["b"]}))
    cluster.state.apply_storage(a_pvc(), a_pvc(volume="pv"))
    cluster.run()
    assert [node for _, _, node in cluster.allocated] == ["n2"]


def test_claims_and_volumes_may_come_in_any_order() -> None:
    cluster = a_cluster()
    come(cluster, a_pod("p", ["c"], **mounts("data")))
    for item in (a_pvc(volume="pv"), a_pv(claim="data", on={HOST: ["n4"]})):
        assert cluster.allocated == []
        cluster.state.apply_storage(None, item)
        cluster.run()
    assert [node for _, _, node in cluster.allocated] == ["n4"]


def test_a_free_local_volume_that_appears_wakes_who_waits_for_it() -> None:
    cluster = a_cluster(a_pvc(), a_storage_class())
    come(cluster, a_pod("p", ["c"], **mounts("data")))
    assert cluster.allocated == []
    (message,) = cluster.messages("c", "Unsatisfiable")
    assert "6 × no PersistentVolume for PersistentVolumeClaim data can be used there" in message
    cluster.state.apply_storage(None, a_pv(on={HOST: ["n3"]}))
    cluster.run()
    assert [node for _, _, node in cluster.allocated] == ["n3"]


def test_the_claim_of_an_ephemeral_volume_is_waited_for() -> None:
    cluster = a_cluster(a_storage_class(), a_pv(on={HOST: ["n1"]}))
    come(cluster, a_pod("p", ["c"], **ephemeral("scratch")))
    assert cluster.allocated == []
    cluster.state.apply_storage(None, a_pvc("p-scratch", owner="p"))
    cluster.run()
    assert [node for _, _, node in cluster.allocated] == ["n1"]


def test_pods_alike_but_for_their_volumes_are_not_refused_together() -> None:
    cluster = a_cluster(
        a_storage_class(), a_pvc("none"), a_pvc("there", volume="pv"), a_pv(claim="there", on={HOST: ["n2"]})
    )
    for name, volume in (("a", "none"), ("b", "there")):
        cluster.put_claim(a_claim(f"{name}-c", uid=f"uid-{name}-c"))
        cluster.put_pod(a_pod(name, [f"{name}-c"], **mounts(volume)))
    cluster.wait(1)
    assert [(pod, node) for _, (_, pod), node in cluster.allocated] == [("b", "n2")]


def test_members_of_a_gang_go_to_their_own_volumes() -> None:
    storage: list[StorageObject] = []
    for index in range(4):
        storage += [
            a_pvc(f"d{index}", volume=f"pv{index}"),
            a_pv(f"pv{index}", claim=f"d{index}", on={HOST: [f"n{5 - index}"]}),
        ]
    cluster = a_cluster(*storage)
    for index in range(4):
        cluster.put_claim(gang_claim(f"m{index}-claim", f"claim-{index}", size=4))
        pod = a_pod(f"m{index}", [f"m{index}-claim"], **mounts(f"d{index}"))
        cluster.put_pod(of_job(pod, "job"))
    cluster.run()
    assert {pod: node for _, (_, pod), node in cluster.allocated} == {f"m{i}": f"n{5 - i}" for i in range(4)}


def test_a_gang_waits_for_a_member_without_its_volume_and_says_so() -> None:
    cluster = a_cluster(a_pvc(), a_storage_class(mode="Immediate"))
    for index, volumes in enumerate((mounts("data"), {})):
        cluster.put_claim(gang_claim(f"m{index}-claim", f"claim-{index}", size=2))
        cluster.put_pod(of_job(a_pod(f"m{index}", [f"m{index}-claim"], **volumes), "job"))
    cluster.wait(4)
    assert cluster.allocated == []
    book = GangBook(cluster.state, Wishes(cluster.state, None))
    for key in cluster.state.claimants:
        book.update(key)
    (message,) = cluster.messages("m1", "GangIncomplete")
    assert "PersistentVolumeClaim data is not bound yet" in message


def test_explain_says_which_volume_closes_the_nodes() -> None:
    cluster = a_cluster(a_pvc(volume="pv"), a_pv(claim="data", on={HOST: ["gone"]}))
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"], **mounts("data")))
    found = explain(cluster.state, ("default", "c"), PlacementSettings(), CEL)
    assert found is not None
    assert (
        "6 × the node affinity of PersistentVolume pv (PersistentVolumeClaim data) does not match"
        in found.text
    )


def planned(*more: StorageObject | Pod) -> tuple[str | None, str | None]:
    nodes = [a_node(f"n{i}", labels={HOST: f"n{i}"}) for i in range(3)]
    slices = [item for node in nodes for item in slices_of(node.metadata.name)]
    objects = [*nodes, *slices, *CLASSES, a_claim("c"), *more]
    (pod,) = plan(objects, PlacementSettings(), CEL, lambda: 0.0).pods
    return pod.node, pod.reason


def test_plan_reads_volumes_from_its_files() -> None:
    pod = a_pod("p", ["c"], **mounts("data"))
    assert planned(pod, a_pvc(volume="pv"), a_pv(claim="data", on={HOST: ["n2"]})) == ("n2", None)
    assert planned(pod, a_pvc(), a_storage_class(mode="Immediate")) == (
        None,
        "PersistentVolumeClaim data is not bound yet (its volume does not wait for the pod)",
    )


def test_plan_makes_the_claims_of_ephemeral_volumes() -> None:
    pod = a_pod("p", ["c"], **ephemeral("scratch"))
    assert planned(pod, a_storage_class(), a_pv(on={HOST: ["n1"]})) == ("n1", None)


def test_files_that_say_nothing_of_volumes_are_not_asked_for_them() -> None:
    assert planned(a_pod("p", ["c"], **mounts("data"))) == ("n0", None)


def test_a_bound_pods_volumes_do_not_matter_any_more() -> None:
    cluster = a_cluster()
    wish(cluster, "other")
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"], node="n0", **mounts("data")))
    cluster.run()
    assert sorted(node for _, _, node in cluster.allocated)[0] == "n0"
    assert len(cluster.allocated) == 2
