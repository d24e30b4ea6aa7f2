"""The controller beside a real API server, kube-scheduler and kube-controller-manager, with its own rights.

The nodes that have devices are Node objects without a machine, so pods are bound there and never run; what is
looked at is who gets which devices, where, and when not.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cluster.controllers import Running, prepare, running
from tests.controlplane import Cluster, wait_for
from tests.controlplane.errors import CommandError
from tests.unit.controller.things import an_inventory, slices_of

SMALL, LARGE = "small-0", "large-0"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One real node without devices, and two that are but objects, with four switches each."""
    with Cluster.start(nodes=1) as made:
        made.add_fake_nodes(1, prefix="small", capacity={"cpu": "4"}, labels={"size": "small"})
        made.add_fake_nodes(1, prefix="large", capacity={"cpu": "64"}, labels={"size": "large"})
        for node in (SMALL, LARGE):
            made.apply(slices(made, node))
        yield made


def slices(cluster: Cluster, node: str) -> str:
    """As the node's plugin would publish them."""
    uid = cluster.kubectl("get", "node", node, "--output=jsonpath={.metadata.uid}")
    documents = []
    for published in slices_of(node, an_inventory(pairs=4, vfs=2)):
        document = msgspec.to_builtins(published)
        document["metadata"]["ownerReferences"][0]["uid"] = uid
        documents.append(document)
    return "\n---\n".join(json.dumps(document) for document in documents)


@pytest.fixture(scope="module")
def kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(cluster, tmp_path_factory.mktemp("controller"))


@pytest.fixture
def controller(kubeconfig: Path, tmp_path: Path) -> Iterator[Running]:
    with running(kubeconfig, tmp_path / "controller.log") as made:
        wait_for("the lead", made.leads)
        yield made


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """No kubelet ends these pods, so they are removed by force."""
    name = f"test-{os.urandom(3).hex()}"
    cluster.kubectl("create", "namespace", name)
    yield name
    mine = ("--namespace", name)
    with suppress(CommandError):
        cluster.kubectl(*mine, "delete", "pods", "--all", "--force", "--grace-period=0")
    cluster.kubectl(*mine, "delete", "resourceclaims", "--all", "--wait=true")
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def template(name: str, *, gpus: int = 1, nics: int = 1, **devices: Any) -> dict[str, Any]:
    def request(name: str, class_name: str, count: int) -> dict[str, Any]:
        return {"name": name, "exactly": {"deviceClassName": class_name, "count": count}}

    parameters = {
        "apiVersion": "tandem-dra.io/v1beta1",
        "kind": "Alignment",
        "pairs": {"gpus": "gpu", "nics": "nic"},
        "require": "PIX",
    }
    requests = [request("gpu", "gpu.tandem-dra.io", gpus)]
    config: list[dict[str, Any]] = []
    if nics:
        requests.append(request("nic", "rdma-vf.tandem-dra.io", nics))
        config.append({"opaque": {"driver": "tandem-dra.io", "parameters": parameters}})
    spec = {"devices": {"requests": requests, "config": config, **devices}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": spec},
    }


def pod(
    name: str, template: str, *, cpu: str = "1", labels: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": cpu}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            "containers": [
                container | {"resources": {"requests": {"cpu": cpu}, "claims": [{"name": "pair"}]}}
            ],
            "resourceClaims": [{"name": "pair", "resourceClaimTemplateName": template}],
            **spec,
        },
    }


DATA = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}


def volume(namespace: str, label: str, value: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A volume that is reached from nodes with that label alone, and the namespace's claim of it."""
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    here = {"key": label, "operator": "In", "values": [value]}
    made = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            **common,
            "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": namespace, "name": "data"},
            "local": {"path": "/data"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
    asked = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {**common, "volumeName": namespace, "resources": {"requests": {"storage": "1Gi"}}},
    }
    return made, asked


def full_node(node: str, driver: str) -> dict[str, Any]:
    """Of a node to which this CSI driver can attach no volume, which kube-scheduler alone looks at."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": {"name": node},
        "spec": {"drivers": [{"name": driver, "nodeID": node, "allocatable": {"count": 0}}]},
    }


def attached(namespace: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A volume that is attached by a CSI driver of that name, and the namespace's claim of it."""
    made, asked = volume(namespace, "", "")
    del made["spec"]["local"], made["spec"]["nodeAffinity"]
    made["spec"]["csi"] = {"driver": f"{namespace}.example.com", "volumeHandle": "data"}
    return made, asked


