"""Pods with NICs on the real kubelet: what they get, how they talk, and what they share."""

from __future__ import annotations

import re
import signal

import pytest

from tests.cluster.tandem import Tandem
from tests.cluster.tenant import Tenant, claim, pod, rail, template
from tests.controlplane import Cluster, wait_for

pytestmark = pytest.mark.usefixtures("tandem")


def test_four_gpus_and_four_nics_in_one_claim_are_four_pix_pairs(tenant: Tenant) -> None:
    tenant.apply(template("four", gpus=4, nics=4), pod("p", template="four"))
    tenant.wait_running("p")

    placement = tenant.placement("p")
    pairs, interfaces = placement["pairs"], placement["interfaces"]
    assert [pair["tier"] for pair in pairs] == ["PIX"] * 4
    assert len({pair["rail"] for pair in pairs}) == 4
    assert [each["interface"] for each in interfaces] == ["net1", "net2", "net3", "net4"]
    assert [each["device"] for each in interfaces] == [pair["nic"] for pair in pairs]
    results = tenant.claim_of("p")["status"]["allocation"]["devices"]["results"]
    assert [r["device"] for r in results if r["request"] == "gpu"] == [pair["gpu"] for pair in pairs]
    assert [r["device"] for r in results if r["request"] == "nic"] == [pair["nic"] for pair in pairs]
    seen = tenant.interfaces("p")
    wanted = {f"net{i}": f"10.200.{pair['rail']}.1/24" for i, pair in enumerate(pairs, 1)}
    assert {name: seen[name] for name in seen if name != "eth0"} == wanted
    assert "eth0" in seen


def test_the_environment_and_the_devices_of_a_pod_are_those_of_its_claim(tenant: Tenant) -> None:
    tenant.apply(template("four", gpus=4, nics=4), pod("p", template="four"))
    tenant.wait_running("p")

    environment = dict(line.split("=", 1) for line in tenant.shell("p", "env").splitlines() if "=" in line)
    listed = environment["NCCL_IB_HCA"]
    assert re.fullmatch(r"=(mlx5_\d+:1,){3}mlx5_\d+:1", listed)
    numbers = sorted(re.findall(r"mlx5_(\d+)", listed))
    assert len(set(numbers)) == 4
    devices = tenant.shell("p", "find /dev -name 'nvidia[0-9]*' -o -name 'uverbs*'").split()
    verbs = sorted(device.rpartition("uverbs")[2] for device in devices if "uverbs" in device)
    assert verbs == numbers
    assert sum("nvidia" in device for device in devices) == 4


def test_pods_on_two_nodes_talk_over_their_rail_and_the_default_network(tenant: Tenant) -> None:
    tenant.apply(
        template("third", gpu=rail(3), nic=rail(3)),
        template("fifth", gpu=rail(5), nic=rail(5)),
        pod("a", node="node-0", template="third"),
        pod("b", node="node-1", template="third"),
        pod("c", node="node-1", template="fifth"),
    )
    tenant.wait_running("a", "b", "c")
    address = {name: tenant.interfaces(name)["net1"].split("/")[0] for name in "abc"}
    assert sorted([address["a"], address["b"]]) == ["10.200.3.1", "10.200.3.2"]
    assert address["c"] == "10.200.5.1"

    assert tenant.ping("a", address["b"], "net1")
    assert tenant.ping("b", address["a"], "net1")
    assert tenant.ping("a", tenant.pod("b")["status"]["podIP"], "eth0")
    assert not tenant.ping("a", address["c"], "net1")  # another rail is another wire


def test_what_the_claim_says_of_its_devices_is_what_the_pod_has(cluster: Cluster, tenant: Tenant) -> None:
    """Whatever a user wrote for another driver, in whatever form: it is part of the allocation, which must
    not seem to change when the plugin writes beside it.
    """
    made = template("pair")
    others = {"z": None, "a": "<&>", "n": 1.0, "b": [{"y": 1, "x": 2.5}]}
    made["spec"]["spec"]["devices"]["config"].append(
        {"opaque": {"driver": "other.example.com", "parameters": others}}
    )
    path = f"/apis/resource.k8s.io/v1/namespaces/{tenant.namespace}/resourceclaimtemplates"
    cluster.api.post(path, made)  # kubectl would sort it
    tenant.apply(pod("p", template="pair"))
    tenant.wait_running("p")
    mac = tenant.shell("p", "cat /sys/class/net/net1/address").strip()
    (nic,) = [each["device"] for each in tenant.placement("p")["interfaces"]]

    def reported() -> object:
        devices = tenant.claim_of("p")["status"].get("devices", [])
        return next((d.get("networkData") for d in devices if d["device"] == nic), None)

    wanted = {"interfaceName": "net1", "ips": [tenant.interfaces("p")["net1"]], "hardwareAddress": mac}
    wait_for("the device's status", lambda: reported() == wanted)


def test_a_second_pod_of_a_claim_with_nics_is_refused_and_told_why(tenant: Tenant) -> None:
    tenant.apply(claim("shared"), pod("first", claim="shared"))
    tenant.wait_running("first")
    tenant.apply(pod("second", claim="shared"))

    message = tenant.wait_message("second", "serves one pod per node")

    assert "/first" in message
    assert "ResourceClaimTemplate" in message
    assert not tenant.runs("second")
    assert "net1" in tenant.interfaces("first")
    tenant.delete("first")
    tenant.wait_running("second", timeout_seconds=60)
    assert "net1" in tenant.interfaces("second")


def test_pods_neither_notice_a_plugin_that_is_updated_nor_a_kubelet_that_restarts(
    tenant: Tenant, tandem: Tandem
) -> None:
    tenant.apply(
        template("third", gpu=rail(3), nic=rail(3)),
        template("fifth", gpu=rail(5), nic=rail(5)),
        *(pod(f"p{i}", node=f"node-{i}", template="third") for i in (0, 1)),
    )
    tenant.wait_running("p0", "p1")
    before = tenant.interfaces("p0")
    other = tenant.interfaces("p1")["net1"].split("/")[0]
    plugin = tandem.plugin("node-0")
    old = plugin.process.pid

    plugin.process.signal(signal.SIGTERM)
    wait_for("the plugin to end", lambda: not plugin.running)
    assert plugin.node.run(["ls", "/var/lib/kubelet/plugins_registry"]).stdout == ""
    plugin.start()
    assert plugin.process.pid != old
    plugin.node.restart_kubelet()
    wait_for("the node to be Ready", lambda: not tandem.cluster.unready_nodes(), 60)
    wait_for("the plugin to be known again", plugin.is_ready)

    tenant.apply(pod("new", node="node-0", template="fifth"))
    tenant.wait_running("new")
    assert tenant.interfaces("new")["net1"] == "10.200.5.1/24"
    assert tenant.interfaces("p0") == before
    assert tenant.ping("p0", other, "net1")
    assert tenant.pod("p0")["status"]["containerStatuses"][0]["restartCount"] == 0
