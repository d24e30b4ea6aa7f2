"""What both kubelet plugin benches stand on: a real API server, and the plugin as a process on a mock node.

Kubelet, scheduler and controller manager are stopped: the bench plays their part, and nothing else is timed.
The plugin's directories are the bench's, so its sockets can be called from here.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.report import progress
from driver.kube.client import KubeClient
from kubeletplugin.proto import dra_v1_pb2_grpc
from tests.controlplane import Cluster
from tests.controlplane.node import Node
from tests.controlplane.processes import Process

ROOT = Path(__file__).resolve().parent.parent
DRIVER = "tandem-dra.io"
_START_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PluginNode:
    """A node with nothing on it but, once started, the plugin."""

    node: Node
    client: KubeClient
    kubeconfig: Path
    folder: Path

    @property
    def socket(self) -> Path:
        """The DRA service's."""
        return self.folder / "plugins" / DRIVER / "dra.sock"

    @property
    def pool(self) -> str:
        """The node's pool."""
        return f"{DRIVER}/{self.node.name}"

    def start(self) -> Process:
        """Start the plugin, a DGX H100 of 64 VFs; returns at once."""
        directories = {
            "--plugins-dir": "plugins",
            "--registry-dir": "registry",
            "--pods-dir": "pods",
            "--state-dir": "state",
            "--cdi-dir": "cdi",
            "--run-dir": "run",
        }
        argv = [sys.executable, "-m", "cli.main", "kubelet-plugin", "--node-name", self.node.name]
        argv += ["--mock-machine", "dgx-h100", "--kubeconfig", str(self.kubeconfig)]
        for option, name in directories.items():
            argv += [option, str(self.folder / name)]
        return self.node.start("tandem", argv, {"PYTHONPATH": str(ROOT)})

    def serving(self) -> dra_v1_pb2_grpc.DRAPluginStub:
        """A client of the plugin's socket, which is ready when this returns."""
        channel = grpc.insecure_channel(f"unix:{self.socket}")
        grpc.channel_ready_future(channel).result(_START_TIMEOUT_SECONDS)
        return dra_v1_pb2_grpc.DRAPluginStub(channel)


@contextmanager
def plugin_node() -> Iterator[PluginNode]:
    """Such a node, for the time of the block."""
    progress("starting etcd, kube-apiserver and a node")
    with Cluster.start(nodes=1) as cluster, tempfile.TemporaryDirectory() as folder:
        node = cluster.nodes[0]
        node.stop_kubelet()
        for component in ("kube-scheduler", "kube-controller-manager"):
            cluster.stop(component)
        client = KubeClient.load(cluster.kubeconfig, user_agent="tandem-bench")
        yield PluginNode(node, client, cluster.kubeconfig, Path(folder))
        client.close()


def resident_mb(pid: int) -> float:
    """Resident set in MB (10^6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def wait_until(
    ready: Callable[[], object], what: str, timeout_seconds: float = _START_TIMEOUT_SECONDS
) -> float:
    """Call `ready` until it is true; returns when that was, by the monotonic clock."""
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {timeout_seconds:g} s")
        time.sleep(0.002)
    return time.monotonic()
