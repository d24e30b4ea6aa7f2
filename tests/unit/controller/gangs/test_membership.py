from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.gangs.membership import GangConflict, GangId, gang_asked, gang_id, sized
from driver.gang import Gang
from driver.kube.objects import Pod
from driver.names import DRIVER_NAME
from tests.unit.controller.gangs.troop import gang_claim
from tests.unit.controller.things import a_claim, a_pod


def a_member(labels: dict[str, str] | None = None, owner: str = "", uid: str = "u1", **spec: Any) -> Pod:
    document = msgspec.json.decode(msgspec.json.encode(a_pod("p", **spec)))
    document["metadata"]["labels"] = labels or {}
    if owner:
        document["metadata"]["ownerReferences"] = [
            {"apiVersion": "v1", "kind": owner, "name": "train", "uid": uid, "controller": True}
        ]
    return msgspec.convert(document, Pod)


GROUP = {"podGroupName": "pg"}
JOBSET = {"jobset.sigs.k8s.io/jobset-name": "js", "jobset.sigs.k8s.io/jobset-uid": "js-uid"}
LWS = {"leaderworkerset.sigs.k8s.io/name": "lws", "leaderworkerset.sigs.k8s.io/group-key": "abc"}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (a_member(owner="Job"), GangId("default", "Job", "train", "u1")),
        (a_member(owner="RayCluster"), GangId("default", "RayCluster", "train", "u1")),
        (a_member(JOBSET, owner="Job"), GangId("default", "JobSet", "js", "js-uid")),
        (a_member(LWS, owner="StatefulSet"), GangId("default", "LeaderWorkerSet", "lws", "abc")),
        (a_member(LWS | JOBSET, owner="Job", schedulingGroup=GROUP), GangId("default", "PodGroup", "pg")),
        (a_member({"tandem-dra.io/gang": "x", **LWS}, schedulingGroup=GROUP), GangId("default", "gang", "x")),
        (a_member(), None),
    ],
    ids=lambda value: str(value) if isinstance(value, GangId) else "",
)
def test_a_gang_is_a_label_a_pod_group_or_who_made_the_pod(pod: Pod, expected: GangId | None) -> None:
    assert gang_id(pod) == expected


def test_another_job_of_the_same_name_is_another_gang() -> None:
    assert gang_id(a_member(owner="Job", uid="u1")) != gang_id(a_member(owner="Job", uid="u2"))


def test_the_claims_word_counts_and_those_that_say_nothing_are_not_on_the_gangs_rails() -> None:
    claims = [gang_claim("a", "uid-a", size=2), a_claim("b")]
    assert gang_asked(claims, {}, DRIVER_NAME) == (Gang(size=2), frozenset({"uid-a"}))
    assert gang_asked([a_claim("b")], {}, DRIVER_NAME) == (None, frozenset())


def test_claims_of_a_pod_that_disagree_are_named() -> None:
    claims = [gang_claim("a", "uid-a", size=2), gang_claim("b", "uid-b", size=2, rails="any")]
    with pytest.raises(
        GangConflict, match=r"gang.rails is same in claim a and any in claim b; right is the same"
    ):
        gang_asked(claims, {}, DRIVER_NAME)


def test_the_size_is_said_once() -> None:
    group = GangId("default", "PodGroup", "pg")
    assert sized(Gang(size=None), 3, group).size == sized(Gang(size=3), 3, group).size == 3
    with pytest.raises(GangConflict, match=r"no gang.size is given, and PodGroup pg gives none"):
        sized(Gang(size=None), None, group)
    with pytest.raises(GangConflict, match=r"gang.size is 2, but minCount of PodGroup pg is 3"):
        sized(Gang(size=2), 3, group)
