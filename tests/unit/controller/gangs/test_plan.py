"""`tandem plan` places gangs as the controller does."""

from __future__ import annotations

from typing import Any

from controller.planning import Plan, plan
from controller.settings import PlacementSettings
from driver.kube.objects import Pod, ResourceClaim
from tests.unit.controller.gangs.troop import gang_claim, of_job
from tests.unit.controller.model import CEL
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, an_inventory, slices_of


def planned(members: int, *, nodes: int = 2, others: int = 0, **gang: Any) -> Plan:
    """Nodes with one pair each; a gang, and pods that are in none, in between."""
    objects: list[Any] = list(CLASSES)
    for index in range(nodes):
        objects += [a_node(f"n{index}"), *slices_of(f"n{index}", an_inventory(1, 1))]
    pods: list[Pod] = []
    claims: list[ResourceClaim] = []
    for index in range(members):
        claims.append(gang_claim(f"g{index}-claim", f"claim-g{index}", **gang))
        pods.append(of_job(a_pod(f"g{index}", [f"g{index}-claim"]), "job"))
    for index in range(others):
        claims.append(a_claim(f"s{index}-claim"))
        pods.insert(1, a_pod(f"s{index}", [f"s{index}-claim"]))
    return plan([*objects, *claims, *pods], PlacementSettings(), CEL, lambda: 0.0)


def test_a_gang_is_placed_whole_at_its_first_members_turn() -> None:
    found = planned(2, nodes=2, others=1, size=2)
    where = {pod.name: pod.node for pod in found.pods}
    assert {where["g0"], where["g1"]} == {"n0", "n1"}
    assert where["s0"] is None
    assert all(pod.claims[0].pairs for pod in found.pods if pod.node)


def test_a_gang_without_room_for_all_is_not_placed_at_all_and_says_who_has_none() -> None:
    found = planned(3, nodes=2, others=1, size=3)
    where = {pod.name: pod.node for pod in found.pods}
    assert [where["g0"], where["g1"], where["g2"]] == [None] * 3
    assert where["s0"] is not None, "nobody is held up"
    reason = next(pod.reason for pod in found.pods if pod.name == "g0")
    assert (reason or "").startswith("Job job: 2 of 3 members have room at once on rail 0; pod g2 has none")


def test_a_gang_short_of_its_size_says_so() -> None:
    found = planned(2, nodes=2, size=3)
    assert {pod.reason for pod in found.pods} == {"waits for its gang, Job job: 2 of 3 members are there"}


def test_more_members_than_the_size_are_placed_as_far_as_there_is_room() -> None:
    found = planned(4, nodes=3, size=2)
    assert sorted(pod.node or "-" for pod in found.pods) == ["-", "n0", "n1", "n2"]


def test_members_that_disagree_say_in_what() -> None:
    claims = [gang_claim(f"g{i}-claim", f"claim-g{i}", size=2 + i) for i in range(2)]
    pods = [of_job(a_pod(f"g{i}", [f"g{i}-claim"]), "job") for i in range(2)]
    objects: list[Any] = [*CLASSES, a_node("n0"), *slices_of("n0"), *claims, *pods]
    found = plan(objects, PlacementSettings(), CEL, lambda: 0.0)
    assert all("gang.size is 2 in pod g0 and 3 in pod g1" in (pod.reason or "") for pod in found.pods)
