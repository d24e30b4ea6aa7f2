"""A claim that is reserved for as many as can be: another pod is told so, and no room is kept for it."""

from __future__ import annotations

import msgspec
import pytest

from controller.allocator.cel import CelCache
from controller.explaining import explain
from controller.planning import plan
from controller.reserved import MOST_RESERVED, is_closed, with_consumer
from controller.settings import PlacementSettings
from controller.validation.documents import KubeObject
from driver.kube.objects import Pod, ResourceClaim, ResourceClaimConsumerReference
from tests.unit.controller.model import a_cluster
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, an_inventory, slices_of


def reserved(
    claim: ResourceClaim, users: list[ResourceClaimConsumerReference], version: int
) -> ResourceClaim:
    replace = msgspec.structs.replace
    metadata = replace(claim.metadata, resource_version=str(version))
    return replace(claim, metadata=metadata, status=replace(claim.status, reserved_for=users))


def pods(count: int) -> list[ResourceClaimConsumerReference]:
    return [
        ResourceClaimConsumerReference(resource="pods", name=f"u{number}", uid=f"uid-u{number}")
        for number in range(count)
    ]


def group(name: str) -> ResourceClaimConsumerReference:
    return ResourceClaimConsumerReference(
        api_group="scheduling.k8s.io", resource="podgroups", name=name, uid=f"uid-{name}"
    )


FULL = pods(MOST_RESERVED)


@pytest.mark.parametrize(
    ("users", "pod", "closed"),
    [
        (FULL, a_pod("late", ["c"]), True),
        (FULL[:-1], a_pod("late", ["c"]), False),
        (FULL, a_pod("u7", ["c"]), False),
        ([*FULL[:-1], group("g")], a_pod("late", ["c"], schedulingGroup={"podGroupName": "g"}), False),
        ([*FULL[:-1], group("g")], a_pod("late", ["c"], schedulingGroup={"podGroupName": "h"}), True),
        ([], a_pod("late", ["c"]), False),
    ],
    ids=["full", "one place left", "reserved for it", "for its group", "for another group", "nobody's"],
)
def test_who_can_use_a_claim(users: list[ResourceClaimConsumerReference], pod: Pod, closed: bool) -> None:
    assert is_closed(reserved(a_claim("c"), users, 1), pod) is closed


def test_a_pod_of_a_full_claim_is_refused_with_the_reason_and_woken_when_a_place_comes_free() -> None:
    cluster = a_cluster()
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("first", ["c"]))
    cluster.run()
    allocated = cluster.claims["c"]
    cluster.put_claim(reserved(allocated, FULL, 1000))
    cluster.put_claim(a_claim("own"))
    cluster.put_pod(a_pod("late", ["c", "own"]))
    cluster.wait(30)
    (message,) = cluster.messages("late", "Unsatisfiable")
    assert message.startswith("claim c is reserved for 256 users (status.reservedFor)")
    assert cluster.claims["own"].status.allocation is None
    assert "uid-late" not in {uid for record in cluster.state.nodes.values() for uid in record.promised}
    cluster.put_claim(reserved(allocated, FULL[1:], 1001))
    cluster.run()
    assert cluster.claims["own"].status.allocation is not None


def test_explain_names_the_pods_that_cannot_use_a_claim() -> None:
    cluster = a_cluster()
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("first", ["c"]))
    cluster.run()
    cluster.put_claim(reserved(cluster.claims["c"], FULL, 1000))
    for name in ("late", "later"):
        cluster.put_pod(a_pod(name, ["c"]))
    found = explain(cluster.state, ("default", "c"), PlacementSettings(), CelCache())
    assert found is not None
    assert found.allocated
    assert "; pods that cannot use it: first, late, later: claim c is reserved for 256 users" in found.text


def test_plan_places_no_more_pods_on_a_claim_than_can_use_it() -> None:
    inventory = an_inventory()
    objects: list[KubeObject] = [a_node("n"), *slices_of("n", inventory), *CLASSES]
    claim = reserved(a_claim("c"), [], 1)
    crowd = [a_pod(f"p{number}", ["c"], cpu="1m") for number in range(3)]
    taken = reserved(claim, pods(MOST_RESERVED - 2), 2)
    found = plan([*objects, taken, *crowd], PlacementSettings(), CelCache(), lambda: 0.0)
    assert [pod.node for pod in found.pods] == ["n", "n", None]
    assert (found.pods[2].reason or "").startswith("claim c is reserved for 256 users")


def test_a_consumer_is_named_once() -> None:
    pod = a_pod("p", ["c"])
    once = with_consumer(a_claim("c"), pod)
    assert with_consumer(once, pod) == once
    assert [user.uid for user in once.status.reserved_for] == ["uid-p"]
