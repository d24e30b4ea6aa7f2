"""A decision that takes long is interrupted for others, ends, and is tried again more and more rarely."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.actions import Allocate, Tell
from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.model import NodeDevices
from controller.allocator.solve import allocating
from controller.allocator.verdict import Allocation, Refusal
from controller.effort import TURN_STEPS, Effort, Efforts, done_within
from driver.kube.objects import Pod, ResourceClaim
from driver.names import DRIVER_NAME
from tests.unit.allocator import world
from tests.unit.allocator.test_counted_work import counted
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.storage import a_pv, a_pvc, mounts
from tests.unit.controller.things import a_claim, a_node, a_pod, a_request, slices_of

CEL = CelCache()
MOST_AT_ONCE = 20
"""Steps that the allocator may take without a stop: two milliseconds."""

COLOR = f'device.attributes["{DRIVER_NAME}"].color == '
NAMES = [f"r{number}" for number in range(16)]
ALIKE = [f"{name}: {' | '.join(['gpu'] * 8)}" for name in NAMES]
COLORED = [f"{name}: {' | '.join(f'gpu if {COLOR}{way}' for way in range(8))}" for name in NAMES]
PAIRS = [("a", [f"r{number}", f"r{number + 1}"]) for number in range(0, 16, 2)]


def lines(number: int, **attributes: Any) -> list[str]:
    return [
        " ".join(
            [f"gpu-{i}: type=gpu color={i % 8}", *(f"{name}={of(i)}" for name, of in attributes.items())]
        )
        for i in range(number)
    ]


HOPELESS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "too few values for all, whichever alternative each takes": (
        lines(16, root=lambda i: f"r{i % 15}"),
        {"requests": ALIKE, "distinct": [("root", NAMES)]},
    ),
    "the same with alternatives that differ": (
        lines(16, root=lambda i: f"r{i % 15}"),
        {"requests": COLORED, "distinct": [("root", NAMES)]},
    ),
    "too few values of the second of two attributes": (
        lines(32, root=lambda i: f"r{i % 16}", pad=lambda i: f"p{i * 7 % 15}"),
        {"requests": COLORED, "distinct": [("root", NAMES), ("pad", NAMES)]},
    ),
    "too few values beside values that pairs share": (
        lines(32, a=lambda i: f"a{i % 8}", b=lambda i: f"b{(i * 5 + i // 6) % 8}"),
        {"requests": COLORED, "match": PAIRS, "distinct": [("b", NAMES)]},
    ),
}
LONG: tuple[list[str], dict[str, Any]] = (
    lines(
        64,
        a=lambda i: f"a{i % 8}",
        b=lambda i: f"b{(i * 5 + i // 6) % 8}",
        c=lambda i: f"c{(i * 3 + i // 7) % 8}",
    ),
    {
        "requests": [f"{name}: gpu" for name in NAMES[:8]],
        "distinct": [(attribute, NAMES[:8]) for attribute in "abc"],
    },
)
"""A claim over which the allocator thinks for seconds."""


def asked(found: list[str], claim: dict[str, Any], steps: int = 1_000) -> tuple[Any, list[int]]:
    """The answer, and what it took from one stop to the next."""
    node = NodeDevices.build(world.slices(found, managed=True), world.node())
    work = allocating([world.claim(**claim)], node, world.classes(), set(), Options(steps=steps), CEL)
    took: list[int] = []
    while True:
        try:
            took.append(next(work))
        except StopIteration as end:
            return end.value, took


@pytest.mark.parametrize("kind", HOPELESS)
def test_many_alternatives_that_cannot_be_met_together_are_refused_soon(kind: str) -> None:
    answer, took = asked(*HOPELESS[kind])
    assert isinstance(answer, Refusal)
    assert not answer.gave_up
    assert "too few different values" in answer.message
    assert all(name in answer.message for name in NAMES)
    assert sum(took) <= 6 * TURN_STEPS


def test_a_long_search_stops_often_and_gives_up_with_what_would_help() -> None:
    answer, took = asked(*LONG, steps=30)
    assert isinstance(answer, Refusal)
    assert answer.gave_up
    assert answer.message == ("search: gave up after 31 steps; fewer subrequests or constraints would help")
    assert max(took) <= MOST_AT_ONCE


def test_uneven_pairs_are_tried_with_stops_too() -> None:
    found = [f"gpu-{i}: type=gpu pcieRoot=r{i} numaNode={i // 4}" for i in range(8)]
    found += [f"nic-{i}: type=nic pcieRoot=q{i} numaNode={i // 4}" for i in range(8)]
    claim = {"requests": ["gpu: gpu x8", "nic: nic x4"], "config": [world.alignment()]}
    answer, took = asked(found, claim)
    assert isinstance(answer, Allocation)
    assert len(took) > 20
    assert max(took) <= MOST_AT_ONCE


def test_work_that_was_interrupted_goes_on_where_it_was() -> None:
    node = NodeDevices.build(world.slices(LONG[0], managed=True), world.node())
    claim = world.claim(**LONG[1])
    work = allocating([claim], node, world.classes(), set(), Options(steps=30), CEL)
    turns = 1
    while (answer := done_within(work, Effort(50))) is None:
        turns += 1
    whole, took = asked(*LONG, steps=30)
    assert answer == whole
    assert abs(turns - sum(took) / 50) <= 0.4 * turns


def test_what_gave_up_is_tried_again_after_pauses_that_grow() -> None:
    efforts = Efforts()
    assert [efforts.gave_up("a") for _ in range(8)] == [10, 20, 40, 80, 160, 320, 600, 600]
    efforts.decided("a")
    assert efforts.gave_up("a") == 10


def test_after_many_turns_there_is_a_last_one() -> None:
    efforts = Efforts()
    turns = 0
    while not efforts.next("a").last:
        efforts.interrupted("a")
        turns += 1
    assert turns == 80
    efforts.gave_up("a")
    assert not efforts.next("a").last
    assert not efforts.next("b").last


# In the controller


def long_claim(name: str) -> ResourceClaim:
    """A claim over which the allocator thinks for seconds, on the node that publishes the devices for it."""
    requests = [a_request(f"r{number}", "gpu.tandem-dra.io", 1) for number in range(8)]
    document = msgspec.json.decode(msgspec.json.encode(a_claim(name, requests=requests)))
    document["spec"]["devices"]["constraints"] = [
        {"distinctAttribute": f"{DRIVER_NAME}/{attribute}"} for attribute in "abc"
    ]
    return msgspec.json.decode(msgspec.json.encode(document), type=ResourceClaim)


def in_namespace(thing: Any, namespace: str) -> Any:
    metadata = msgspec.structs.replace(thing.metadata, namespace=namespace)
    return msgspec.structs.replace(thing, metadata=metadata)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> ModelCluster:
    """Turns are so short that every decision over a claim that was not asked for before takes several."""
    monkeypatch.setattr("controller.effort.TURN_STEPS", 10)
    made = ModelCluster()
    for number in range(3):
        made.add_node(a_node(f"n{number}"), slices_of(f"n{number}"))
    made.add_node(a_node("long"), world.slices(LONG[0], managed=True, pool="long", node="long"))
    return made


def arrive(cluster: ModelCluster, name: str, claim: ResourceClaim, namespace: str = "default") -> Pod:
    cluster.put_claim(in_namespace(claim, namespace))
    pod: Pod = in_namespace(a_pod(name, [claim.metadata.name]), namespace)
    cluster.put_pod(pod)
    return pod


def allocated(cluster: ModelCluster, turns: int) -> list[str]:
    names = []
    for _ in range(turns):
        cluster.placer.absorb(cluster.now)
        actions = cluster.placer.step(cluster.now)
        cluster.placer.took(0.025, cluster.now)
        names += [action.pod[1] for action in actions if isinstance(action, Allocate)]
    return names


def test_a_decision_in_several_turns_is_the_same_decision(cluster: ModelCluster) -> None:
    arrive(cluster, "p", a_claim("c"))
    cluster.placer.absorb(cluster.now)
    assert allocated(cluster, 1) == []
    assert len(cluster.placer) == 1
    assert allocated(cluster, 20) == ["p"]


def test_between_the_turns_of_a_long_decision_another_namespace_has_its_own(cluster: ModelCluster) -> None:
    arrive(cluster, "a-long", long_claim("long"))
    assert allocated(cluster, 2) == []
    arrive(cluster, "other", a_claim("c"), "elsewhere")
    arrive(cluster, "same", a_claim("d"))
    assert allocated(cluster, 6) == ["other"]


def test_a_decision_that_gave_up_says_so_and_is_tried_again_rarely_though_the_cluster_changes(
    cluster: ModelCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.effort._TURNS", 2)
    arrive(cluster, "a-long", long_claim("long"))
    cluster.run()
    assert cluster.placer.counts["searches_given_up"] == 1
    (message,) = cluster.messages("a-long", "Unsatisfiable")
    assert "gave up" in message
    assert "would help" in message
    given_up = []
    for second in range(1, 75):
        cluster.wait(1, step=1)
        cluster.add_node(a_node(f"new-{second}"), [])
        given_up.append(cluster.placer.counts["searches_given_up"])
    assert [given_up[second] for second in (8, 25, 65)] == [1, 2, 3]


def test_others_are_placed_while_a_decision_has_given_up(
    cluster: ModelCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.effort._TURNS", 2)
    arrive(cluster, "a-long", long_claim("long"))
    cluster.run()
    monkeypatch.undo()
    arrive(cluster, "p", a_claim("c"))
    cluster.run()
    assert cluster.node_of("c") is not None


def test_a_pod_with_claims_for_thousands_of_devices_is_refused_without_a_search() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("n0"), slices_of("n0"))
    names = [f"c{number}" for number in range(64)]
    for name in names:
        requests = [a_request(f"r{number}", "rdma-vf.tandem-dra.io") for number in range(8)]
        cluster.put_claim(a_claim(name, requests=requests))
    cluster.put_pod(a_pod("p", names))
    cluster.placer.absorb(cluster.now)
    with counted() as calls:
        actions = cluster.placer.step(cluster.now)
    assert any(
        isinstance(action, Tell) and "claims: want 512 devices" in action.message for action in actions
    )
    assert calls.number <= 800 * TURN_STEPS


def test_long_terms_of_volumes_are_looked_at_in_turns() -> None:
    cluster = ModelCluster()
    terms = [
        {"matchExpressions": [{"key": "host", "operator": "In", "values": [f"x{number}"]}]}
        for number in range(3_000)
    ]
    affinity = {"required": {"nodeSelectorTerms": terms}}
    for item in (a_pvc(volume="pv"), a_pv(claim="data", nodeAffinity=affinity)):
        cluster.state.apply_storage(None, item)
    for number in range(20):
        name = f"n{number:02}"
        cluster.add_node(a_node(name, labels={"host": "x2999" if number == 19 else name}), slices_of(name))
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"], **mounts("data")))
    turns = 0
    placed = False
    while not placed and turns < 10:
        cluster.placer.absorb(cluster.now)
        placed = any(isinstance(action, Allocate) for action in cluster.placer.step(cluster.now))
        turns += 1
    assert placed
    assert turns == 3


def test_a_long_node_affinity_is_looked_at_in_turns() -> None:
    terms = [
        {"matchExpressions": [{"key": "host", "operator": "In", "values": [f"x{number}"]}]}
        for number in range(2_000)
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    cluster = ModelCluster()
    for number in range(20):
        name = f"n{number:02}"
        cluster.add_node(a_node(name, labels={"host": "x1999" if number == 19 else name}), slices_of(name))
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"], affinity={"nodeAffinity": required}))
    turns: list[int] = []
    while not cluster.allocated and len(turns) < 20:
        cluster.placer.absorb(cluster.now)
        with counted() as calls:
            actions = cluster.placer.step(cluster.now)
        turns.append(calls.number)
        if any(isinstance(action, Allocate) for action in actions):
            break
    assert 3 <= len(turns) < 20
    assert max(turns) <= 800 * TURN_STEPS


def test_of_many_pods_that_share_a_claim_some_are_asked_for_each_node() -> None:
    def calls_of(sharers: int) -> int:
        cluster = ModelCluster()
        for number in range(5):
            cluster.add_node(a_node(f"n{number}", cpu="1"), slices_of(f"n{number}"))
        cluster.put_claim(a_claim("c"))
        for number in range(sharers):
            cluster.put_pod(a_pod(f"p{number:03}", ["c"], cpu="100m"))
        cluster.placer.absorb(cluster.now)
        with counted() as calls:
            actions = cluster.placer.step(cluster.now)
        assert any(isinstance(action, Allocate) for action in actions)
        return calls.number

    assert calls_of(200) <= 2 * calls_of(50)
