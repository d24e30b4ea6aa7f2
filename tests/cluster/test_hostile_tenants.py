"""A hostile tenant on a cluster that others use too: each attack costs the others at most a moment.

One controller lives through all of them. After each begins, other tenants' pods come one after the other and
are placed; the controller goes on, in little memory, and says truly that it is well.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.controllers import ROOT, Running, prepare, running
from tests.cluster.crowd import Crowd, explained
from tests.cluster.fleet import Fleet
from tests.cluster.hostile import ATTACKS, HOPELESS, UNREADABLE, Attack, Attacker, under
from tests.cluster.tenant import template
from tests.controlplane import Cluster, wait_for
from tests.controlplane.config import Options

PLACED_WITHIN_SECONDS: Final = 2.0
MOST_MEMORY_MIB: Final = 300
VICTIMS: Final = 5
_POLICIES = ("admission", "networks-admission")
_ALL_VERSIONS = Options(runtime_config=("resource.k8s.io/v1beta1=true", "resource.k8s.io/v1beta2=true"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.start(nodes=0, options=_ALL_VERSIONS) as made:
        yield made


@pytest.fixture(scope="module")
def kubeconfig(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kubeconfig = prepare(cluster, tmp_path_factory.mktemp("controller"))
    for name in _POLICIES:
        cluster.kubectl("apply", f"--filename={ROOT}/deploy/base/{name}.yaml")
    return kubeconfig


@pytest.fixture(scope="module")
def controller(kubeconfig: Path) -> Iterator[Running]:
    with running(kubeconfig, kubeconfig.with_name("log")) as made:
        wait_for("the lead", made.leads)
        yield made


@pytest.fixture(scope="module")
def fleet(cluster: Cluster) -> Fleet:
    fleet = Fleet(cluster)
    fleet.add(6, "shared")
    return fleet


@pytest.fixture
def attacker(cluster: Cluster, controller: Running, fleet: Fleet) -> Attacker:
    name = f"hostile-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    Crowd(cluster, name)  # returns when pods can be made there
    return Attacker(cluster, name, controller)


@pytest.fixture
def victim(cluster: Cluster, fleet: Fleet) -> Iterator[Crowd]:
    name = f"victim-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    crowd = Crowd(cluster, name)
    crowd.offer(template("one"))
    yield crowd
    crowd.leave()
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def memory_mib(controller: Running) -> float:
    """Resident, now."""
    status = Path(f"/proc/{controller.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def seconds_to_bind(crowd: Crowd) -> float:
    """From the making of a pod, and of its claim, until it has a node."""
    started = time.monotonic()
    (name,) = crowd.add(1, by_name="one")
    wait_for(f"{name} to be bound", lambda: name in crowd.bound(), 60, 0.02)
    return time.monotonic() - started


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_others_are_placed_while_a_tenant_attacks(
    attack: Attack, attacker: Attacker, victim: Crowd, controller: Running
) -> None:
    with (
        explained(victim.describe, controller.describe),
        under(attack, attacker) as begun_seconds,
    ):
        delays = [seconds_to_bind(victim) for _ in range(VICTIMS)]
        memory = memory_mib(controller)
        print(
            f"{attack.name}: begun in {begun_seconds:.1f} s; pods bound after "
            f"{', '.join(f'{delay:.2f}' for delay in delays)} s; {memory:.0f} MiB"
        )
        assert max(delays) <= PLACED_WITHIN_SECONDS
        assert memory <= MOST_MEMORY_MIB
        assert controller.status("healthz") == "ok\n"
        assert controller.status("readyz") == "ok\n"
        assert controller.leads()


def test_a_controller_that_starts_under_attack_leads_and_places(
    attacker: Attacker, victim: Crowd, controller: Running, kubeconfig: Path, tmp_path: Path
) -> None:
    """The last one: it ends the controller that all others share."""
    for attack in UNREADABLE:
        attack.begin(attacker)
    HOPELESS.begin(attacker)
    controller.stop()
    with (
        running(kubeconfig, tmp_path / "log") as successor,
        explained(victim.describe, successor.describe),
    ):
        wait_for("the lead", successor.leads, 30, 0.02)
        assert seconds_to_bind(victim) <= PLACED_WITHIN_SECONDS
        assert memory_mib(successor) <= MOST_MEMORY_MIB
        attacker.leave()
