"""What a kubelet plugin's token may write into a claim's status where Kubernetes does not say so itself.

Kubernetes 1.36 checks it, by a gate that is turned off here: our policy stands alone, as on older ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from driver.errors import KubeError
from driver.kube.client import KubeClient
from driver.names import DRIVER_NAME, pool_name
from tests.cluster.accounts import kubeconfig_of
from tests.cluster.tandem import ROOT, SYSTEM
from tests.cluster.test_guards import GROUP, versions
from tests.controlplane import Cluster, wait_for
from tests.controlplane.config import Options

BASE = ROOT / "deploy" / "base"
OWN, OTHER = "status-0", "status-1"
GATE = "DRAResourceClaimGranularStatusAuthorization"
CLAIMS = f"{GROUP}/v1/namespaces/default/resourceclaims"
DEVICES = {"driver": DRIVER_NAME, "device": "gpu-0", "conditions": []}
RESERVED = [{"resource": "pods", "name": "p", "uid": "uid-p"}]

Json = dict[str, Any]


def selector(*nodes: str) -> Json:
    need = {"key": "metadata.name", "operator": "In"}
    return {"nodeSelectorTerms": [{"matchFields": [need | {"values": [node]}]} for node in nodes]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    options = Options(feature_gates={GATE: False}, runtime_config=["api/all=true"])
    with Cluster.start(nodes=0, options=options) as made:
        made.add_fake_nodes(2, prefix="status", capacity={"cpu": "8"})
        made.apply((BASE / "namespace.yaml").read_text())
        made.kubectl("apply", f"--namespace={SYSTEM}", f"--filename={BASE / 'kubelet-plugin-rbac.yaml'}")
        made.apply((BASE / "admission.yaml").read_text())
        for name, nodes in (("own", [OWN]), ("other", [OTHER]), ("either", [OWN, OTHER])):
            _allocate(made, name, *nodes)
        wait_for("the policies to be asked", lambda: write(made, "v1", "own", reservedFor=RESERVED))
        yield made


def _allocate(cluster: Cluster, name: str, *nodes: str) -> None:
    request = {"name": "r", "exactly": {"deviceClassName": "gpu.tandem-dra.io"}}
    claim = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name}}
    cluster.api.post(CLAIMS, claim | {"spec": {"devices": {"requests": [request]}}})
    result = {
        "request": "r",
        "driver": DRIVER_NAME,
        "pool": pool_name(DRIVER_NAME, nodes[0]),
        "device": "gpu-0",
    }
    parameters = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Placement", "pairs": [], "interfaces": []}
    config = {"source": "FromClass", "opaque": {"driver": DRIVER_NAME, "parameters": parameters}}
    allocation = {"devices": {"results": [result], "config": [config]}, "nodeSelector": selector(*nodes)}
    patch = {"status": {"allocation": allocation}}
    cluster.api.request("PATCH", f"{CLAIMS}/{name}/status", patch, "application/merge-patch+json")


def write(cluster: Cluster, version: str, name: str, node: str = OWN, **status: Any) -> str:
    """What is said against the plugin of a node that writes this, with a token as its pod has it."""
    bound = ("--bound-object-kind=Node", f"--bound-object-name={node}") if node else ()
    config = cluster.directory / f"plugin-of-{node or 'nowhere'}.kubeconfig"
    if not config.exists():
        config.write_text(kubeconfig_of(cluster, SYSTEM, "tandem-kubelet-plugin", *bound))
    path = f"{GROUP}/{version}/namespaces/default/resourceclaims/{name}/status?dryRun=All"
    with closing(KubeClient.load(config, user_agent="test")) as client:
        try:
            client.patch(path, {"status": status}, dict[str, Any])
        except KubeError as error:
            return str(error)
    return ""


def devices(node: str) -> list[Json]:
    return [DEVICES | {"pool": pool_name(DRIVER_NAME, node)}]


def test_a_plugin_writes_the_devices_of_its_own_claims_in_every_version(cluster: Cluster) -> None:
    for version in versions(cluster, "resourceclaims"):
        assert write(cluster, version, "own", devices=devices(OWN)) == "", version


@pytest.mark.parametrize(
    "status",
    [{"allocation": None, "devices": None}, {"reservedFor": RESERVED}],
    ids=["allocation", "reservedFor"],
)
def test_and_no_more_of_the_status(cluster: Cluster, status: Json) -> None:
    for version in versions(cluster, "resourceclaims"):
        assert "may write status.devices of a claim, and nothing else" in write(
            cluster, version, "own", **status
        )


@pytest.mark.parametrize(("claim", "node"), [("other", OWN), ("either", OWN), ("own", "")])
def test_and_of_no_claim_that_is_not_of_its_node_alone(cluster: Cluster, claim: str, node: str) -> None:
    pool = OTHER if claim == "other" else OWN
    for version in versions(cluster, "resourceclaims"):
        said = write(cluster, version, claim, node, devices=devices(pool))
        assert "that is not allocated there alone" in said, version
