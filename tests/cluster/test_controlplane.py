"""The cluster that other tests stand on: it works as one, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.conftest import Kubectl
from tests.controlplane import (
    BUSYBOX,
    RAILS,
    RUNNING_CLUSTER,
    Cluster,
    ControlPlaneError,
    Options,
    cgroups,
    state,
    wait_for,
)
from tests.controlplane.commands import run
from tests.controlplane.containers import Container, find_container, start_owned
from tests.controlplane.errors import ComponentError
from tests.controlplane.processes import start_time


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of a test's own, namespaces and a state directory: what is left there can only be ours."""

    container: Container
    home: Path

    @property
    def clusters(self) -> Path:
        """Where clusters live there."""
        return self.home / "tandem" / "clusters"

    @property
    def environment(self) -> dict[str, str]:
        """What commands are given there; PYTHONPATH, since they start in the root directory."""
        kept = {name: value for name, value in os.environ.items() if name != RUNNING_CLUSTER}
        return kept | {"XDG_STATE_HOME": str(self.home), "PYTHONPATH": str(Path.cwd())}

    def run(self, *command: str) -> str:
        """What `command` prints there."""
        return run(self.container.command(command), env=self.environment, timeout_seconds=120).stdout

    def controlplane(self, *arguments: str) -> str:
        """What `python -m tests.controlplane ARGUMENTS` prints there."""
        return self.run(sys.executable, "-m", "tests.controlplane", *arguments)

    def kill_up_at(self, file: Path, *arguments: str) -> None:
        """Starts `python -m tests.controlplane up ARGUMENTS` there and kills it when `file` has appeared."""
        up = [sys.executable, "-m", "tests.controlplane", "up", *arguments]
        log = self.home / "up.log"
        with log.open("wb") as output:
            pid = self.container.start(up, self.environment, output)
        wait_for(f"{file} or an end", lambda: file.exists() or not start_time(pid), 60, 0.001)
        assert start_time(pid), log.read_text()
        os.kill(pid, signal.SIGKILL)

    def contents(self) -> dict[str, str | list[int]]:
        """All that a cluster could leave there."""
        return {
            "links": self.run("ip", "-brief", "link"),
            "routes": self.run("ip", "route", "show", "table", "all"),
            "named network namespaces": self.run("ip", "netns"),
            "forwarding": self.run("cat", "/proc/sys/net/ipv4/ip_forward"),
            "mounts": self.run("cat", "/proc/self/mountinfo"),
            "processes": sorted(_descendants(self.container.pid)),
            "state": self.run("find", str(self.clusters), "-mindepth", "1") if self.clusters.exists() else "",
        }


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in _descendants(int(child)))]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    container, owner = start_owned(f"machine-{secrets.token_hex(3)}")
    made = Machine(container, tmp_path)
    # Else it would see others' named network namespaces come and go.
    made.run(
        "sh", "-c", "umount --no-mtab --lazy --recursive /run/netns; mount --no-mtab -t tmpfs tmpfs /run"
    )
    yield made
    owner.communicate()


def _id_of(directory: Path) -> str:
    record = state.load(directory)
    assert record is not None
    return record.id


def test_up_and_down_leave_the_machine_as_it_was(machine: Machine) -> None:
    before = machine.contents()
    kubeconfig = machine.controlplane("up", "--nodes", "2").strip()
    assert Path(kubeconfig).is_relative_to(machine.clusters / "default")
    name = _id_of(machine.clusters / "default")
    there = machine.contents()
    assert name in there["links"]
    assert len(there["processes"]) > 12
    assert cgroups.leftovers(name)
    names = machine.controlplane("kubectl", "get", "nodes", "-o", "name").split()
    assert names == ["node/node-0", "node/node-1"]
    assert machine.controlplane("exec", "node-1", "--", "hostname") == "node-1\n"

    machine.controlplane("down")

    assert machine.contents() == before
    assert cgroups.leftovers(name) == []
    machine.controlplane("down")  # nothing there, and no error


@pytest.mark.parametrize(
    "last",
    [
        "cluster.json",
        "processes/kube-apiserver.json",
        "processes/node-0-containerd.json",
        "processes/node-1-kubelet.json",
    ],
)
def test_nothing_is_left_when_up_is_killed_midway(machine: Machine, last: str) -> None:
    before = machine.contents()
    directory = machine.clusters / "default"
    machine.kill_up_at(directory / last)
    name = _id_of(directory)
    wait_for("the cluster to end with its owner", lambda: find_container(name) is None, 10)

    machine.controlplane("down")

    assert machine.contents() == before
    assert cgroups.leftovers(name) == []


def test_the_next_start_removes_what_dead_predecessors_left(machine: Machine) -> None:
    before = machine.contents()
    elsewhere = machine.home / "elsewhere"
    machine.kill_up_at(elsewhere / "processes" / "node-0-containerd.json", "--state", str(elsewhere))
    machine.kill_up_at(machine.clusters / "default" / "processes" / "etcd.json")
    names = [_id_of(elsewhere), _id_of(machine.clusters / "default")]
    assert all(cgroups.leftovers(name) for name in names)

    machine.controlplane("up", "--nodes", "1", "--state", str(elsewhere))

    assert not any(cgroups.leftovers(name) for name in names)
    assert list(machine.clusters.iterdir()) == []
    machine.controlplane("down", "--state", str(elsewhere))
    assert not elsewhere.exists()
    assert machine.contents() == before


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state root of the test's own, in this process."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "tandem" / "clusters"


