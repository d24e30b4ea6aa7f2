from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.backoff import Backoff, BackoffLaw


def test_waits_grow_threefold_and_end_at_five_minutes() -> None:
    law = BackoffLaw()
    assert [law.retry_after(n) for n in range(1, 7)] == [2, 6, 18, 54, 162, 300]
    assert law.retry_after(10_000) == 300


def test_a_node_is_left_out_longer_each_time_it_fails() -> None:
    backoff = Backoff()
    backoff.fail(["pod"], "a", 0.0)
    assert backoff.left_out(["pod"], 1.0) == {"a": 30.0}
    assert backoff.left_out(["pod"], 30.0) == {}
    backoff.fail(["pod"], "a", 30.0)
    assert backoff.left_out(["pod"], 31.0) == {"a": 90.0}


def test_more_news_of_a_node_that_is_left_out_is_the_same_failure() -> None:
    backoff = Backoff()
    backoff.fail(["pod"], "a", 0.0)
    backoff.fail(["pod"], "a", 0.5)
    assert backoff.left_out(["pod"], 1.0) == {"a": 30.0}
    assert backoff.not_before(["pod"]) == 2.0


def test_a_new_pod_on_an_old_claim_does_not_start_from_nothing() -> None:
    backoff = Backoff()
    backoff.fail(["claim", "pod-1"], "a", 0.0)
    assert backoff.not_before(["claim", "pod-2"]) == 2.0
    backoff.forget("claim")
    assert backoff.not_before(["claim", "pod-2"]) == 0.0


def test_what_is_forgotten_costs_no_memory() -> None:
    backoff = Backoff()
    backoff.fail(["a", "b"], "n", 0.0)
    backoff.forget("a")
    backoff.forget("b")
    backoff.forget("never seen")
    assert len(backoff) == 0


@given(eagerness=st.lists(st.floats(0, 40), min_size=1, max_size=60))
def test_no_more_than_four_tries_in_any_minute_however_eager(eagerness: list[float]) -> None:
    backoff, now, tries = Backoff(), 0.0, list[float]()
    for number, wait in enumerate(eagerness):
        now = max(now + wait, backoff.not_before(["pod"]))
        tries.append(now)
        backoff.fail(["pod"], f"node-{number}", now)
    for start in tries:
        assert sum(1 for at in tries if start <= at < start + 60) <= 4