class User:
    """Somebody who works in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        return self._namespace

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._cluster.kubectl("--namespace", self._namespace, *arguments, stdin=stdin)

    def apply(self, *documents: dict[str, Any]) -> None:
        self.kubectl("apply", "--filename=-", stdin="\n---\n".join(json.dumps(d) for d in documents))

    def get(self, kind: str, name: str) -> Any:
        return json.loads(self.kubectl("get", kind, name, "--output=json"))

    def claim_of(self, pod_name: str) -> Any:
        statuses = self.get("pod", pod_name)["status"].get("resourceClaimStatuses", [])
        assert statuses, "the claim is not made yet"
        return self.get("resourceclaim", statuses[0]["resourceClaimName"])

    def node_of(self, pod_name: str) -> str:
        return str(self.get("pod", pod_name)["spec"].get("nodeName", ""))

    def wait_bound(self, pod_name: str, timeout_seconds: float = 60) -> str:
        return wait_for(f"{pod_name} to be bound", lambda: self.node_of(pod_name), timeout_seconds)

    def messages(self, kind: str, name: str, reason: str) -> list[str]:
        selector = f"involvedObject.kind={kind},involvedObject.name={name},reason={reason}"
        found = json.loads(self.kubectl("get", "events", f"--field-selector={selector}", "--output=json"))
        return [event["message"] for event in found["items"]]

    def wait_message(self, pod_name: str, reason: str, timeout_seconds: float = 60) -> str:
        claim = wait_for("the claim", lambda: self.claim_of(pod_name))["metadata"]["name"]
        return wait_for(
            f"an Event {reason}", lambda: self.messages("ResourceClaim", claim, reason), timeout_seconds
        )[0]

    def force_delete(self, pod_name: str) -> None:
        self.kubectl("delete", "pod", pod_name, "--force", "--grace-period=0")


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace)


@pytest.mark.usefixtures("controller")
def test_a_pod_gets_a_pair_is_bound_and_leaves_nothing_behind(user: User) -> None:
    user.apply(template("pair"), pod("p", "pair"))
    node = user.wait_bound("p")
    claim = user.claim_of("p")
    allocation = claim["status"]["allocation"]
    assert allocation["allocationTimestamp"]
    assert allocation["nodeSelector"]["nodeSelectorTerms"] == [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    ]
    assert claim["metadata"]["finalizers"] == ["resource.kubernetes.io/delete-protection"]
    ours = [c for c in allocation["devices"]["config"] if c["source"] == "FromClass"]
    placement = ours[0]["opaque"]["parameters"]
    (pair,), (interface,) = placement["pairs"], placement["interfaces"]
    assert [r["device"] for r in allocation["devices"]["results"]] == [pair["gpu"], pair["nic"]]
    assert pair["tier"] == "PIX"
    assert interface["interface"] == "net1"
    assert interface["addresses"] == [f"10.200.{pair['rail']}.1/24"]
    assert node in user.wait_message("p", "Allocated")
    user.force_delete("p")

    wait_for("the claim to go", lambda: not user.kubectl("get", "resourceclaims", "--output=name"))


@pytest.mark.usefixtures("controller")
def test_pods_that_want_all_devices_of_the_cluster_get_them_once_each(user: User) -> None:
    user.apply(template("pair"), *(pod(f"p{index}", "pair", cpu="100m") for index in range(9)))
    bound = wait_for(
        "eight pods to be bound",
        lambda: nodes if len(nodes := [n for i in range(9) if (n := user.node_of(f"p{i}"))]) == 8 else None,
        40,
    )
    assert sorted(bound) == [LARGE] * 4 + [SMALL] * 4
    claims = json.loads(user.kubectl("get", "resourceclaims", "--output=json"))["items"]
    results = [
        (r["pool"], r["device"])
        for claim in claims
        for r in claim["status"].get("allocation", {}).get("devices", {}).get("results", [])
    ]
    assert len(results) == len(set(results)) == 16
    (waiting,) = [f"p{index}" for index in range(9) if not user.node_of(f"p{index}")]
    assert 'request "gpu"' in user.wait_message(waiting, "Unsatisfiable")
    user.force_delete("p0" if waiting != "p0" else "p1")
    user.wait_bound(waiting)


def test_a_pod_whose_cpu_request_fits_only_another_node_lands_there(user: User, controller: Running) -> None:
    # The small node is the fuller one, so it would be preferred.
    user.apply(template("pair"), pod("first", "pair", nodeSelector={"size": "small"}))
    assert user.wait_bound("first") == SMALL
    before = controller.metric("allocations_total")
    user.apply(pod("big", "pair", cpu="16"))
    assert user.wait_bound("big") == LARGE
    assert controller.metric("allocations_total") == before + 1


def test_a_pod_that_fits_nowhere_is_not_allocated_and_told_why(user: User, controller: Running) -> None:
    before = controller.metric("allocations_total")
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "moon", "operator": "Exists"}]}]
            }
        }
    }
    user.apply(template("pair"), pod("cpu", "pair", cpu="1000"), pod("moon", "pair", affinity=affinity))
    assert "too little cpu" in user.wait_message("cpu", "Unsatisfiable")
    assert "node affinity" in user.wait_message("moon", "Unsatisfiable")
    time.sleep(5)
    assert controller.metric("allocations_total") == before


def test_a_claim_that_cannot_be_had_names_the_constraint_that_fails(user: User, controller: Running) -> None:
    same_switch = [{"requests": ["gpu"], "matchAttribute": "tandem-dra.io/pcieSwitch"}]
    user.apply(template("two-on-one", gpus=2, nics=0, constraints=same_switch), pod("p", "two-on-one"))
    assert "tandem-dra.io/pcieSwitch" in user.wait_message("p", "Unsatisfiable")
    wait_for("the pod to be told too", lambda: user.messages("Pod", "p", "Unsatisfiable"))
    assert controller.metric("pending_pods") == 1


def test_a_pod_that_must_not_be_beside_another_is_placed_elsewhere_at_once(
    user: User, controller: Running
) -> None:
    user.apply(
        template("pair"), pod("lonely", "pair", labels={"app": "lonely"}, nodeSelector={"size": "small"})
    )
    assert user.wait_bound("lonely") == SMALL
    apart = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "lonely"}}}
            ]
        }
    }
    before = controller.metric("allocations_total")
    user.apply(pod("other", "pair", affinity=apart))
    assert user.wait_bound("other") == LARGE
    assert controller.metric("allocations_total") == before + 1


def test_a_pod_goes_where_its_local_volume_is_at_the_first_try(user: User, controller: Running) -> None:
    """The fuller node would be preferred."""
    user.apply(template("pair"), pod("first", "pair", nodeSelector={"size": "small"}))
    assert user.wait_bound("first") == SMALL
    before = controller.metric("allocations_total")
    user.apply(*volume(user.namespace, "size", "large"), pod("other", "pair", volumes=[DATA]))
    assert user.wait_bound("other") == LARGE
    assert controller.metric("allocations_total") == before + 1


def test_what_kube_scheduler_gives_back_is_placed_elsewhere_after_a_pause(
    user: User, controller: Running
) -> None:
    """The controller knows nothing of what CSI drivers can attach, and prefers the fuller node."""
    user.apply(template("pair"), pod("first", "pair", nodeSelector={"size": "small"}))
    assert user.wait_bound("first") == SMALL
    before = controller.metric("allocations_total")
    user.apply(full_node(SMALL, f"{user.namespace}.example.com"))
    user.apply(*attached(user.namespace), pod("other", "pair", volumes=[DATA]))
    assert user.wait_bound("other") == LARGE
    assert SMALL in user.wait_message("other", "Returned")
    assert controller.metric("allocations_total") == before + 2


def test_a_pod_that_no_node_takes_makes_few_allocations(user: User, kubeconfig: Path, tmp_path: Path) -> None:
    """Its volume can be attached nowhere, of which the controller knows nothing, so it has to try.
    kube-scheduler says the same before and after, so each allocation stands for four times the time-out.
    """
    sizes = {"key": "size", "operator": "In", "values": ["small", "large"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [sizes]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    with running(kubeconfig, tmp_path / "log", "--bind-timeout-seconds=1") as controller:
        wait_for("the lead", controller.leads)
        user.apply(*(full_node(node, f"{user.namespace}.example.com") for node in (SMALL, LARGE)))
        misfit = pod("misfit", "pair", volumes=[DATA], affinity=affinity)
        user.apply(*attached(user.namespace), template("pair"), misfit)
        user.wait_message("misfit", "TakenBack")
        time.sleep(25)
        assert 2 <= controller.metric("allocations_total") <= 4
        assert "allocation" not in user.claim_of("misfit")["status"]
        user.apply(pod("another", "pair"))
        assert user.wait_bound("another")


def test_a_pod_behind_a_scheduling_gate_gets_nothing_until_it_opens(user: User, controller: Running) -> None:
    before = controller.metric("allocations_total")
    user.apply(template("pair"), pod("p", "pair", schedulingGates=[{"name": "example.com/quota"}]))
    wait_for("the claim", lambda: user.claim_of("p"))
    time.sleep(2)
    assert controller.metric("allocations_total") == before
    user.kubectl("patch", "pod", "p", "--type=merge", '--patch={"spec":{"schedulingGates":null}}')
    user.wait_bound("p")


def test_a_shared_claim_serves_its_pods_on_one_node(user: User, controller: Running) -> None:
    claim = template("shared") | {"kind": "ResourceClaim"}
    claim["spec"] = claim["spec"]["spec"]
    pods = [pod(name, "", cpu="3") for name in ("a", "b")]
    for document in pods:
        document["spec"]["resourceClaims"] = [{"name": "pair", "resourceClaimName": "shared"}]
    before = controller.metric("allocations_total")
    user.apply(claim, *pods)
    assert user.wait_bound("a") == user.wait_bound("b") == LARGE
    assert controller.metric("allocations_total") <= before + 2


@pytest.mark.usefixtures("controller")
def test_what_a_crash_between_the_two_writes_leaves_is_removed_with_the_claim(user: User) -> None:
    claim = template("half") | {"kind": "ResourceClaim"}
    claim["spec"] = claim["spec"]["spec"]
    claim["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    user.apply(claim)
    user.kubectl("delete", "resourceclaim", "half", "--wait=true", "--timeout=20s")


def test_an_allocation_nobody_uses_is_taken_back(user: User, kubeconfig: Path, tmp_path: Path) -> None:
    claim = template("alone") | {"kind": "ResourceClaim"}
    claim["spec"] = claim["spec"]["spec"]
    document = pod("p", "", schedulerName="nobody")
    document["spec"]["resourceClaims"] = [{"name": "pair", "resourceClaimName": "alone"}]
    with running(kubeconfig, tmp_path / "log", "--bind-timeout-seconds=3") as controller:
        wait_for("the lead", controller.leads)
        user.apply(claim, document)
        wait_for(
            "the allocation", lambda: "allocation" in user.get("resourceclaim", "alone").get("status", {})
        )
        user.force_delete("p")
        wait_for(
            "the taking back",
            lambda: "allocation" not in user.get("resourceclaim", "alone").get("status", {}),
        )


def test_the_second_controller_takes_over_from_one_that_was_killed(
    user: User, kubeconfig: Path, tmp_path: Path
) -> None:
    with running(kubeconfig, tmp_path / "a.log") as first:
        wait_for("the first to lead", first.leads)
        with running(kubeconfig, tmp_path / "b.log") as second:
            user.apply(template("pair"), pod("before", "pair"))
            user.wait_bound("before")
            assert not second.leads()
            first.stop(signal.SIGKILL)
            user.apply(pod("after", "pair"))
            user.wait_bound("after")
            assert second.leads()


def test_a_controller_that_is_asked_to_stop_hands_the_lead_over_at_once(
    kubeconfig: Path, tmp_path: Path
) -> None:
    with (
        running(kubeconfig, tmp_path / "a.log") as first,
        running(kubeconfig, tmp_path / "b.log", "--lease-seconds=60") as second,
    ):
        leader, follower = wait_for(
            "one to lead",
            lambda: (first, second) if first.leads() else (second, first) if second.leads() else None,
        )
        assert leader.stop() == 0
        wait_for("the other to lead", follower.leads, 5)
