"""The controller is killed at every write of an allocation, two hundred times, and the next one goes on.

What a user sees of it is nothing: every pod gets its devices, none gets another's.
"""

from __future__ import annotations

import dataclasses
import random
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.kube import paths
from tests.cluster.accounts import kubeconfig_of
from tests.cluster.controllers import SYSTEM, Running, prepare
from tests.cluster.crowd import Crowd, explained
from tests.cluster.fleet import Fleet
from tests.cluster.gate import POINTS, Gate, Point
from tests.cluster.tenant import rails_of, template
from tests.cluster.witness import witnessed
from tests.controlplane import Cluster, wait_for
from tests.controlplane.api import ApiError

KILLS = 200
NODES = 8
GANG = 8
WAITING = 12  # pods, when a leader begins: more than it writes at once
LEASE = ("--lease-seconds=1", "--renew-seconds=0.7", "--retry-seconds=0.1")
EXPIRES = 10  # every so many kills the dead one's Lease runs out; else it is given up for it
_LEASE = paths.lease(SYSTEM, "tandem-controller")


class Trap:
    """Armed for one point of one write; whoever gets there is killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._point: Point | None = None
        self._spared = 0
        self._sprung = threading.Event()
        self.killed: Gate | None = None

    def arm(self, point: Point, spared: int) -> None:
        """The first `spared` writes that get there pass."""
        with self._lock:
            self._point, self._spared, self.killed = point, spared, None
            self._sprung.clear()

    def __call__(self, gate: Gate, point: Point) -> None:
        """A write of the gate's controller is at that point."""
        with self._lock:
            if point != self._point or not gate.open:
                return
            if self._spared:
                self._spared -= 1
                return
            self._point = None
            gate.kill()
            self.killed = gate
        self._sprung.set()

    def wait(self, seconds: float) -> Gate | None:
        """Whose controller was killed; None if nobody came to that write in that time."""
        self._sprung.wait(seconds)
        return self.killed


class Line:
    """Controllers in line: one leads, the others stand by; each behind a gate of its own."""

    def __init__(self, cluster: Cluster, directory: Path, trap: Trap, token: str) -> None:
        self._cluster = cluster
        self._directory = directory
        self._trap = trap
        self._token = token
        self.members: dict[Gate, Running] = {}
        self._last: Running | None = None
        self._started = 0

    def grow(self) -> Gate:
        """One more stands by, soon."""
        gate = Gate(self._cluster, self._trap)
        name = f"controller-{self._started:03d}"
        self._started += 1
        kubeconfig = self._directory / f"{name}.kubeconfig"
        kubeconfig.write_text(self._token.replace("SERVER", gate.url))
        controller = Running(kubeconfig, self._directory / f"{name}.log", *LEASE)
        gate.pid = controller.process.pid or 0
        self.members[gate] = controller
        return gate

    def bury(self, gate: Gate) -> str:
        """The killed one's identity, when it has ended and the API server has answered all it had sent."""
        self._last = self.members.pop(gate)
        self._last.process.join(10)
        assert self._last.process.exitcode == -9, self._last.text()
        gate.close()
        (identity,) = set(re.findall(r"leading: True as (\S+)", self._last.text()))
        return str(identity)

    def end(self) -> None:
        for gate, controller in self.members.items():
            controller.stop()
            gate.close()

    def describe(self) -> str:
        known = [*([self._last] if self._last else []), *self.members.values()]
        return "\n".join(controller.describe() for controller in known)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.start(nodes=0) as made:
        yield made


