"""The demo's hands: everything it does to a cluster and asks of it, through kubectl and the API.

Nodes are looked into through the kubelet plugin's own pod, which sees the host's network and files, so the
demo needs nothing of a node but the API server.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from deploy.demo.facts import LOOK_INSIDE, Inside, NodeState, Ping
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import Node, Pod, ResourceClaim, ResourceSlice

ROOT: Final = Path(__file__).resolve().parents[2]
MANIFESTS: Final = ROOT / "deploy" / "overlays" / "mock"
EXAMPLES: Final = ROOT / "deviceclasses" / "examples"
HERE: Final = Path(__file__).parent
SYSTEM: Final = "tandem-system"
NAMESPACE: Final = "tandem-demo"
NODE_LABEL: Final = "tandem-dra.io/demo"

T = TypeVar("T")

_PLUGIN = "app.kubernetes.io/name=tandem-kubelet-plugin"
_CONTROLLER = "app.kubernetes.io/name=tandem-controller"

# Runs in the kubelet plugin's container, which has no shell.
_LOOK_AT_NODE = """
import json, pathlib, socket, sqlite3
rows = {}
with sqlite3.connect("file:/var/lib/tandem/ledger.db?mode=ro", uri=True) as db:
    for table in ("claims", "devices", "consumers", "attachments"):
        (rows[table],) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
