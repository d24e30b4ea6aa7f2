"""What the controller keeps of what the API server lists."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest

from controller.filters.volume_binding import claims_named
from controller.reading import (
    ClaimReader,
    NodeReader,
    Once,
    PodReader,
    SliceReader,
    VolumeClaimReader,
    VolumeReader,
)
from driver.kube.core import PodSpec, PodStatus
from driver.kube.objects import ResourceSlice
from driver.names import DRIVER_NAME, POD_CLAIM_NAME
from tests.unit.controller.things import a_claim, a_node, a_pod, slices_of
from tests.unit.kube.hostile import a_claim_with


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def as_listed(item: ResourceSlice, added: str) -> dict[str, Any]:
    """The slice with the time at which the API server saw its taints."""
    document: dict[str, Any] = json.loads(msgspec.json.encode(item))
    for device in document["spec"]["devices"]:
        for taint in device["taints"]:
            taint["timeAdded"] = added
    return document


def test_equal_devices_of_different_nodes_are_one_object() -> None:
    read = SliceReader()
    first, second = (
        read(raw(as_listed(slices_of(node)[0], added)))
        for node, added in (("n0", "2026-01-01T00:00:00Z"), ("n1", "2026-02-02T00:00:00Z"))
    )
    assert first.spec.node_name == "n0"
    assert second.spec.node_name == "n1"
    assert all(a is b for a, b in zip(first.spec.devices, second.spec.devices, strict=True))


def test_a_slice_is_read_as_it_was_published_but_for_when_its_taints_were_added() -> None:
    (published, *_) = slices_of("n0")
    assert SliceReader()(raw(as_listed(published, "2026-01-01T00:00:00Z"))).spec == published.spec


@pytest.mark.parametrize("text", ['x,"timeAdded":"y"', "timeAdded"])
def test_a_text_that_looks_like_a_time_is_left_alone(text: str) -> None:
    document = as_listed(slices_of("n0")[0], "2026-01-01T00:00:00Z")
    document["spec"]["devices"][0]["attributes"]["timeAdded"] = {"string": text}
    (device, *_) = SliceReader()(raw(document)).spec.devices
    assert device.attributes["timeAdded"].string == text


def test_like_gpus_share_all_but_their_identity() -> None:
    documents = [as_listed(slices_of(node)[0], "now") for node in ("n0", "n1")]
    documents[1]["spec"]["devices"][0]["attributes"]["uuid"]["string"] = "GPU-another"
    read = SliceReader()
    mine, other = (read(raw(document)).spec.devices[0] for document in documents)
    shared = {name for name, value in mine.attributes.items() if value is other.attributes[name]}
    assert mine.attributes.keys() - shared == {"uuid"}
    assert mine.taints is other.taints


def test_pods_of_a_workload_share_their_spec_and_keep_their_node() -> None:
    read = PodReader()
    first, second = read(raw(a_pod("a", node="n0"))), read(raw(a_pod("b", node="n1")))
    assert (first.spec.node_name, second.spec.node_name) == ("n0", "n1")
    assert first.spec.containers is second.spec.containers
    assert (first.metadata.name, second.metadata.name) == ("a", "b")


def test_a_pod_with_claims_keeps_its_owner_and_others_do_not() -> None:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": True}
    read, kept = PodReader(), []
    for claims in (["c"], []):
        document = json.loads(msgspec.json.encode(a_pod("p", claims)))
        document["metadata"]["ownerReferences"] = [owner]
        kept.append(len(read(raw(document)).metadata.owner_references))
    assert kept == [1, 0]


def test_claims_of_a_template_share_their_spec() -> None:
    read = ClaimReader()
    first, second = read(raw(a_claim("a"))), read(raw(a_claim("b")))
    assert first.spec is second.spec
    assert first == a_claim("a")


def test_what_other_drivers_are_told_and_what_drivers_say_of_devices_is_not_kept() -> None:
    text = a_claim_with(b'{"long":"text"}')
    claim = ClaimReader(DRIVER_NAME)(msgspec.Raw(text))
    assert claim.status.allocation is not None
    assert [result.device for result in claim.status.allocation.devices.results] == ["d0"]
    assert (claim.status.allocation.devices.config, claim.status.devices) == ([], [])
    assert len(claim.spec.devices.config) == 1
    ours = ClaimReader("other.io")(msgspec.Raw(text)).status.allocation
    assert ours is not None
    assert len(ours.devices.config) == 1


def test_of_a_claims_annotations_only_the_one_that_is_read_is_kept() -> None:
    document = json.loads(msgspec.json.encode(a_claim("c")))
    mine = {POD_CLAIM_NAME: "gpus"}
    document["metadata"]["annotations"] = {**mine, "example.com/long": "x" * 1_000}
    assert ClaimReader(DRIVER_NAME)(raw(document)).metadata.annotations == mine
    assert len(ClaimReader()(raw(document)).metadata.annotations) == 2


def test_of_what_a_watch_event_says_a_claim_keeps_no_more_than_its_fields() -> None:
    """Opaque parameters are bytes of the event, and would keep all of it in memory."""
    text = a_claim_with(b'{"long":"text"}')
    event = text[:-1] + b',"managedFields":"' + b"x" * 100_000 + b'"}'
    before = sys.getrefcount(event)
    claim = ClaimReader(DRIVER_NAME)(msgspec.Raw(event))
    assert claim.spec.devices.config
    assert sys.getrefcount(event) == before


def test_a_nodes_heartbeats_are_not_kept() -> None:
    document = json.loads(msgspec.json.encode(a_node("n0")))
    document["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert NodeReader()(raw(document)) == a_node("n0")


def test_too_many_values_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.reading._KEPT", 2)
    once = Once()
    first = [once.of([number]) for number in range(3)]
    assert once.of([2]) is first[2]
    assert once.of([0]) is not first[0]
    assert once.of([0]) == first[0]


def test_large_values_begin_anew_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.reading._KEPT_BYTES", 100)
    once = Once()
    small = once.of(["x"])
    assert once.of(["x"]) is small
    for number in range(3):
        once.of(["y" * 60, number])
    assert once.of(["x"]) is not small
    assert sum(map(len, once._known)) <= 100


def test_what_is_written_alike_keeps_its_type() -> None:
    status = {"phase": "Pending"}
    document = {"metadata": {"name": "p", "labels": status}, "spec": {}, "status": status}
    read = PodReader()
    for _ in range(2):
        pod = read(raw(document))
        assert (type(pod.spec), type(pod.status), pod.metadata.labels) == (PodSpec, PodStatus, status)


def test_kube_schedulers_verdict_is_kept_while_a_pod_has_no_node_and_its_words_while_claims_wait() -> None:
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/9 nodes"}
    status = {"conditions": [said, {"type": "Other", "status": "True"}]}
    read = PodReader()
    waiting = read(raw(a_pod("p", status=status)))
    assert waiting.status.conditions == [{"type": "PodScheduled", "reason": "Unschedulable"}]
    claimant = read(raw(a_pod("p", ["c"], status=status)))
    assert claimant.status.conditions == [
        {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/9 nodes"}
    ]
    bound = read(raw(a_pod("p", ["c"], status=status, node="a")))
    assert bound.status.conditions == []


def test_of_a_pods_volumes_only_the_names_of_claims_are_kept_and_specs_are_shared_all_the_same() -> None:
    volumes = [
        {"name": "config", "configMap": {"name": "big"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data-0", "readOnly": True}},
        {
            "name": "scratch",
            "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}},
        },
    ]
    read = PodReader()
    containers = [{"name": "main", "resources": {"requests": {"cpu": "1"}}}]
    first, second = (
        read(msgspec.Raw(msgspec.json.encode({"metadata": {"name": name}, "spec": spec})))
        for name, spec in (
            ("a", {"containers": containers, "volumes": volumes}),
            ("b", {"containers": containers, "volumes": volumes[:1]}),
        )
    )
    assert [claims.name for claims in claims_named(first)] == ["data-0", "a-scratch"]
    assert msgspec.json.encode(first.spec.volumes[1].ephemeral) == b"{}"
    assert second.spec.volumes == []
    assert first.spec.containers is second.spec.containers


def test_of_volumes_is_kept_what_says_where_they_are() -> None:
    annotations = {"pv.kubernetes.io/bind-completed": "yes", "other": "x" * 1000}
    claim = {
        "metadata": {"name": "c", "namespace": "n", "annotations": annotations, "labels": {"a": "b"}},
        "spec": {"volumeName": "v", "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    }
    read = VolumeClaimReader()(msgspec.Raw(msgspec.json.encode(claim)))
    assert (read.metadata.annotations, read.metadata.labels) == (
        {"pv.kubernetes.io/bind-completed": "yes"},
        {},
    )
    assert (read.spec.volume_name, read.status.phase) == ("v", "Bound")
    need = {"key": "zone", "operator": "In", "values": ["a"]}
    volumes = [
        {
            "metadata": {"name": name, "labels": {"zone": "a"}, "annotations": annotations},
            "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [need]}]}}},
        }
        for name in ("one", "two")
    ]
    reader = VolumeReader()
    one, two = (reader(msgspec.Raw(msgspec.json.encode(volume))) for volume in volumes)
    assert one.spec.node_affinity is two.spec.node_affinity is not None
    assert one.metadata.labels == {"zone": "a"}
