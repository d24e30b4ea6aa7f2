"""Who goes first, and what holds whatever happens."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.controller.model import ModelCluster, a_cluster, wish
from tests.unit.controller.things import a_claim, a_node, a_pod, an_inventory, slices_of


def test_a_higher_priority_goes_first_to_what_is_scarce() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=1, vfs=1)))
    for name, priority in (("low", 0), ("high", 1000)):
        cluster.put_claim(a_claim(f"{name}-claim"))
        cluster.put_pod(a_pod(name, [f"{name}-claim"], priority=priority))
    cluster.run()
    assert cluster.node_of("high-claim") == "n0"
    assert cluster.node_of("low-claim") is None


def test_an_older_pod_gets_what_came_free_before_a_younger_one_that_comes_at_that_moment() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=2, vfs=1)))
    running = []
    for number in range(2):
        wish(cluster, f"running-{number}")
        running.append(f"running-{number}")
    cluster.run()
    cluster.put_claim(a_claim("old-claim", gpus=2, nics=2))
    cluster.put_pod(a_pod("old", ["old-claim"], created="2026-01-01T00:00:00Z"))
    cluster.run()
    for number, name in enumerate(running):
        cluster.delete_pod(name)
        cluster.delete_claim(f"{name}-claim")
        young = f"young-{number}"
        cluster.put_claim(a_claim(f"{young}-claim"))
        cluster.put_pod(a_pod(young, [f"{young}-claim"], created="2026-01-02T00:00:00Z"))
        if number:
            cluster.run()
    assert cluster.node_of("old-claim") == "n0"


def test_a_bug_that_one_pod_brings_to_light_is_told_and_stops_no_other() -> None:
    cluster = a_cluster(1, bugs=2)
    wish(cluster, "a")
    bad = cluster.pods["a"]
    nonsense: Any = 5
    cluster.put_pod(
        msgspec.structs.replace(bad, spec=msgspec.structs.replace(bad.spec, node_selector=nonsense))
    )
    wish(cluster, "b")
    cluster.wait(59, step=1)
    assert cluster.node_of("b-claim") == "n0"
    assert cluster.reasons("a") == ["DecisionFailed"]
    assert "bug" in cluster.messages("a", "DecisionFailed")[0]
    cluster.put_pod(bad)
    cluster.run()
    assert cluster.node_of("a-claim") == "n0"


def test_that_a_pod_is_bound_where_room_was_kept_for_it_frees_nothing() -> None:
    cluster = a_cluster(1)
    wish(cluster, "p")
    cluster.run()
    before = cluster.state.generation
    cluster.bind("p", "n0")
    cluster.run()
    assert cluster.state.generation == before


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["new", "bind", "give back", "delete", "deliver", "refuse", "wait"]),
        st.integers(0, 5),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS)
def test_whatever_happens_no_device_has_two_claims_and_nobody_is_allocated_too_often(
    events: list[tuple[str, int]],
) -> None:
    cluster = ModelCluster(slow=True)
    for name in ("n0", "n1"):
        cluster.add_node(a_node(name), slices_of(name, an_inventory(pairs=2, vfs=1)))
    for what, which in events:
        name, claim = f"p{which}", f"p{which}-claim"
        match what:
            case "new" if name not in cluster.pods and claim not in cluster.claims:
                wish(cluster, name)
            case "bind" if name in cluster.pods and (node := cluster.node_of(claim)):
                cluster.bind(name, node)
            case "give back" if claim in cluster.claims and not cluster.claims[claim].status.reserved_for:
                if cluster.node_of(claim):
                    cluster.give_back(claim)
            case "delete" if name in cluster.pods:
                cluster.delete_pod(name)
                cluster.delete_claim(claim)
            case "deliver":
                cluster.deliver()
            case "refuse":
                cluster.deliver(refuse="no")
            case "wait":
                cluster.wait(1 + 4 * which, step=1)
        cluster.run()
        holders: dict[tuple[str | None, str], str] = {}
        for other in cluster.claims:
            for device in cluster.devices_of(other):
                assert holders.setdefault((cluster.node_of(other), device), other) == other
    tries: dict[tuple[str, str], list[float]] = {}
    for at, pod, _ in cluster.allocated:
        tries.setdefault(pod, []).append(at)
    if not any(what in ("delete", "bind") for what, _ in events):
        for times in tries.values():
            assert all(sum(1 for at in times if start <= at < start + 60) <= 4 for start in times)


CHURN = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "leave", "wait"]),
        st.integers(1, 3),  # pairs wanted, or which leaves, or how long
        st.integers(0, 9),  # age
    ),
    min_size=15,
    max_size=40,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(churn=CHURN)
def test_nobody_is_overtaken_by_one_who_comes_later_where_both_fit(churn: list[tuple[str, int, int]]) -> None:
    """Age is by creation; some are seen late, as pods are whose claims come late."""
    cluster = ModelCluster(fair=True)
    for name in ("n0", "n1"):
        cluster.add_node(a_node(name), slices_of(name, an_inventory(pairs=3, vfs=1)))
    for number, (what, size, age) in enumerate(churn):
        match what:
            case "arrive":
                name = f"p{number}"
                cluster.put_claim(a_claim(f"{name}-claim", uid=f"claim-{number}", gpus=size, nics=size))
                created = f"2026-01-0{1 + age // 5}T00:00:0{age}Z"
                cluster.put_pod(a_pod(name, [f"{name}-claim"], uid=f"pod-{number}", created=created))
            case "leave" if placed := [name for name in cluster.pods if cluster.node_of(f"{name}-claim")]:
                name = placed[size * age % len(placed)]
                cluster.delete_pod(name)
                cluster.delete_claim(f"{name}-claim")
            case "wait":
                cluster.wait(0.0007 * size, step=0.0007)
        cluster.run()
    cluster.wait(1)
