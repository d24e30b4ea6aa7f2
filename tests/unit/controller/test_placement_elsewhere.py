"""Obstacles that only kube-scheduler knows: wherever they are, the pod gets to a node that it can run on."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import pytest

from tests.unit.controller.model import ModelCluster, a_cluster, wish
from tests.unit.controller.things import a_claim, a_node, a_pod, an_inventory, slices_of


def tries(
    cluster: ModelCluster, right: Collection[str], *, pod: str = "p", claim: str = "p-claim", most: int = 40
) -> list[tuple[float, str]]:
    """When and where it was tried; kube-scheduler gives back what is not on one of the right nodes."""
    found: list[tuple[float, str]] = []
    while len(found) < most:
        cluster.run()
        node = cluster.node_of(claim)
        if node is None:
            due = cluster.placer.next_due()
            cluster.wait(max(0.0, (due or 0.0) - cluster.now), step=1000.0)
            continue
        found.append((cluster.now, node))
        if node in right:
            break
        cluster.give_back(claim)
        cluster.judge(pod, f"0/{len(cluster.state.nodes)} nodes: {len(found)} were not as they should be")
    return found


@pytest.mark.parametrize("nodes", [3, 4, 5, 6, 12, 30])
def test_every_node_is_tried_before_one_that_failed_is_tried_again(nodes: int) -> None:
    cluster = a_cluster(nodes)
    wish(cluster, "p")
    right = set(sorted(cluster.state.nodes)[-max(1, nodes // 3) :])
    found = tries(cluster, right)
    names = [node for _, node in found]
    assert names[-1] in right
    assert len(names) == len(set(names)) == nodes - len(right) + 1
    assert found[-1][0] <= 26 + 36 * max(0, len(names) - 4)


@pytest.mark.parametrize(
    "label", ["topology.kubernetes.io/zone", "topology.example.com/zone", "example.com/pool"]
)
def test_an_obstacle_that_is_of_a_zone_is_left_after_one_try_in_each(label: str) -> None:
    cluster = a_cluster(0)
    for index in range(30):
        cluster.add_node(a_node(f"n{index:02}", labels={label: "abc"[index // 10], "os": "linux"}))
    wish(cluster, "p")
    found = tries(cluster, {f"n{index}" for index in range(20, 30)})
    assert len(found) <= 3
    assert found[-1][0] <= 8


def test_where_all_failed_they_are_tried_in_turn_and_ever_more_rarely() -> None:
    cluster = a_cluster(5)
    wish(cluster, "p")
    found = tries(cluster, (), most=20)
    for start in range(0, 20, 5):
        assert len({node for _, node in found[start : start + 5]}) == 5
    assert [round(b[0] - a[0]) for a, b in pairwise(found)][:5] == [2, 6, 18, 36, 36]
    assert found[-1][0] - found[-2][0] >= 300


def test_a_node_that_comes_later_is_tried_before_those_that_failed() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    tries(cluster, (), most=2)
    cluster.add_node(a_node("new"))
    assert [node for _, node in tries(cluster, {"new"})] == ["new"]


def test_a_node_that_was_mended_is_tried_anew_at_once() -> None:
    cluster = a_cluster(1)
    wish(cluster, "p")
    tries(cluster, (), most=1)
    cluster.wait(5)
    assert cluster.node_of("p-claim") is None
    before = cluster.state.nodes["n0"].node
    cluster.state.apply_node(before, a_node("n0", labels={"mended": "yes"}))
    cluster.wait(1)
    assert cluster.node_of("p-claim") == "n0"


def test_the_second_pod_of_a_shared_claim_goes_on_where_the_first_ended() -> None:
    cluster = a_cluster(6)
    cluster.put_claim(a_claim("shared"))
    cluster.put_pod(a_pod("first", ["shared"]))
    seen = {node for _, node in tries(cluster, (), pod="first", claim="shared", most=3)}
    cluster.delete_pod("first")
    cluster.put_pod(a_pod("second", ["shared"]))
    found = [node for _, node in tries(cluster, {"n5"}, pod="second", claim="shared")]
    assert found[-1] == "n5"
    assert not seen & set(found)


def test_sharers_that_wait_together_get_to_the_right_node() -> None:
    cluster = a_cluster(7)
    cluster.put_claim(a_claim("shared"))
    for name in ("one", "two", "three"):
        cluster.put_pod(a_pod(name, ["shared"]))
    found = [node for _, node in tries(cluster, {"n6"}, pod="two", claim="shared")]
    assert found[-1] == "n6"
    assert len(found) == len(set(found))


def test_a_better_pair_does_not_bring_a_node_back_that_failed() -> None:
    cluster = a_cluster(0)
    cluster.add_node(a_node("good-pairs"))
    for name in ("poor-1", "poor-2"):
        cluster.add_node(a_node(name), slices_of(name, an_inventory(pairs=1)))
    wish(cluster, "p")
    found = [node for _, node in tries(cluster, (), most=3)]
    assert sorted(found) == ["good-pairs", "poor-1", "poor-2"]


def test_a_node_that_went_and_came_again_is_another_node() -> None:
    cluster = a_cluster(1)
    wish(cluster, "p")
    tries(cluster, (), most=1)
    cluster.state.apply_node(cluster.state.nodes["n0"].node, None)
    cluster.wait(5)
    cluster.add_node(a_node("n0"))
    cluster.wait(1)
    assert cluster.node_of("p-claim") == "n0"
