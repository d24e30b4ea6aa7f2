"""A pod with a pair, on a real kubelet, in scheduler mode: kube-scheduler and the kubelet plugin alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Kubectl
from tests.cluster.tandem import Tandem, installed
from tests.controlplane import BUSYBOX, Cluster, wait_for
from tests.controlplane.errors import CommandError

_TEMPLATE = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: pair}
spec:
  spec:
    devices:
      requests:
      - name: gpu
        exactly: {deviceClassName: gpu.tandem-dra.io}
      - name: nic
        exactly: {deviceClassName: rdma-vf.tandem-dra.io}
      constraints:
      - matchAttribute: tandem-dra.io/pcieSwitch
"""
_CONTAINER = """
  - name: %s
    image: %s
    command: [sleep, "3600"]
    resources: {claims: [%s]}
"""
_POD = """
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  terminationGracePeriodSeconds: 0
  resourceClaims: [{name: pair, resourceClaimTemplateName: pair}]
  containers:"""


@pytest.fixture(scope="module")
def tandem(cluster: Cluster) -> Iterator[Tandem]:
    with installed(cluster, "scheduler") as made:
        yield made


@pytest.fixture
def pod(kubectl: Kubectl, tandem: Tandem) -> Iterator[str]:
    """Runs: container `pair` has GPU and NIC, `gpu` the GPU alone, `none` nothing."""
    containers = [
        _CONTAINER % ("pair", BUSYBOX, "{name: pair}"),
        _CONTAINER % ("gpu", BUSYBOX, "{name: pair, request: gpu}"),
        _CONTAINER % ("none", BUSYBOX, ""),
    ]
    kubectl("apply", "--filename=-", stdin=_TEMPLATE)
    kubectl("apply", "--filename=-", stdin=_POD + "".join(containers))
    kubectl("wait", "--for=condition=Ready", "pod/a", "--timeout=60s")
    yield "a"
    kubectl("delete", "pod", "a", "--ignore-not-found", "--wait=true")
    tandem.wait_clean()


def inside(kubectl: Kubectl, container: str, script: str) -> list[str]:
    return kubectl("exec", "a", f"--container={container}", "--", "sh", "-c", script).split()


def test_a_pair_from_a_template_runs_and_each_container_has_what_it_asked_for(
    kubectl: Kubectl, pod: str
) -> None:
    look = "cd /dev; ls -d nvidia[0-9]* infiniband/uverbs* 2>/dev/null; exit 0"
    gpu, nic = sorted(inside(kubectl, "pair", look), reverse=True)
    assert gpu.startswith("nvidia")
    assert nic.startswith("infiniband/uverbs")
    assert inside(kubectl, "gpu", look) == [gpu]
    assert inside(kubectl, "none", look) == []
    (variable,) = inside(kubectl, "pair", "env | grep ^NCCL_IB_HCA")
    assert variable.startswith("NCCL_IB_HCA==mlx5_")
    assert inside(kubectl, "gpu", "env | grep ^NCCL_IB_HCA; exit 0") == []


def test_the_claim_says_what_its_pod_has(kubectl: Kubectl, pod: str) -> None:
    def network() -> dict[str, object] | None:
        (claim,) = json.loads(kubectl("get", "resourceclaims", "--output=json"))["items"]
        entries = claim["status"].get("devices", [])
        assert {condition["type"] for entry in entries for condition in entry["conditions"]} <= {"Ready"}
        return next((entry["networkData"] for entry in entries if "networkData" in entry), None)

    wait_for("status.devices with the interface", network, 10)
    found = network()
    assert found is not None
    assert found["interfaceName"] == "net1"
    assert found["hardwareAddress"] in inside(kubectl, "pair", "cat /sys/class/net/net1/address")


def test_a_kubelet_restart_takes_the_slices_for_less_than_two_seconds_and_no_pod(
    cluster: Cluster, tandem: Tandem, kubectl: Kubectl, pod: str
) -> None:
    started = kubectl("get", "pod", "a", "--output=jsonpath={.status.startTime}{.metadata.uid}")
    node = cluster.node(kubectl("get", "pod", "a", "--output=jsonpath={.spec.nodeName}"))

    def slices() -> set[str]:
        return {item["metadata"]["uid"] for item in tandem.slices() if item["spec"]["nodeName"] == node.name}

    before = slices()
    node.restart_kubelet()
    begin = time.monotonic()
    wait_for("the slices to be others", lambda: slices() and not slices() & before, 10, 0.02)
    wait_for("all slices", lambda: len(slices()) == len(before), 2, 0.02)
    assert time.monotonic() - begin < 2
    wait_for("the plugin to be registered again", tandem.plugin(node.name).is_ready, 10)
    assert kubectl("get", "pod", "a", "--output=jsonpath={.status.startTime}{.metadata.uid}") == started
    address = "cat /sys/class/net/net1/address"  # the kubelet knows its pods again after a moment
    wait_for("the pod to answer", lambda: inside(kubectl, "pair", address), 20, retry=(CommandError,))


def test_a_deleted_pod_leaves_nothing(kubectl: Kubectl, pod: str, tandem: Tandem) -> None:
    assert sum(len(plugin.look().devices) for plugin in tandem.plugins) == 2
    kubectl("delete", "pod", "a", "--wait=true")
    tandem.wait_clean()
    assert json.loads(kubectl("get", "resourceclaims", "--output=json"))["items"] == []
