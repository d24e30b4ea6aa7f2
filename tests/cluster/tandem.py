"""Tandem on a test cluster: its programs as plain processes with the rights of their manifests.

Processes, not pods: a test may kill one, stop it at a named point of the ledger or start it again within a
second. Else all is as in production, from the service accounts to the chain of the default network.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cni.build import build
from kubeletplugin.healthz import OK, ask
from kubeletplugin.steps import VARIABLE, Point
from tests.cluster.accounts import kubeconfig_of
from tests.cluster.controllers import read_metric
from tests.controlplane import Cluster, Node, Process, wait_for

ROOT: Final = Path(__file__).parents[2]
SYSTEM: Final = "tandem-system"
MACHINE: Final = "dgx-h100"
_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
_MANIFESTS = (
    "namespace",
    "fabricnetworks",
    "kubelet-plugin-rbac",
    "controller-rbac",
    "admission",
    "networks-admission",
)
_STATE, _RUN, _CDI, _RECORDS = "/var/lib/tandem", "/run/tandem", "/var/run/cdi", "/run/tandem/pods"
_STATUS_PORT = 18080  # nobody else serves in the network of the control plane
_DRA = "var/lib/kubelet/plugins/tandem-dra.io/dra.sock"
_HEALTH = "var/lib/kubelet/plugins/tandem-dra.io/health.sock"

# Run on the node by a fresh interpreter.
_LOOK = f"""
import json, pathlib, sqlite3, subprocess
def names(folder):
    folder = pathlib.Path(folder)
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
with sqlite3.connect("file:{_STATE}/ledger.db?mode=ro", uri=True, timeout=5) as db:
    ask = lambda query: db.execute(query).fetchall()
    seen = {{
        "claims": dict(ask("SELECT uid, state FROM claims")),
        "devices": ask("SELECT device, claim_uid FROM devices ORDER BY device"),
        "attachments": dict(ask("SELECT device, state FROM attachments")),
    }}
