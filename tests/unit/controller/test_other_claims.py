"""A pod that needs devices of other drivers, too, goes where kube-scheduler can allocate those."""

from __future__ import annotations

import msgspec
import pytest

from driver.kube.objects import AllocationResult, ResourceClaim
from driver.names import DRIVER_NAME
from tests.unit.allocator import world
from tests.unit.controller.gangs.troop import gang_claim, of_job
from tests.unit.controller.model import a_cluster
from tests.unit.controller.others import (
    OTHER,
    THIRD,
    need,
    publish,
    taken,
    their_claim,
    theirs_on,
    where,
    withdraw,
)
from tests.unit.controller.things import (
    CLASSES,
    a_claim,
    a_class,
    a_node,
    a_pod,
    a_request,
    an_inventory,
    slices_of,
)


@pytest.mark.parametrize("nodes", [3, 6, 40])
def test_the_node_is_one_that_can_serve_the_other_claim_too(nodes: int) -> None:
    cluster = a_cluster(nodes)
    last = sorted(cluster.state.nodes)[-1]
    publish(cluster, *theirs_on(last))
    need(cluster, "p", their_claim("theirs"))
    cluster.run()
    assert where(cluster, "p") == last
    assert [node for _, _, node in cluster.allocated] == [last]


def test_devices_that_other_claims_hold_are_not_there_for_it() -> None:
    cluster = a_cluster(3)
    publish(cluster, *theirs_on("n0"), *theirs_on("n1"))
    cluster.put_claim(their_claim("held"))
    cluster.set_allocation("held", taken("n0", "x-0"))
    need(cluster, "p", their_claim("theirs"))
    cluster.run()
    assert where(cluster, "p") == "n1"


def test_a_pod_waits_with_the_reason_and_goes_on_when_a_device_comes_free() -> None:
    cluster = a_cluster(2)
    publish(cluster, *theirs_on("n1"))
    cluster.put_claim(their_claim("held"))
    cluster.set_allocation("held", taken("n1", "x-0"))
    need(cluster, "p", their_claim("theirs"))
    cluster.wait(1)
    assert cluster.allocated == []
    (message,) = cluster.messages("p", "Unsatisfiable")
    assert message.startswith("2 nodes do not fit the pod: ")
    said = f'1 × claim theirs (driver {OTHER}) has no devices there: request "x": 1 wanted, 0 free'
    assert f"{said} (1 device, 1 taken)" in message
    assert f"{said} (0 devices)" in message
    cluster.delete_claim("held")
    cluster.wait(1)
    assert where(cluster, "p") == "n1"


def test_a_pod_waits_for_a_driver_that_publishes_nothing_yet() -> None:
    cluster = a_cluster(2)
    need(cluster, "p", their_claim("theirs"))
    cluster.wait(600, step=5)
    assert cluster.allocated == []
    assert (
        "claim theirs (no published device is of its class) has no devices there"
        in (cluster.messages("p", "Unsatisfiable")[0])
    )
    publish(cluster, *theirs_on("n1"))
    cluster.wait(1)
    assert where(cluster, "p") == "n1"


def test_a_pod_waits_for_a_class_of_another_driver() -> None:
    cluster = a_cluster(2)
    publish(cluster, *theirs_on("n1", driver=THIRD))
    need(cluster, "p", their_claim("theirs", driver=THIRD))
    cluster.wait(1)
    assert cluster.allocated == []
    cluster.state.apply_class(None, a_class(THIRD, driver=THIRD))
    cluster.wait(1)
    assert where(cluster, "p") == "n1"


def test_two_other_claims_are_had_together() -> None:
    cluster = a_cluster(4)
    cluster.state.apply_class(None, a_class(THIRD, driver=THIRD))
    publish(cluster, *theirs_on("n0"), *theirs_on("n2"), *theirs_on("n1", driver=THIRD))
    publish(cluster, *theirs_on("n2", driver=THIRD), *theirs_on("n3", 2))
    need(cluster, "p", their_claim("a"), their_claim("b", driver=THIRD))
    need(cluster, "q", their_claim("c"), their_claim("d"))
    cluster.run()
    assert where(cluster, "p") == "n2"
    assert where(cluster, "q") == "n3"


