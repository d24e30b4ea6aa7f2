"""What a pod gets, and when it gets nothing."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import msgspec

from controller.networks import Network
from driver.devices import Tier
from driver.kube.objects import AllocationResult, OwnerReference, ResourceClaim
from tests.unit.controller.model import ModelCluster, a_cluster, wish
from tests.unit.controller.things import a_claim, a_node, a_pod, a_request, an_inventory, slices_of


def test_a_pod_gets_a_pair_on_one_switch_with_interface_and_address() -> None:
    cluster = a_cluster()
    wish(cluster, "p")
    cluster.run()
    (pair,) = cluster.placement_of("p-claim").pairs
    (interface,) = cluster.placement_of("p-claim").interfaces
    assert pair.tier is Tier.PIX
    assert [pair.gpu, pair.nic] == cluster.devices_of("p-claim")
    assert (interface.device, interface.interface, interface.rail) == (pair.nic, "net1", pair.rail)
    assert interface.addresses == (f"10.200.{pair.rail}.1/24",)
    assert cluster.node_of("p-claim") in ("n0", "n1")
    assert cluster.reasons("p-claim") == ["Allocated"]


def test_a_pod_with_scheduling_gates_waits_until_they_are_gone() -> None:
    cluster = a_cluster()
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"], schedulingGates=[{"name": "quota"}]))
    cluster.wait(5)
    assert cluster.allocated == []
    cluster.put_pod(a_pod("p", ["c"], version=2))
    cluster.run()
    assert len(cluster.allocated) == 1


def test_a_pod_that_is_being_deleted_gets_nothing() -> None:
    cluster = a_cluster()
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"], deleted=True))
    cluster.wait(5)
    assert cluster.allocated == []


def test_a_template_claim_counts_only_when_it_was_made_for_this_very_pod() -> None:
    cluster = a_cluster()
    templates = [{"name": "c", "resourceClaimTemplateName": "t"}]
    made = {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "p-c-1"}]}
    cluster.put_pod(a_pod("p", resourceClaims=templates))
    claim = a_claim("p-c-1")
    stranger = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "another", "controller": True}
    owner = stranger | {"uid": "uid-p"}
    cluster.put_claim(owned(claim, stranger))
    cluster.put_pod(a_pod("p", version=2, status=made, resourceClaims=templates))
    cluster.wait(5)
    assert cluster.allocated == []
    cluster.put_claim(owned(claim, owner))
    cluster.run()
    assert len(cluster.allocated) == 1


def made_for(pod: str, name: str, claim: str) -> ResourceClaim:
    """As kube-controller-manager makes it from a template."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": f"uid-{pod}", "controller": True}
    made = owned(a_claim(claim), owner)
    annotations = {"resource.kubernetes.io/pod-claim-name": name}
    return msgspec.structs.replace(
        made, metadata=msgspec.structs.replace(made.metadata, annotations=annotations)
    )


def test_a_claim_that_was_made_for_the_pod_counts_before_the_pods_status_names_it() -> None:
    cluster = a_cluster()
    templates = [{"name": name, "resourceClaimTemplateName": "t"} for name in ("c", "d")]
    cluster.put_pod(a_pod("p", resourceClaims=templates))
    cluster.put_claim(made_for("p", "c", "p-c-1"))
    cluster.wait(5)
    assert cluster.allocated == []
    cluster.put_claim(made_for("p", "d", "p-d-1"))
    cluster.run()
    assert cluster.node_of("p-c-1")
    assert cluster.node_of("p-c-1") == cluster.node_of("p-d-1")


