"""A cluster: made, used, and torn down whole.

    with Cluster.start(nodes=2) as cluster:
        cluster.apply(manifest)
        cluster.kubectl("wait", "--for=condition=Ready", "pod/a")

The cluster is a container of its own (see `containers`), held by a pipe from the process that starts it: if
that process ends, however it ends, the cluster ends. `detach` lets it go on. Only its control group and its
files then remain; `state.destroy` removes them, and so does the next start.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Self

from tests.controlplane import bringup, packages, state
from tests.controlplane.addresses import MAX_NODES, Addresses, hold_addresses
from tests.controlplane.api import Api, ApiError
from tests.controlplane.build import Programs, find_programs
from tests.controlplane.commands import run
from tests.controlplane.config import API_SERVER, CONTROLLER_MANAGER, ETCD, SCHEDULER, Options
from tests.controlplane.containers import Container, find_container, start_owned
from tests.controlplane.errors import ComponentError, ControlPlaneError, PrerequisiteError
from tests.controlplane.fake_nodes import FOR_GOOD, fake_node
from tests.controlplane.node import Node
from tests.controlplane.pki import Authority, Certificate
from tests.controlplane.processes import Process
from tests.controlplane.wait import wait_for

RUNNING_CLUSTER = "TANDEM_CLUSTER"  # the state directory of a cluster to use instead of starting one
_NOT_READY_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class Cluster:
    """A running cluster; made by `start`, `create` or `attach`."""

    def __init__(self, directory: Path, record: state.Record, container: Container, options: Options) -> None:
        self.directory = directory
        self.id = record.id
        self.container = container
        self.addresses = Addresses(IPv4Network(record.network))
        self.programs = Programs(tuple(Path(path) for path in record.programs))
        self.options = options
        self.processes: dict[str, Process] = {}
        self.nodes: list[Node] = []
        self._hold: subprocess.Popen[bytes] | None = None
        self._api: Api | None = None

    # Beginnings and ends

    @classmethod
    @contextmanager
    def start(
        cls, nodes: int = 2, options: Options | None = None, directory: Path | None = None
    ) -> Iterator[Self]:
        """A cluster for the time of the `with` block. See `create`; if the block fails, the logs are kept
        (`state.failure_logs`).
        """
        cluster = cls.create(nodes, options, directory)
        try:
            yield cluster
        except BaseException:
            state.keep_logs(cluster.directory)
            raise
        finally:
            cluster.destroy()

    @classmethod
    def create(cls, nodes: int = 2, options: Options | None = None, directory: Path | None = None) -> Self:
        """Starts a cluster and returns it once every node is Ready (with none, it is a control plane alone).
        It ends with this process, unless detached.

        Raises PrerequisiteError, ComponentError (which part, the end of its log, where the log is) or
        WaitTimeoutError; nothing is left then but the logs.
        """
        if os.geteuid() != 0:
            raise PrerequisiteError("a cluster needs root: it makes namespaces, links and mounts")
        if not 0 <= nodes <= MAX_NODES:
            raise ValueError(f"nodes={nodes}: a cluster has 0 to {MAX_NODES} nodes")
        packages.ensure(packages.RUNNING)
        programs = find_programs()
        state.sweep(directory.absolute() if directory else None)
        identity = state.new_id()
        directory = (directory or state.root() / identity).absolute()
        names = tuple(f"node-{index}" for index in range(nodes))
        cluster: Self | None = None
        try:
            with hold_addresses() as addresses:
                record = state.create(directory, identity, addresses.network, names, programs.directories)
                container, hold = start_owned(identity)
                cluster = cls(directory, record, container, options or Options())
                cluster._hold = hold
                bringup.connect(container, addresses, identity)
            bringup.bring_up(cluster, names)
        except BaseException as error:
            made = state.load(directory)
            if made is None or made.id != identity:  # another's
                raise
            kept = state.keep_logs(directory)
            cluster.destroy() if cluster else state.destroy(directory)
            if isinstance(error, ComponentError):
                raise error.moved(kept / error.log.name) from None
            raise
        return cluster

    @classmethod
    def attach(cls, directory: Path) -> Self:
        """The cluster that another process started in `directory`. Raises ControlPlaneError if none runs
        there.
        """
        record = state.load(directory)
        container = find_container(record.id) if record else None
        if record is None or container is None:
            raise ControlPlaneError(f"no cluster runs in {directory}")
        cluster = cls(directory, record, container, Options())
        for file in sorted((directory / "processes").glob("*.json")):
            owner = next((name for name in record.nodes if file.stem.startswith(f"{name}-")), None)
            if owner is None:
                cluster.processes[file.stem] = Process.load(file, container)
        for index, name in enumerate(record.nodes):
            inside = find_container(f"{record.id}/{name}")
            if inside is None:
                raise ControlPlaneError(f"{name} of the cluster in {directory} is gone")
            made = cluster.make_node(index, name, inside)
            for file in sorted((directory / "processes").glob(f"{name}-*.json")):
                made.processes[file.stem.removeprefix(f"{name}-")] = Process.load(file, inside)
        return cluster

    def detach(self) -> None:
        """Lets the cluster outlive this process."""
        if self._hold is not None and self._hold.stdin is not None:
            self._hold.stdin.write(b"k")
            self._hold.stdin.close()

    def close(self) -> None:
        """Lets go of what this process holds open of an attached cluster."""
        if self._api is not None:
            self._api.close()

    def destroy(self) -> None:
        """Ends and removes it all. May be repeated."""
        self.close()
        state.destroy(self.directory)
        if self._hold is not None:
            if self._hold.stdin is not None:
                self._hold.stdin.close()
            self._hold.wait()

    # Use

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.directory / "admin.kubeconfig"

    @property
    def logs(self) -> Path:
        """One file for each process."""
        return self.directory / "logs"

    @property
    def server(self) -> str:
        """The API server's URL, from the machine, the nodes and the pods alike."""
        return f"https://{self.addresses.api_server}:6443"

    @property
    def api(self) -> Api:
        """The API as administrator, without a process per request."""
        if self._api is None:
            self._api = self.connect()
        return self._api

    def connect(self) -> Api:
        """The same with a connection of its own, for another thread."""
        pki = self.directory / "pki"
        admin = Certificate(pki / "admin.crt", pki / "admin.key")
        return Api(self.server, Authority(pki).certificate, admin)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 120) -> str:
        """What `kubectl ARGUMENTS` prints. Raises CommandError with its error."""
        return run(
            [str(self.programs["kubectl"]), f"--kubeconfig={self.kubeconfig}", *arguments],
            stdin,
            timeout_seconds=timeout_seconds,
        ).stdout

    def apply(self, manifest: str) -> str:
        """Applies YAML or JSON documents."""
        return self.kubectl("apply", "--filename=-", stdin=manifest)

    def node(self, name: str) -> Node:
        """The node of that name. Raises ControlPlaneError, naming those there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ControlPlaneError(f"no node {name}; there are {', '.join(node.name for node in self.nodes)}")

    def make_node(self, index: int, name: str, container: Container) -> Node:
        """A node of this cluster, with no processes known yet; for `bringup`."""
        address = self.addresses.node(index)
        made = Node(name, address, container, self.programs, self.logs, self.directory / "processes")
        self.nodes.append(made)
        return made

    def start_process(self, name: str, argv: Sequence[str]) -> None:
        """Starts a component of the control plane."""
        record = self.directory / "processes" / f"{name}.json"
        process = Process(
            name, self.container, tuple(argv), dict(os.environ), self.logs / f"{name}.log", record
        )
        self.processes[name] = process.start()

    def all_processes(self) -> list[Process]:
        """The control plane's and the nodes'."""
        return [*self.processes.values(), *(p for node in self.nodes for p in node.processes.values())]

    def stop(self, component: str) -> None:
        """Ends a control plane component: `kube-scheduler`, `kube-controller-manager`, `kube-apiserver`,
        `etcd`.
        """
        self.processes[component].stop()

    def resume(self, component: str) -> None:
        """Starts it again; returns when the API server answers."""
        self.processes[component].start()
        wait_for("the API server", self.api_answers, 60)

    def stop_scheduler(self) -> None:
        """Ends kube-scheduler."""
        self.stop(SCHEDULER)

    def start_scheduler(self) -> None:
        """Starts it again."""
        self.resume(SCHEDULER)

    def add_fake_nodes(
        self,
        count: int,
        prefix: str = "fake",
        labels: Mapping[str, str] | None = None,
        capacity: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Adds Node objects without a machine behind them, Ready for good; returns their names.

        Pods placed there stay Pending with a node name. They carry the label `tandem-dra.io/fake-node=true`.
        The controller manager is restarted with a patience that outlasts any test, since nothing sends their
        heartbeats.
        """
        manager = self.processes[CONTROLLER_MANAGER]
        if FOR_GOOD not in manager.argv:
            manager.stop()
            manager.start([*manager.argv, FOR_GOOD])
        names = [f"{prefix}-{index}" for index in range(count)]
        for name in names:
            self.api.post("/api/v1/nodes", fake_node(name, labels or {}, capacity or {}))
        wait_for(f"{count} fake nodes to be Ready", lambda: not self.unready_nodes() & set(names), 60)
        return names

    def api_answers(self) -> bool:
        """Whether the API server says it is ready. Raises ComponentError if it, or etcd, has ended."""
        for component in (ETCD, API_SERVER):
            self.processes[component].check()
        try:
            return bool(self.api.get("/readyz") == "ok")
        except (ApiError, OSError):
            return False

    def unready_nodes(self) -> set[str]:
        """Nodes, by name, where the scheduler would place nothing yet: not Ready, or still tainted so; those
        that are missing too.
        """
        listed = {node["metadata"]["name"]: node for node in self.api.get("/api/v1/nodes")["items"]}
        ours = {node.name for node in self.nodes}
        return (ours - set(listed)) | {name for name, node in listed.items() if not _schedulable(node)}


def _schedulable(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    taints = {taint["key"] for taint in node["spec"].get("taints", [])}
    return ready and not taints.intersection(_NOT_READY_TAINTS)
