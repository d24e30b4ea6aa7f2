"""Devices that go from one pod to the next faster than the node lets go of them: never two pods on one
device, and nothing leaks.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from driver.mock.machine import load
from driver.names import device_name
from kubeletplugin.proto import dra_v1_pb2, dra_v1_pb2_grpc
from kubeletplugin.steps import Point
from tests.cluster.podwatch import PodWatch, running_pods
from tests.cluster.tandem import MACHINE, Plugin, Tandem
from tests.cluster.tenant import Tenant, at, pod, template
from tests.controlplane import wait_for

_MOCK = load(MACHINE)
_NIC = _MOCK.nics[0]
_VF = _MOCK.vfs_of(_NIC)[0]
_DEVICE = device_name("vf", _VF.pci_address)
ONE_DEVICE = template("one", nic=at(_VF.pci_address))


@pytest.fixture
def plugin(tandem: Tandem) -> Plugin:
    """Of the node on which the device is wanted."""
    return tandem.plugin("node-0")


def claim_uid(tenant: Tenant, name: str) -> str:
    return str(tenant.claim_of(name)["metadata"]["uid"])


@pytest.mark.parametrize("point", ["prepare.files", "prepare.done"])
def test_a_pod_deleted_by_force_during_its_prepare_hands_its_device_to_the_next(
    tenant: Tenant, plugin: Plugin, tmp_path: Path, point: Point
) -> None:
    go_on = tmp_path / "go-on"
    plugin.start(stop_at=point, action=f"pause:{go_on}")
    tenant.apply(ONE_DEVICE, pod("old", node="node-0", template="one"))
    old = claim_uid(tenant, "old")
    wait_for("the Prepare", lambda: old in plugin.look().claims)
    tenant.apply(pod("next", node="node-0", template="one"))

    tenant.force_delete("old")
    new = claim_uid(tenant, "next")  # the API calls the device free
    wait_for("the next Prepare to wait", lambda: "still held by claim" in plugin.log())
    assert plugin.look().holders(_DEVICE) == [old]
    assert not tenant.runs("next")
    go_on.touch()

    tenant.wait_running("next", timeout_seconds=60)
    seen = plugin.look()
    assert list(seen.claims) == [new]
    assert seen.holders(_DEVICE) == [new]
    assert seen.attachments == {_DEVICE: "attached"}
    assert tenant.shell("next", "cat /sys/class/net/net1/address").strip() == plugin.home[_VF.interface][0]
    assert not any("FailedPrepare" in message for message in tenant.messages("next"))


def test_a_running_pod_deleted_by_force_keeps_its_device_until_it_has_ended(
    tenant: Tenant, plugin: Plugin, tmp_path: Path
) -> None:
    """The plugin is paused in the old pod's DEL, so that its sandbox is certainly there when the next pod
    asks.
    """
    go_on = tmp_path / "go-on"
    plugin.start(stop_at="detach.recorded", action=f"pause:{go_on}")
    tenant.apply(ONE_DEVICE, pod("old", node="node-0", template="one"))
    tenant.wait_running("old")
    old = claim_uid(tenant, "old")
    tenant.apply(pod("next", node="node-0", template="one"))

    tenant.force_delete("old")
    new = claim_uid(tenant, "next")
    wait_for("the next Prepare to wait", lambda: "still held by claim" in plugin.log())
    seen = plugin.look()
    assert seen.holders(_DEVICE) == [old]
    assert _VF.interface not in seen.vfs
    assert not tenant.runs("next")
    go_on.touch()

    tenant.wait_running("next", timeout_seconds=60)
    assert plugin.look().holders(_DEVICE) == [new]
    assert plugin.look().attachments == {_DEVICE: "attached"}


def test_an_unprepare_that_comes_too_early_frees_nothing_until_the_pods_processes_have_ended(
    tenant: Tenant, plugin: Plugin
) -> None:
    """The kubelet's loop over claims asks for it when a pod was deleted by force, whether or not its
    containers have been stopped by then.
    """
    tenant.apply(ONE_DEVICE, pod("old", node="node-0", template="one", stubborn=True))
    tenant.wait_running("old")
    claim = tenant.claim_of("old")["metadata"]
    asked = dra_v1_pb2.Claim(namespace=claim["namespace"], name=claim["name"], uid=claim["uid"])
    with grpc.insecure_channel(f"unix:{plugin.socket}") as channel:
        call = dra_v1_pb2_grpc.DRAPluginStub(channel).NodeUnprepareResources.future(
            dra_v1_pb2.NodeUnprepareResourcesRequest(claims=[asked]), timeout=45
        )
        wait_for("the plugin to wait", lambda: "said to have ended" in plugin.log())
        assert "net1" in tenant.interfaces("old")
        assert plugin.look().holders(_DEVICE) == [claim["uid"]]
        tenant.force_delete("old")
        assert call.result().claims[claim["uid"]].error == ""
    assert "old" not in running_pods(plugin.node)
    assert plugin.look().holders(_DEVICE) == []


def test_a_device_goes_from_pod_to_pod_and_never_two_run_with_it(tenant: Tenant, plugin: Plugin) -> None:
    """They need 2 s to end, in which the API calls their device free already."""
    first, *others = names = ["p0", "p1", "p2"]
    tenant.apply(ONE_DEVICE, pod(first, node="node-0", template="one", stubborn=True))
    tenant.wait_running(first)
    tenant.apply(*(pod(name, node="node-0", template="one", stubborn=True) for name in others))
    watch = PodWatch(plugin.node)
    try:
        while names:
            (name,) = wait_for("one to run", lambda: [name for name in names if tenant.runs(name)], 60)
            assert "net1" in tenant.interfaces(name)
            names.remove(name)
            tenant.force_delete(name)
            if names:
                wait_for("the next to have the device", lambda: any(map(tenant.is_allocated, names)))
                assert watch.samples()[-1] == {name}
    finally:
        watch.stop()
    samples = watch.samples()
    assert set().union(*samples) == {"p0", "p1", "p2"}
    assert max(map(len, samples)) == 1