folders = (pathlib.Path("/var/run/cdi"), pathlib.Path("/run/tandem/pods"))
files = [str(path) for folder in folders if folder.is_dir() for path in folder.iterdir()]
names = [name for _, name in socket.if_nameindex()]
print(json.dumps({"interfaces": names, "ledger_rows": rows, "files": files}))
"""


class DemoError(Exception):
    """The cluster did not do as promised, or kubectl said no."""


class Stage:
    """One cluster; `kubeconfig` is an administrator's."""

    def __init__(self, kubectl: Path, kubeconfig: Path) -> None:
        self._command = [str(kubectl), f"--kubeconfig={kubeconfig}"]
        self._client = KubeClient.load(kubeconfig, user_agent="tandem-demo")

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def kubectl(self, *arguments: str, check: bool = True, timeout_seconds: float = 120) -> str:
        """What `kubectl ARGUMENTS` prints.

        Raises:
            DemoError: it failed (if `check`) or took too long.
        """
        command = [*self._command, *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise DemoError(f"kubectl {' '.join(arguments)}: no end after {timeout_seconds:g} s") from None
        if check and done.returncode:
            raise DemoError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def nodes(self) -> list[str]:
        """Names of the nodes that take pods, in order."""
        listed, _ = self._client.list(paths.nodes(), Node)
        blocked = {"NoSchedule", "NoExecute"}
        free = [node for node in listed if not any(taint.effect in blocked for taint in node.spec.taints)]
        return sorted(node.metadata.name for node in free)

    def install(self, nodes: Sequence[str]) -> None:
        """Applies the manifests, waits for every pod of Tandem, and for the nodes' slices."""
        self.kubectl("apply", f"--kustomize={MANIFESTS}")
        for workload in ("daemonset/tandem-kubelet-plugin", "deployment/tandem-controller"):
            self.kubectl("--namespace", SYSTEM, "rollout", "status", workload, "--timeout=90s")
        self.wait_for(
            "the nodes' slices",
            lambda: {item.spec.node_name for item in self.slices() if item.spec.devices} >= set(nodes),
        )

    def clear(self) -> None:
        """Takes away what the demo brought, if it is there; pods first, while the plugin can unprepare."""
        self.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")
        self.kubectl("label", "nodes", "--all", f"{NODE_LABEL}-")
        self.kubectl("delete", f"--kustomize={MANIFESTS}", "--wait=true", "--ignore-not-found")

    def label(self, nodes: Sequence[str]) -> None:
        """Calls the first node a, the second b."""
        for node, name in zip(nodes, "ab", strict=False):
            self.kubectl("label", "node", node, f"{NODE_LABEL}={name}", "--overwrite")

    def start(self, manifest: str) -> None:
        """Applies a manifest of the demo, in its namespace."""
        self.kubectl("--namespace", NAMESPACE, "apply", f"--filename={HERE / manifest}")

    def prepare_namespace(self) -> None:
        """The demo's namespace, with the example templates."""
        self.kubectl("create", "namespace", NAMESPACE)
        self.kubectl("--namespace", NAMESPACE, "apply", f"--filename={EXAMPLES}")

    def delete_pods(self) -> None:
        """The demo's, and their claims with them."""
        self.kubectl("--namespace", NAMESPACE, "delete", "pods", "--all", "--wait=true")

    def running(self) -> list[Pod]:
        """The demo's pods, once all run.

        Raises:
            DemoError: they do not within a minute.
        """

        def all_run() -> list[Pod]:
            pods, _ = self._client.list(paths.pods(NAMESPACE), Pod)
            started = [pod for pod in pods if pod.status.phase == "Running"]
            return started if len(started) == len(pods) else []

        return self.wait_for("the pods to run", all_run, 60)

    def claim_of(self, pod: Pod) -> ResourceClaim:
        """The one claim that was made for a pod."""
        name = self._claim_name(pod.metadata.name)
        return self._client.get(paths.claim(NAMESPACE, name), ResourceClaim)

    def claims(self) -> list[ResourceClaim]:
        """The demo's."""
        return self._client.list(paths.claims(NAMESPACE), ResourceClaim)[0]

    def slices(self) -> list[ResourceSlice]:
        """All of the cluster."""
        return self._client.list(paths.slices(), ResourceSlice)[0]

    def look_inside(self, pod: str) -> Inside:
        """What the pod's container sees."""
        return Inside.parse(
            self.kubectl("--namespace", NAMESPACE, "exec", pod, "--", "sh", "-c", LOOK_INSIDE)
        )

    def ping(self, ping: Ping) -> str:
        """The round trip in milliseconds, as ping prints it; empty if no answer comes."""
        command = ["ping", "-c", "1", "-W", "3", "-I", ping.interface, ping.address]
        said = self.kubectl("--namespace", NAMESPACE, "exec", ping.source, "--", *command, check=False)
        found = re.search(r"time=([\d.]+)", said)
        return found[1] if found else ""

    def why_it_waits(self, pod: str) -> str:
        """The Event on the claim of a pod that cannot be placed, once it is there.

        Raises:
            DemoError: none comes within half a minute.
        """
        claim = self.wait_for(f"the claim of pod {pod}", lambda: self._claim_name(pod))
        about = f"involvedObject.kind=ResourceClaim,involvedObject.name={claim}"

        def find() -> str:
            selector = f"--field-selector=type=Warning,{about}"
            said = self._json("--namespace", NAMESPACE, "get", "events", selector)["items"]
            return "; ".join(f"{item['reason']}: {item['message']}" for item in said)

        return self.wait_for(f"an Event on claim {claim}", find)

    def node_states(self) -> dict[str, NodeState]:
        """By node: what Tandem keeps there now. Interfaces of other pods' networks are left out."""
        states = {}
        for pod in self._json("--namespace", SYSTEM, "get", "pods", f"--selector={_PLUGIN}")["items"]:
            command = ["python3", "-I", "-c", _LOOK_AT_NODE]
            seen = json.loads(
                self.kubectl("--namespace", SYSTEM, "exec", pod["metadata"]["name"], "--", *command)
            )
            states[pod["spec"]["nodeName"]] = NodeState(
                frozenset(name for name in seen["interfaces"] if not name.startswith("veth")),
                seen["ledger_rows"],
                tuple(seen["files"]),
            )
        return states

    def blind_plugins(self) -> list[str]:
        """What kubelet plugins say of the pods' ends that they cannot see."""
        logs = self.kubectl("--namespace", SYSTEM, "logs", f"--selector={_PLUGIN}", "--prefix", "--tail=-1")
        return [line for line in logs.splitlines() if "control groups" in line]

    def diagnosis(self) -> Iterator[str]:
        """What to look at after a failure: pods, Events, and the last words of both halves of Tandem."""
        demo, system = ("--namespace", NAMESPACE), ("--namespace", SYSTEM)
        logs = ("--all-containers", "--prefix", "--tail=40")
        for arguments in (
            ("get", "pods", "--all-namespaces", "--output=wide"),
            (*demo, "get", "resourceclaims"),
            (*demo, "get", "events", "--sort-by=.lastTimestamp"),
            (*system, "get", "events", "--sort-by=.lastTimestamp"),
            (*system, "logs", f"--selector={_CONTROLLER}", *logs),
            (*system, "logs", f"--selector={_PLUGIN}", *logs),
        ):
            try:
                said = self.kubectl(*arguments, check=False, timeout_seconds=15)
            except DemoError as error:
                said = f"{error}\n"
            yield f"$ kubectl {' '.join(arguments)}\n{said}"

    @staticmethod
    def wait_for(what: str, probe: Callable[[], T], timeout_seconds: float = 30) -> T:
        """The first true value of `probe`.

        Raises:
            DemoError: none came in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not (value := probe()):
            if time.monotonic() > deadline:
                raise DemoError(f"waited {timeout_seconds:g} s for {what}")
            time.sleep(0.2)
        return value

    def _claim_name(self, pod: str) -> str:
        statuses = self._client.get(paths.pod(NAMESPACE, pod), Pod).status.resource_claim_statuses
        return next((status.resource_claim_name for status in statuses if status.resource_claim_name), "")

    def _json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl(*arguments, "--output=json"))
