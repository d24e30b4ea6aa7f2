"""FabricNetworks on a real API server: what an admin may write, who may name one, and what claims get.

The nodes are Node objects without a machine: pods are bound there and never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from driver.placement import Placement, decode_placement
from tests.cluster.conftest import Kubectl
from tests.cluster.controllers import Running, prepare, running
from tests.cluster.tandem import ROOT
from tests.cluster.tenant import claim, pod
from tests.cluster.test_controller import slices
from tests.controlplane import Cluster, wait_for
from tests.controlplane.errors import CommandError

NODE = "fabric-0"
BASE = ROOT / "deploy" / "base"
EVERYBODY: dict[str, Any] = {"selector": {}}
BLOCK = {"cidr": "10.1.0.0/16", "railPrefixLength": 24}


def network(name: str, **spec: Any) -> str:
    document = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "FabricNetwork", "metadata": {"name": name}}
    return json.dumps(document | {"spec": spec})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane with one node of four rails, and the definition and policy of networks."""
    with Cluster.start(nodes=0) as made:
        made.add_fake_nodes(1, prefix="fabric", capacity={"cpu": "64"})
        made.apply(slices(made, NODE))
        made.apply((BASE / "fabricnetworks.yaml").read_text())
        made.kubectl("wait", "--for=condition=Established", "crd/fabricnetworks.tandem-dra.io")
        made.apply((BASE / "networks-admission.yaml").read_text())
        yield made


@pytest.fixture(scope="module")
def controller(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("controller")
    with running(prepare(cluster, folder), folder / "controller.log") as made:
        wait_for("the lead", made.leads)
        yield made


def attached(name: str, network: str, **asked: Any) -> dict[str, Any]:
    made = claim(name, **asked)
    parameters = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Attachment", "network": network}
    opaque = {"driver": "tandem-dra.io", "parameters": parameters}
    made["spec"]["devices"]["config"].append({"requests": ["nic"], "opaque": opaque})
    return made


def placement_of(cluster: Cluster, namespace: str, name: str) -> Placement | None:
    path = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"
    allocation = cluster.api.get(path)["status"].get("allocation")
    if allocation is None:
        return None
    ours = [c for c in allocation["devices"]["config"] if c["opaque"]["parameters"]["kind"] == "Placement"]
    return decode_placement(ours[0]["opaque"]["parameters"])


@pytest.mark.parametrize(
    "spec",
    [
        {"blocks": [BLOCK, {"cidr": "fd00::/48", "railPrefixLength": 64}], "exclude": ["10.1.0.0/28"]},
        {
            "rails": [
                {
                    "rail": r,
                    "subnets": [f"10.2.{r}.0/24", f"fd02:0:0:{r}::/64"],
                    "gateways": [f"10.2.{r}.254"],
                }
                for r in range(32)
            ],
            "exclude": [f"10.2.{r}.128/25" for r in range(32)],
            "routes": [{"to": "10.0.0.0/8"}],
        },
        {"subnets": ["10.3.0.0/16"], "exclude": ["10.3.0.7", "10.3.1.0/24"], "vlan": 4094, "mtu": 9000},
        {"vlan": 7, "trafficClass": 106, "default": True, "namespaces": {"names": ["a"], **EVERYBODY}},
    ],
    ids=["blocks", "as many rails as there can be", "one segment", "no addresses"],
)
def test_what_an_admin_may_write(cluster: Cluster, spec: dict[str, Any]) -> None:
    cluster.kubectl("create", "--filename=-", "--dry-run=server", stdin=network("good", **spec))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"blocks": [BLOCK], "subnets": ["10.1.0.0/16"]}, "one of blocks, rails and subnets"),
        ({"blocks": [{**BLOCK, "railPrefixLength": 15}]}, "as long as the block's"),
        ({"blocks": [{**BLOCK, "cidr": "10.1.0.1/16"}]}, "without host bits"),
        ({"blocks": [BLOCK, {**BLOCK, "cidr": "10.2.0.0/16"}]}, "one block of IPv4"),
        ({"subnets": ["10.1.0.0/33"]}, "a network in CIDR form"),
        ({"subnets": ["10.1.0.0/16"], "gateways": ["10.2.0.1"]}, "an address of one of the subnets"),
        ({"subnets": ["10.1.0.0/16"], "exclude": ["10.2.0.0/24"]}, "is in one of the subnets"),
        ({"blocks": [BLOCK], "exclude": ["10.2.0.1"]}, "is in one of the blocks"),
        ({"rails": [{"rail": r, "subnets": ["10.1.0.0/24"]} for r in (0, 1)]}, "may not overlap"),
        ({"rails": [{"rail": 0, "subnets": ["10.1.0.0/24"]}] * 2}, "Duplicate value"),
        ({"vlan": 7, "pkey": 7}, "one of them at most"),
        ({"pkey": 7, "default": True}, "cannot be the default"),
        ({"vlan": 4095}, "less than or equal to 4094"),
        ({"mtu": 67}, "greater than or equal to 68"),
        ({"vlans": [7]}, "unknown field"),
    ],
)
def test_what_the_api_server_refuses(cluster: Cluster, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        cluster.kubectl("create", "--filename=-", "--dry-run=server", stdin=network("bad", **spec))


def test_a_claim_gets_the_addresses_of_the_network_that_it_names(
    cluster: Cluster, controller: Running, namespace: str, kubectl: Kubectl
) -> None:
    rails = [{"rail": 2, "subnets": ["10.9.0.0/24", "fd09::/64"], "gateways": ["10.9.0.1"]}]
    spec: dict[str, Any] = {"rails": rails, "routes": [{"to": "10.0.0.0/8"}], "vlan": 7, "mtu": 4200}
    cluster.apply(network("nine", namespaces={"names": [namespace]}, **spec))
    kubectl("apply", "--filename=-", stdin=json.dumps(attached("c", "nine")))
    kubectl("apply", "--filename=-", stdin=json.dumps(pod("p", claim="c")))
    wait_for("the allocation", lambda: placement_of(cluster, namespace, "c") is not None)
    placement = placement_of(cluster, namespace, "c")
    assert placement is not None
    (interface,) = placement.interfaces
    assert (interface.network, interface.rail, interface.addresses) == (
        "nine",
        2,
        ("10.9.0.2/24", "fd09::1/64"),
    )
    assert (interface.vlan, interface.mtu) == (7, 4200)
    assert [(route.to, route.via) for route in interface.routes] == [("10.0.0.0/8", "10.9.0.1")]


@pytest.mark.parametrize("kind", ["ResourceClaim", "ResourceClaimTemplate"])
def test_a_namespace_that_the_network_is_not_for_is_refused_at_once(
    cluster: Cluster, namespace: str, kubectl: Kubectl, kind: str
) -> None:
    gold: dict[str, Any] = {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["gold"]}]}
    cluster.apply(network("gold", subnets=["10.8.0.0/24"], namespaces={"selector": gold}))
    made = attached("c", "gold") | {"kind": kind}
    if kind == "ResourceClaimTemplate":
        made["spec"] = {"spec": made["spec"]}

    def refused() -> bool:
        try:
            kubectl("create", "--filename=-", "--dry-run=server", stdin=json.dumps(made))
        except CommandError as error:
            return f"FabricNetwork gold is not for namespace {namespace}" in str(error)
        return False

    wait_for("the policy to know the network", refused)
    cluster.kubectl("label", "namespace", namespace, "tier=gold")
    wait_for("the label to count", lambda: not refused())