def test_devices_are_promised_to_pods_that_have_their_node_already() -> None:
    cluster = a_cluster(4)
    publish(cluster, *theirs_on("n1", 2), *theirs_on("n3"))
    for name in "pqr":
        need(cluster, name, their_claim(f"{name}-theirs"))
    need(cluster, "s", their_claim("s-theirs"))
    cluster.run()
    assert sorted(where(cluster, name) or "" for name in "pqr") == ["n1", "n1", "n3"]
    assert where(cluster, "s") is None
    assert "those that are left are promised to other pods" in cluster.messages("s", "Unsatisfiable")[0]
    leaving = next(name for name in "pqr" if where(cluster, name) == "n3")
    cluster.delete_pod(leaving)
    cluster.delete_claim(f"{leaving}-ours")
    cluster.delete_claim(f"{leaving}-theirs")
    cluster.wait(1)
    assert where(cluster, "s") == "n3"


def test_of_promised_devices_that_became_too_few_none_is_open_to_others() -> None:
    cluster = a_cluster(2)
    publish(cluster, *theirs_on("n1", 2))
    for name in "pqr":
        need(cluster, name, their_claim(f"{name}-theirs"))
    cluster.run()
    cluster.put_claim(their_claim("held"))
    cluster.set_allocation("held", taken("n1", "x-0"))
    cluster.run()
    assert [where(cluster, name) for name in "pqr"].count("n1") == 2


def test_what_was_promised_to_a_pod_that_cannot_be_served_any_more_is_open_at_once() -> None:
    cluster = a_cluster(2)
    publish(cluster, *theirs_on("n1", 2))
    need(cluster, "p", their_claim("p-theirs", 2))
    need(cluster, "q", their_claim("q-theirs"))
    cluster.run()
    assert (where(cluster, "p"), where(cluster, "q")) == ("n1", None)
    cluster.put_claim(their_claim("held"))
    cluster.set_allocation("held", taken("n1", "x-0"))
    cluster.run()
    assert where(cluster, "q") == "n1"


def test_a_pod_that_cannot_be_served_there_keeps_nobody_off() -> None:
    """It got its node while there was a device for it, which went."""
    cluster = a_cluster(2)
    slices = theirs_on("n1", 2)
    publish(cluster, *slices)
    need(cluster, "p", their_claim("p-theirs", 2))
    cluster.run()
    withdraw(cluster, *slices)
    publish(cluster, *theirs_on("n1", 1))
    need(cluster, "q", their_claim("q-theirs"))
    cluster.run()
    assert where(cluster, "q") == "n1"


@pytest.mark.parametrize(
    ("words", "tolerations", "placed"),
    [
        ("!broken:NoSchedule", [], False),
        ("!broken:NoSchedule", [{"key": "broken", "operator": "Exists"}], True),
        (world.CONTROLLER, [], False),
        ("!broken:None", [], True),
    ],
)
def test_taints_count_as_for_kube_scheduler(
    words: str, tolerations: list[dict[str, str]], placed: bool
) -> None:
    cluster = a_cluster(1)
    publish(cluster, *theirs_on("n0", words=words))
    request = a_request("x", OTHER)
    request["exactly"]["tolerations"] = tolerations
    need(cluster, "p", a_claim("theirs", requests=[request]))
    cluster.run()
    assert (where(cluster, "p") is not None) is placed


def test_a_claim_for_any_device_does_not_count_on_ours() -> None:
    cluster = a_cluster(2)
    cluster.state.apply_class(
        None, msgspec.convert({"metadata": {"name": "any"}, "spec": {}}, type(CLASSES[0]))
    )
    need(cluster, "p", a_claim("theirs", requests=[a_request("x", "any")]))
    cluster.run()
    assert cluster.allocated == []
    publish(cluster, *theirs_on("n1"))
    cluster.wait(1)
    assert where(cluster, "p") == "n1"


@pytest.mark.parametrize("managed", [True, False])
def test_of_our_devices_kube_scheduler_may_take_those_without_our_taint(managed: bool) -> None:
    cluster = a_cluster(0)
    cluster.add_node(a_node("n0"), slices_of("n0", taint=managed))
    others = cluster.state.others
    assert bool(others.pools.slices((DRIVER_NAME, f"{DRIVER_NAME}/n0"))) is not managed