@pytest.fixture(scope="module")
def token(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A kubeconfig of the controller's account for whatever server."""
    prepare(cluster, tmp_path_factory.mktemp("controller"))
    return kubeconfig_of(cluster, SYSTEM, "tandem-controller", server="SERVER")


@pytest.fixture
def fleet(cluster: Cluster) -> Iterator[Fleet]:
    fleet = Fleet(cluster, vfs_per_pf=2)
    yield fleet
    fleet.remove(*fleet.nodes)


@pytest.fixture
def crowd(cluster: Cluster) -> Iterator[Crowd]:
    name = f"test-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    crowd = Crowd(cluster, name)
    crowd.offer(template("one"), template("two", gpus=2, nics=2))
    yield crowd
    crowd.leave()
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def trap() -> Trap:
    return Trap()


@pytest.fixture
def line(cluster: Cluster, crowd: Crowd, trap: Trap, token: str, tmp_path: Path) -> Iterator[Line]:
    line = Line(cluster, tmp_path, trap, token)
    yield line
    line.end()


def give_up_lease(cluster: Cluster, identity: str) -> None:
    """As the end of its time would: all that the dead one had sent was answered before."""
    lease = cluster.api.get(_LEASE)
    if lease["spec"]["holderIdentity"] != identity:
        return  # the next has it already
    lease["spec"]["holderIdentity"] = ""
    try:
        cluster.api.request("PUT", _LEASE, lease)
    except ApiError as error:
        if error.status != 409:
            raise


def next_killed(trap: Trap, crowd: Crowd) -> Gate:
    """While nobody comes to the write, pods go that have been placed, and others come."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        keep_waiting(crowd)
        if dead := trap.wait(0.5):
            return dead
    raise AssertionError("nobody came to that write")


def keep_waiting(crowd: Crowd) -> None:
    """Pods with one claim and with two come, and those that have been placed go."""
    pods = crowd.pods()
    bound = [name for name, pod in pods.items() if pod["spec"].get("nodeName")]
    crowd.remove(bound)
    missing = WAITING - (len(pods) - len(bound))
    if missing > 0:
        both = missing // 3
        crowd.add(missing - both, "one")
        crowd.add(both, "one", by_name="two")


def test_no_device_is_given_twice_and_no_claim_left_half_done_over_two_hundred_kills(
    cluster: Cluster, fleet: Fleet, crowd: Crowd, trap: Trap, line: Line
) -> None:
    luck = random.Random(5)
    points = [POINTS[number % len(POINTS)] for number in range(KILLS)]
    luck.shuffle(points)
    fleet.add(NODES, "fleet")
    for _ in range(3):
        line.grow()
    done: Counter[str] = Counter()

    def progress() -> str:
        return f"after {done.total()} kills {dict(done)}, the next at {points[done.total() :][:1]}"

    with (
        witnessed(cluster) as witness,
        explained(progress, crowd.describe, line.describe, witness.describe),
    ):
        for number, point in enumerate(points):
            trap.arm(point, spared=luck.randrange(4))
            dead = next_killed(trap, crowd)
            line.grow()
            identity = line.bury(dead)
            done[point] += 1
            if number % EXPIRES:
                give_up_lease(cluster, identity)
            witness.check()
        claims = crowd.wait_whole(120)
        witness.wait_for(claims)
        assert done.total() == KILLS


@pytest.mark.parametrize("spared", [1, 4, 7])
def test_a_gang_that_was_half_written_is_finished_on_the_same_rails(
    cluster: Cluster, fleet: Fleet, crowd: Crowd, trap: Trap, line: Line, spared: int
) -> None:
    """The leader dies when so many of eight writes have come to that point; who takes over knows the rails
    from those that arrived.
    """
    fleet.add(GANG // 2, "gang")
    crowd.offer(template("member", gpus=2, nics=2, require="SYS", gang={"size": GANG, "rails": "same"}))
    for _ in range(2):
        line.grow()
    with (
        witnessed(cluster) as witness,
        explained(crowd.describe, line.describe, witness.describe),
    ):
        trap.arm("allocation written, answer read", spared)
        crowd.add(GANG, "member", labels={"tandem-dra.io/gang": "train"})
        dead = trap.wait(60)
        assert dead is not None
        line.bury(dead)
        claims = crowd.wait_whole()
        assert len(claims) == GANG
        assert len({rails_of(claim) for (claim,) in claims.values()}) == 1
        witness.wait_for(claims)


def test_a_new_leader_whose_watch_is_behind_does_not_give_away_what_the_last_one_gave(
    cluster: Cluster, fleet: Fleet, crowd: Crowd, line: Line
) -> None:
    """There is one GPU. The one who stands by hears nothing of the claim that gets it, but knows the claim of
    the older pod, whose gate is lifted then.
    """
    (node,) = fleet.add(1, "single")
    fleet.publish(node, dataclasses.replace(fleet.inventory, gpus=fleet.inventory.gpus[:1]))
    first = line.grow()
    wait_for("the first to lead", line.members[first].leads)
    older, younger = crowd.add(2, "one", schedulingGates=[{"name": "example.com/not-yet"}])
    wait_for("both claims", lambda: len(crowd.claims()) == 2)
    second = line.grow()
    line.members[second].wait_synced()
    with (
        witnessed(cluster) as witness,
        explained(crowd.describe, line.describe, witness.describe),
    ):
        second.hearing.clear()
        crowd.lift_gates(younger)
        wait_for("the younger to have the GPU", lambda: crowd.bound() == {younger: node})
        first.kill()
        line.bury(first)
        crowd.lift_gates(older)
        decided = re.compile(rf"(Unsatisfiable|Allocated) \S+/{older}")
        wait_for("a word on the older", lambda: decided.search(line.members[second].text()))
        witness.check()
        assert crowd.bound() == {younger: node}

        second.hearing.set()
        crowd.remove([younger])
        wait_for("the older to have the GPU", lambda: crowd.bound() == {older: node})
        witness.wait_for(crowd.wait_whole())
