"""A pod that needs devices of another driver, too, beside the real kube-scheduler, which allocates those.

The other driver is its slice and its class alone: nobody prepares its devices, so the pod is bound and never
runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.tenant import Tenant, pod, template
from tests.controlplane import Cluster, wait_for

OTHER = "other.example.com"
GUARDED = 'has(device.attributes["tandem-dra.io"].rail) && device.attributes["tandem-dra.io"].rail >= 0'


def slice_of(node: str) -> dict[str, Any]:
    """One device of the other driver."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{OTHER}-{node}"},
        "spec": {
            "driver": OTHER,
            "nodeName": node,
            "pool": {"name": f"{OTHER}-{node}", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "x-0", "attributes": {"model": {"string": "small"}}}],
        },
    }


@pytest.fixture
def other_class(cluster: Cluster) -> Iterator[str]:
    """The class of the other driver's devices; they go with it."""
    selector = {"cel": {"expression": f'device.driver == "{OTHER}"'}}
    document = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": OTHER},
        "spec": {"selectors": [selector]},
    }
    cluster.apply(json.dumps(document))
    yield OTHER
    cluster.kubectl("delete", "deviceclass", OTHER)
    cluster.kubectl("delete", "resourceslices", "--field-selector", f"spec.driver={OTHER}")


def their_template(name: str) -> dict[str, Any]:
    """A claim for one of them."""
    request = {"name": "x", "exactly": {"deviceClassName": OTHER}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def needs_both(name: str) -> dict[str, Any]:
    """A pod with a pair of ours, asked for with a guard, and a device of theirs."""
    made = pod(name, template="guarded")
    made["spec"]["resourceClaims"].append({"name": "other", "resourceClaimTemplateName": "theirs"})
    made["spec"]["containers"][0]["resources"]["claims"].append({"name": "other"})
    return made


def node_of(tenant: Tenant, name: str) -> str:
    """Where the pod is bound."""
    return str(tenant.pod(name)["spec"].get("nodeName", ""))


@pytest.mark.usefixtures("tandem")
@pytest.mark.parametrize("node", ["node-0", "node-1"])
def test_the_pod_goes_where_the_other_driver_has_a_device(
    cluster: Cluster, tenant: Tenant, other_class: str, node: str
) -> None:
    tenant.apply(template("guarded", gpu=GUARDED, nic=GUARDED), their_template("theirs"), needs_both("p"))
    assert "claim p-other-" in tenant.wait_message("p", "has no devices there")
    cluster.apply(json.dumps(slice_of(node)))
    assert wait_for("p to be bound", lambda: node_of(tenant, "p")) == node
    claims = json.loads(tenant.kubectl("get", "resourceclaims", "--output=json"))["items"]
    drivers = [{r["driver"] for r in c["status"]["allocation"]["devices"]["results"]} for c in claims]
    assert sorted(drivers, key=min) == [{OTHER}, {"tandem-dra.io"}]
    tenant.apply(needs_both("q"))
    assert "claim q-other-" in tenant.wait_message("q", f"(driver {OTHER}) has no devices there")
    assert not node_of(tenant, "q")
    events = json.loads(tenant.kubectl("get", "events", "--output=json"))["items"]
    assert not {event["reason"] for event in events} & {"Returned", "TakenBack"}
    tenant.force_delete("p")
    tenant.force_delete("q")
