from __future__ import annotations

from controller.gangs.membership import GangId
from controller.queue import PlacementQueue, Turn
from controller.state import Key

INF = float("inf")


def pod(name: str) -> Key:
    return "default", name


def rank(name: str, priority: int = 0, created: str = "2026-01-01T00:00:00Z") -> tuple[int, str, Key]:
    return -priority, created, pod(name)


def test_priority_goes_before_age_and_age_before_name() -> None:
    queue = PlacementQueue()
    queue.add(pod("young"), rank("young", created="2026-01-02T00:00:00Z"))
    queue.add(pod("b-old"), rank("b-old"))
    queue.add(pod("a-old"), rank("a-old"))
    queue.add(pod("urgent"), rank("urgent", priority=10, created="2026-01-03T00:00:00Z"))
    turns = [queue.pop(0.0, 1) for _ in range(5)]
    expected = [Turn(pod(name), 0) for name in ("urgent", "a-old", "b-old", "young")]
    assert turns == [*expected, None]


def test_a_pod_and_a_gang_that_are_due_at_once_both_come() -> None:
    queue = PlacementQueue()
    gang = GangId("default", "Job", "train", "uid")
    queue.park(gang, (0, "", ("default", "Job/train")), 0.0, generation=None, full_at=5.0)
    queue.park(pod("p"), rank("p"), 0.0, generation=None, full_at=5.0)
    assert [queue.pop(5.0, 1), queue.pop(5.0, 1)] == [Turn(gang, 0), Turn(pod("p"), 0)]


def test_a_pod_added_twice_has_one_turn() -> None:
    queue = PlacementQueue()
    queue.add(pod("p"), rank("p"))
    queue.add(pod("p"), rank("p"))
    assert queue.pop(0.0, 1) == Turn(pod("p"), 0)
    assert queue.pop(0.0, 1) is None


def test_a_parked_pod_sleeps_until_the_cluster_moves_on_and_then_looks_at_what_changed() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    queue.park(pod("p"), rank("p"), 0.0, generation=7, full_at=INF)
    assert queue.pop(10.0, 7) is None
    assert queue.pop(10.0, 8) == Turn(pod("p"), 7)


def test_sweeps_do_not_come_more_often_than_they_may() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    queue.park(pod("p"), rank("p"), 0.0, generation=1, full_at=INF)
    assert queue.pop(0.0, 2) is not None
    queue.park(pod("p"), rank("p"), 0.1, generation=2, full_at=INF)
    assert queue.pop(0.5, 3) is None
    assert queue.next_due(3) == 1.0
    assert queue.pop(1.0, 3) == Turn(pod("p"), 2)


def test_a_pod_that_waits_for_a_time_is_not_woken_by_changes() -> None:
    queue = PlacementQueue()
    queue.park(pod("p"), rank("p"), 0.0, generation=None, full_at=5.0)
    assert queue.pop(4.9, 99) is None
    assert queue.next_due(99) == 5.0
    assert queue.pop(5.0, 99) == Turn(pod("p"), 0)


def test_every_parked_pod_is_looked_at_in_full_now_and_then() -> None:
    queue = PlacementQueue(resync_seconds=300.0)
    queue.park(pod("p"), rank("p"), 0.0, generation=1, full_at=INF)
    assert queue.pop(0.0, 1) is None
    assert queue.next_due(1) == 300.0
    assert queue.pop(300.0, 1) == Turn(pod("p"), 0)


def test_a_pod_that_left_has_no_turn_and_no_alarm() -> None:
    queue = PlacementQueue()
    queue.add(pod("ready"), rank("ready"))
    queue.park(pod("parked"), rank("parked"), 0.0, generation=1, full_at=9.0)
    queue.remove(pod("ready"))
    queue.remove(pod("parked"))
    assert queue.pop(10.0, 2) is None
    assert queue.next_due(2) is None
    assert len(queue) == 0


def test_an_edited_pod_is_looked_at_at_once_though_it_was_parked() -> None:
    queue = PlacementQueue()
    queue.park(pod("p"), rank("p"), 0.0, generation=1, full_at=100.0)
    queue.add(pod("p"), rank("p"))
    assert queue.pop(0.0, 1) == Turn(pod("p"), 0)
    assert queue.pop(100.0, 1) is None


def test_of_those_refused_together_one_is_woken_and_the_next_only_if_it_was_not_refused() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    for name in "bca":
        queue.park(pod(name), rank(name), 0.0, generation=1, full_at=INF, alike="like")
    queue.park(pod("other"), rank("other"), 0.0, generation=1, full_at=INF)
    assert queue.pop(1.0, 2) == Turn(pod("a"), 1)  # and is placed
    assert queue.pop(1.0, 2) == Turn(pod("b"), 1)
    queue.park(pod("b"), rank("b"), 1.0, generation=2, full_at=INF, alike="like")
    assert queue.pop(1.0, 2) == Turn(pod("other"), 1)
    assert queue.pop(1.0, 2) is None
    assert queue.next_due(2) == 300.0
    assert queue.pop(2.0, 3) == Turn(pod("b"), 2)


def test_when_the_one_that_was_woken_leaves_the_next_takes_its_turn() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    for name in "abc":
        queue.park(pod(name), rank(name), 0.0, generation=1, full_at=INF, alike="like")
    queue.add(pod("urgent"), rank("urgent", priority=1))
    assert queue.pop(1.0, 2) == Turn(pod("urgent"), 0)
    queue.remove(pod("a"))
    assert queue.pop(1.0, 2) == Turn(pod("b"), 1)


def test_an_edited_pod_looks_at_all_nodes_and_the_others_of_its_flock_wait_on() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    for name in "ab":
        queue.park(pod(name), rank(name), 0.0, generation=1, full_at=INF, alike="like")
    queue.add(pod("a"), rank("a"))
    assert queue.pop(1.0, 1) == Turn(pod("a"), 0)
    assert queue.pop(1.0, 1) is None
    assert len(queue) == 1
    assert queue.pop(2.0, 2) == Turn(pod("b"), 1)
