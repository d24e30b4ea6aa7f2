"""In which order nodes are tried after failures, as laws over any history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.backoff import Backoff, Tried
from controller.retry_order import UNTRIED, RetryOrder, worse_first

NODES = [f"n{index}" for index in range(6)]


def pick(backoff: Backoff, feasible: set[str], now: float, labels: dict[str, dict[str, str]]) -> str | None:
    order = RetryOrder(backoff.tried(["pod"]), labels)
    open_now = feasible - set(backoff.left_out(["pod"], now))
    return min(open_now, key=lambda name: (order.rank(name, labels.get(name, {})), name), default=None)


def ranked(tried: dict[str, Tried], labels: dict[str, dict[str, str]]) -> list[str]:
    order = RetryOrder(tried, labels)
    return sorted(labels, key=lambda name: (order.rank(name, labels[name]), name))


@given(
    history=st.lists(st.tuples(st.sets(st.sampled_from(NODES), min_size=1), st.floats(0, 400)), max_size=60),
    zones=st.lists(st.sampled_from("ab"), min_size=6, max_size=6),
)
def test_no_node_is_tried_twice_before_all_that_may_do_were_tried_once(
    history: list[tuple[set[str], float]], zones: list[str]
) -> None:
    backoff, now, round_, tries = Backoff(), 0.0, set[str](), list[float]()
    labels = {name: {"zone": zone} for name, zone in zip(NODES, zones, strict=True)}
    for feasible, wait in history:
        now = max(now + wait, backoff.not_before(["pod"]))
        node = pick(backoff, feasible, now, labels)
        if node is None:
            continue
        if node in round_:
            assert feasible <= round_
            round_ = set()
        round_.add(node)
        tries.append(now)
        backoff.fail(["pod"], node, now, judged=bool(len(tries) % 5))
    for start in tries:
        assert sum(1 for at in tries if start <= at < start + 60) <= 4


@given(wrong=st.integers(0, 30), zones=st.lists(st.sampled_from("abc"), min_size=31, max_size=31))
def test_as_many_tries_as_there_are_wrong_nodes_are_enough(wrong: int, zones: list[str]) -> None:
    names = [f"n{index:02}" for index in range(31)]
    labels = {name: {"zone": zone} for name, zone in zip(names, zones, strict=True)}
    backoff, now, tries = Backoff(), 0.0, 0
    while (node := pick(backoff, set(names), now, labels)) is not None and node < f"n{wrong:02}":
        tries += 1
        backoff.fail(["pod"], node, now, judged=True)
        now = backoff.not_before(["pod"])
    assert tries <= wrong
    assert now <= 26 + 36 * max(0, tries - 3)


def test_of_those_that_all_failed_the_one_that_failed_least_comes_first_and_then_the_longest_ago() -> None:
    tried = {
        "often": Tried(3, 1.0, in_round=True),
        "late": Tried(1, 9.0, in_round=True),
        "early": Tried(1, 2.0, in_round=True),
        "before": Tried(4, 0.0, in_round=False),
    }
    names: dict[str, dict[str, str]] = {name: {} for name in (*tried, "never")}
    assert ranked(tried, names) == ["never", "before", "early", "late", "often"]


def test_nodes_that_share_fewer_labels_with_those_that_failed_come_first() -> None:
    labels = {
        "failed": {"zone": "a", "pool": "x", "os": "linux"},
        "same-zone": {"zone": "a", "pool": "y", "os": "linux"},
        "same-pool-and-zone": {"zone": "a", "pool": "x", "os": "linux"},
        "zone-b": {"zone": "b", "pool": "y", "os": "linux"},
        "bare": {"os": "linux"},
    }
    expected = ["bare", "zone-b", "same-zone", "same-pool-and-zone", "failed"]
    assert ranked({"failed": Tried(1, 0.0, in_round=True)}, labels) == expected


def test_where_nothing_failed_all_nodes_are_alike() -> None:
    assert RetryOrder({}, {}).rank("n", {"zone": "a"}) == UNTRIED


def test_a_node_that_changed_may_be_tried_once_more_in_its_round() -> None:
    backoff = Backoff()
    backoff.fail(["pod"], "a", 0.0)
    backoff.node_changed("a")
    assert backoff.left_out(["pod"], 1.0) == {}
    assert backoff.tried(["pod"]) == {"a": Tried(1, 0.0, in_round=False)}
    backoff.fail(["pod"], "a", 2.0)
    backoff.node_changed("a")
    assert backoff.left_out(["pod"], 3.0) == {"a": 32.0}
    assert backoff.tried(["pod"])["a"].in_round


def test_the_wait_stays_short_only_while_nodes_are_new_and_kube_scheduler_says_why() -> None:
    waits = []
    backoff, now = Backoff(), 0.0
    for node, judged in (*((n, True) for n in NODES), ("n0", True), ("new", False), ("newer", True)):
        backoff.fail(["pod"], node, now, judged=judged)
        waits.append(backoff.not_before(["pod"]) - now)
        now = backoff.not_before(["pod"])
    assert waits == [2, 6, 18, 36, 36, 36, 300, 300, 36]


def test_a_node_that_went_is_forgotten() -> None:
    backoff = Backoff()
    backoff.fail(["pod", "claim"], "a", 0.0)
    backoff.node_gone("a")
    assert backoff.tried(["pod", "claim"]) == {}


def test_of_a_pod_and_its_claim_the_worse_news_counts() -> None:
    backoff = Backoff()
    backoff.fail(["claim", "first-pod"], "a", 0.0)
    backoff.fail(["claim", "second-pod"], "b", 40.0)
    assert backoff.tried(["claim", "second-pod"]) == {
        "a": Tried(1, 0.0, in_round=True),
        "b": Tried(1, 40.0, in_round=True),
    }


def test_several_nodes_at_once_do_without_all_that_failed_and_then_without_the_worst() -> None:
    tried = {
        "a": Tried(1, 0.0, in_round=True),
        "b": Tried(2, 0.0, in_round=True),
        "c": Tried(5, 0.0, in_round=False),
    }
    assert list(worse_first(tried)) == [{"a", "b"}, {"b"}]
    assert list(worse_first({"a": tried["a"], "c": tried["c"]})) == [{"a"}]
    assert list(worse_first({})) == []
