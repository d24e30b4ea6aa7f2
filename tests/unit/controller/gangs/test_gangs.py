"""What users are promised of gangs, over the controller's decisions as a whole."""

from __future__ import annotations

import msgspec
import pytest

from controller.choice import Chooser
from controller.gangs.joint import Joint
from controller.gangs.kinds import Band
from controller.gangs.places import NoRoom
from controller.placement import Placer
from controller.state import ClusterState
from driver.kube.objects import DeviceClassConfig
from driver.kube.scheduling import PodGroup
from driver.names import DRIVER_NAME
from tests.unit.controller.gangs.troop import (
    BLOCK,
    a_cluster,
    bind,
    gang_claim,
    join,
    leave,
    members,
    nodes_of,
    of_job,
    rails_of,
)
from tests.unit.controller.model import CEL, ModelCluster
from tests.unit.controller.things import a_claim, a_node, a_pod, an_inventory, slices_of

UUID = f'device.attributes["{DRIVER_NAME}"].uuid'


def test_nobody_is_placed_before_all_are_there_and_each_is_told_how_many_are_missing() -> None:
    cluster = a_cluster()
    join(cluster, "a", *members("a", 3))
    cluster.wait(5)
    assert cluster.allocated == []
    (message,) = cluster.messages("a-0", "GangIncomplete")
    assert message == "waits for its gang, Job a: 3 of 4 members are there"
    join(cluster, "a", "a-3")
    cluster.run()
    assert len(cluster.allocated) == 4
    assert {at for at, _, _ in cluster.allocated} == {5.0}, "all in one turn"


def test_members_that_come_at_once_are_placed_without_a_word() -> None:
    cluster = a_cluster()
    join(cluster, "a", *members("a", 4))
    cluster.wait(5)
    assert cluster.reasons("a-0") == []
    assert None not in nodes_of(cluster, members("a", 4))


def test_a_member_that_comes_back_joins_on_the_rails_and_in_the_domain_of_the_others() -> None:
    labels = [{BLOCK: "xxyy"[i]} for i in range(4)]
    cluster = a_cluster(4, pairs=4, vfs=2, labels=labels)
    join(cluster, "a", *members("a", 2), size=2, within=BLOCK)
    cluster.run()
    bind(cluster, *members("a", 2))
    terms = rails_of(cluster, "a-0"), labels[int((nodes_of(cluster, ["a-0"])[0] or "")[1])]
    leave(cluster, "a-1")
    cluster.run()
    join(cluster, "a", "a-1", size=2, within=BLOCK)
    cluster.run()
    (node,) = nodes_of(cluster, ["a-1"])
    assert node is not None
    assert (rails_of(cluster, "a-1"), labels[int(node[1])]) == terms


def test_a_member_that_cannot_come_back_on_the_same_terms_waits_and_says_so() -> None:
    cluster = a_cluster(2, pairs=2, vfs=1)
    join(cluster, "a", *members("a", 2), size=2, require="PIX")
    cluster.run()
    bind(cluster, *members("a", 2))
    (rail,) = rails_of(cluster, "a-0")
    leave(cluster, "a-1")
    join(cluster, "c", "c-0", "c-1", "c-2", size=3, rails="any")  # takes all that is left
    cluster.run()
    bind(cluster, "c-0", "c-1", "c-2")
    join(cluster, "a", "a-1", size=2, require="PIX")
    cluster.wait(5)
    assert nodes_of(cluster, ["a-1"]) == [None]
    assert cluster.messages("a-1", "Unsatisfiable")
    leave(cluster, *members("c", 3))
    cluster.wait(2)
    assert rails_of(cluster, "a-1") == {rail}


def test_a_new_controller_knows_the_terms_at_once() -> None:
    cluster = a_cluster(4, pairs=4, vfs=2)
    join(cluster, "a", *members("a", 2), size=2)
    cluster.run()
    bind(cluster, *members("a", 2))
    rails = rails_of(cluster, "a-0")
    leave(cluster, "a-1")
    restart(cluster)
    join(cluster, "a", "a-1", size=2)
    cluster.run()
    assert rails_of(cluster, "a-1") == rails


def restart(cluster: ModelCluster) -> None:
    """Another process takes over: it lists what there is."""
    old = cluster.state
    old.index.settle()
    cluster.state = ClusterState(cluster.settings.driver_name)
    cluster.placer = Placer(cluster.state, cluster.settings, CEL)
    for device_class in old.classes.values():
        cluster.state.apply_class(None, device_class)
    for record in old.nodes.values():
        cluster.state.apply_node(None, record.node)
    for pool in [pool for record in old.nodes.values() for pool in record.pools]:
        for published in old.pools.slices(pool):
            cluster.state.apply_slice(None, published)
    for claim in cluster.claims.values():
        cluster.state.apply_claim(None, claim, cluster.now)
    for pod in cluster.pods.values():
        cluster.state.apply_pod(None, pod)
    cluster.on_the_way.clear()


