"""Over any history of claims, crashes and takeovers: an address of a network has one claim at most."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.placement import Placer
from controller.state import ClusterState
from driver.kube.fabric import FabricNetwork
from driver.kube.objects import ResourceClaim
from driver.names import DRIVER_NAME
from tests.unit.controller.model import CEL, ModelCluster
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, an_inventory, slices_of

EVERYBODY: dict[str, Any] = {"selector": {}}
RED = {
    "rails": [{"rail": r, "subnets": [f"10.5.{r}.0/29"], "gateways": [f"10.5.{r}.1"]} for r in (0, 1)],
    "exclude": ["10.5.0.2", "10.5.1.4/31"],
}
BLUE = {"subnets": ["10.5.0.0/28", "fd05::/124"], "exclude": ["10.5.0.8/29"]}
"""The same numbers as RED's: another network, where they are other addresses."""


def a_network(name: str, spec: dict[str, Any]) -> FabricNetwork:
    document = {"metadata": {"name": name}, "spec": {"namespaces": EVERYBODY, **spec}}
    return msgspec.convert(document, FabricNetwork)


NETWORKS = (a_network("red", RED), a_network("blue", BLUE))


def on(network: str, name: str, uid: str) -> ResourceClaim:
    document = json.loads(msgspec.json.encode(a_claim(name, uid=uid, gpus=0, nics=2)))
    parameters = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Attachment", "network": network}
    document["spec"]["devices"]["config"] = [{"opaque": {"driver": DRIVER_NAME, "parameters": parameters}}]
    return msgspec.json.decode(json.dumps(document), type=ResourceClaim)


def taken_over(cluster: ModelCluster) -> None:
    """Another controller starts from what the API server holds; what the first one had in mind is lost."""
    cluster.on_the_way.clear()
    cluster.state = ClusterState(cluster.settings.driver_name)
    for item in CLASSES:
        cluster.state.apply_class(None, item)
    for network in NETWORKS:
        cluster.state.apply_network(None, network)
    for name in ("n0", "n1"):
        cluster.state.apply_node(None, a_node(name))
        for published in slices_of(name, an_inventory(pairs=2, vfs=6)):
            cluster.state.apply_slice(None, published)
    for claim in cluster.claims.values():
        cluster.state.apply_claim(None, claim, cluster.now)
    for pod in cluster.pods.values():
        cluster.state.apply_pod(None, pod)
    cluster.placer = Placer(cluster.state, cluster.settings, CEL)


def given_to(cluster: ModelCluster) -> dict[tuple[str, str], str]:
    """Claims by network and address; fails where there would be two."""
    found: dict[tuple[str, str], str] = {}
    for name in cluster.claims:
        if cluster.node_of(name) is None:
            continue
        for interface in cluster.placement_of(name).interfaces:
            for address in interface.addresses:
                key = interface.network, str(ip_interface(address).ip)
                assert (
                    found.setdefault(key, f"{name}/{interface.interface}") == f"{name}/{interface.interface}"
                )
                check(interface.network, interface.rail, address)
    return found


def check(network: str, rail: int | None, address: str) -> None:
    """By the specification alone: in the rail's subnet, no edge of it, no gateway, not excluded."""
    spec: Any = RED if network == "red" else BLUE
    source = spec["rails"][rail] if network == "red" else spec
    ip = ip_interface(address)
    assert str(ip.network) in source["subnets"]
    assert ip.ip not in (
        ip.network.network_address,
        *([ip.network.broadcast_address] if ip.version == 4 else []),
    )
    assert ip.ip not in [ip_address(gateway) for gateway in source.get("gateways", [])]
    assert not any(ip.ip in ip_network(hole) for hole in spec["exclude"])


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["red", "blue", "leave", "lose", "give back", "deliver", "refuse", "crash", "wait"]),
        st.integers(0, 5),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS)
def test_no_two_claims_ever_share_an_address_of_one_network(events: list[tuple[str, int]]) -> None:
    cluster = ModelCluster(slow=True)
    taken_over(cluster)
    for number, (what, index) in enumerate(events):
        pod, claim = f"p{index}", f"p{index}-claim"
        if what in ("red", "blue") and pod not in cluster.pods:
            cluster.put_claim(on(what, claim, f"claim-{number}"))
            cluster.put_pod(a_pod(pod, [claim], uid=f"pod-{number}"))
        elif what == "leave" and pod in cluster.pods:
            cluster.delete_pod(pod)
            cluster.delete_claim(claim)
        elif what == "give back" and pod in cluster.pods and cluster.node_of(claim):
            cluster.give_back(claim)
        elif what in ("deliver", "refuse"):
            cluster.deliver(refuse="conflict" if what == "refuse" else "")
        elif what == "crash":
            taken_over(cluster)
        elif what == "lose" and cluster.on_the_way:  # written, and the controller dies before it knows
            cluster.deliver()
            taken_over(cluster)
        elif what == "wait":
            cluster.wait(2)
        cluster.run()
        given_to(cluster)
    for _ in range(4):
        cluster.deliver()
        cluster.wait(20)
        given_to(cluster)


def test_an_address_is_given_again_when_its_claim_is_gone_and_not_before() -> None:
    cluster = ModelCluster()
    taken_over(cluster)
    for index in range(4):  # red has 4 and 3 addresses on its two rails, each claim wants two
        cluster.put_claim(on("red", f"p{index}-claim", f"c{index}"))
        cluster.put_pod(a_pod(f"p{index}", [f"p{index}-claim"]))
    cluster.run()
    assert [cluster.node_of(f"p{index}-claim") is None for index in range(4)] == [False, False, False, True]
    says = cluster.messages("p3-claim", "Unsatisfiable")[0]
    assert "FabricNetwork red" in says
    first = [i.addresses for i in cluster.placement_of("p0-claim").interfaces]
    cluster.delete_pod("p0")
    cluster.delete_claim("p0-claim")
    cluster.wait(1)
    assert [i.addresses for i in cluster.placement_of("p3-claim").interfaces] == first
