"""When it is a gang's turn: who comes first, what its members wait for, and how long."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.controller.gangs.troop import (
    a_cluster,
    bind,
    join,
    leave,
    members,
    nodes_of,
    redate,
)
from tests.unit.controller.model import wish
from tests.unit.controller.things import a_node, an_inventory, slices_of


def test_of_two_gangs_that_fit_one_after_the_other_one_is_placed_whole_and_then_the_other() -> None:
    cluster = a_cluster(4, pairs=1, vfs=1)
    for first, second in zip(members("a", 3), members("b", 3), strict=True):
        join(cluster, "a", first, size=3)
        join(cluster, "b", second, size=3)
    cluster.wait(2)
    placed = [job for job in "ab" if None not in nodes_of(cluster, members(job, 3))]
    (first,) = placed
    other = "b" if first == "a" else "a"
    assert nodes_of(cluster, members(other, 3)) == [None] * 3
    bind(cluster, *members(first, 3))
    leave(cluster, *members(first, 3))
    cluster.wait(2)
    assert None not in nodes_of(cluster, members(other, 3))


def test_a_gang_that_holds_something_goes_before_an_older_one_of_its_priority() -> None:
    cluster = a_cluster(3, pairs=1, vfs=1)
    join(cluster, "b", *members("b", 2), size=2)
    wish(cluster, "x")
    cluster.run()
    bind(cluster, *members("b", 2), "x")
    leave(cluster, "b-1", "x")  # which would be room for all of the older one
    join(cluster, "a", *members("a", 2), size=2)
    for name in members("a", 2):
        redate(cluster, name, "2020-01-01T00:00:00Z")
    join(cluster, "b", "b-1", size=2)
    cluster.wait(1)
    assert nodes_of(cluster, ["b-1"]) != [None]
    assert nodes_of(cluster, members("a", 2)) == [None, None]


def test_who_joins_a_gang_that_is_complete_waits_in_line() -> None:
    cluster = a_cluster(3, pairs=1, vfs=1)
    join(cluster, "b", *members("b", 2), size=2)
    wish(cluster, "x")
    cluster.run()
    bind(cluster, *members("b", 2), "x")
    wish(cluster, "waits")
    join(cluster, "b", "b-2", size=2)
    redate(cluster, "b-2", "2026-01-02T00:00:00Z")  # younger than the one that waits
    cluster.wait(1)
    leave(cluster, "x")
    cluster.wait(1)
    assert cluster.node_of("waits-claim") is not None
    assert nodes_of(cluster, ["b-2"]) == [None]


@pytest.mark.parametrize("joins", ["younger", "of a higher priority"])
def test_who_completes_a_gang_does_not_bring_it_before_those_who_waited(joins: str) -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    for name in ("x", "y"):
        wish(cluster, name)
    cluster.run()
    bind(cluster, "x", "y")
    join(cluster, "a", "a-0", size=2)
    redate(cluster, "a-0", "2020-01-01T00:00:00Z")
    wish(cluster, "waits")
    cluster.wait(5)
    join(cluster, "a", "a-1", size=2)
    if joins == "younger":
        redate(cluster, "a-1", "2026-01-02T00:00:00Z")
    else:
        pod = cluster.pods["a-1"]
        cluster.put_pod(msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, priority=1000)))
        redate(cluster, "a-0", "2026-01-02T00:00:00Z")
    cluster.wait(5)
    leave(cluster, "x", "y")
    cluster.wait(5)
    assert cluster.node_of("waits-claim") is not None
    assert nodes_of(cluster, members("a", 2)) == [None, None]


def test_after_its_timeout_a_gang_says_what_is_missing_and_goes_on_waiting_more_and_more_rarely() -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    join(cluster, "a", *members("a", 3), size=3, timeoutSeconds=60)
    cluster.wait(59, step=1)
    assert cluster.messages("a-0", "GangTimedOut") == []
    cluster.wait(2, step=1)
    (message,) = cluster.messages("a-0", "GangTimedOut")
    assert message.startswith("after 60 s: Job a: 2 of 3 members have room at once")
    assert message.endswith("nearest: size: 2 would do")
    assert cluster.placer.waiting_gangs == cluster.placer.counts["gang_timeouts"] == 1
    cluster.wait(900, step=5)
    assert len(cluster.messages("a-0", "GangTimedOut")) == 4, "after 60, 180, 420 and 900 s"
    cluster.add_node(a_node("late"), slices_of("late", an_inventory(1, 1)))
    cluster.wait(45, step=1)
    assert len(cluster.allocated) == 3
    assert cluster.placer.counts["gang_placements"] == 1
    assert cluster.placer.waiting_gangs == 0


def test_an_incomplete_gang_times_out_too() -> None:
    cluster = a_cluster()
    join(cluster, "a", "a-0", size=4, timeoutSeconds=30)
    cluster.wait(31, step=1)
    (message,) = cluster.messages("a-0", "GangTimedOut")
    assert message == "after 30 s: waits for its gang, Job a: 1 of 4 members are there"


def test_a_gang_that_waits_holds_nobody_else_up() -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    join(cluster, "a", *members("a", 4))
    wish(cluster, "single")
    cluster.run()
    assert cluster.node_of("single-claim") is not None
