from __future__ import annotations

from controller.gangs.membership import GangId
from controller.queue import PlacementQueue, Turn
from controller.state import Key

INF = float("inf")


def pod(name: str) -> Key:
    return "default", name


def rank(name: str, priority: int = 0, created: str = "2026-01-01T00:00:00Z") -> tuple[int, str, Key]:
    return -priority, created, pod(name)


def turn(name: str, since: int, priority: int = 0, created: str = "2026-01-01T00:00:00Z") -> Turn:
    return Turn(pod(name), since, rank(name, priority, created))


def test_priority_goes_before_age_and_age_before_name() -> None:
    queue = PlacementQueue()
    ranks = [
        rank("young", created="2026-01-02T00:00:00Z"),
        rank("b-old"),
        rank("a-old"),
        rank("urgent", priority=10, created="2026-01-03T00:00:00Z"),
    ]
    for each in ranks:
        queue.add(each[2], each)
    turns = [queue.pop(0.0, 1) for _ in range(5)]
    assert turns == [*(Turn(each[2], 0, each) for each in (ranks[i] for i in (3, 2, 1, 0))), None]


def test_a_pod_and_a_gang_that_are_due_at_once_both_come() -> None:
    queue = PlacementQueue()
    gang = GangId("default", "Job", "train", "uid")
    order = (0, "", ("default", "Job/train"))
    queue.park(gang, order, 0.0, generation=None, full_at=5.0)
    queue.park(pod("p"), rank("p"), 0.0, generation=None, full_at=5.0)
    assert [queue.pop(5.0, 1), queue.pop(5.0, 1)] == [Turn(gang, 0, order), turn("p", 0)]


def test_a_pod_added_twice_has_one_turn() -> None:
    queue = PlacementQueue()
    queue.add(pod("p"), rank("p"))
    queue.add(pod("p"), rank("p"))
    assert queue.pop(0.0, 1) == turn("p", 0)
    assert queue.pop(0.0, 1) is None


def test_a_parked_pod_sleeps_until_the_cluster_moves_on_and_then_looks_at_what_changed() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    queue.park(pod("p"), rank("p"), 0.0, generation=7, full_at=INF)
    assert queue.pop(10.0, 7) is None
    assert queue.pop(10.0, 8) == turn("p", 7)


def test_the_more_are_woken_the_later_comes_the_next_sweep_but_not_later_than_it_may() -> None:
    for many, pause in ((2, 0.002), (5000, 1.0)):
        queue = PlacementQueue(sweep_seconds=1.0)
        for number in range(many):
            queue.park(pod(f"p{number}"), rank(f"p{number}"), 0.0, generation=1, full_at=INF)
        while (woken := queue.pop(5.0, 2)) is not None:
            queue.park(woken.item, woken.rank, 5.0, generation=2, full_at=INF)
        assert queue.pop(5.0 + pause * 0.9, 3) is None
        assert queue.next_due(3) == 5.0 + pause
        assert queue.pop(5.0 + pause, 3) == turn("p0", 2)


def test_nobody_younger_has_a_turn_before_those_who_waited_have_looked_at_what_changed() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    queue.park(pod("old"), rank("old"), 0.0, generation=1, full_at=INF)
    assert queue.pop(0.0, 2) == turn("old", 1)  # from now on no sweep is due for a moment
    queue.park(pod("old"), rank("old"), 0.0, generation=2, full_at=INF)
    queue.add(pod("young"), rank("young"))
    queue.add(pod("urgent"), rank("urgent", priority=1))
    assert queue.pop(0.0, 3) == turn("urgent", 0, priority=1)
    assert queue.pop(0.0, 3) is None
    assert queue.next_due(3) == 0.001
    assert [queue.pop(0.001, 3), queue.pop(0.001, 3)] == [turn("old", 2), turn("young", 0)]


def test_while_nothing_changes_nobody_waits_for_those_who_were_refused() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    queue.park(pod("old"), rank("old"), 0.0, generation=1, full_at=INF)
    assert queue.pop(0.0, 2) == turn("old", 1)
    queue.park(pod("old"), rank("old"), 0.0, generation=2, full_at=INF)
    queue.add(pod("young"), rank("young"))
    assert queue.pop(0.0, 2) == turn("young", 0)


def test_a_pod_that_waits_for_a_time_is_not_woken_by_changes() -> None:
    queue = PlacementQueue()
    queue.park(pod("p"), rank("p"), 0.0, generation=None, full_at=5.0)
    assert queue.pop(4.9, 99) is None
    assert queue.next_due(99) == 5.0
    assert queue.pop(5.0, 99) == turn("p", 0)


def test_every_parked_pod_is_looked_at_in_full_now_and_then() -> None:
    queue = PlacementQueue(resync_seconds=300.0)
    queue.park(pod("p"), rank("p"), 0.0, generation=1, full_at=INF)
    assert queue.pop(0.0, 1) is None
    assert queue.next_due(1) == 300.0
    assert queue.pop(300.0, 1) == turn("p", 0)


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
    assert queue.pop(0.0, 1) == turn("p", 0)
    assert queue.pop(100.0, 1) is None


def test_of_those_refused_together_one_is_woken_and_the_next_only_if_it_was_not_refused() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    for name in "bca":
        queue.park(pod(name), rank(name), 0.0, generation=1, full_at=INF, alike="like")
    queue.park(pod("other"), rank("other"), 0.0, generation=1, full_at=INF)
    assert queue.pop(1.0, 2) == turn("a", 1)  # and is placed
    assert queue.pop(1.0, 2) == turn("b", 1)
    queue.park(pod("b"), rank("b"), 1.0, generation=2, full_at=INF, alike="like")
    assert queue.pop(1.0, 2) == turn("other", 1)
    assert queue.pop(1.0, 2) is None
    assert queue.next_due(2) == 300.0
    assert queue.pop(2.0, 3) == turn("b", 2)


def test_when_the_one_that_was_woken_leaves_the_next_takes_its_turn() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    for name in "abc":
        queue.park(pod(name), rank(name), 0.0, generation=1, full_at=INF, alike="like")
    queue.add(pod("urgent"), rank("urgent", priority=1))
    assert queue.pop(1.0, 2) == turn("urgent", 0, priority=1)
    queue.remove(pod("a"))
    assert queue.pop(1.0, 2) == turn("b", 1)


def test_an_edited_pod_looks_at_all_nodes_and_the_others_of_its_flock_wait_on() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    for name in "ab":
        queue.park(pod(name), rank(name), 0.0, generation=1, full_at=INF, alike="like")
    queue.add(pod("a"), rank("a"))
    assert queue.pop(1.0, 1) == turn("a", 0)
    assert queue.pop(1.0, 1) is None
    assert len(queue) == 1
    assert queue.pop(2.0, 2) == turn("b", 1)


def test_nobody_waits_behind_one_that_has_left() -> None:
    queue = PlacementQueue(sweep_seconds=1.0)
    queue.park(pod("a"), rank("a"), 0.0, generation=1, full_at=INF)
    assert queue.pop(0.0, 2) is not None
    queue.park(pod("a"), rank("a"), 0.0, generation=2, full_at=INF)
    queue.remove(pod("a"))
    queue.add(pod("b"), rank("b"))
    assert queue.next_due(3) == 0.0
    assert queue.pop(0.0, 3) is not None