def test_of_two_claims_that_were_made_for_the_pod_the_one_counts_that_its_status_names_or_that_stays() -> (
    None
):
    cluster = a_cluster()
    templates = [{"name": "c", "resourceClaimTemplateName": "t"}]
    cluster.put_pod(a_pod("p", resourceClaims=templates))
    cluster.put_pod(a_pod("q", resourceClaims=templates))
    for pod in ("p", "q"):
        for number in (1, 2):
            cluster.put_claim(made_for(pod, "c", f"{pod}-c-{number}"))
    cluster.wait(5)
    assert cluster.allocated == []
    made = {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "p-c-2"}]}
    cluster.put_pod(a_pod("p", version=2, status=made, resourceClaims=templates))
    cluster.delete_claim("q-c-1")
    cluster.run()
    assert {name: bool(cluster.node_of(name)) for name in ("p-c-1", "p-c-2", "q-c-2")} == {
        "p-c-1": False,
        "p-c-2": True,
        "q-c-2": True,
    }


def test_a_claim_that_says_something_else_by_now_was_not_made_for_what_it_said_before() -> None:
    cluster = a_cluster()
    cluster.put_claim(made_for("p", "c", "p-c-1"))
    cluster.put_claim(made_for("p", "d", "p-c-1"))
    cluster.put_pod(a_pod("p", resourceClaims=[{"name": "c", "resourceClaimTemplateName": "t"}]))
    cluster.wait(5)
    assert cluster.allocated == []


def test_a_claim_in_another_namespace_is_not_a_pods_whatever_it_says() -> None:
    cluster = a_cluster()
    foreign = made_for("p", "c", "p-c-1")
    elsewhere = msgspec.structs.replace(foreign.metadata, namespace="elsewhere", uid="foreign")
    cluster.put_claim(msgspec.structs.replace(foreign, metadata=elsewhere))
    cluster.put_pod(a_pod("p", resourceClaims=[{"name": "c", "resourceClaimTemplateName": "t"}]))
    cluster.wait(5)
    assert cluster.allocated == []
    cluster.put_claim(made_for("p", "c", "p-c-1"))
    cluster.run()
    assert cluster.node_of("p-c-1")


def owned(claim: ResourceClaim, owner: dict[str, Any]) -> ResourceClaim:
    owners = [msgspec.convert(owner, OwnerReference)]
    metadata = msgspec.structs.replace(claim.metadata, owner_references=owners)
    return msgspec.structs.replace(claim, metadata=metadata)


def test_all_claims_of_a_pod_are_solved_together_and_number_their_interfaces_through() -> None:
    cluster = a_cluster()
    cluster.put_claim(a_claim("a"))
    cluster.put_claim(a_claim("b", gpus=2, nics=2))
    cluster.put_pod(a_pod("p", ["a", "b"]))
    cluster.run()
    assert len(cluster.allocated) == 1
    assert cluster.node_of("a") == cluster.node_of("b")
    placed = [i for name in "ab" for i in cluster.placement_of(name).interfaces]
    assert [i.interface for i in placed] == ["net1", "net2", "net3"]
    assert len({i.addresses for i in placed}) == 3


def test_a_claim_of_the_pod_that_is_allocated_pins_the_others_to_its_node() -> None:
    cluster = a_cluster(3)
    wish(cluster, "first")
    cluster.run()
    node = cluster.node_of("first-claim")
    cluster.put_claim(a_claim("more"))
    cluster.put_pod(a_pod("second", ["first-claim", "more"]))
    cluster.run()
    assert cluster.node_of("more") == node
    assert [i.interface for i in cluster.placement_of("more").interfaces] == ["net2"]


def test_a_claim_with_devices_of_another_driver_too_is_left_alone_and_told_so() -> None:
    cluster = a_cluster()
    requests = [a_request("gpu", "gpu.tandem-dra.io"), a_request("disk", "other.example.com")]
    cluster.put_claim(a_claim("mixed", requests=requests))
    cluster.put_claim(a_claim("theirs", requests=[a_request("disk", "other.example.com")]))
    cluster.put_pod(a_pod("p", ["mixed"]))
    cluster.put_pod(a_pod("q", ["theirs"]))
    cluster.wait(5)
    assert cluster.allocated == []
    assert cluster.reasons("mixed") == ["NotOurs"]
    assert cluster.reasons("theirs") == []


