"""A node: a container in which containerd, kubelet and kube-proxy find every path where a real machine has
it.

So the manifests, socket paths and CDI and CNI folders of a production cluster serve here unchanged, and two
nodes never meet in a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from tests.controlplane import cgroups, config
from tests.controlplane.addresses import Addresses
from tests.controlplane.build import CNI_PLUGINS, Programs
from tests.controlplane.commands import run
from tests.controlplane.config import Options
from tests.controlplane.containers import Container
from tests.controlplane.errors import PrerequisiteError
from tests.controlplane.pki import Authority
from tests.controlplane.processes import Process
from tests.controlplane.wait import wait_for

RAILS = 8
# A rail must carry whatever MTU a network card is set to; no card goes beyond this.
_RAIL_MTU = 9216

# The node's own folder comes to /run/node. Writable parts lie over the machine's /etc, /opt and /var/lib,
# which stay as they are. /sys is mounted anew because it shows the links of the namespace that mounted it.
# Overlays cannot lie on an overlay (a container's root): then they, and the images, are in memory.
_PATHS = """
hostname {name}
mount -n -t tmpfs -o mode=755 tmpfs {folder}/run
mkdir {folder}/run/node {folder}/run/cgroup
mount -n --bind {folder} {folder}/run/node
mount -n --rbind /sys/fs/cgroup {folder}/run/cgroup
mount -n -t sysfs sysfs /sys
mount -n --move {folder}/run/cgroup /sys/fs/cgroup
mount -n --move {folder}/run /run
rmdir /run/cgroup 2>/dev/null || true
cd /run/node/data
case $(stat --file-system --format %T .) in overlay*) mount -n -t tmpfs tmpfs .; cd .;; esac
for path in etc opt var/lib; do
  mkdir -p upper/$path work/$path
  mount -n -t overlay -o lowerdir=/$path,upperdir=upper/$path,workdir=work/$path overlay /$path
