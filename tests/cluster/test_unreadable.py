"""A tenant writes into claims what the API server keeps as it is sent, and nobody else notices."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import AllocationResult, ResourceClaim
from driver.names import DRIVER_NAME
from tests.cluster.controllers import Running, prepare, running
from tests.cluster.crowd import Crowd, explained
from tests.cluster.fleet import Fleet
from tests.cluster.tenant import template
from tests.controlplane import Cluster, wait_for
from tests.unit.kube.hostile import DEEP, DEEP_OBJECTS, HALF_A_PAIR, HALF_A_PAIR_IN_A_NAME

HOSTILE = {
    "deep": DEEP,
    "deep-objects": DEEP_OBJECTS,
    "half": HALF_A_PAIR,
    "half-in-a-name": HALF_A_PAIR_IN_A_NAME,
}
OTHER_DRIVER = "other.example"
PLACED_SECONDS = 2.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.start(nodes=0) as made:
        yield made


@pytest.fixture(scope="module")
def kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(cluster, tmp_path_factory.mktemp("controller"))


@pytest.fixture
def crowds(cluster: Cluster) -> Iterator[list[Crowd]]:
    made = []
    for role in ("victim", "attacker"):
        name = f"{role}-{secrets.token_hex(3)}"
        cluster.kubectl("create", "namespace", name)
        crowd = Crowd(cluster, name)
        crowd.offer(template("one"))
        made.append(crowd)
    yield made
    made[0].leave()
    for crowd in made:
        cluster.kubectl("delete", "namespace", crowd.namespace, "--wait=false")


def write_claims(client: KubeClient, namespace: str) -> None:
    """Write claims with each text: for devices of another driver, for ours, for ours with theirs beside."""
    ours: dict[str, Any] = template("t")["spec"]["spec"]["devices"]
    theirs = {"requests": [{"name": "disk", "exactly": {"deviceClassName": "disk.example"}}]}
    for name, text in HOSTILE.items():
        for kind, devices, driver in (
            ("theirs", theirs, OTHER_DRIVER),
            ("ours", {"requests": ours["requests"]}, DRIVER_NAME),
            ("both", ours, OTHER_DRIVER),
        ):
            opaque = {"driver": driver, "parameters": msgspec.Raw(text)}
            config = [*devices.get("config", []), {"opaque": opaque}]
            claim = {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceClaim",
                "metadata": {"name": f"{kind}-{name}"},
                "spec": {"devices": {**devices, "config": config}},
            }
            client.create(paths.claims(namespace), claim, ResourceClaim)


def pod_with(cluster: Cluster, namespace: str, claim: str) -> None:
    container = {"name": "main", "image": "none", "resources": {"claims": [{"name": "c"}]}}
    spec = {"containers": [container], "resourceClaims": [{"name": "c", "resourceClaimName": claim}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": claim}, "spec": spec}
    cluster.api.post(paths.pods(namespace), pod)


def place(crowd: Crowd, controller: Running) -> None:
    """Place a pod, and another two if something else kept the machine busy."""
    for last in (False, False, True):
        begun = time.monotonic()
        crowd.add(1, "one")
        crowd.wait_whole(30)
        if (took := time.monotonic() - begun) <= PLACED_SECONDS:
            return
        assert not last, f"the pod took {took:.1f} s; {controller.describe()}"


def test_what_a_tenant_writes_into_free_fields_stops_nobody_and_a_new_controller_neither(
    cluster: Cluster, kubeconfig: Path, crowds: list[Crowd], tmp_path: Path
) -> None:
    victim, attacker = crowds
    fleet = Fleet(cluster)
    fleet.add(2, "node")
    client = KubeClient.load(cluster.kubeconfig, user_agent="test")
    with running(kubeconfig, tmp_path / "0.log") as first, explained(victim.describe, first.describe):
        wait_for("it to lead", first.leads)
        write_claims(client, attacker.namespace)
        for name in HOSTILE:
            for kind in ("theirs", "ours", "both"):
                pod_with(cluster, attacker.namespace, f"{kind}-{name}")
        place(victim, first)

        for name, text in HOSTILE.items():
            allocation = wait_allocated(client, paths.claim(attacker.namespace, f"both-{name}"))
            opaque = [entry.opaque for entry in allocation.devices.config if entry.opaque is not None]
            assert [bytes(o.parameters) for o in opaque if o.driver == OTHER_DRIVER] == [text]
            message = wait_refused(cluster, attacker, f"ours-{name}")
            assert "nested too deeply" in message or "half a surrogate pair" in message
        assert first.metric("unreadable_objects") == 0
    with running(kubeconfig, tmp_path / "1.log") as second, explained(victim.describe, second.describe):
        wait_for("it to lead", second.leads)
        place(victim, second)
        assert "Traceback" not in second.text()
    fleet.remove(*fleet.nodes)
    client.close()


def wait_allocated(client: KubeClient, path: str) -> AllocationResult:
    def probe() -> AllocationResult | None:
        return client.get(path, ResourceClaim).status.allocation

    found = wait_for(f"{path} to be allocated", probe)
    assert found is not None
    return found


def wait_refused(cluster: Cluster, crowd: Crowd, claim: str) -> str:
    """Return the message of the Event that says why the claim gets no devices."""
    selector = (
        f"--field-selector=reason=Unsatisfiable,involvedObject.kind=ResourceClaim,involvedObject.name={claim}"
    )

    def probe() -> str:
        events = cluster.kubectl("--namespace", crowd.namespace, "get", "events", selector, "--output=json")
        return next((item["message"] for item in json.loads(events)["items"]), "")

    return wait_for(f"an Event of {claim}", probe)