def test_a_gang_half_written_by_a_controller_that_died_is_completed_on_its_rails() -> None:
    cluster = a_cluster(4, pairs=4, vfs=2, slow=True)
    join(cluster, "a", *members("a", 4))
    cluster.run()
    lost = cluster.on_the_way[2:]
    cluster.on_the_way = cluster.on_the_way[:2]
    cluster.deliver()
    assert len(lost) == 2
    restart(cluster)
    cluster.slow = False
    cluster.run()
    assert None not in nodes_of(cluster, members("a", 4))
    assert len({frozenset(rails_of(cluster, name)) for name in members("a", 4)}) == 1


def test_what_nobody_has_reserved_goes_back_when_the_rest_cannot_be_had_on_the_same_terms() -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    join(cluster, "a", *members("a", 2), size=2)
    cluster.run()
    first, second = nodes_of(cluster, members("a", 2))
    assert {first, second} == {"n0", "n1"}
    cluster.give_back("a-1-claim")  # kube-scheduler: it does not fit there, and there is no other node
    cluster.wait(3)
    assert nodes_of(cluster, members("a", 2)) == [None, None]
    assert any("cannot be completed" in m for m in cluster.messages("a-0-claim", "TakenBack"))


def test_what_runs_is_never_taken_back() -> None:
    cluster = a_cluster(2, pairs=1, vfs=1)
    join(cluster, "a", *members("a", 2), size=2)
    cluster.run()
    bind(cluster, "a-0")
    cluster.give_back("a-1-claim")
    cluster.wait(10)
    assert nodes_of(cluster, ["a-0"]) != [None]
    assert "TakenBack" not in cluster.reasons("a-0-claim")


def test_a_failed_write_leaves_the_others_and_the_member_follows_on_their_rails() -> None:
    cluster = a_cluster(4, pairs=4, vfs=2, slow=True)
    join(cluster, "a", *members("a", 4))
    cluster.run()
    failing = cluster.on_the_way.pop()
    cluster.deliver()
    cluster.on_the_way = [failing]
    cluster.deliver(refuse="no")
    cluster.slow = False
    cluster.wait(3)
    assert None not in nodes_of(cluster, members("a", 4))
    assert len({frozenset(rails_of(cluster, name)) for name in members("a", 4)}) == 1


def test_two_members_that_are_missing_come_back_together_or_wait() -> None:
    """Else two gangs, each with one of two lost members back, could hold the room of each other's second."""
    cluster = a_cluster(4, pairs=1, vfs=1)
    for job in "ab":
        join(cluster, job, *members(job, 2), size=2)
    cluster.run()
    bind(cluster, *members("a", 2), *members("b", 2))
    leave(cluster, *members("a", 2))
    join(cluster, "a", "a-0", size=2)
    cluster.wait(5)
    assert nodes_of(cluster, ["a-0"]) == [None]
    join(cluster, "a", "a-1", size=2)
    cluster.run()
    assert None not in nodes_of(cluster, members("a", 2))


def test_a_gang_of_many_unlike_pods_is_placed() -> None:
    cluster = a_cluster(6, pairs=3, vfs=2)
    for number in range(12):
        join(cluster, "a", f"a-{number}", size=12)
        name = f"a-{number}"
        pod = a_pod(name, [f"{name}-claim"], uid=cluster.pods[name].metadata.uid, cpu=f"{number + 1}")
        cluster.put_pod(of_job(pod, "a"))
    cluster.wait(1)
    assert None not in nodes_of(cluster, members("a", 12))


def test_a_gang_without_room_among_too_many_ways_gives_up_and_is_tried_again_rarely() -> None:
    cluster = a_cluster(3, pairs=3, vfs=1)
    for number in range(10):
        join(cluster, "a", f"a-{number}", size=10, rails="any")
        name = f"a-{number}"
        pod = a_pod(name, [f"{name}-claim"], uid=cluster.pods[name].metadata.uid, cpu=f"{number + 1}")
        cluster.put_pod(of_job(pod, "a"))
    cluster.wait(5)
    assert cluster.allocated == []
    (message,) = cluster.messages("a-0", "Unsatisfiable")
    assert "gave up" in message
    tried = cluster.placer.counts["searches_given_up"]
    for number in range(5):
        cluster.add_node(a_node(f"new-{number}"), [])
        cluster.wait(1)
    assert cluster.placer.counts["searches_given_up"] - tried <= 1
    leave(cluster, *members("a", 10))
    cluster.run()
    assert cluster.placer.waiting_gangs == 0


