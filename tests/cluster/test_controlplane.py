"""The cluster that other tests stand on: it works as one, and leaves the machine as it was, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.controlplane import BUSYBOX, RAILS, Cluster, ControlPlaneError, Options, cgroups, state, wait_for
from tests.controlplane.containers import find_container
from tests.controlplane.errors import ComponentError
from tests.controlplane.processes import start_time

_CLUSTER_NAME = re.compile(r"tandem-[0-9a-f]{4}\b")


@dataclass(frozen=True)
class Machine:
    """What can be left behind, each as a set of texts."""

    links: frozenset[str]
    routes: frozenset[str]
    namespaces: frozenset[str]
    mounts: frozenset[str]
    control_groups: frozenset[str]
    forwarding: frozenset[str]

    @classmethod
    def now(cls, ours: str) -> Machine:
        """The machine as it is, without what belongs to clusters other than `ours` that may run beside us."""

        def keep(texts: Iterator[str] | list[str]) -> frozenset[str]:
            return frozenset(t for t in texts if not (found := _CLUSTER_NAME.search(t)) or found[0] == ours)

        def ip(*arguments: str) -> list[dict[str, object]]:
            output = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=True)
            return list(json.loads(output.stdout or "[]"))

        folders = [str(path) for root, _ in cgroups.hierarchies(_mountinfo()) for path in root.glob("*/")]
        return cls(
            keep([str(link["ifname"]) for link in ip("link")]),
            keep([f"{route['dst']} {route.get('dev')}" for route in ip("-4", "route")]),
            keep([str(entry["name"]) for entry in ip("netns")]),
            keep(_mountinfo().splitlines()),
            keep(folders),
            frozenset({Path("/proc/sys/net/ipv4/ip_forward").read_text()}),
        )


def _mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text()


def _descendants(pid: int) -> dict[int, int]:
    """Process id → start time, of `pid` and all below it."""
    found = {pid: start_time(pid)}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found |= _descendants(int(child))
    return found


def _still_running(processes: dict[int, int]) -> list[int]:
    return [pid for pid, started in processes.items() if start_time(pid) == started]


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state root of the test's own, so that it removes no one else's cluster."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("TANDEM_CLUSTER", raising=False)
    return tmp_path / "tandem" / "clusters"


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.controlplane", *arguments]


def _id_of(directory: Path) -> str:
    record = state.load(directory)
    assert record is not None
    return record.id


def test_up_and_down_leave_the_machine_as_it_was(own_state: Path) -> None:
    before = Machine.now("")
    up = subprocess.run(_command("up", "--nodes", "2"), capture_output=True, text=True, check=False)
    assert up.returncode == 0, up.stderr
    name = _id_of(own_state / "default")
    container = find_container(name)
    assert container is not None
    processes = _descendants(container.pid)
    assert len(processes) > 12
    assert name in Machine.now(name).links
    nodes = subprocess.run(
        _command("kubectl", "get", "nodes", "-o", "name"), capture_output=True, text=True, check=True
    )
    assert nodes.stdout.split() == ["node/node-0", "node/node-1"]
    hostname = subprocess.run(
        _command("exec", "node-1", "--", "hostname"), capture_output=True, text=True, check=True
    )
    assert hostname.stdout == "node-1\n"

    subprocess.run(_command("down"), check=True)

    assert _still_running(processes) == []
    assert Machine.now(name) == before
    assert list(own_state.iterdir()) == []
    subprocess.run(_command("down"), check=True)  # nothing there, and no error


@pytest.mark.parametrize(
    "reached",
    [
        lambda directory: directory.exists(),
        lambda directory: (directory / "processes" / "kube-apiserver.json").exists(),
        lambda directory: (directory / "processes" / "node-0-containerd.json").exists(),
        lambda directory: (directory / "processes" / "node-1-kubelet.json").exists(),
    ],
    ids=["record", "api-server", "containerd", "kubelet"],
)
def test_nothing_is_left_when_up_is_killed_midway(own_state: Path, reached: Callable[[Path], bool]) -> None:
    before = Machine.now("")
    directory = own_state / "default"
    with subprocess.Popen(_command("up"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as up:
        wait_for("up to get that far", lambda: reached(directory), 60, 0.001)
        up.send_signal(signal.SIGKILL)
    name = _id_of(directory)
    wait_for("the cluster to end with its owner", lambda: find_container(name) is None, 10)

    subprocess.run(_command("down"), check=True)

    wait_for("the machine to be as before", lambda: Machine.now(name) == before, 5)
    assert list(own_state.iterdir()) == []


def test_a_start_removes_what_a_dead_predecessor_left(own_state: Path) -> None:
    directory = own_state / "killed"
    with subprocess.Popen(
        _command("up", "--state", str(directory)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as up:
        wait_for("a process", lambda: (directory / "processes" / "node-0-containerd.json").exists(), 60, 0.01)
        up.kill()
    name = _id_of(directory)
    assert cgroups.leftovers(name)
    wait_for("the cluster to end with its owner", lambda: find_container(name) is None, 10)

    assert state.sweep() == [name]

    assert not cgroups.leftovers(name)
    assert list(own_state.iterdir()) == []


def test_a_component_that_ends_is_named_with_the_end_of_its_log(own_state: Path) -> None:
    before = Machine.now("")
    broken = Options(arguments={"kube-scheduler": ["--no-such-flag"]})

    with pytest.raises(ComponentError, match="unknown flag: --no-such-flag") as caught:
        Cluster.create(nodes=1, options=broken)

    assert caught.value.component == "kube-scheduler"
    assert "--no-such-flag" in caught.value.log.read_text()
    assert Machine.now("") == before
    assert list(own_state.iterdir()) == []


def test_a_second_cluster_runs_beside_the_first(cluster: Cluster, own_state: Path) -> None:
    with Cluster.start(nodes=1) as second:
        assert second.addresses.network != cluster.addresses.network
        assert second.kubectl("get", "nodes", "-o", "name").split() == ["node/node-0"]
        with pytest.raises(ControlPlaneError, match="in use"):
            Cluster.create(nodes=1, directory=second.directory)
    assert cluster.api.get("/readyz") == "ok"


_PODS = f"""
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: {BUSYBOX}
        command: [sh, -c, "hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp"]
        readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
