"""The kubelet plugin killed, paused and away, at exact points: no pod with a NIC starts without it, no other
pod notices, and nothing leaks.

After each test the nodes are as before it: see the fixture `tandem`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeletplugin.steps import Point
from tests.cluster.tandem import Plugin, Tandem
from tests.cluster.tenant import Tenant, pod, rail, template
from tests.controlplane import Node, wait_for


@pytest.fixture
def plugin(tandem: Tandem) -> Plugin:
    """The one that is maltreated: node-0's."""
    return tandem.plugin("node-0")


# Stands in front of the first plugin of the chain, which containerd calls when the claims are prepared.
_HOLD = """
cd /opt/cni/bin
mv ptp ptp-held
printf '#!/bin/sh\\nwhile [ -e %s/ptp-held ]; do sleep 0.05; done; exec %s/ptp\\n' $PWD $PWD > ptp
chmod +x ptp
"""


@contextmanager
def no_networks(node: Node) -> Iterator[None]:
    """New pods get no network meanwhile, but wait for it."""
    node.run(["sh", "-euc", _HOLD])
    try:
        yield
    finally:
        node.run(["mv", "/opt/cni/bin/ptp-held", "/opt/cni/bin/ptp"])


def test_a_pod_without_claims_starts_while_the_plugin_is_dead(tenant: Tenant, plugin: Plugin) -> None:
    tenant.apply(template("pair"), pod("with", node="node-0", template="pair"))
    tenant.wait_running("with")
    plugin.kill()
    assert "dra.sock" in plugin.node.run(["ls", "/var/lib/kubelet/plugins/tandem-dra.io"]).stdout

    tenant.apply(pod("without", node="node-0"))

    tenant.wait_running("without")
    assert set(tenant.interfaces("without")) == {"eth0"}
    tenant.delete("without")
    assert "net1" in tenant.interfaces("with")


def test_killed_between_prepare_and_sandbox_the_pod_waits_for_its_interface(
    tenant: Tenant, plugin: Plugin
) -> None:
    tenant.apply(template("pair"))
    with no_networks(plugin.node):
        tenant.apply(pod("p", node="node-0", template="pair"))
        wait_for("the Prepare", lambda: list(plugin.look().claims.values()) == ["prepared"])
        plugin.kill()

    tenant.wait_message("p", "has a NIC claim; will be tried again")
    assert not tenant.runs("p")
    plugin.start()

    tenant.wait_running("p", timeout_seconds=60)
    assert "net1" in tenant.interfaces("p")


def test_killed_during_add_the_pods_start_with_their_interfaces_later(
    tenant: Tenant, tandem: Tandem, tmp_path: Path
) -> None:
    points: tuple[Point, Point] = ("attach.recorded", "attach.moved")
    tenant.apply(template("two", gpus=2, nics=2))
    for plugin, point in zip(tandem.plugins, points, strict=True):
        plugin.start(stop_at=point, action=f"kill:{tmp_path / point}")
    tenant.apply(*(pod(f"on-{p.node.name}", node=p.node.name, template="two") for p in tandem.plugins))
    for plugin in tandem.plugins:
        plugin.wait_killed()
        assert not tenant.runs(f"on-{plugin.node.name}")
        plugin.start()

    for plugin in tandem.plugins:
        name = f"on-{plugin.node.name}"
        tenant.wait_running(name, timeout_seconds=60)
        assert set(tenant.interfaces(name)) == {"eth0", "net1", "net2"}
        seen = plugin.look()
        assert list(seen.attachments.values()) == ["attached"] * 2
        assert len(seen.vfs) == len(plugin.home) - 2


def test_a_pod_does_not_start_as_long_as_its_add_is_under_way(
    tenant: Tenant, plugin: Plugin, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    tenant.apply(template("pair"))
    plugin.start(stop_at="attach.recorded", action=f"pause:{go_on}")
    tenant.apply(pod("p", node="node-0", template="pair"), pod("without", node="node-0"))
    wait_for("the ADD", lambda: "attaching" in plugin.look().attachments.values())
    tenant.wait_running("without")
    time.sleep(2)
    assert not tenant.runs("p")

    go_on.touch()

    tenant.wait_running("p", timeout_seconds=60)
    assert "net1" in tenant.interfaces("p")


def test_killed_while_pods_run_they_go_on_and_go_home(tenant: Tenant, plugin: Plugin) -> None:
    tenant.apply(
        template("third", gpu=rail(3), nic=rail(3)),
        template("fifth", gpu=rail(5), nic=rail(5)),
        pod("stays", node="node-0", template="third"),
        pod("other", node="node-1", template="third"),
        pod("ends", node="node-0", template="fifth"),
    )
    tenant.wait_running("stays", "other", "ends")
    before = tenant.interfaces("stays")
    other = tenant.interfaces("other")["net1"].split("/")[0]
    plugin.kill()
    assert tenant.ping("stays", other, "net1")
    tenant.kubectl("delete", "pod", "ends", "--wait=false")  # its DEL and Unprepare find nobody
    time.sleep(3)

    plugin.start()

    wait_for("the other pod's devices to be free", lambda: len(plugin.look().claims) == 1, 60)
    assert tenant.interfaces("stays") == before
    assert tenant.ping("stays", other, "net1")
    assert tenant.pod("stays")["status"]["containerStatuses"][0]["restartCount"] == 0
    (row,) = plugin.look().attachments.values()
    assert row == "attached"


def test_killed_while_pods_end_it_leaves_nothing(tenant: Tenant, tandem: Tandem, tmp_path: Path) -> None:
    points: tuple[Point, Point] = ("detach.moved", "unprepare.recorded")
    tenant.apply(template("pair"))
    for plugin, point in zip(tandem.plugins, points, strict=True):
        plugin.start(stop_at=point, action=f"kill:{tmp_path / point}")
    names = [f"on-{plugin.node.name}" for plugin in tandem.plugins]
    tenant.apply(
        *(pod(f"on-{plugin.node.name}", node=plugin.node.name, template="pair") for plugin in tandem.plugins)
    )
    tenant.wait_running(*names)
    tenant.kubectl("delete", "pods", *names, "--wait=false")
    for plugin in tandem.plugins:
        plugin.wait_killed()
        plugin.start()

    tenant.kubectl("wait", "--for=delete", "--timeout=60s", *(f"pod/{name}" for name in names))
    tandem.wait_clean()
