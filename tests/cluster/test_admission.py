"""What the API server refuses in Tandem's name: claims that two would allocate, slices of another node."""

from __future__ import annotations

import json
from typing import Any

import pytest

from driver.names import CLAIM_FINALIZER, DRIVER_NAME, pool_name
from tests.cluster.conftest import Kubectl
from tests.cluster.tandem import Tandem
from tests.cluster.tenant import claim, pod
from tests.controlplane import Cluster
from tests.controlplane.errors import CommandError

OURS = {"key": "tandem-dra.io/controller", "operator": "Exists"}
ANY = {"operator": "Exists"}
ANY_EVICTION = {"operator": "Exists", "effect": "NoExecute"}
FREE = [{"op": "remove", "path": "/metadata/finalizers/0"}]
OTHER = {"key": "example.com/repair", "operator": "Exists", "effect": "NoSchedule"}


def exactly(**more: Any) -> dict[str, Any]:
    return {"name": "gpu", "exactly": {"deviceClassName": "gpu.tandem-dra.io", **more}}


def first(*tolerations: dict[str, str]) -> dict[str, Any]:
    options = [
        {"name": "plain", "deviceClassName": "gpu.tandem-dra.io"},
        {"name": "other", "deviceClassName": "gpu.tandem-dra.io", "tolerations": list(tolerations)},
    ]
    return {"name": "gpu", "firstAvailable": options}


def document(kind: str, request: dict[str, Any]) -> str:
    spec: dict[str, Any] = {"devices": {"requests": [request]}}
    return json.dumps(
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": "asked"},
            "spec": {"spec": spec} if kind == "ResourceClaimTemplate" else spec,
        }
    )


@pytest.mark.parametrize("kind", ["ResourceClaim", "ResourceClaimTemplate"])
@pytest.mark.parametrize(
    "request_",
    [exactly(tolerations=[OURS]), exactly(tolerations=[OTHER, ANY]), first(OURS), first(ANY)],
    ids=["ours", "any", "ours in a subrequest", "any in a subrequest"],
)
def test_a_claim_that_tolerates_our_taint_is_refused(
    tandem: Tandem, kubectl: Kubectl, kind: str, request_: dict[str, Any]
) -> None:
    with pytest.raises(CommandError, match="may not tolerate the device taint"):
        kubectl("create", "--filename=-", stdin=document(kind, request_))


@pytest.mark.parametrize("kind", ["ResourceClaim", "ResourceClaimTemplate"])
@pytest.mark.parametrize(
    "request_",
    [exactly(), exactly(tolerations=[OTHER, ANY_EVICTION]), first(OTHER)],
    ids=["none", "others", "others in a subrequest"],
)
def test_a_claim_with_other_tolerations_is_taken(
    tandem: Tandem, kubectl: Kubectl, kind: str, request_: dict[str, Any]
) -> None:
    kubectl("create", "--filename=-", "--dry-run=server", stdin=document(kind, request_))


def test_monitoring_may_tolerate_every_taint(tandem: Tandem, cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("label", "namespace", namespace, "resource.kubernetes.io/admin-access=true")
    watching = document("ResourceClaim", exactly(adminAccess=True, tolerations=[ANY]))
    cluster.kubectl("--namespace", namespace, "create", "--filename=-", "--dry-run=server", stdin=watching)


@pytest.mark.parametrize("request_", [exactly(), first(OTHER)], ids=["exactly", "a subrequest"])
def test_a_claim_for_our_devices_has_its_finalizer_from_birth_and_goes_without_ado(
    tandem: Tandem, kubectl: Kubectl, request_: dict[str, Any]
) -> None:
    made = kubectl("create", "--filename=-", "--output=json", stdin=document("ResourceClaim", request_))
    assert json.loads(made)["metadata"]["finalizers"] == [CLAIM_FINALIZER]
    kubectl("delete", "resourceclaim", "asked", "--timeout=10s")


def test_a_claim_posted_with_blanks_in_its_parameters_is_allocated(
    tandem: Tandem, cluster: Cluster, kubectl: Kubectl, namespace: str
) -> None:
    # With a finalizer of somebody else's, so that the policy leaves it alone.
    wanted = claim("blanks")
    wanted["metadata"]["finalizers"] = ["example.com/kept"]
    cluster.api.post(f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims", wanted)
    kubectl("create", "--filename=-", stdin=json.dumps(pod("user", claim="blanks")))
    kubectl("wait", "pod/user", "--for=condition=PodScheduled", "--timeout=20s")
    read = json.loads(kubectl("get", "resourceclaim", "blanks", "--output=json"))
    assert read["metadata"]["finalizers"] == ["example.com/kept", CLAIM_FINALIZER]
    kubectl("patch", "resourceclaim", "blanks", "--type=json", f"--patch={json.dumps(FREE)}")


def slice_of(node: str) -> str:
    spec = {
        "driver": DRIVER_NAME,
        "nodeName": node,
        "pool": {"name": pool_name(DRIVER_NAME, node), "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0"}],
    }
    return json.dumps(
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": f"stray-{node}"},
            "spec": spec,
        }
    )


def as_plugin_of(*node: str) -> list[str]:
    extra = [f"--as-user-extra=authentication.kubernetes.io/node-name={name}" for name in node]
    return ["--as=system:serviceaccount:tandem-system:tandem-kubelet-plugin", *extra]


def test_a_plugin_writes_slices_of_its_own_node_alone(tandem: Tandem, cluster: Cluster) -> None:
    create = ("create", "--filename=-", "--dry-run=server")
    cluster.kubectl(*as_plugin_of("node-0"), *create, stdin=slice_of("node-0"))
    with pytest.raises(CommandError, match="on node 'node-0' may not write a slice of node 'node-1'"):
        cluster.kubectl(*as_plugin_of("node-0"), *create, stdin=slice_of("node-1"))
    with pytest.raises(CommandError, match="on node '' may not write a slice of node 'node-0'"):
        cluster.kubectl(*as_plugin_of(), *create, stdin=slice_of("node-0"))


def test_a_plugin_deletes_slices_of_its_own_node_alone(tandem: Tandem, cluster: Cluster) -> None:
    name = cluster.kubectl(
        "get", "resourceslices", "--field-selector=spec.nodeName=node-1", "--output=name"
    ).split()[0]
    with pytest.raises(CommandError, match="on node 'node-0' may not write a slice of node 'node-1'"):
        cluster.kubectl(*as_plugin_of("node-0"), "delete", name, "--dry-run=server")
    cluster.kubectl(*as_plugin_of("node-1"), "delete", name, "--dry-run=server")