"""


def test_pods_on_both_nodes_reach_each_other_the_services_and_the_api(
    cluster: Cluster, namespace: str
) -> None:
    def kubectl(*arguments: str) -> str:
        return cluster.kubectl("--namespace", namespace, *arguments)

    cluster.kubectl("apply", "--namespace", namespace, "--filename=-", stdin=_PODS)
    kubectl("rollout", "status", "daemonset/web", "--timeout=60s")
    pods = json.loads(kubectl("get", "pods", "-o", "json"))["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-0", "node-1"}
    service = kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    for pod in pods:
        name = pod["metadata"]["name"]
        for other in pods:
            answer = kubectl(
                "exec", name, "--", "wget", "-q", "-T", "5", "-O", "-", f"http://{other['status']['podIP']}"
            )
            assert answer.strip() == other["metadata"]["name"]
        answer = kubectl("exec", name, "--", "wget", "-q", "-T", "5", "-O", "-", f"http://{service}")
        assert answer.strip() in {other["metadata"]["name"] for other in pods}
        api = "https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/version"
        wget = f"wget -q -T 5 -O - --no-check-certificate {api}"
        assert '"gitVersion": "v1.36' in kubectl("exec", name, "--", "sh", "-c", wget)


_DRIVER_LIKE = f"""
apiVersion: v1
kind: Pod
metadata: {{name: driver}}
spec:
  nodeName: node-0
  hostNetwork: true
  containers:
  - name: driver
    image: {BUSYBOX}
    securityContext: {{privileged: true}}
    volumeMounts:
    - {{name: registry, mountPath: /var/lib/kubelet/plugins_registry}}
    - {{name: netns, mountPath: /run/netns, mountPropagation: HostToContainer}}
    - {{name: conf, mountPath: /etc/cni/net.d}}
  volumes:
  - {{name: registry, hostPath: {{path: /var/lib/kubelet/plugins_registry, type: Directory}}}}
  - {{name: netns, hostPath: {{path: /run/netns, type: Directory}}}}
  - {{name: conf, hostPath: {{path: /etc/cni/net.d, type: Directory}}}}