def test_a_cpu_request_that_fits_only_one_node_sends_the_pod_there() -> None:
    cluster = ModelCluster()
    for name, cpu in (("small-a", "2"), ("large", "16"), ("small-b", "2")):
        cluster.add_node(a_node(name, cpu=cpu))
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"], cpu="9"))
    cluster.run()
    assert cluster.node_of("c") == "large"


def test_room_is_kept_for_a_pod_from_its_allocation_until_it_is_bound() -> None:
    cluster = a_cluster(2)
    for name in "pq":
        cluster.put_claim(a_claim(f"{name}-claim"))
        cluster.put_pod(a_pod(name, [f"{name}-claim"], cpu="6"))
    cluster.run()
    assert {cluster.node_of("p-claim"), cluster.node_of("q-claim")} == {"n0", "n1"}


def test_an_unsatisfiable_claim_names_the_request_that_fails_on_claim_and_pod() -> None:
    cluster = a_cluster()
    wish(cluster, "p", gpus=5, nics=1)
    cluster.run()
    for name in ("p", "p-claim"):
        (message,) = cluster.messages(name, "Unsatisfiable")
        assert "gpu" in message
        assert "2 nodes" in message or "/2" in message


def test_a_refused_pod_is_tried_again_when_devices_come_free_and_not_before() -> None:
    cluster = a_cluster(1)
    for index in range(4):
        wish(cluster, f"p{index}")
    cluster.run()
    for index in range(4):
        cluster.bind(f"p{index}", "n0")
    wish(cluster, "late")
    cluster.wait(20)
    refusals = cluster.placer.counts["refusals"]
    assert cluster.node_of("late-claim") is None
    cluster.wait(100)
    assert cluster.placer.counts["refusals"] == refusals, "nothing changed, so nothing is solved again"
    cluster.delete_pod("p2")
    cluster.delete_claim("p2-claim")
    cluster.wait(1)
    assert cluster.node_of("late-claim") == "n0"


def test_a_refused_pod_is_tried_again_when_a_node_comes() -> None:
    cluster = a_cluster(0)
    wish(cluster, "p")
    cluster.wait(5)
    assert "publishes devices" in cluster.messages("p-claim", "Unsatisfiable")[0]
    cluster.add_node(a_node("new"))
    cluster.wait(1)
    assert cluster.node_of("p-claim") == "new"


def test_untainted_devices_are_kube_schedulers() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("theirs"), slices_of("theirs", taint=False))
    wish(cluster, "p")
    cluster.wait(5)
    assert cluster.allocated == []


def test_a_device_is_taken_from_the_decision_on_though_nothing_is_written_yet() -> None:
    cluster = ModelCluster(slow=True)
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=1, vfs=1)))
    wish(cluster, "p")
    wish(cluster, "q")
    cluster.wait(5)
    assert len(cluster.allocated) == 1
    cluster.deliver()
    cluster.wait(5)
    assert len(cluster.allocated) == 1


def test_a_write_that_failed_frees_the_devices_and_the_pod_is_tried_again_later() -> None:
    cluster = ModelCluster(slow=True)
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=1, vfs=1)))
    wish(cluster, "p")
    cluster.run()
    cluster.deliver(refuse="the API server said no")
    cluster.run()
    assert len(cluster.allocated) == 1
    assert cluster.reasons("p-claim") == ["AllocationNotWritten"]
    cluster.wait(3)
    cluster.deliver()
    assert cluster.node_of("p-claim") == "n0"


def test_another_clients_allocation_is_honoured() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=2, vfs=1)))
    wish(cluster, "ours")
    cluster.run()
    allocation = cluster.claims["ours-claim"].status.allocation
    cluster.delete_pod("ours")
    cluster.delete_claim("ours-claim")
    cluster.put_claim(a_claim("theirs"))
    cluster.set_allocation("theirs", foreign(allocation))
    for name in "pq":
        wish(cluster, name)
    cluster.run()
    cluster.bind("p", "n0")
    cluster.wait(60)
    assert not set(cluster.devices_of("theirs")) & set(cluster.devices_of("p-claim"))
    assert cluster.devices_of("q-claim") == []
    assert cluster.devices_of("theirs"), "only allocations of ours are taken back"


