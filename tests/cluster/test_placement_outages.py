"""What happens to a cluster while pods are being placed: its API server goes away, nodes go, pools change."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driver.names import device_name
from tests.cluster.accounts import kubeconfig_of
from tests.cluster.controllers import SYSTEM, prepare, running
from tests.cluster.crowd import Crowd, explained
from tests.cluster.fleet import PAIRS, Fleet
from tests.cluster.gate import Gate, Point
from tests.cluster.tenant import at, template
from tests.cluster.witness import witnessed
from tests.controlplane import Cluster, wait_for
from tests.controlplane.config import API_SERVER

AWAY_SECONDS = 30
RENEW_SECONDS = 3  # of `controllers.TIMES`


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
    yield fleet
    fleet.remove(*fleet.nodes)


@pytest.fixture
def crowd(cluster: Cluster, fleet: Fleet) -> Iterator[Crowd]:
    name = f"test-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    crowd = Crowd(cluster, name)
    crowd.offer(template("one"))
    yield crowd
    crowd.leave()
    cluster.kubectl("delete", "namespace", name, "--wait=false")


class Dam:
    """Lets some allocations pass and holds all writes of claims from then on, until it is opened."""

    def __init__(self, passing: int) -> None:
        self._left = passing
        self._lock = threading.Lock()
        self.full = threading.Event()
        self.opened = threading.Event()

    def __call__(self, gate: Gate, point: Point) -> None:
        """A write is at that point."""
        if not point.endswith("not sent"):
            return
        with self._lock:
            if self._left:
                self._left -= point == "allocation not sent"
                return
        self.full.set()
        self.opened.wait(60)


def test_pods_that_wait_while_the_api_server_is_away_are_placed_when_it_is_back(
    cluster: Cluster, fleet: Fleet, crowd: Crowd, tmp_path: Path, kubeconfig: Path
) -> None:
    """kube-scheduler ends when it cannot renew its Lease, as it does in production, and is started again."""
    fleet.add(5, "away")
    dam = Dam(passing=4)
    gates = [Gate(cluster, dam) for _ in range(2)]
    files = [tmp_path / f"{number}.kubeconfig" for number in range(2)]
    for gate, file in zip(gates, files, strict=True):
        file.write_text(kubeconfig_of(cluster, SYSTEM, "tandem-controller", server=gate.url))
    with (
        witnessed(cluster) as witness,
        running(files[0], tmp_path / "0.log") as first,
        running(files[1], tmp_path / "1.log") as second,
        explained(crowd.describe, first.describe, second.describe, witness.describe),
    ):
        wait_for("a leader", lambda: first.leads() or second.leads())
        crowd.add(4 * PAIRS, "one")
        assert dam.full.wait(30), "nothing is in flight"
        cluster.processes[API_SERVER].kill()
        cluster.stop_scheduler()
        gone = time.monotonic()
        dam.opened.set()
        wait_for("nobody to lead", lambda: not (first.leads() or second.leads()), RENEW_SECONDS + 5)
        while time.monotonic() < gone + AWAY_SECONDS:
            assert first.status("healthz") == second.status("healthz") == "ok\n"
            assert [first.leads(), second.leads()] == [False, False]
            time.sleep(1)
        cluster.resume(API_SERVER)
        cluster.start_scheduler()

        claims = crowd.wait_whole(120)
        assert len(claims) == 4 * PAIRS
        witness.wait_for(claims)
        assert first.leads() != second.leads()
        for controller in (first, second):
            assert "Traceback" not in controller.text()
    for gate in gates:
        gate.close()


def test_pods_leave_a_node_that_is_cordoned_and_one_that_is_deleted(
    cluster: Cluster, fleet: Fleet, crowd: Crowd, kubeconfig: Path, tmp_path: Path
) -> None:
    """kube-scheduler is held for a moment, so that both nodes certainly have allocations and no pods yet."""
    nodes = fleet.add(4, "node")
    with (
        witnessed(cluster) as witness,
        running(kubeconfig, tmp_path / "log") as controller,
        explained(crowd.describe, controller.describe, witness.describe),
    ):
        early = crowd.add(3, "one")
        (cordoned,) = set(crowd.wait_bound().values())  # the fullest node is preferred
        cluster.stop_scheduler()
        late = crowd.add(2 * PAIRS - len(early), "one")

        def allocated() -> dict[str, int]:
            found: dict[str, int] = {}
            for claim in crowd.claims():
                assert "allocation" in claim.get("status", {})
                pool = claim["status"]["allocation"]["devices"]["results"][0]["pool"]
                found[pool.rpartition("/")[2]] = found.get(pool.rpartition("/")[2], 0) + 1
            assert sum(found.values()) == 2 * PAIRS
            return found

        places = wait_for("all claims to be allocated", allocated)
        (deleted,) = set(places) - {cordoned}
        cluster.kubectl("cordon", cordoned)
        fleet.remove(deleted)
        cluster.start_scheduler()
        later = crowd.add(2, "one")

        bound = crowd.wait_bound(90)
        assert {bound[name] for name in early} == {cordoned}
        assert {bound[name] for name in (*late, *later)} <= set(nodes) - {cordoned, deleted}
        witness.wait_for(crowd.wait_whole())


def test_pools_that_are_published_anew_under_load_give_no_device_that_is_gone(
    cluster: Cluster, fleet: Fleet, crowd: Crowd, kubeconfig: Path, tmp_path: Path
) -> None:
    """The GPUs of each node change from one half to the other and back. A pod that asks for one GPU of the
    new half by its address shows when the controller knows the new pool: what is asked for after that must be
    of it.
    """
    gpus = fleet.inventory.gpus
    halves = [gpus[: PAIRS // 2], gpus[PAIRS // 2 :]]
    signs = [half[-1].pci_address for half in halves]
    others = f'!(device.attributes["resource.kubernetes.io"].pciBusID in {signs})'.replace("'", '"')
    crowd.offer(template("any", gpu=others), *(template(f"sign-{n}", gpu=at(signs[n])) for n in range(2)))
    nodes = fleet.add(3, "renewed")
    with (
        witnessed(cluster) as witness,
        running(kubeconfig, tmp_path / "log") as controller,
        explained(crowd.describe, controller.describe, witness.describe),
    ):
        for number in range(6):
            half = halves[number % 2]
            crowd.add(4, "any")
            for node in nodes:
                fleet.publish(node, dataclasses.replace(fleet.inventory, gpus=half), pause_seconds=0.1)
            for node in nodes:
                crowd.add(1, f"sign-{number % 2}", nodeSelector={"kubernetes.io/hostname": node})
            crowd.wait_bound()
            after = crowd.add(4, "any")
            crowd.wait_bound()
            claims = crowd.wait_whole()
            there = {device_name("gpu", gpu.pci_address) for gpu in half}
            assert {gpu for name in after for claim in claims[name] for gpu in gpus_of(claim)} <= there
            witness.check()
            crowd.remove(claims)
        for node in nodes:
            fleet.publish(node)
        crowd.add(len(nodes) * PAIRS, "one")
        witness.wait_for(crowd.wait_whole())


def gpus_of(claim: Any) -> list[str]:
    results = claim["status"]["allocation"]["devices"]["results"]
    return [result["device"] for result in results if result["request"] == "gpu"]