"""


def test_a_privileged_pod_enters_the_network_namespaces_of_pods_made_after_it(
    cluster: Cluster, namespace: str
) -> None:
    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        return cluster.kubectl("--namespace", namespace, *arguments, stdin=stdin)

    kubectl("apply", "--filename=-", stdin=_DRIVER_LIKE)
    kubectl("wait", "--for=condition=Ready", "pod/driver", "--timeout=60s")
    later = {"nodeName": "node-0"}
    kubectl("run", "later", f"--image={BUSYBOX}", f"--overrides={json.dumps({'spec': later})}")
    kubectl("wait", "--for=condition=Ready", "pod/later", "--timeout=60s")
    address = kubectl("get", "pod", "later", "-o", "jsonpath={.status.podIP}")

    script = "for n in /run/netns/*; do nsenter --net=$n ip -4 -o address; done; ls /etc/cni/net.d"
    seen = kubectl("exec", "driver", "--", "sh", "-c", script)

    assert f"inet {address}/" in seen
    assert "10-default.conflist" in seen


def test_cables_of_a_rail_connect_the_nodes_and_rails_do_not_mix(cluster: Cluster) -> None:
    first, second = cluster.nodes[0], cluster.nodes[1]
    links = [link["ifname"] for link in json.loads(first.run(["ip", "-json", "link"]).stdout)]
    assert {f"cable{rail}" for rail in range(RAILS)} <= set(links)
    try:
        for node, end in ((first, 1), (second, 2)):
            for rail in (0, 7):
                node.run(["ip", "address", "add", f"192.0.2.{rail * 16 + end}/28", "dev", f"cable{rail}"])
                node.run(["ip", "link", "set", f"cable{rail}", "mtu", "9000", "up"])
        for rail in (0, 7):
            second.run(["busybox", "ping", "-c", "1", "-W", "5", "-s", "8900", f"192.0.2.{rail * 16 + 1}"])
        crossed = ["busybox", "ping", "-c", "1", "-W", "1", "-I", "cable7", "192.0.2.1"]
        assert second.run(crossed, check=False).returncode != 0
    finally:
        for node in (first, second):
            for rail in (0, 7):
                node.run(["ip", "address", "flush", "dev", f"cable{rail}"])
                node.run(["ip", "link", "set", f"cable{rail}", "mtu", "1500", "down"])


def test_another_session_attaches_and_restarts_the_kubelet(cluster: Cluster) -> None:
    attached = Cluster.attach(cluster.directory)
    node = attached.node("node-1")
    before = node.kubelet.pid
    assert before == cluster.node("node-1").kubelet.pid

    node.restart_kubelet()

    assert node.kubelet.pid != before
    assert start_time(before) == 0
    wait_for("node-1 to be Ready", lambda: not attached.unready_nodes(), 60)
    cluster.node("node-1").processes["kubelet"] = node.kubelet


def test_a_process_on_a_node_runs_in_its_namespaces_and_ends_when_stopped(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    script = "echo $GREETING from $(hostname); ls /var/lib/kubelet; trap 'echo bye; exit' TERM; while :; do sleep 0.1; done"
    process = node.start("greeter", ["sh", "-c", script], {"GREETING": "hello"})
    wait_for("its words", lambda: "hello from node-0" in process.log.read_text(), 5)
    assert "plugins_registry" in process.log.read_text()
    assert os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink(f"/proc/{node.container.pid}/ns/net")

    process.stop()

    assert not process.running
    assert process.log.read_text().endswith("bye\n")


def test_fake_nodes_are_ready_and_take_pods(cluster: Cluster, namespace: str) -> None:
    names = cluster.add_fake_nodes(3, labels={"example.com/rack": "r1"})
    try:
        pod = {
            "nodeSelector": {"example.com/rack": "r1"},
            "containers": [{"name": "c", "image": BUSYBOX, "resources": {"requests": {"cpu": "100"}}}],
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"}, "spec": pod}
        path = f"/api/v1/namespaces/{namespace}/pods"
        cluster.api.post(path, body)
        where = wait_for(
            "the pod to be placed", lambda: cluster.api.get(f"{path}/big")["spec"].get("nodeName"), 20
        )
        assert where in names
    finally:
        cluster.kubectl("--namespace", namespace, "delete", "pod", "big", "--force", "--grace-period=0")
        for name in names:
            cluster.api.delete(f"/api/v1/nodes/{name}")


def test_no_pod_is_placed_while_the_scheduler_is_stopped(cluster: Cluster, namespace: str) -> None:
    cluster.stop_scheduler()
    try:
        cluster.kubectl("--namespace", namespace, "run", "waits", f"--image={BUSYBOX}")
        time.sleep(0.5)
        path = f"/api/v1/namespaces/{namespace}/pods/waits"
        assert "nodeName" not in cluster.api.get(path)["spec"]
    finally:
        cluster.start_scheduler()
    cluster.kubectl("--namespace", namespace, "wait", "--for=condition=Ready", "pod/waits", "--timeout=60s")