def test_pools_of_other_drivers_follow_kubernetes_rules() -> None:
    cluster = a_cluster(2)
    part = world.part(
        "part", ["x-0: type=x"], driver=OTHER, pool="pool", generation=2, count=2, counters=None, where="n1"
    )
    publish(cluster, part)
    need(cluster, "p", their_claim("theirs"))
    cluster.wait(1)
    assert cluster.allocated == []
    rest = world.part(
        "rest", ["x-1: type=x"], driver=OTHER, pool="pool", generation=2, count=2, counters=None, where="n1"
    )
    publish(cluster, rest)
    cluster.wait(1)
    assert where(cluster, "p") == "n1"


def test_a_network_attached_device_does_for_any_node_but_once() -> None:
    cluster = a_cluster(2)
    wide = world.part(
        "wide", ["x-0: type=x"], driver=OTHER, pool="pool", generation=1, count=1, counters=None, where="all"
    )
    publish(cluster, wide)
    need(cluster, "p", their_claim("theirs"))
    cluster.run()
    assert where(cluster, "p") is not None
    cluster.set_allocation(
        "theirs",
        msgspec.convert(
            {"devices": {"results": [{"request": "x", "driver": OTHER, "pool": "pool", "device": "x-0"}]}},
            AllocationResult,
        ),
    )
    need(cluster, "q", their_claim("q-theirs"))
    cluster.run()
    assert where(cluster, "q") is None


@pytest.mark.parametrize(
    "expression",
    [
        'device.attributes["other.example.com"].absent == 1',
        'device.attributes["other.example.com"].type',
    ],
)
def test_what_our_allocator_cannot_judge_is_left_to_kube_schedulers_verdict(expression: str) -> None:
    cluster = a_cluster(2)
    publish(cluster, *theirs_on("n0"), *theirs_on("n1"))
    need(cluster, "p", their_claim("theirs", 1, expression))
    cluster.run()
    assert where(cluster, "p") is not None


def test_a_search_that_takes_long_is_left_to_kube_schedulers_verdict() -> None:
    """Eight devices of which no two share any of three numbers: whether there are nobody sees at a glance."""
    cluster = a_cluster(1)
    devices = [
        f"x-{n}: type=x a=a{n % 8} b=b{(n * 5 + n // 6) % 8} c=c{(n * 3 + n // 7) % 8}" for n in range(64)
    ]
    publish(cluster, *world.slices(devices, driver=OTHER, pool="pool", node="n0"))
    exactly = {"deviceClassName": OTHER, "allocationMode": "ExactCount", "count": 1}
    requests = [{"name": f"r{n}", "exactly": exactly} for n in range(8)]
    document = msgspec.json.decode(msgspec.json.encode(a_claim("theirs", requests=requests)))
    document["spec"]["devices"]["constraints"] = [{"distinctAttribute": f"{OTHER}/{name}"} for name in "abc"]
    need(cluster, "p", msgspec.json.decode(msgspec.json.encode(document), type=ResourceClaim))
    cluster.run()
    assert where(cluster, "p") == "n0"


def test_other_drivers_devices_cost_nothing_until_a_pod_needs_them() -> None:
    cluster = a_cluster(12)
    for number in range(12):
        publish(cluster, *theirs_on(f"n{number}", 1 + number % 4))
    cluster.put_claim(a_claim("plain"))
    cluster.put_pod(a_pod("plain", ["plain"]))
    cluster.run()
    state = cluster.state
    assert not state.others.index.records
    assert len(list(state.index.groups())) == 2, "one node has a claim, the others are equal"
    generation = state.generation
    publish(cluster, *theirs_on("n3", driver=THIRD))
    assert state.generation == generation, "nobody is woken"
    need(cluster, "p", their_claim("theirs"))
    cluster.run()
    assert len(state.others.index.records) == 12
    assert len(list(state.index.groups())) == 2


