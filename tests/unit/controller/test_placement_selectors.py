"""Selectors that a turn is too short for: the pod is placed all the same, and others have their turns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from controller import placement
from controller.allocator.cel import CelCache
from controller.allocator.cel_program import Content, Program, Verdict
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import a_claim, a_node, a_pod, a_request

SLOW = "lists.range(60000).map(x, x + 1).size() == 60000"


class Slow:
    """Knows nothing until `ready`; then all is true."""

    def __init__(self) -> None:
        self.ready = False
        self.asked = 0

    def verdicts(self, expression: str, contents: Sequence[Content]) -> Sequence[Verdict | None] | Program:
        self.asked += 1
        return [True if self.ready else None] * len(contents)


def put(cluster: ModelCluster, name: str, expression: str) -> None:
    """A pod with a GPU of which this is true."""
    request = a_request("gpu", "gpu.tandem-dra.io", 1, expression)
    cluster.put_claim(a_claim(f"c-{name}", requests=[request]))
    cluster.put_pod(a_pod(name, [f"c-{name}"], created=f"2026-01-01T00:00:0{name}Z"))


def placed(cluster: ModelCluster) -> list[str]:
    return [pod for _, (_, pod), _ in cluster.allocated]


def test_nobody_waits_for_what_is_evaluated_beside() -> None:
    slow = Slow()
    cluster = ModelCluster(cel=CelCache(slow))
    cluster.add_node(a_node("n1"))
    put(cluster, "1", SLOW)
    cluster.run()
    put(cluster, "2", "device.driver != ''")
    cluster.run()
    assert placed(cluster) == ["2"]
    cluster.wait(1.0)
    asked, slow.ready = slow.asked, True
    assert 4 <= asked <= 60  # now and then
    cluster.wait(1.0)
    assert placed(cluster) == ["2", "1"]
    assert cluster.placer.counts["internal_errors"] == 0


def test_a_pod_that_is_gone_meanwhile_is_not_asked_for_again() -> None:
    slow = Slow()
    cluster = ModelCluster(cel=CelCache(slow))
    cluster.add_node(a_node("n1"))
    put(cluster, "1", SLOW)
    cluster.wait(1.0)
    cluster.delete_pod("1")
    cluster.run()
    asked = slow.asked
    cluster.wait(1.0)
    assert slow.asked == asked
    assert cluster.placer.next_due() is None


@pytest.mark.parametrize("steps", [1, 20, 100])
def test_pods_whose_selectors_take_many_turns_are_placed_in_the_end(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "TURN_STEPS", steps)
    cluster = ModelCluster(cel=CelCache())
    for number in range(3):
        cluster.add_node(a_node(f"n{number}"))
    for name in "1234":
        put(cluster, name, f"device.driver != '' && size(device.attributes) >= {name} - {name}")
    cluster.wait(1.0)
    assert sorted(placed(cluster)) == ["1", "2", "3", "4"]
    assert cluster.placer.counts["internal_errors"] == 0


def test_one_that_takes_many_turns_lets_others_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "TURN_STEPS", 1)
    cluster = ModelCluster(cel=CelCache())
    cluster.add_node(a_node("n1"))
    put(cluster, "2", "device.driver != ''")
    cluster.run()  # its selectors are known now
    put(cluster, "1", "size(device.attributes) > 0 && size(device.attributes) > 0")
    put(cluster, "3", "device.driver != ''")
    cluster.run()
    assert placed(cluster) == ["2", "3", "1"]
