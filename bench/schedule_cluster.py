"""The cluster of `bench.schedule`: a real control plane, nodes that are objects alone, two ways to allocate.

The nodes' slices come from the real builder, once; they differ from node to node in names alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.report import progress
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import Node, ResourceSlice
from driver.mock import source
from driver.mock.machine import load
from driver.names import DRIVER_NAME, pool_name
from driver.slices import SliceOptions, build, slice_name
from tests.controlplane import Cluster, Options, wait_for
from tests.controlplane.config import CONTROLLER_MANAGER, SCHEDULER
from tests.controlplane.fake_nodes import FOR_GOOD

ROOT: Final = Path(__file__).resolve().parent.parent
SYSTEM: Final = "tandem-system"
CONTROLLER: Final = "tandem-controller"
CONTROLLER_COMMAND = [sys.executable, "-m", "cli.main", "controller"]
_ADMISSION: Final = ("admission", "networks-admission")
_MACHINE, _VFS_PER_NIC = "dgx-h100", 8
_STATUS_PORT: Final = 18080
_WRITERS: Final = 8
_STOCK: Final = {
    CONTROLLER_MANAGER: ("--kube-api-qps=20", "--kube-api-burst=30"),
    SCHEDULER: ("--kube-api-qps=50", "--kube-api-burst=100"),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """Who allocates."""

    name: str
    controller: bool


NATIVE: Final = Arm("native", controller=False)
TANDEM: Final = Arm("tandem", controller=True)


class FakeCluster:
    """Made by `fake_cluster`; has no nodes until it grows, and no slices until an arm is entered."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = KubeClient.load(cluster.kubeconfig, user_agent="tandem-bench", timeout_seconds=60)
        self._nodes: dict[str, str] = {}
        self._entered: tuple[Arm, int] | None = None
        machine = source.read(load(_MACHINE, vfs_per_pf=_VFS_PER_NIC))
        self._slices = {
            arm: build(
                machine,
                driver_name=DRIVER_NAME,
                node_name="node",
                node_uid="",
                generation=1,
                options=SliceOptions(controller_taint=arm.controller),
            )
            for arm in (NATIVE, TANDEM)
        }

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self._nodes)

    def grow(self, size: int) -> None:
        """Have so many nodes; never fewer than before."""
        self.cluster.add_fake_nodes(size - self.size, prefix=f"fake-{self.size}")
        nodes, _ = self.client.list(paths.nodes(), Node)
        self._nodes = {node.metadata.name: node.metadata.uid for node in nodes}
        progress(f"{self.size} nodes")

    def enter(self, arm: Arm) -> None:
        """Let this arm allocate: slices, admission and controller as it has them."""
        if self._entered == (arm, self.size):
            return
        if (known := self.cluster.processes.get(CONTROLLER)) is not None:
            known.stop()
        begin = time.monotonic()
        if arm.controller:
            self.cluster.kubectl("apply", *_files(*_ADMISSION))
        else:
            self.cluster.kubectl("delete", "--ignore-not-found", *_files(*_ADMISSION))
        self._publish(arm)
        if arm.controller:
            self._start_controller()
        self._entered = arm, self.size
        progress(f"{arm.name}: ready after {time.monotonic() - begin:.1f} s")

    def cpu_seconds(self) -> Mapping[str, float]:
        """What each process has used so far, this one included."""
        ticks = os.sysconf("SC_CLK_TCK")
        used = {}
        for name, process in self.cluster.processes.items():
            if process.running:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                used[name] = (int(fields[11]) + int(fields[12])) / ticks
        return {**used, "bench": time.process_time()}

    def _publish(self, arm: Arm) -> None:
        self.client.delete(paths.slices())
        with ThreadPoolExecutor(_WRITERS) as pool:
            for _ in pool.map(
                lambda each: self.client.create(paths.slices(), each, ResourceSlice),
                (
                    self._renamed(each, n, node)
                    for n, each in enumerate(self._slices[arm])
                    for node in self._nodes
                ),
            ):
                pass

    def _renamed(self, template: ResourceSlice, number: int, node: str) -> ResourceSlice:
        replace = msgspec.structs.replace
        (owner,) = template.metadata.owner_references
        metadata = replace(
            template.metadata,
            name=slice_name(DRIVER_NAME, node, number),
            owner_references=[replace(owner, name=node, uid=self._nodes[node])],
        )
        pool = replace(template.spec.pool, name=pool_name(DRIVER_NAME, node))
        return replace(template, metadata=metadata, spec=replace(template.spec, pool=pool, node_name=node))

    def _start_controller(self) -> None:
        config = self.cluster.directory / f"{CONTROLLER}.kubeconfig"
        config.write_text(self._kubeconfig())
        arguments = [f"--kubeconfig={config}", f"--namespace={SYSTEM}", f"--http-port={_STATUS_PORT}"]
        self.cluster.start_process(CONTROLLER, [*CONTROLLER_COMMAND, *arguments])
        wait_for("the controller to lead", self._leads, 120)

    def _leads(self) -> bool:
        self.cluster.processes[CONTROLLER].check()
        address = f"http://{self.cluster.addresses.api_server}:{_STATUS_PORT}/metrics"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return "tandem_controller_leading 1" in answer.read().decode()
        except OSError:
            return False

    def _kubeconfig(self) -> str:
        """The administrator's, with the rights of the controller's service account."""
        config: dict[str, Any] = json.loads(self.cluster.kubectl("config", "view", "--raw", "--output=json"))
        token = self.cluster.kubectl(f"--namespace={SYSTEM}", "create", "token", CONTROLLER).strip()
        config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
        return json.dumps(config)


def _files(*names: str) -> list[str]:
    return [f"--filename={ROOT}/deploy/base/{name}.yaml" for name in names]


@contextmanager
def fake_cluster(*, stock_limits: bool) -> Iterator[FakeCluster]:
    """Such a cluster, for the time of the block; it has the classes, and the controller's rights."""
    arguments = dict(_STOCK) if stock_limits else {}
    arguments[CONTROLLER_MANAGER] = (*arguments.get(CONTROLLER_MANAGER, ()), FOR_GOOD)
    os.environ["PYTHONPATH"] = str(ROOT)  # the controller is to run from here, wherever it is started
    progress("starting etcd, kube-apiserver, kube-controller-manager and kube-scheduler")
    with Cluster.start(nodes=1, options=Options(arguments=arguments)) as cluster:
        real = cluster.nodes[0]
        for process in reversed(real.processes.values()):
            process.stop()
        cluster.api.delete(paths.node(real.name))
        cluster.kubectl("apply", *_files("namespace", "fabricnetworks"))
        cluster.kubectl("apply", f"--namespace={SYSTEM}", *_files("controller-rbac"))
        cluster.kubectl("apply", f"--kustomize={ROOT}/deviceclasses")
        made = FakeCluster(cluster)
        yield made
        made.client.close()
