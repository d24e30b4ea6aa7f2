"""Pods that work together get their devices together, on the same rails, or none of them does."""

from __future__ import annotations

import dataclasses
import functools
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.controllers import Running, prepare, running
from tests.cluster.crowd import Crowd, explained
from tests.cluster.fleet import PAIRS, Fleet
from tests.cluster.tenant import rails_of, template
from tests.cluster.witness import Witness, witnessed
from tests.controlplane import Cluster, wait_for

NODES = 4
MEMBERS = 8
GANG = {"size": MEMBERS, "rails": "same"}
LABEL = "tandem-dra.io/gang"
NEAR = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {LABEL: "train"}}}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
EVENLY = {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.start(nodes=0) as made:
        yield made


@pytest.fixture(scope="module")
def kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(cluster, tmp_path_factory.mktemp("controller"))


@pytest.fixture
def fleet(cluster: Cluster) -> Iterator[Fleet]:
    fleet = Fleet(cluster)
    fleet.add(NODES, "gang")
    yield fleet
    fleet.remove(*fleet.nodes)


@pytest.fixture
def crowd(cluster: Cluster, fleet: Fleet) -> Iterator[Crowd]:
    name = f"test-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    crowd = Crowd(cluster, name)
    yield crowd
    cluster.kubectl("--namespace", name, "delete", "jobs", "--all", "--cascade=foreground", "--wait=false")
    crowd.leave()
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def controller(kubeconfig: Path, crowd: Crowd, tmp_path: Path) -> Iterator[Running]:
    with running(kubeconfig, tmp_path / "log") as made:
        wait_for("the lead", made.leads)
        yield made


@pytest.fixture
def witness(cluster: Cluster, controller: Running, crowd: Crowd) -> Iterator[Witness]:
    with witnessed(cluster) as made:
        yield made


def allocated(crowd: Crowd) -> list[Any]:
    return [claim for claim in crowd.claims() if "allocation" in claim.get("status", {})]


def test_a_gang_is_placed_when_its_last_member_is_there_and_all_are_on_the_same_rails(
    crowd: Crowd, controller: Running, witness: Witness
) -> None:
    """Two members to a node share its rails, so that their pairs cannot all be behind one switch."""
    crowd.offer(template("member", gpus=4, nics=4, require="SYS", gang=GANG))
    with explained(crowd.describe, controller.describe, witness.describe):
        crowd.add(MEMBERS - 1, "member", labels={LABEL: "train"})
        wait_for("their claims", lambda: len(crowd.claims()) == MEMBERS - 1)
        time.sleep(3)  # in which a controller that knows no gangs would place them all
        assert allocated(crowd) == []

        crowd.add(1, "member", labels={LABEL: "train"})
        claims = crowd.wait_whole()
        assert len(claims) == MEMBERS
        assert len({rails_of(claim) for (claim,) in claims.values()}) == 1
        assert len(set(crowd.bound().values())) == NODES
        witness.wait_for(claims)


def test_a_gang_with_no_rails_in_common_gets_nothing_until_there_are_some(
    fleet: Fleet, crowd: Crowd, controller: Running, witness: Witness
) -> None:
    whole = fleet.inventory
    nics = [nic for nic in whole.nics if nic.vfs]
    halves = [nics[: PAIRS // 2], nics[PAIRS // 2 :]]
    for number, node in enumerate(fleet.nodes):
        fleet.publish(node, dataclasses.replace(whole, nics=tuple(halves[number % 2])))
    crowd.offer(template("member", gpus=4, nics=4, require="SYS", gang=GANG))
    with explained(crowd.describe, controller.describe, witness.describe):
        crowd.add(MEMBERS, "member", labels={LABEL: "train"})
        wait_for("a word on it", lambda: "Unsatisfiable" in controller.text())
        assert allocated(crowd) == []
        for node in fleet.nodes:
            fleet.publish(node, whole)
        claims = crowd.wait_whole()
        assert len({rails_of(claim) for (claim,) in claims.values()}) == 1
        assert len(set(crowd.bound().values())) == NODES
        witness.wait_for(claims)


@pytest.mark.parametrize(
    ("rules", "members"),
    [
        pytest.param({"affinity": {"podAntiAffinity": {REQUIRED: [NEAR]}}}, NODES, id="one-a-node"),
        pytest.param({"topologySpreadConstraints": [{**NEAR, **EVENLY}]}, MEMBERS, id="evenly"),
    ],
)
def test_members_that_want_to_be_apart_are_placed_so_at_once(
    crowd: Crowd, controller: Running, witness: Witness, rules: dict[str, Any], members: int
) -> None:
    """Their pairs alone would all fit onto one node, which the placement would rather fill."""
    gang = {"size": members, "rails": "any"}
    crowd.offer(template("member", require="SYS", gang=gang))
    with explained(crowd.describe, controller.describe, witness.describe):
        crowd.add(members, "member", labels={LABEL: "train"}, **rules)
        claims = crowd.wait_whole()
        assert set(Counter(crowd.bound().values()).values()) == {members // NODES}
        assert len(claims) == members
        witness.wait_for(claims)


def test_two_jobs_that_fit_only_one_after_the_other_both_finish(
    cluster: Cluster, crowd: Crowd, controller: Running, witness: Witness
) -> None:
    """Both want all GPUs of the cluster. If each held some of them, neither would ever begin."""
    crowd.offer(template("member", gpus=4, nics=4, require="SYS", gang=GANG))
    with explained(crowd.describe, controller.describe, witness.describe):
        for name in ("first", "second"):
            cluster.api.post(f"/apis/batch/v1/namespaces/{crowd.namespace}/jobs", job(name))
        wait_for("all pods", lambda: len(crowd.pods()) == 2 * MEMBERS)
        begun: list[str] = []
        while len(begun) < 2:
            bound = wait_for("a whole gang to be bound", lambda: begun_now(crowd))
            (name,) = {pod.rpartition("-")[0] for pod in bound}
            begun.append(name)
            crowd.succeed(bound)
            wait_for("the job to be complete", functools.partial(is_complete, cluster, crowd, name))
        assert sorted(begun) == ["first", "second"]
        witness.check()


def begun_now(crowd: Crowd) -> list[str]:
    """Pods that are bound and have not ended, if they are a gang's number."""
    pods = crowd.pods().items()
    bound = [n for n, p in pods if p["spec"].get("nodeName") and p["status"]["phase"] == "Pending"]
    assert len(bound) in (0, MEMBERS), bound
    return bound


def is_complete(cluster: Cluster, crowd: Crowd, name: str) -> bool:
    found = cluster.api.get(f"/apis/batch/v1/namespaces/{crowd.namespace}/jobs/{name}")
    conditions = found["status"].get("conditions", [])
    return any(c["type"] == "Complete" and c["status"] == "True" for c in conditions)


def job(name: str) -> dict[str, Any]:
    """As many pods at once as a gang has."""
    container = {"name": "main", "image": "none", "resources": {"claims": [{"name": "devices"}]}}
    entries = [{"name": "devices", "resourceClaimTemplateName": "member"}]
    pod = {"restartPolicy": "Never", "containers": [container], "resourceClaims": entries}
    spec = {"parallelism": MEMBERS, "completions": MEMBERS, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
