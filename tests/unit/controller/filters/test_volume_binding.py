"""kube-scheduler's rules about volumes (VolumeRestrictions, VolumeBinding, VolumeZone), case by case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from controller.volumes import Volumes
from driver.kube.storage import StorageObject
from tests.unit.controller.storage import ZONE, a_pv, a_pvc, a_storage_class, ephemeral, mounts
from tests.unit.controller.things import a_node, a_pod

A, B = {ZONE: ["a"]}, {ZONE: ["b"]}
LOCAL = a_storage_class()
EXTERNAL = a_storage_class("ext", provisioner="csi.example.com")
IN_B = a_storage_class("ext", provisioner="csi.example.com", zones=("b", "c"))
NODES = {
    "na": a_node("na", labels={ZONE: "a"}),
    "nb": a_node("nb", labels={ZONE: "b"}),
    "bare": a_node("bare"),
}


def known(*objects: StorageObject) -> Volumes:
    volumes = Volumes()
    for item in objects:
        volumes.apply(None, item)
    return volumes


def does(objects: Sequence[StorageObject], **spec: Any) -> set[str]:
    """The nodes that do for a pod; none while it waits."""
    volumes, pod = known(*objects), a_pod("p", ["c"], **(spec or mounts("data")))
    if volumes.why_waits(pod):
        return set()
    return {name for name, node in NODES.items() if volumes.why_not(pod, node) is None}


ALL = {"na", "nb", "bare"}
CASES: dict[str, tuple[Sequence[StorageObject], set[str]]] = {
    # VolumeBinding: claims that are bound
    "a bound volume's node affinity": ([a_pvc(volume="pv"), a_pv(claim="data", on=B)], {"nb"}),
    "a bound volume without node affinity": ([a_pvc(volume="pv"), a_pv(claim="data")], ALL),
    "a bound volume that is not there": ([a_pvc(volume="pv")], set()),
    "a lost claim": ([a_pvc(volume="pv", phase="Lost"), a_pv()], set()),
    "a claim that is being deleted": ([a_pvc(volume="pv", deleted=True), a_pv()], set()),
    "a claim that is not there": ([], set()),
    # claims that are not
    "immediate": ([a_pvc(), a_pv(), a_storage_class(mode="Immediate")], set()),
    "of no class": ([a_pvc(storage_class=None), a_pv(storage_class="")], set()),
    "of a class that is not there": ([a_pvc(), a_pv()], set()),
    "bound beforehand and not completed": ([a_pvc(volume="pv", annotations={}), a_pv(), LOCAL], set()),
    "the first consumer's, a free volume": ([a_pvc(), a_pv(on=A), LOCAL], {"na"}),
    "free volumes in two places": ([a_pvc(), a_pv(on=A), a_pv("two", on=B), LOCAL], {"na", "nb"}),
    "no free volume and nobody who makes one": ([a_pvc(), LOCAL], set()),
    "no free volume, but one is made": ([a_pvc(storage_class="ext"), EXTERNAL], ALL),
    "one is made in some zones only": ([a_pvc(storage_class="ext"), IN_B], {"nb"}),
    "a free volume where none is made": (
        [a_pvc(storage_class="ext"), a_pv(storage_class="ext", on=A), IN_B],
        {"na", "nb"},
    ),
    "provisioning has begun": (
        [a_pvc(storage_class="ext", annotations={"volume.kubernetes.io/selected-node": "na"}), EXTERNAL],
        {"na"},
    ),
    # which free volume
    "too small": ([a_pvc(size="2Gi"), a_pv(size="2G"), LOCAL], set()),
    "large enough": ([a_pvc(size="2G"), a_pv(size="2Gi"), LOCAL], ALL),
    "not available": ([a_pvc(), a_pv(phase="Released"), LOCAL], set()),
    "another's": ([a_pvc(), a_pv(claim="other"), LOCAL], set()),
    "reserved for the claim, in whatever phase": (
        [a_pvc(), a_pv(claim="data", phase="Pending", on=B), LOCAL],
        {"nb"},
    ),
    "reserved for it, and so no other": (
        [a_pvc(), a_pv(claim="data", on=B), a_pv("two", on=A), LOCAL],
        {"nb"},
    ),
    "reserved for an earlier claim of the name": (
        [a_pvc(), a_pv(claimRef={"namespace": "default", "name": "data", "uid": "old"}), LOCAL],
        set(),
    ),
    "of another class": ([a_pvc(), a_pv(storage_class="other"), LOCAL], set()),
    "of another mode": ([a_pvc(volumeMode="Block"), a_pv(), LOCAL], set()),
    "of the default mode": ([a_pvc(volumeMode="Filesystem"), a_pv(), LOCAL], ALL),
    "of another VolumeAttributesClass": ([a_pvc(volumeAttributesClassName="gold"), a_pv(), LOCAL], set()),
    "without an access mode": ([a_pvc(modes=("ReadWriteMany",)), a_pv(), LOCAL], set()),
    "being deleted": ([a_pvc(), a_pv(deleted=True), LOCAL], set()),
    "not meant by the selector": ([a_pvc(selector={"matchLabels": {"t": "x"}}), a_pv(), LOCAL], set()),
    "meant by the selector": (
        [a_pvc(selector={"matchLabels": {"t": "x"}}), a_pv(labels={"t": "x"}), LOCAL],
        ALL,
    ),
    # VolumeZone
    "zones in labels": ([a_pvc(volume="pv"), a_pv(claim="data", labels={ZONE: "b"})], {"nb", "bare"}),
    "several zones in labels": (
        [a_pvc(volume="pv"), a_pv(claim="data", labels={ZONE: "x__b"})],
        {"nb", "bare"},
    ),
    "zones in labels of old": (
        [a_pvc(volume="pv"), a_pv(claim="data", labels={"failure-domain.beta.kubernetes.io/zone": "a"})],
        {"na", "bare"},
    ),
    "a region that no node with a zone has": (
        [a_pvc(volume="pv"), a_pv(claim="data", labels={"topology.kubernetes.io/region": "r"})],
        {"bare"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nodes_that_do_are_those_that_kube_scheduler_leaves(case: str) -> None:
    objects, expected = CASES[case]
    assert does(objects) == expected


def test_two_claims_do_not_get_one_volume() -> None:
    objects: list[StorageObject] = [
        a_pvc(),
        a_pvc("more"),
        a_pv(on=A),
        a_pv("b1", on=B),
        a_pv("b2", on=B),
        LOCAL,
    ]
    assert does(objects, **mounts("data", "more")) == {"nb"}


def test_the_smallest_volume_is_left_to_the_smallest_claim() -> None:
    objects: list[StorageObject] = [a_pvc(size="5Gi"), a_pvc("small"), a_pv(size="9Gi"), a_pv("tight"), LOCAL]
    assert does(objects, **mounts("data", "small")) == ALL


def test_a_node_affinity_by_name_is_met_by_no_node() -> None:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["na"]}]}
    volume = a_pv(claim="data", nodeAffinity={"required": {"nodeSelectorTerms": [term]}})
    assert does([a_pvc(volume="pv"), volume]) == set()


def test_a_claim_made_for_the_pod_is_found_by_name_and_has_to_be_its() -> None:
    assert does([LOCAL, a_pv(on=A)], **ephemeral("scratch")) == set()
    assert does([LOCAL, a_pv(on=A), a_pvc("p-scratch")], **ephemeral("scratch")) == set()
    assert does([LOCAL, a_pv(on=A), a_pvc("p-scratch", owner="p")], **ephemeral("scratch")) == {"na"}


def test_a_claim_for_one_pod_is_closed_while_another_uses_it() -> None:
    volumes = known(a_pvc(volume="pv", modes=("ReadWriteOncePod",)), a_pv(claim="data"))
    pod, other = a_pod("p", ["c"], **mounts("data")), a_pod("other", node="nb", **mounts("data"))
    volumes.put_pod(pod)
    assert volumes.why_not(pod, NODES["na"]) is None
    volumes.put_pod(other)
    assert volumes.why_not(pod, NODES["na"]) == (
        "PersistentVolumeClaim data is ReadWriteOncePod, and another pod uses it"
    )
    assert volumes.drop_pod(other) == {("default", "p")}
    assert volumes.why_not(pod, NODES["na"]) is None


def test_reasons_name_the_objects() -> None:
    pod = a_pod("p", ["c"], **mounts("data"))
    bound = known(a_pvc(volume="pv"), a_pv(claim="data", on=A))
    assert bound.why_not(pod, NODES["nb"]) == (
        "the node affinity of PersistentVolume pv (PersistentVolumeClaim data) does not match"
    )
    made = known(a_pvc(storage_class="ext"), IN_B)
    assert made.why_not(pod, NODES["na"]) == (
        "StorageClass ext of PersistentVolumeClaim data makes no volumes there"
    )
    assert known(a_pvc(), LOCAL).why_not(pod, NODES["na"]) == (
        "no PersistentVolume for PersistentVolumeClaim data can be used there"
    )
    assert known().why_waits(pod) == "there is no PersistentVolumeClaim data"


def test_only_pods_that_a_change_concerns_are_looked_at_again() -> None:
    volumes = known(a_pvc(), a_pvc("else", storage_class="ext"), LOCAL, EXTERNAL)
    volumes.put_pod(a_pod("p", ["c"], **mounts("data")))
    volumes.put_pod(a_pod("q", ["c"], **mounts("else")))
    volumes.put_pod(a_pod("claimless", **mounts("data")))
    assert volumes.apply(None, a_pv()) == {("default", "p")}
    assert volumes.apply(a_pvc(), a_pvc(volume="pv")) == {("default", "p")}
    assert volumes.apply(None, a_pv("far", storage_class="unused")) == set()
    assert volumes.apply(EXTERNAL, IN_B) == {("default", "q")}


def test_what_went_leaves_nothing() -> None:
    objects: list[StorageObject] = [a_pvc(), a_pv(on=A), a_pv("anywhere"), a_pv("mine", claim="data"), LOCAL]
    volumes = known(*objects)
    pod = a_pod("p", ["c"], **mounts("data"))
    volumes.put_pod(pod)
    for item in objects:
        volumes.apply(item, None)
    volumes.drop_pod(pod)
    free = volumes._free.pop("local")
    assert volumes == Volumes()
    assert not list(free.near({ZONE: "a"}))