def test_a_network_that_comes_later_is_waited_for(
    cluster: Cluster, controller: Running, namespace: str, kubectl: Kubectl
) -> None:
    kubectl("apply", "--filename=-", stdin=json.dumps(attached("c", "later")))
    kubectl("apply", "--filename=-", stdin=json.dumps(pod("p", claim="c")))
    says = "there is no FabricNetwork later"
    wait_for("the event", lambda: says in kubectl("get", "events", "--output=yaml"))
    cluster.apply(network("later", subnets=["10.7.0.0/30"], exclude=["10.7.0.1"], namespaces=EVERYBODY))
    wait_for("the allocation", lambda: placement_of(cluster, namespace, "c") is not None)
    placement = placement_of(cluster, namespace, "c")
    assert placement is not None
    assert [i.addresses for i in placement.interfaces] == [("10.7.0.2/30",)]


def test_the_definition_is_the_one_that_the_manifests_install() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert {"fabricnetworks.yaml", "networks-admission.yaml"} <= set(listed)


@pytest.fixture
def kubectl(cluster: Cluster, namespace: str) -> Kubectl:
    def call(*arguments: str, stdin: str | None = None) -> str:
        return cluster.kubectl("--namespace", namespace, *arguments, stdin=stdin)

    return call


@pytest.fixture
def namespace(cluster: Cluster, tmp_path: Path) -> str:
    name = tmp_path.name.replace("_", "-").lower()[:50].strip("-")
    cluster.kubectl("create", "namespace", name)
    return name
