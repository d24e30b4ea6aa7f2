"""A plugin killed at each named point of an attachment, over the real ledger, kernel, server and shim."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cni.build import build
from kubeletplugin.attach.store import Attachment
from kubeletplugin.claims import Consumer
from kubeletplugin.ledger import Ledger
from kubeletplugin.planner import Plan
from tests.unit.attach.machine import Machine, ip, show

POD = "0b9c9e6e-1111-2222-3333-444455556666"
PLUGIN = """
import pathlib, sys
from kubeletplugin.attach.engine import AttachEngine
from kubeletplugin.attach.server import CniServer
from kubeletplugin.ledger import Ledger

root = pathlib.Path(sys.argv[1])
engine = AttachEngine(Ledger(root / "ledger.db", boot_id="b", instance="i"), lambda *_: None, root / "lock")
engine.sweep()
CniServer(root / "cni.sock", engine.handle).start()
print("ready", flush=True)
sys.stdin.read()
"""


class Node:
    def __init__(self, machine: Machine, root: Path, shim: Path) -> None:
        self.machine, self.root, self.shim = machine, root, shim
        nic = Attachment("c", "team/c", "vf", machine.vf(1), "net1", ("10.200.0.1/24",), 1400)
        self.vf = machine.vfs[nic.pci_address]
        ledger = Ledger(root / "ledger.db", boot_id="b", instance="prepare")
        pods = (Consumer(POD, "pod"),)
        ledger.begin_prepare(Plan("c", "team", "c", (), (nic,), pods, joinable=False))
        ledger.finish_prepare("c", pods)
        ledger.close()
        (root / "pods").mkdir()
        (root / "pods" / POD).touch()
        self.netns = machine.pod()

    @contextmanager
    def plugin(self, stop_at: str = "") -> Iterator[subprocess.Popen[bytes]]:
        environment = os.environ | ({"TANDEM_STOP_AT": f"{stop_at}=kill"} if stop_at else {})
        command = [sys.executable, "-c", PLUGIN, str(self.root)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                yield process
            finally:
                process.kill()

    def call(self, command: str) -> int:
        """Run the shim; returns the CNI error code, 0 for success."""
        config = {
            "cniVersion": "1.0.0",
            "prevResult": {},
            "socket": str(self.root / "cni.sock"),
            "podRecords": str(self.root / "pods"),
        }
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "s1",
            "CNI_NETNS": f"/run/netns/{self.netns}",
            "CNI_ARGS": f"K8S_POD_UID={POD};K8S_POD_NAMESPACE=team;K8S_POD_NAME=pod",
        }
        done = subprocess.run(
            [self.shim], input=json.dumps(config).encode(), env=environment, capture_output=True, check=False
        )
        return int(json.loads(done.stdout)["code"]) if done.returncode else 0

    def at_home_as_before(self) -> bool:
        found = show(None, self.vf)
        return found is not None and found["mtu"] == 1500 and show(self.netns, "net1") is None


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return build(tmp_path_factory.mktemp("shim") / "tandem")


@pytest.fixture
def node(machine: Machine, tmp_path: Path, shim: Path) -> Node:
    return Node(machine, tmp_path, shim)


@pytest.mark.parametrize("point", ["attach.recorded", "attach.moved", "attach.done"])
def test_killed_during_add_the_pod_waits_and_the_next_try_attaches(node: Node, point: str) -> None:
    with node.plugin(point) as plugin:
        assert node.call("ADD") == 11
        assert plugin.wait() == -signal.SIGKILL
    assert node.call("DEL") == 11  # the runtime cleans up, and is told to come again
    with node.plugin():
        assert node.call("DEL") == 0
        assert node.at_home_as_before()
        assert node.call("ADD") == 0
        assert show(node.netns, "net1") is not None
        assert node.call("CHECK") == 0
        assert node.call("DEL") == 0
    assert node.at_home_as_before()


@pytest.mark.parametrize("point", ["attach.recorded", "attach.moved"])
def test_killed_during_add_and_never_asked_again_the_start_takes_the_nic_home(node: Node, point: str) -> None:
    with node.plugin(point):
        assert node.call("ADD") == 11
    with node.plugin():
        assert node.at_home_as_before()


@pytest.mark.parametrize("point", ["detach.recorded", "detach.moved", "detach.done"])
def test_killed_during_del_the_repeated_del_finishes(node: Node, point: str) -> None:
    with node.plugin():
        assert node.call("ADD") == 0
    with node.plugin(point):
        assert node.call("DEL") == 11
    with node.plugin():
        assert node.call("DEL") == 0
    assert node.at_home_as_before()


def test_killed_while_a_pod_runs_the_pod_keeps_its_nic(node: Node) -> None:
    with node.plugin():
        assert node.call("ADD") == 0
    with node.plugin():
        assert node.call("CHECK") == 0
        ip("netns", "delete", node.netns)
    with node.plugin():
        assert node.call("DEL") == 0