def test_more_members_than_the_size_join_one_by_one_on_the_same_rails() -> None:
    cluster = a_cluster(3, pairs=2, vfs=1)
    join(cluster, "a", *members("a", 5), size=2, require="PIX")
    cluster.wait(1)
    placed = [name for name in members("a", 5) if cluster.node_of(f"{name}-claim")]
    assert len(placed) == 3, "a node has one pair on the rail"
    assert len({frozenset(rails_of(cluster, name)) for name in placed}) == 1


def test_members_that_say_different_things_wait_and_are_told_which() -> None:
    cluster = a_cluster()
    join(cluster, "a", "a-0", size=2)
    join(cluster, "a", "a-1", size=3)
    cluster.wait(1)
    assert cluster.allocated == []
    (message,) = cluster.messages("a-0", "GangConflict")
    assert message == "Job a: gang.size is 2 in pod a-0 and 3 in pod a-1; right is the same in all"


def test_a_pod_that_asks_for_a_gang_and_has_none_is_told_what_would_make_it_a_member() -> None:
    cluster = a_cluster()
    cluster.put_claim(gang_claim("p-claim", "claim-1", size=2))
    cluster.put_pod(a_pod("p", ["p-claim"]))
    cluster.wait(1)
    assert cluster.allocated == []
    (message,) = cluster.messages("p", "GangConflict")
    assert "tandem-dra.io/gang" in message


def a_pod_group(name: str, least: int) -> PodGroup:
    spec = {"schedulingPolicy": {"gang": {"minCount": least}}}
    return msgspec.convert({"metadata": {"name": name, "namespace": "default"}, "spec": spec}, PodGroup)


def test_a_pod_group_gives_the_size() -> None:
    cluster = a_cluster()
    for index in range(2):
        cluster.put_claim(gang_claim(f"p{index}-claim", f"claim-{index}"))
        cluster.put_pod(a_pod(f"p{index}", [f"p{index}-claim"], schedulingGroup={"podGroupName": "pg"}))
    cluster.wait(1)
    assert "no gang.size is given" in cluster.messages("p0", "GangConflict")[0]
    cluster.state.apply_pod_group(None, a_pod_group("pg", 2))
    cluster.run()
    assert cluster.node_of("p0-claim") is not None
    assert cluster.node_of("p1-claim") is not None


def test_a_leader_without_nics_and_workers_with_them_are_one_gang() -> None:
    cluster = a_cluster(3, pairs=2, vfs=1)
    cluster.put_claim(gang_claim("lead-claim", "claim-lead", gpus=2, nics=0, size=3))
    cluster.put_pod(of_job(a_pod("lead", ["lead-claim"]), "a"))
    join(cluster, "a", "w-0", size=3)
    cluster.wait(1)
    assert cluster.allocated == []
    join(cluster, "a", "w-1", size=3)
    cluster.run()
    assert cluster.node_of("lead-claim") is not None
    assert rails_of(cluster, "w-0") == rails_of(cluster, "w-1")


def test_members_that_share_a_claim_go_to_one_node_with_it() -> None:
    cluster = a_cluster()
    cluster.put_claim(gang_claim("shared", "claim-s", size=2))
    for index in range(2):
        cluster.put_pod(of_job(a_pod(f"p{index}", ["shared"]), "a"))
    cluster.run()
    assert cluster.node_of("shared") is not None
    assert len(cluster.allocated) == 1


def test_a_member_with_two_claims_of_the_gang_has_both_on_its_rails() -> None:
    cluster = a_cluster(4, pairs=4, vfs=2)
    for name in ("p0", "p1"):
        for part in "xy":
            cluster.put_claim(gang_claim(f"{name}-{part}", f"uid-{name}-{part}", size=2))
        cluster.put_pod(of_job(a_pod(name, [f"{name}-x", f"{name}-y"]), "a"))
    cluster.run()
    claims = [f"{name}-{part}" for name in ("p0", "p1") for part in "xy"]
    rails = [{i.rail for i in cluster.placement_of(claim).interfaces} for claim in claims]
    assert rails == [rails[0]] * 4
    assert len(rails[0]) == 1


