"""What the members of a gang that has no room are told: the obstacle node by node, and the nearest change."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from controller.explaining import explain, state_of
from controller.settings import PlacementSettings
from controller.validation.documents import KubeObject
from driver.kube.objects import Pod, ResourceSlice
from driver.names import DRIVER_NAME
from tests.unit.controller.gangs.troop import BLOCK, a_cluster, join, members, of_job
from tests.unit.controller.model import CEL, ModelCluster, wish
from tests.unit.controller.things import CLASSES, a_node, a_pod, an_inventory, slices_of


def told(cluster: ModelCluster, name: str, reason: str = "Unsatisfiable") -> str:
    """The one message on the pod, which its claim was told as well."""
    cluster.wait(5)
    (message,) = cluster.messages(name, reason)
    assert cluster.messages(f"{name}-claim", reason) == [message]
    return message


def explained(cluster: ModelCluster, name: str) -> str:
    slices = [s for node in cluster.state.nodes for s in slices_of_node(cluster, node)]
    nodes = [record.node for record in cluster.state.nodes.values() if record.node]
    objects: list[KubeObject] = [*CLASSES, *nodes, *slices, *cluster.claims.values(), *cluster.pods.values()]
    found = explain(state_of(objects, DRIVER_NAME), ("default", f"{name}-claim"), PlacementSettings(), CEL)
    assert found is not None
    return found.text


def slices_of_node(cluster: ModelCluster, node: str) -> list[ResourceSlice]:
    return [s for pool in cluster.state.pools.own(node) for s in cluster.state.pools.slices(pool)]


def test_nodes_that_refuse_are_counted_by_reason_and_the_claims_are_told() -> None:
    cluster = a_cluster(3, pairs=2, vfs=1)
    wish(cluster, "single")
    cluster.run()
    join(cluster, "a", *members("a", 3), size=3, gpus=2, nics=2)
    message = told(cluster, "a-0")
    assert message == (
        "Job a: 2 of 3 members have room at once on rails 0, 1; pod a-2 has none: 2 nodes would take it, but "
        'not beside the others; 0/1 nodes: 1 × request "gpu": 2 wanted, 1 free (4 devices, 2 not of class '
        "gpu.tandem-dra.io, 1 taken); nearest: size: 2 would do; for one more member nearest on node n0: if "
        "gpu-0000-12-00-0 and vf-0000-13-00-1 were free"
    )
    assert explained(cluster, "a-0") == message


def test_where_no_node_takes_a_member_the_reason_is_as_a_single_pods() -> None:
    cluster = a_cluster(3, pairs=2, vfs=1)
    join(cluster, "a", *members("a", 2), size=2, gpus=3, nics=2)
    message = told(cluster, "a-0")
    assert message.startswith('Job a: pod a-0 has no room: 0/3 nodes: 3 × request "gpu": 3 wanted, 2 free')
    assert message.endswith('nearest on node n0: count: 2 instead of 3 in request "gpu" would do')
    assert explained(cluster, "a-1") == message


def test_nodes_that_the_pod_does_not_fit_are_named() -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    cluster.add_node(a_node("small", cpu="100m"), slices_of("small", an_inventory(1, 1)))
    join(cluster, "a", *members("a", 3), size=3)
    message = told(cluster, "a-0")
    assert "2 nodes would take it, but not beside the others" in message
    assert "1 nodes do not fit the pod: 1 × too little cpu" in message


def test_rails_are_named_with_what_they_close() -> None:
    cluster = ModelCluster()
    inventory = an_inventory(pairs=2, vfs=1)
    for nic in inventory.nics:
        cluster.add_node(a_node(f"n{nic.rail}"), slices_of(f"n{nic.rail}", replace(inventory, nics=(nic,))))
    join(cluster, "a", *members("a", 2), size=2)
    message = told(cluster, "a-0")
    assert "on rail 0; pod a-1 has none: 1 node would take it" in message
    assert '0/1 nodes: 1 × request "nic": 1 wanted, 0 free' in message
    assert "1 not on the rails of the gang" in message
    assert message.endswith("nearest: rails: any would do")


def test_the_domain_is_named_with_the_nodes_outside() -> None:
    labels = [{BLOCK: "x"}, {BLOCK: "y"}, {BLOCK: "y"}, {}]
    cluster = a_cluster(4, pairs=1, vfs=1, labels=labels)
    join(cluster, "a", *members("a", 3), size=3, within=BLOCK)
    message = told(cluster, "a-0")
    assert f"on rail 0 with {BLOCK}=y; pod a-2 has none: 2 nodes would take it" in message
    assert f"2 nodes do not fit the pod: 2 × not of {BLOCK}=y" in message


def test_members_that_ask_for_different_things_are_counted_kind_by_kind() -> None:
    cluster = a_cluster(2, pairs=2, vfs=1)
    join(cluster, "a", "a-0", "a-1", size=3, gpus=2, nics=2)
    join(cluster, "a", "a-9", size=3)
    message = told(cluster, "a-0")
    assert "2 of 3 members have room at once on rails 0, 1" in message
    assert "(2 of 2 like pod a-0, 0 of 1 like pod a-9)" in message
    assert "pod a-9 has none" in message


def test_a_node_that_is_left_out_after_a_failed_try_is_told_as_such() -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    join(cluster, "a", *members("a", 2), size=2)
    cluster.run()
    assert len(cluster.allocated) == 2
    for name in members("a", 2):
        cluster.give_back(f"{name}-claim")
    cluster.wait(8)
    assert any("left out for a while" in text for text in cluster.messages("a-0", "Unsatisfiable"))


def test_who_is_missing_and_who_says_something_else_is_told_on_the_claims_too() -> None:
    cluster = a_cluster(2)
    join(cluster, "a", *members("a", 2), size=3)
    assert told(cluster, "a-0", "GangIncomplete") == "waits for its gang, Job a: 2 of 3 members are there"
    join(cluster, "b", "b-0", size=2)
    join(cluster, "b", "b-1", size=3)
    assert "gang.size" in told(cluster, "b-0", "GangConflict")


def test_a_claim_that_members_share_is_told_once() -> None:
    cluster = a_cluster(1, pairs=1, vfs=1)
    join(cluster, "a", *members("a", 2), size=2, gpus=2)
    pod = cluster.pods["a-1"]
    entries = cluster.pods["a-0"].spec.resource_claims
    cluster.put_pod(
        msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, resource_claims=entries))
    )
    cluster.wait(5)
    assert len(cluster.messages("a-0-claim", "Unsatisfiable")) == 1


def test_a_text_fits_into_an_event_however_many_reasons_there_are() -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    for index in range(24):
        taints = [{"key": f"example.com/{'long' * 20}-{index}", "effect": "NoSchedule"}]
        name = f"t{index}"
        cluster.add_node(a_node(name, taints=taints), slices_of(name, an_inventory(1 + index % 2, 1)))
    join(cluster, "a", *members("a", 3), size=3)
    cluster.wait(80, step=1.0)
    texts = [t.message for t in cluster.told if isinstance(t.regarding, Pod)]
    assert any(text.startswith("after ") or "size: 2 would do" in text for text in texts)
    assert max(len(text.encode()) for text in texts) <= 1024


def test_alike_gangs_are_told_alike() -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    for job in "abc":
        join(cluster, job, *members(job, 3), size=3)
    cluster.wait(5)
    texts = {cluster.messages(f"{job}-0", "Unsatisfiable")[0].replace(f"{job}-", "x-")[6:] for job in "abc"}
    assert len(texts) == 1


APART = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"x": "y"}}, "topologyKey": "kubernetes.io/hostname"}
        ]
    }
}
UNLIKE = "members that ask for the same"
SIMPLER = "pods with simpler rules for each other"


@pytest.mark.parametrize(
    ("rails", "rules", "tried", "helps"),
    [
        ("any", {}, "4 nodes in 1 state", f"{UNLIKE} or"),
        ("same", {}, "4 nodes in 1 state, 3 sets of rails", f"rails: any, {UNLIKE} or"),
        (
            "any",
            {"affinity": APART},
            "4 nodes in 1 state",
            f"{UNLIKE}, pods with simpler rules for each other or",
        ),
    ],
)
def test_a_search_that_gave_up_says_what_was_tried_and_what_would_help(
    rails: str, rules: dict[str, Any], tried: str, helps: str
) -> None:
    cluster = a_cluster(4, pairs=3, vfs=3)
    for number, name in enumerate(members("a", 10)):
        join(cluster, "a", name, size=10, rails=rails)
        uid = cluster.pods[name].metadata.uid
        cluster.put_pod(of_job(a_pod(name, [f"{name}-claim"], uid=uid, cpu=f"{number + 20}", **rules), "a"))
    assert re.fullmatch(
        r"Job a: the search for 10 places gave up after \d+ steps: it tried 10 members of 10 kinds, "
        rf"{tried}, with room for (\d) at once; {helps} size: \1 would help",
        told(cluster, "a-0"),
    )