def test_a_component_that_ends_is_named_with_the_end_of_its_log(
    own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = state.new_id()
    monkeypatch.setattr(state, "new_id", lambda: name)
    broken = Options(arguments={"kube-scheduler": ["--no-such-flag"]})

    with pytest.raises(ComponentError, match="unknown flag: --no-such-flag") as caught:
        Cluster.create(nodes=1, options=broken)

    assert caught.value.component == "kube-scheduler"
    assert "--no-such-flag" in caught.value.log.read_text()
    assert find_container(name) is None
    assert cgroups.leftovers(name) == []
    assert not state.link_exists(name)
    assert list(own_state.iterdir()) == []


def test_a_second_cluster_runs_beside_the_first(cluster: Cluster, own_state: Path) -> None:
    with Cluster.start(nodes=1) as second:
        assert second.directory.parent == own_state
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


def test_pods_on_both_nodes_reach_each_other_services_and_the_api(kubectl: Kubectl) -> None:
    kubectl("apply", "--filename=-", stdin=_PODS)
    kubectl("rollout", "status", "daemonset/web", "--timeout=60s")
    pods = json.loads(kubectl("get", "pods", "-o", "json"))["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-0", "node-1"}
    service = kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    ask_api = (
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT"
    )
    for pod in pods:

        def run_in_pod(script: str, name: str = pod["metadata"]["name"]) -> str:
            return kubectl("exec", name, "--", "sh", "-c", script).strip()

        def fetch(address: str) -> str:
            return run_in_pod(f"timeout 5 wget -q -O - http://{address}")

        for other in pods:
            assert fetch(other["status"]["podIP"]) == other["metadata"]["name"]
        assert fetch(service) in {other["metadata"]["name"] for other in pods}
        # busybox and Go share no cipher, so the API server's word is that it wants TLS.
        assert "HTTP request to an HTTPS server" in run_in_pod(ask_api)


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


def test_a_privileged_pod_enters_the_network_of_a_later_pod(kubectl: Kubectl) -> None:
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
        first.run(["ip", "link", "set", "cable7", "down"])
        crossed = second.run(
            ["busybox", "ping", "-c", "1", "-W", "1", "-I", "cable7", "192.0.2.1"], check=False
        )
        assert "0 packets received" in crossed.stdout
    finally:
        for node in (first, second):
            for rail in (0, 7):
                node.run(["ip", "address", "flush", "dev", f"cable{rail}"])
                node.run(["ip", "link", "set", f"cable{rail}", "mtu", "1500", "down"])


def test_another_session_attaches_and_restarts_the_kubelet(cluster: Cluster) -> None:
    with closing(Cluster.attach(cluster.directory)) as attached:
        kubelet = attached.node("node-1").kubelet
        before = kubelet.pid
        assert before == cluster.node("node-1").kubelet.pid

        attached.node("node-1").restart_kubelet()

        assert kubelet.pid != before
        assert start_time(before) == 0
        wait_for("node-1 to be Ready", lambda: not attached.unready_nodes(), 60)
        cluster.node("node-1").processes["kubelet"] = kubelet


def test_a_process_on_a_node_runs_in_its_namespaces_and_ends_when_stopped(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    script = "trap 'echo bye; exit' TERM; ls /var/lib/kubelet; echo $GREETING from $(hostname)"
    script += "; while :; do sleep 0.1; done"
    process = node.start("greeter", ["sh", "-c", script], {"GREETING": "hello"})
    wait_for("its words", lambda: "hello from node-0" in process.log.read_text(), 5)
    assert "plugins_registry" in process.log.read_text()
    networks = {Path(f"/proc/{pid}/ns/net").stat().st_ino for pid in (process.pid, node.container.pid)}
    assert len(networks) == 1

    process.stop()

    assert not process.running
    assert process.log.read_text().endswith("bye\n")


def test_fake_nodes_are_ready_and_take_pods(cluster: Cluster, namespace: str, kubectl: Kubectl) -> None:
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
        kubectl("delete", "pod", "big", "--force", "--grace-period=0")
        for name in names:
            cluster.api.delete(f"/api/v1/nodes/{name}")


def test_no_pod_is_placed_while_the_scheduler_is_stopped(
    cluster: Cluster, namespace: str, kubectl: Kubectl
) -> None:
    cluster.stop_scheduler()
    try:
        kubectl("run", "waits", f"--image={BUSYBOX}")
        time.sleep(0.5)
        path = f"/api/v1/namespaces/{namespace}/pods/waits"
        assert "nodeName" not in cluster.api.get(path)["spec"]
    finally:
        cluster.start_scheduler()
    kubectl("wait", "--for=condition=Ready", "pod/waits", "--timeout=60s")