def test_a_class_may_make_its_pods_a_gang() -> None:
    cluster = a_cluster()
    document = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Alignment", "gang": {"size": 2}}
    config = msgspec.json.encode([{"opaque": {"driver": DRIVER_NAME, "parameters": document}}])
    old = cluster.state.classes["rdma-vf.tandem-dra.io"]
    spec = msgspec.structs.replace(old.spec, config=msgspec.json.decode(config, type=list[DeviceClassConfig]))
    cluster.state.apply_class(old, msgspec.structs.replace(old, spec=spec))
    for name in ("p0", "p1"):
        cluster.run()
        assert cluster.allocated == []
        cluster.put_claim(a_claim(f"{name}-claim", uid=f"uid-{name}-claim"))
        cluster.put_pod(of_job(a_pod(name, [f"{name}-claim"]), "a"))
    cluster.run()
    assert len(cluster.allocated) == 2


def test_members_that_need_cpu_go_where_it_is() -> None:
    cluster = ModelCluster()
    for name, cpu in (("a", "2"), ("b", "16"), ("c", "2")):
        cluster.add_node(a_node(name, cpu=cpu), slices_of(name, an_inventory(4, 4)))
    for index in range(2):
        cluster.put_claim(gang_claim(f"p{index}-claim", f"claim-{index}", size=2))
        cluster.put_pod(of_job(a_pod(f"p{index}", [f"p{index}-claim"], cpu="7"), "j"))
    cluster.run()
    assert nodes_of(cluster, ["p0", "p1"]) == ["b", "b"]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_the_order_in_which_members_come_does_not_matter(order: tuple[int, ...]) -> None:
    cluster = a_cluster()
    for number in order:
        join(cluster, "a", f"a-{number}")
        cluster.wait(1)
    assert None not in nodes_of(cluster, members("a", 4))


def test_a_claim_that_says_nothing_of_a_gang_is_placed_at_once_whoever_owns_its_pod() -> None:
    cluster = a_cluster()
    cluster.put_claim(a_claim("p-claim"))
    cluster.put_pod(of_job(a_pod("p", ["p-claim"]), "j"))
    cluster.run()
    assert cluster.node_of("p-claim") is not None


def test_a_search_with_many_new_questions_is_made_in_parts_and_each_goes_on_where_the_last_ended() -> None:
    cluster = a_cluster()
    join(cluster, "a", *members("a", 4))
    for key in cluster.state.touched:
        cluster.placer._book.update(key)
    gang = cluster.placer._book.gang_of(("default", "a-0"))
    roll = cluster.placer._book.roll(gang) if gang is not None else None
    assert roll is not None
    settings = cluster.settings
    joint = Joint(cluster.state, Chooser(cluster.state, settings, CEL), settings, CEL, fresh=1)
    answers = [joint.place(Band(roll.waiting, roll.asking)) for _ in range(60)]
    unfinished = [a for a in answers if isinstance(a, NoRoom)]
    assert unfinished
    assert all(answer.unfinished for answer in unfinished)
    assert not isinstance(answers[-1], NoRoom)
    assert len(answers[-1]) == 4


def test_a_gang_gets_off_nodes_that_only_kube_scheduler_knows_to_be_wrong() -> None:
    cluster = a_cluster(10, pairs=1, vfs=1)
    wrong = {f"n{index}" for index in range(6)}
    join(cluster, "a", *members("a", 4))
    blamed: list[str] = []
    for _ in range(40):
        cluster.run()
        nodes = nodes_of(cluster, members("a", 4))
        bad = next((i for i, node in enumerate(nodes) if node in wrong), None)
        if None not in nodes and bad is None:
            break
        if bad is not None:
            blamed.append(nodes[bad] or "")
            cluster.give_back(f"a-{bad}-claim")
            cluster.judge(f"a-{bad}", f"0/10 nodes: {len(blamed)} were not as they should be")
        cluster.wait(max(0.0, (cluster.placer.next_due() or 0.0) - cluster.now), step=1000.0)
    assert set(nodes_of(cluster, members("a", 4))) == {"n6", "n7", "n8", "n9"}
    assert len(blamed) == len(set(blamed)), "no node twice"


@pytest.mark.parametrize("rails", ["same", "any"])
def test_members_whose_selectors_look_at_single_devices_are_placed(rails: str) -> None:
    cluster = a_cluster(3, pairs=4, vfs=2)
    only = (f'!("uuid" in device.attributes["{DRIVER_NAME}"]) || {UUID} != "GPU-0"',)
    join(cluster, "a", *members("a", 4), only=only, rails=rails)
    cluster.run()
    assert cluster.reasons("a-0") == []
    assert None not in nodes_of(cluster, members("a", 4))
