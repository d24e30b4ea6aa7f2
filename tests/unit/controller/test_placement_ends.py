"""What becomes of allocations: bound, given back, taken back, cut off by a crash, used up."""

from __future__ import annotations

from tests.unit.controller.model import ModelCluster, a_cluster, wish
from tests.unit.controller.things import a_claim, a_node, a_pod, an_inventory, slices_of


def test_what_kube_scheduler_gives_back_goes_to_another_node_after_a_pause() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.run()
    first = cluster.node_of("p-claim")
    cluster.give_back("p-claim")
    cluster.wait(1)
    assert cluster.node_of("p-claim") is None
    cluster.wait(2)
    assert cluster.node_of("p-claim") not in (None, first)
    assert cluster.reasons("p-claim") == ["Allocated", "Returned", "Allocated"]


def test_what_kube_scheduler_gave_back_is_told_with_its_words_which_come_later() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.judge("p", "0/2 nodes: cannot allocate all claims")
    cluster.run()
    node = cluster.node_of("p-claim")
    cluster.give_back("p-claim")
    cluster.wait(0.5)
    assert "Returned" not in cluster.reasons("p-claim")
    cluster.judge("p", "0/2 nodes: volume node affinity conflict")
    cluster.run()
    (message,) = cluster.messages("p-claim", "Returned")
    assert message.endswith(f"{node} back: 0/2 nodes: volume node affinity conflict")


def test_what_does_not_bind_in_time_is_taken_back_and_tried_elsewhere() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.wait(14)
    cluster.judge("p", "0/2 nodes: volume node affinity conflict")
    first = cluster.node_of("p-claim")
    assert first is not None
    cluster.wait(2)
    assert cluster.node_of("p-claim") is None
    cluster.wait(4)
    assert cluster.node_of("p-claim") not in (None, first)
    assert cluster.reasons("p-claim") == ["Allocated", "TakenBack", "Allocated"]
    (message,) = cluster.messages("p-claim", "TakenBack")
    assert message.endswith("within 15 s; kube-scheduler: 0/2 nodes: volume node affinity conflict")


def test_while_kube_scheduler_is_away_allocations_stand_longer_and_no_node_is_blamed() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.judge("p", "0/2 nodes: cannot allocate all claims")
    cluster.wait(59)
    first = cluster.node_of("p-claim")
    assert cluster.reasons("p-claim") == ["Allocated"]
    cluster.wait(4)
    assert cluster.reasons("p-claim") == ["Allocated", "TakenBack", "Allocated"]
    assert cluster.node_of("p-claim") == first
    assert "said nothing new" in cluster.messages("p-claim", "TakenBack")[0]


def test_where_kube_scheduler_works_and_says_the_same_of_a_pod_no_node_is_blamed_but_nothing_held() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    wish(cluster, "q")
    cluster.judge("p", "0/2 nodes: volume node affinity conflict")
    cluster.run()
    first = cluster.node_of("p-claim")
    cluster.bind("q", cluster.node_of("q-claim") or "")
    cluster.wait(15)
    assert cluster.node_of("p-claim") is None
    cluster.wait(3)
    assert cluster.node_of("p-claim") == first


def test_a_pod_that_kube_scheduler_judges_late_leaves_the_node_then() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.wait(20)
    first = cluster.node_of("p-claim")
    cluster.judge("p", "0/2 nodes: volume node affinity conflict")
    cluster.wait(15)
    assert cluster.node_of("p-claim") not in (None, first)


def test_who_takes_the_lead_gives_every_allocation_its_whole_time() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.run()
    first = cluster.node_of("p-claim")
    cluster.judge("p", "0/2 nodes: before the lead went")
    cluster.now += 100
    cluster.placer.lead(cluster.now)
    cluster.wait(14)
    assert cluster.node_of("p-claim") == first
    cluster.judge("p", "0/2 nodes: after it came")
    cluster.wait(2)
    assert cluster.node_of("p-claim") is None


def test_a_reserved_claim_is_never_touched() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.run()
    cluster.bind("p", cluster.node_of("p-claim") or "")
    cluster.wait(600, step=5)
    assert len(cluster.allocated) == 1
    assert cluster.reasons("p-claim") == ["Allocated"]


def test_a_claim_reserved_in_the_last_moment_wins_over_the_taking_back() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.run()
    node = cluster.node_of("p-claim") or ""
    cluster.slow = True
    cluster.wait(61)
    assert cluster.on_the_way, "the clearing is on its way"
    cluster.bind("p", node)
    cluster.deliver()
    cluster.wait(60)
    assert cluster.node_of("p-claim") == node