def test_pods_of_one_kind_are_refused_together_each_in_its_own_words() -> None:
    cluster = a_cluster(3)
    for number in range(20):
        need(cluster, f"p{number}", their_claim(f"theirs-{number}"))
    cluster.wait(1)
    said = [cluster.messages(f"p{number}", "Unsatisfiable")[0] for number in range(20)]
    assert all(f"claim theirs-{number} (" in message for number, message in enumerate(said))
    publish(cluster, *theirs_on("n2", 2))
    cluster.wait(5)
    assert [where(cluster, f"p{n}") for n in range(20)].count("n2") == 2


@pytest.mark.parametrize("there", [True, False])
def test_a_node_in_scheduler_mode_serves_a_pod_only_with_the_other_device(there: bool) -> None:
    cluster = a_cluster(0)
    cluster.add_node(a_node("s0"), slices_of("s0", an_inventory(pairs=2), taint=False))
    cluster.add_node(a_node("c0"), slices_of("c0", an_inventory(pairs=1)))
    publish(cluster, *theirs_on("s0" if there else "c0"))
    cluster.put_claim(a_claim("p-ours", gpus=2, nics=2))
    cluster.put_claim(their_claim("theirs"))
    cluster.put_pod(a_pod("p", ["p-ours", "theirs"]))
    cluster.wait(1)
    assert bool(cluster.messages("p", "Unsatisfiable")) is not there


def test_members_of_a_gang_share_the_other_drivers_devices() -> None:
    cluster = a_cluster(4)
    publish(cluster, *theirs_on("n1"), *theirs_on("n3"))
    for number in range(2):
        name = f"m-{number}"
        cluster.put_claim(gang_claim(f"{name}-ours", f"uid-{name}-ours", size=2))
        cluster.put_claim(their_claim(f"{name}-theirs"))
        cluster.put_pod(of_job(a_pod(name, [f"{name}-ours", f"{name}-theirs"]), "m"))
    cluster.wait(1)
    assert sorted(where(cluster, f"m-{number}") or "" for number in range(2)) == ["n1", "n3"]


def test_a_gang_that_lacks_another_drivers_device_waits_whole_and_says_so() -> None:
    cluster = a_cluster(3)
    slices = theirs_on("n1")
    publish(cluster, *slices)
    for number in range(2):
        name = f"m-{number}"
        cluster.put_claim(gang_claim(f"{name}-ours", f"uid-{name}-ours", size=2))
        cluster.put_claim(their_claim(f"{name}-theirs"))
        cluster.put_pod(of_job(a_pod(name, [f"{name}-ours", f"{name}-theirs"]), "m"))
    cluster.wait(1)
    assert cluster.allocated == []
    publish(cluster, *theirs_on("n2"))
    cluster.wait(30, step=1)
    assert sorted(where(cluster, f"m-{number}") or "" for number in range(2)) == ["n1", "n2"]


def test_members_of_a_gang_may_differ_in_what_else_they_need() -> None:
    cluster = a_cluster(0)
    for node in ("n0", "n1", "n2"):
        cluster.add_node(a_node(node), slices_of(node, an_inventory(pairs=1, vfs=1)))
    publish(cluster, *theirs_on("n2"))
    for name, others in (("m-0", []), ("m-1", [their_claim("theirs")]), ("m-2", [])):
        cluster.put_claim(gang_claim(f"{name}-ours", f"uid-{name}-ours", size=3, rails="any"))
        for claim in others:
            cluster.put_claim(claim)
        claims = [f"{name}-ours", *(claim.metadata.name for claim in others)]
        cluster.put_pod(of_job(a_pod(name, claims), "m"))
    cluster.wait(1)
    assert where(cluster, "m-1") == "n2"
    assert {where(cluster, "m-0"), where(cluster, "m-2")} == {"n0", "n1"}


def test_a_node_that_comes_is_known_with_its_other_devices_or_without() -> None:
    cluster = a_cluster(1)
    need(cluster, "p", their_claim("theirs"))
    cluster.run()
    cluster.add_node(a_node("n8"))
    publish(cluster, *theirs_on("n9"), *slices_of("n9"))
    cluster.wait(1)
    assert where(cluster, "p") is None
    cluster.state.apply_node(None, a_node("n9"))
    cluster.wait(1)
    assert where(cluster, "p") == "n9"
