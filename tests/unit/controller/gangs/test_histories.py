"""Gangs over made-up histories: they keep their terms, and none is in another's way for ever."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.controller.gangs.test_gangs import restart
from tests.unit.controller.gangs.troop import a_cluster, bind, join, leave, members, rails_of
from tests.unit.controller.model import ModelCluster

SIZES = {"a": 3, "b": 2, "c": 2}
"""Each has room alone, no two of them together."""

KINDS = ("start",) * 4 + ("come", "bind", "deliver") * 2 + ("give back", "die", "refuse", "restart", "wait")
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from(sorted(SIZES)),
        st.integers(0, 2),
    ),
    min_size=10,
    max_size=50,
)


# If a started gang took its lost members back one by one, gangs a and c would hold what each other waits for.
@example(
    events=[
        ("come", "a", 0),
        ("come", "a", 1),
        ("start", "a", 2),
        ("die", "a", 1),
        ("die", "a", 2),
        ("come", "c", 0),
        ("start", "c", 1),
        ("die", "c", 0),
        ("start", "a", 1),
    ]
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS)
def test_whatever_happens_gangs_keep_their_terms_and_all_of_them_finish(
    events: list[tuple[str, str, int]],
) -> None:
    cluster = a_cluster(3, pairs=1, vfs=1, slow=True)
    for what, job, number in events:
        happen(cluster, what, job, f"{job}-{number % SIZES[job]}", number)
        cluster.run()
        check(cluster)
    cluster.slow = False
    cluster.deliver()
    done: set[str] = set()
    for _ in range(12):
        for job in SIZES.keys() - done:  # whoever lost a member gets it back
            for name in members(job, SIZES[job]):
                if name not in cluster.pods:
                    join(cluster, job, name, size=SIZES[job])
        for _ in range(40):  # kube-scheduler binds what is allocated; a gang that is all there does its work
            cluster.wait(10, step=5)
            check(cluster)
            for name in list(cluster.pods):
                bind_if(cluster, name)
            for job in SIZES.keys() - done:
                if all(is_bound(cluster, name) for name in members(job, SIZES[job])):
                    leave(cluster, *members(job, SIZES[job]))
                    done.add(job)
            if done == SIZES.keys():
                return
    raise AssertionError(f"only {sorted(done)} came to an end")


def happen(cluster: ModelCluster, what: str, job: str, name: str, number: int) -> None:
    match what:
        case "come" if name not in cluster.pods:
            join(cluster, job, name, size=SIZES[job])
        case "start":  # come, and be bound if it is let
            happen(cluster, "come", job, name, number)
            cluster.run()
            cluster.deliver()
            happen(cluster, "bind", job, name, number)
        case "bind":
            for member in [name for name in cluster.pods if name.startswith(job)]:
                bind_if(cluster, member)
        case "give back" if name in cluster.pods and cluster.node_of(f"{name}-claim"):
            if not cluster.claims[f"{name}-claim"].status.reserved_for:
                cluster.give_back(f"{name}-claim")
        case "die" if name in cluster.pods:
            leave(cluster, name)
        case "deliver" | "refuse" if cluster.on_the_way:
            rest = cluster.on_the_way[number + 1 :]
            del cluster.on_the_way[number + 1 :]
            cluster.deliver(refuse="no" if what == "refuse" else "")
            cluster.on_the_way += rest
        case "restart":
            restart(cluster)
        case "wait":
            cluster.wait(1 + 9 * number, step=3)


def bind_if(cluster: ModelCluster, name: str) -> None:
    if cluster.node_of(f"{name}-claim") and not is_bound(cluster, name):
        bind(cluster, name)


def is_bound(cluster: ModelCluster, name: str) -> bool:
    return name in cluster.pods and bool(cluster.pods[name].spec.node_name)


def check(cluster: ModelCluster) -> None:
    """No device twice, one set of rails for each gang."""
    holders: dict[tuple[str | None, str], str] = {}
    for claim in cluster.claims:
        for device in cluster.devices_of(claim):
            assert holders.setdefault((cluster.node_of(claim), device), claim) == claim
    for job, size in SIZES.items():
        there = [name for name in members(job, size) if f"{name}-claim" in cluster.claims]
        placed = [rails_of(cluster, name) for name in there if cluster.node_of(f"{name}-claim")]
        assert all(rails == placed[0] for rails in placed)