def foreign(allocation: AllocationResult | None) -> AllocationResult:
    """The same devices, without the controller's word in it."""
    assert allocation is not None
    return msgspec.structs.replace(allocation, devices=msgspec.structs.replace(allocation.devices, config=[]))


def test_a_device_given_to_two_claims_by_others_is_told_on_both() -> None:
    cluster = a_cluster(1)
    wish(cluster, "p")
    cluster.run()
    cluster.put_claim(a_claim("rival"))
    cluster.set_allocation("rival", foreign(cluster.claims["p-claim"].status.allocation))
    cluster.run()
    assert "DuplicateAllocation" in cluster.reasons("p-claim")
    assert "rival" in cluster.messages("p-claim", "DuplicateAllocation")[0]
    assert cluster.placer.counts["duplicate_devices"] == 2


def test_a_shared_claim_goes_where_all_its_waiting_pods_fit() -> None:
    cluster = ModelCluster()
    for name, cpu in (("a-small", "4"), ("b-large", "16")):
        cluster.add_node(a_node(name, cpu=cpu))
    cluster.put_claim(a_claim("shared"))
    for name in "pqr":
        cluster.put_pod(a_pod(name, ["shared"], cpu="3"))
    cluster.run()
    assert cluster.node_of("shared") == "b-large"
    assert len(cluster.allocated) == 1


def test_where_not_all_sharers_fit_most_do() -> None:
    cluster = ModelCluster()
    for name, cpu in (("a", "4"), ("b", "8")):
        cluster.add_node(a_node(name, cpu=cpu))
    cluster.put_claim(a_claim("shared"))
    for name in "pqr":
        cluster.put_pod(a_pod(name, ["shared"], cpu="3"))
    cluster.run()
    assert cluster.node_of("shared") == "b"


def test_a_pod_pinned_by_node_name_gets_its_devices_there() -> None:
    cluster = a_cluster(3)
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"], node="n1"))
    cluster.run()
    assert cluster.node_of("c") == "n1"


def test_where_a_rail_has_no_address_left_nothing_is_taken_and_the_pod_waits_for_one() -> None:
    cluster = ModelCluster(
        fabric=Network.cut(IPv4Network("10.0.0.0/29"), 30)
    )  # two rails, two addresses each
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=1, vfs=4)))
    for index in range(3):
        wish(cluster, f"p{index}", gpus=0, nics=1)
    cluster.run()
    assert cluster.node_of("p1-claim") == "n0"
    assert cluster.node_of("p2-claim") is None
    assert "without a free address" in cluster.messages("p2-claim", "Unsatisfiable")[0]
    assert cluster.state.assumed == {}
    cluster.delete_pod("p0")
    cluster.delete_claim("p0-claim")
    cluster.wait(1)
    assert [i.addresses for i in cluster.placement_of("p2-claim").interfaces] == [("10.0.0.1/30",)]


def test_where_a_rail_has_fewer_addresses_than_nics_are_wanted_another_node_is_taken() -> None:
    """The fuller node has its free pairs on one rail, where two addresses are left of its network."""
    cluster = ModelCluster(
        fabric=Network.cut(IPv4Network("10.0.0.0/28"), 30)
    )  # four rails, two addresses each
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=1, vfs=4)))
    cluster.add_node(a_node("n1"), slices_of("n1", an_inventory(pairs=4, vfs=1)))
    wish(cluster, "p", gpus=0, nics=3)
    cluster.run()
    assert cluster.node_of("p-claim") == "n1"
    assert len({i.rail for i in cluster.placement_of("p-claim").interfaces}) == 3
    wish(cluster, "q", gpus=0, nics=4)
    cluster.run()
    (message,) = cluster.messages("q", "Unsatisfiable")
    assert "too few free addresses" in message or "without a free address" in message