seen |= {{"cdi": names("{_CDI}"), "records": names("{_RECORDS}")}}
links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
seen["vfs"] = {{
    link["ifname"]: [link["address"], link["mtu"], "UP" in link["flags"], *link["altnames"]]
    for link in links if "link" in link and "altnames" in link
}}
print(json.dumps(seen))
"""
_REMOVE = f"""
import pathlib, shutil
from cni.install import uninstall
from driver.mock.hardware import MockHardware
MockHardware("{MACHINE}", pathlib.Path("{_STATE}"), "{{node}}").remove()
uninstall(pathlib.Path("/opt/cni/bin"), pathlib.Path("/etc/cni/net.d"))
for folder in ("{_STATE}", "{_RUN}"):
    shutil.rmtree(folder, ignore_errors=True)
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What Tandem has on a node.

    Attributes:
        claims: state by UID, from the ledger.
        devices: (device, UID of the claim that has it), from the ledger.
        attachments: state by device, from the ledger.
        cdi: files in the CDI directory.
        records: files by which the shim knows the pods with NICs.
        vfs: [MAC, MTU, up, alternative names] by name of the VF's interface, for those that are at home.
    """

    claims: dict[str, str]
    devices: list[list[str]]
    attachments: dict[str, str]
    cdi: list[str]
    records: list[str]
    vfs: dict[str, list[Any]]

    def holders(self, device: str) -> list[str]:
        """UIDs of the claims that have the device."""
        return [uid for held, uid in self.devices if held == device]


@dataclass(slots=True)
class Plugin:
    """The kubelet plugin of one node, and what there is to see of it there."""

    node: Node
    kubeconfig: Path
    shim: Path
    allocation: str = "controller"
    home: dict[str, list[Any]] = field(default_factory=dict)  # `Seen.vfs` when no pod had any
    _log_start: int = 0

    @property
    def process(self) -> Process:
        """The process that was started last."""
        return self.node.processes["tandem"]

    @property
    def running(self) -> bool:
        """Is there one?"""
        return "tandem" in self.node.processes and self.process.running

    def start(self, stop_at: Point | None = None, action: str = "") -> None:
        """Starts it; returns when the kubelet knows it and the node's slices are there.

        Args:
            stop_at: where it is to stop, with `action`: ``kill:FILE`` (once) or ``pause:FILE`` (until the
                file is there).
        """
        options = {
            "node-name": self.node.name,
            "kubeconfig": self.kubeconfig,
            "mock-machine": MACHINE,
            "cni-shim": self.shim,
            "allocation": self.allocation,
        }
        environment = {VARIABLE: f"{stop_at}={action}"} if stop_at else {}
        command = [sys.executable, "-m", "cli.main", "kubelet-plugin"]
        arguments = [f"--{name}={value}" for name, value in options.items()]
        log = self.node.logs / f"{self.node.name}-tandem.log"
        self._log_start = log.stat().st_size if log.exists() else 0
        self.node.start("tandem", [*command, *arguments], environment)
        wait_for(f"the plugin on {self.node.name} to be ready", self.is_ready, 30)

    def is_ready(self) -> bool:
        """Registered and published, as its readiness probe sees it. Raises ComponentError if it has ended."""
        self.process.check()
        return self.answer() == OK

    def answer(self) -> str:
        """What the readiness probe hears."""
        return ask(self._root / _HEALTH, "readyz")

    @property
    def socket(self) -> Path:
        """Where the kubelet calls it, as seen from here."""
        return self._root / _DRA

    @property
    def _root(self) -> Path:
        return Path(f"/proc/{self.node.container.pid}/root")

    def kill(self) -> None:
        """SIGKILL: sockets, locks and intents stay as they are."""
        self.process.kill()

    def wait_killed(self) -> None:
        """Returns when the process has stopped where it was told to be killed."""
        wait_for(f"the plugin on {self.node.name} to be killed", lambda: not self.process.running, 30, 0.02)

    def log(self) -> str:
        """What it has written since it was started."""
        return self.process.log.read_bytes()[self._log_start :].decode()

    def look(self) -> Seen:
        """Now."""
        return Seen(**json.loads(self.node.run([sys.executable, "-I", "-c", _LOOK]).stdout))

    def assert_clean(self) -> bool:
        """True; AssertionError names what is left of claims, pods and attachments."""
        seen = self.look()
        assert (seen.claims, seen.devices, seen.attachments) == ({}, [], {})
        assert (seen.cdi, seen.records) == ([], [])
        assert seen.vfs == self.home
        return True

    def remove(self) -> None:
        """Ends it and takes all of it off the node."""
        if self.running:
            self.process.stop()
        script = _REMOVE.format(node=self.node.name)
        self.node.run([sys.executable, "-P", "-c", script])


class Tandem:
    """Both halves on one cluster; made by `installed`."""

    def __init__(self, cluster: Cluster, allocation: str) -> None:
        self.cluster = cluster
        self.allocation = allocation
        shim = build(cluster.directory / "tandem-cni")
        self.plugins = [Plugin(node, self._node_kubeconfig(node), shim, allocation) for node in cluster.nodes]

    def plugin(self, node: str) -> Plugin:
        """Of that node."""
        return next(plugin for plugin in self.plugins if plugin.node.name == node)

    def start(self) -> None:
        """Starts what is not running, as a test finds it: no stop at any point."""
        for plugin in self.plugins:
            if not plugin.running or VARIABLE in plugin.process.env:
                plugin.start()
        if self.allocation == "controller":
            self._start_controller()

    def assert_clean(self) -> bool:
        """True; AssertionError names what is left on a node, or a device that is not free."""
        for plugin in self.plugins:
            assert plugin.assert_clean()
        held = [
            (device["name"], taint["key"])
            for item in self.slices()
            for device in item["spec"].get("devices", [])
            for taint in device.get("taints", [])
            if taint["key"] != "tandem-dra.io/controller"
        ]
        assert not held
        return True

    def wait_clean(self, timeout_seconds: float = 60) -> None:
        """Returns when nothing is left of any claim: VFs at home as they were, ledgers and folders empty."""
        wait_for("nothing to be left", self.assert_clean, timeout_seconds, 0.3)

    def slices(self) -> list[Any]:
        """The cluster's ResourceSlices."""
        return list(self.cluster.api.get(_SLICES)["items"])

    def metric(self, name: str) -> float:
        """A figure of the controller's, now."""
        address = f"http://{self.cluster.addresses.api_server}:{_STATUS_PORT}/metrics"
        with urllib.request.urlopen(address, timeout=5) as answer:
            return read_metric(answer.read().decode(), name)

    def stop_controller(self) -> None:
        """For a test that has one of its own; `start` brings it back."""
        self.cluster.processes["tandem-controller"].stop()

    def remove(self) -> None:
        """Ends all and takes it off the cluster."""
        if controller := self.cluster.processes.get("tandem-controller"):
            controller.stop()
        for plugin in self.plugins:
            plugin.remove()
        self.cluster.api.delete(_SLICES)
        for arguments in _manifests()[1:]:  # to wait for the end of the empty namespace would take 5 s
            self.cluster.kubectl("delete", "--ignore-not-found", "--wait=true", *arguments)

    def _start_controller(self) -> None:
        known = self.cluster.processes.get("tandem-controller")
        if known and known.running:
            return
        config = self.cluster.directory / "tandem-controller.kubeconfig"
        config.write_text(kubeconfig_of(self.cluster, SYSTEM, "tandem-controller"))
        command = [sys.executable, "-m", "cli.main", "controller", f"--kubeconfig={config}"]
        options = (f"--http-port={_STATUS_PORT}", "--fabric-cidr=10.200.0.0/16", "--retry-seconds=0.5")
        self.cluster.start_process("tandem-controller", [*command, f"--namespace={SYSTEM}", *options])
        wait_for("the controller to be ready", self._controller_leads, 30)

    def _controller_leads(self) -> bool:
        self.cluster.processes["tandem-controller"].check()
        return self.metric("leading") == 1

    def _node_kubeconfig(self, node: Node) -> Path:
        bound = ("--bound-object-kind=Node", f"--bound-object-name={node.name}")
        path = Path("/etc/tandem.kubeconfig")
        text = kubeconfig_of(self.cluster, SYSTEM, "tandem-kubelet-plugin", *bound)
        node.run(["sh", "-c", f"umask 077; cat > {path}"], stdin=text)
        return path


@contextmanager
def installed(cluster: Cluster, allocation: str = "controller") -> Iterator[Tandem]:
    """Tandem on all nodes for the time of the block; afterwards the cluster is as it was, but for an empty
    namespace.
    """
    for arguments in _manifests():
        cluster.kubectl("apply", *arguments)
    tandem = Tandem(cluster, allocation)
    try:
        tandem.start()
        for plugin in tandem.plugins:
            plugin.home = plugin.look().vfs
        yield tandem
    finally:
        tandem.remove()


def _manifests() -> Sequence[tuple[str, ...]]:
    base = [(f"--namespace={SYSTEM}", f"--filename={ROOT}/deploy/base/{name}.yaml") for name in _MANIFESTS]
    # These name their namespace, or have none.
    more = [
        (f"--filename={ROOT}/deploy/{name}.yaml",) for name in ("base/node-events-rbac", "overlays/mock/rbac")
    ]
    return [(base[0][1],), *base[1:], *more, (f"--kustomize={ROOT}/deviceclasses",)]