def test_an_allocation_whose_pod_left_before_it_was_bound_is_taken_back() -> None:
    cluster = a_cluster(1)
    wish(cluster, "p")
    cluster.run()
    cluster.delete_pod("p")
    cluster.wait(20)
    assert cluster.node_of("p-claim") is None
    assert len(cluster.allocated) == 1


def test_preemption_on_the_node_gets_its_time() -> None:
    cluster = a_cluster(2)
    wish(cluster, "p")
    cluster.run()
    node = cluster.node_of("p-claim")
    cluster.put_pod(a_pod("p", ["p-claim"], version=2, status={"nominatedNodeName": node}))
    cluster.wait(299, step=1)
    assert cluster.reasons("p-claim") == ["Allocated"]
    cluster.wait(20, step=1)
    assert "TakenBack" in cluster.reasons("p-claim")


def test_the_pods_other_claims_are_freed_with_the_one_that_came_back() -> None:
    cluster = a_cluster(2)
    cluster.put_claim(a_claim("a"))
    cluster.put_claim(a_claim("b"))
    cluster.put_pod(a_pod("p", ["a", "b"]))
    cluster.run()
    first = cluster.node_of("a")
    cluster.give_back("a")
    cluster.run()
    assert cluster.node_of("b") is None
    cluster.wait(3)
    assert {cluster.node_of("a"), cluster.node_of("b")} == {"n1" if first == "n0" else "n0"}


def test_a_crash_between_the_two_writes_leaves_a_claim_that_is_simply_allocated_again() -> None:
    cluster = a_cluster(1)
    wish(cluster, "p")
    cluster.set_allocation("p-claim", None, finalizer=True)
    cluster.run()
    assert cluster.node_of("p-claim") == "n0"
    assert cluster.reasons("p-claim") == ["Allocated"]


def test_a_pod_that_a_crash_left_with_half_its_claims_where_it_cannot_be_completed_goes_elsewhere() -> None:
    cluster = ModelCluster()
    for name, pairs in (("small", 1), ("large", 2)):
        cluster.add_node(a_node(name), slices_of(name, an_inventory(pairs=pairs, vfs=1)))
    wish(cluster, "other", gpus=2, nics=2)
    cluster.run()
    cluster.put_claim(a_claim("a"))
    cluster.put_pod(a_pod("p", ["a"]))
    cluster.run()
    assert cluster.node_of("a") == "small"
    cluster.delete_pod("other")
    cluster.delete_claim("other-claim")
    cluster.put_claim(a_claim("b"))
    cluster.put_pod(a_pod("p", ["a", "b"], version=2))
    cluster.wait(3)
    assert (cluster.node_of("a"), cluster.node_of("b")) == ("large", "large")
    assert "the pod's other claims cannot be allocated there" in cluster.messages("a", "TakenBack")[0]


def test_a_claim_that_another_pod_can_use_stays_though_one_of_its_pods_cannot_be_completed() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("small"), slices_of("small", an_inventory(pairs=1, vfs=1)))
    cluster.put_claim(a_claim("a"))
    cluster.put_pod(a_pod("p", ["a"]))
    cluster.run()
    cluster.put_claim(a_claim("b"))
    cluster.put_pod(a_pod("q", ["a", "b"]))
    cluster.wait(3)
    assert cluster.node_of("a") == "small"
    assert cluster.reasons("a") == ["Allocated"]


def test_deallocation_after_use_is_no_failed_placement() -> None:
    cluster = a_cluster(1)
    wish(cluster, "p")
    cluster.run()
    cluster.bind("p", "n0")
    cluster.put_pod(a_pod("next", ["p-claim"]))
    cluster.delete_pod("p")
    cluster.set_allocation("p-claim", None)  # kube-controller-manager; the finalizer goes in a second write
    cluster.run()
    assert cluster.node_of("p-claim") == "n0", "the next user is served at once"


def test_a_misfit_pod_with_many_nodes_makes_few_allocations_a_minute() -> None:
    cluster = a_cluster(20)
    wish(cluster, "p")
    for _ in range(2400):
        cluster.now += 0.25
        cluster.run()
        if cluster.node_of("p-claim"):
            cluster.give_back("p-claim")
            cluster.run()
    times = [at for at, _, _ in cluster.allocated]
    assert 5 <= len(times) <= 8
    assert max(sum(1 for at in times if start <= at < start + 60) for start in times) <= 4