done
mkdir -p kubelet containerd /var/lib/kubelet /var/lib/containerd
mount -n --bind kubelet /var/lib/kubelet
mount -n --bind containerd /var/lib/containerd
rm -rf /etc/cni /etc/cdi /opt/cni
mkdir -p /etc/cni/net.d /etc/cdi /opt/cni/bin /run/netns /run/cdi
cp /run/node/cni-bin/* /opt/cni/bin/
cp /run/node/pod-network.conflist /etc/cni/net.d/10-default.conflist
mount -n --make-rshared /
"""


@dataclass(slots=True)
class Node:
    """One node of a running cluster."""

    name: str
    address: IPv4Address
    container: Container
    programs: Programs
    logs: Path
    records: Path
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What every process on the node is given: the cluster's programs first on PATH, nothing of ours
        besides.
        """
        path = f"{self.programs.search_path}:{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "HOSTNAME": self.name}

    def run(
        self,
        argv: Sequence[str],
        stdin: str | bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the node. Raises CommandError if `check` and it fails."""
        command = self.container.command(argv)
        return run(command, stdin, check, self.environment | dict(env or {}), timeout_seconds)

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Starts a long-running process on the node and returns it; `name` is unique on the node, its log is
        `logs/<node>-<name>.log`.
        """
        process = Process(
            name=f"{self.name}-{name}",
            container=self.container,
            argv=tuple(argv),
            env=self.environment | dict(env or {}),
            log=self.logs / f"{self.name}-{name}.log",
            record=self.records / f"{self.name}-{name}.json",
        )
        if (old := self.processes.get(name)) is not None:
            old.stop()
        self.processes[name] = process.start()
        return process

    @property
    def kubelet(self) -> Process:
        """The node's kubelet."""
        return self.processes["kubelet"]

    def stop_kubelet(self) -> None:
        """Ends the kubelet; pods go on."""
        self.kubelet.stop()

    def start_kubelet(self) -> None:
        """Starts it again."""
        self.kubelet.start()

    def restart_kubelet(self) -> None:
        """Ends and starts it."""
        self.kubelet.restart()

    def import_image(self, archive: Path) -> None:
        """Loads an image archive (OCI or Docker) into the node's containerd."""
        with archive.open("rb") as data:
            self.run(
                ["ctr", "--namespace", "k8s.io", "images", "import", "-"],
                stdin=data.read(),
                timeout_seconds=300,
            )

    def containerd_answers(self) -> bool:
        """Whether containerd is up."""
        self.processes["containerd"].check()
        return self.run(["ctr", "version"], check=False).returncode == 0


def prepare(
    node: Node,
    folder: Path,
    index: int,
    cluster_id: str,
    addresses: Addresses,
    authority: Authority,
    options: Options,
) -> None:
    """Writes what a node reads, and lays out its paths. `folder` is its part of the state directory, as the
    machine sees it.
    """
    name, programs = node.name, node.programs
    for directory in programs.directories:
        if directory.is_relative_to("/run"):
            raise PrerequisiteError(
                f"programs may not lie below /run, which a node has for itself: {directory}"
            )
    for part in ("run", "data", "cni-bin"):
        (folder / part).mkdir(parents=True)
    for plugin in CNI_PLUGINS:
        shutil.copy2(programs[plugin], folder / "cni-bin")
    server = f"https://{addresses.api_server}:6443"
    names = f"DNS:{name},IP:{node.address}"
    certificate = authority.issue(name, f"system:node:{name}", "system:nodes", names)
    proxy = authority.issue(f"{name}-kube-proxy", "system:kube-proxy")
    authority.kubeconfig(folder / "kubelet.kubeconfig", server, certificate)
    authority.kubeconfig(folder / "kube-proxy.kubeconfig", server, proxy)
    shutil.copy2(authority.certificate, folder / "ca.crt")
    shutil.copy2(certificate.certificate, folder / "kubelet.crt")
    shutil.copy2(certificate.key, folder / "kubelet.key")
    cgroup = f"{cluster_id}/{name}"
    cgroups.create(cgroup)
    (folder / "kubelet.json").write_text(config.kubelet_configuration(cgroup, options))
    (folder / "containerd.toml").write_text(config.containerd_configuration(programs["runc"]))
    (folder / "pod-network.conflist").write_text(config.pod_network("tandem-test", addresses.pods_of(index)))
    run(node.container.command(["sh", "-euc", _PATHS.format(name=name, folder=folder)]))


def cable(cluster: Container, node: Container, index: int, nodes: int, addresses: Addresses) -> None:
    """Connects a node: eth0 to the segment of the nodes, and one end of a cable on every rail.

    The ends on the node, `cable0` and so on, are left down: whoever simulates the network card takes them
    over.
    """
    lines = [
        f"link add node{index} type veth peer name eth0 netns {node.pid}",
        f"link set node{index} master nodes up",
        f"route add {addresses.pods_of(index)} via {addresses.node(index)}",
    ]
    for rail in range(RAILS):
        end = f"node{index}rail{rail}"
        lines += [
            f"link add {end} mtu {_RAIL_MTU} type veth peer name cable{rail} netns {node.pid}",
            f"link set {end} addrgenmode none",
            f"link set {end} master rail{rail} up",
        ]
    cluster.ip(lines)
    node.ip(
        [
            "link set lo up",
            f"address add {addresses.node(index)}/{addresses.nodes.prefixlen} dev eth0",
            "link set eth0 up",
            f"route add default via {addresses.api_server}",
            *(
                f"route add {addresses.pods_of(other)} via {addresses.node(other)}"
                for other in range(nodes)
                if other != index
            ),
        ]
    )
    node.sysctl({"ipv4/ip_forward": "1"})


def start_containerd(node: Node, images: Path) -> None:
    """Starts containerd and loads the test images."""
    containerd = [str(node.programs["containerd"]), "--config", str(config.NODE_FOLDER / "containerd.toml")]
    node.start("containerd", containerd)
    wait_for(f"containerd on {node.name}", node.containerd_answers, 30)
    node.import_image(images)


def start_kubernetes(node: Node, addresses: Addresses, options: Options) -> None:
    """Starts kubelet and kube-proxy. The kubelet would end at once without containerd."""
    node.start("kubelet", config.kubelet(node.programs, node.name, str(node.address), options))
    node.start("kube-proxy", config.kube_proxy(node.programs, node.name, addresses, options))
