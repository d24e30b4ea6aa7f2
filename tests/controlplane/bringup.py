"""How a cluster comes up: links, control plane, nodes, in the order that wastes least time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.controlplane import cgroups, config, node
from tests.controlplane.addresses import Addresses
from tests.controlplane.api import ApiError
from tests.controlplane.commands import run
from tests.controlplane.containers import Container, start_inside
from tests.controlplane.images import write_test_images
from tests.controlplane.node import RAILS
from tests.controlplane.pki import Authority
from tests.controlplane.wait import wait_for

if TYPE_CHECKING:
    from tests.controlplane.cluster import Cluster


def connect(container: Container, addresses: Addresses, link_name: str) -> None:
    """The cluster's own links, and the one to the machine, which from then on routes the cluster's range
    there.
    """
    link = addresses.machine_link
    bridges = ["nodes", *(f"rail{rail}" for rail in range(RAILS))]
    container.ip(
        [
            "link set lo up",
            *(f"link add {bridge} type bridge" for bridge in bridges),
            *(f"link set {bridge} addrgenmode none up" for bridge in bridges),
            f"address add {addresses.api_server}/{addresses.nodes.prefixlen} dev nodes",
        ]
    )
    container.sysctl({"ipv4/ip_forward": "1"})
    # Frames on a bridge are no business of packet filters here.
    container.sysctl({f"bridge/bridge-nf-call-{family}tables": "0" for family in ("ip", "ip6", "arp")}, True)
    outside = [
        f"link add {link_name} type veth peer name machine netns {container.pid}",
        f"address add {link[1]}/{link.prefixlen} dev {link_name}",
        f"link set {link_name} up",
        f"route add {addresses.network} via {link[2]} src {link[1]}",
    ]
    run(["ip", "-batch", "-"], stdin="\n".join(outside) + "\n")
    container.ip(
        [
            f"address add {link[2]}/{link.prefixlen} dev machine",
            "link set machine up",
            f"route add default via {link[1]}",
        ]
    )


def bring_up(cluster: Cluster, names: Sequence[str]) -> None:
    """Control plane and nodes. While the API server starts, which takes longest, the nodes get as far as they
    can without it.
    """
    for part in ("logs", "processes", "nodes"):
        (cluster.directory / part).mkdir()
    cgroups.create(cluster.id)
    authority = Authority.create(cluster.directory / "pki")
    _start_api(cluster, authority)
    images = write_test_images(cluster.directory / "images.tar")
    for name in names:
        _make_node(cluster, name, len(names), authority)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda made: node.start_containerd(made, images), cluster.nodes))
    wait_for("the API server", cluster.api_answers, 60)
    _start_controllers(cluster, authority)
    for made in cluster.nodes:
        node.start_kubernetes(made, cluster.addresses, cluster.options)
    wait_for("the nodes to be Ready", lambda: _nodes_ready(cluster), 60)
    # Without it the first pod would be refused.
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    wait_for("the default service account", lambda: cluster.api.get(account), 30, retry=(ApiError, OSError))


def _start_api(cluster: Cluster, authority: Authority) -> None:
    programs, addresses, options = cluster.programs, cluster.addresses, cluster.options
    cluster.start_process(config.ETCD, config.etcd(programs, cluster.directory / "etcd", options))
    names = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    reached_at = f"IP:127.0.0.1,IP:{addresses.api_server},IP:{addresses.services[1]},{names}"
    server = authority.issue("kube-apiserver", "kube-apiserver", alternatives=reached_at)
    admin = authority.issue("admin", "admin", "system:masters")
    authority.kubeconfig(cluster.kubeconfig, cluster.server, admin)
    cluster.start_process(
        config.API_SERVER,
        config.api_server(
            programs,
            addresses,
            authority.certificate,
            authority.service_account_key,
            server,
            admin,
            options,
        ),
    )


def _make_node(cluster: Cluster, name: str, count: int, authority: Authority) -> None:
    index = len(cluster.nodes)
    container = start_inside(cluster.container, f"{cluster.id}/{name}")
    made = cluster.make_node(index, name, container)
    folder = cluster.directory / "nodes" / name
    node.cable(cluster.container, container, index, count, cluster.addresses)
    node.prepare(made, folder, index, cluster.id, cluster.addresses, authority, cluster.options)


def _start_controllers(cluster: Cluster, authority: Authority) -> None:
    def kubeconfig(component: str) -> Path:
        certificate = authority.issue(component, f"system:{component}")
        return authority.kubeconfig(
            cluster.directory / f"{component}.kubeconfig", cluster.server, certificate
        )

    manager = config.controller_manager(
        cluster.programs,
        kubeconfig(config.CONTROLLER_MANAGER),
        authority.certificate,
        authority.service_account_key,
        cluster.options,
    )
    cluster.start_process(config.CONTROLLER_MANAGER, manager)
    scheduler = config.scheduler(cluster.programs, kubeconfig(config.SCHEDULER), cluster.options)
    cluster.start_process(config.SCHEDULER, scheduler)


def _nodes_ready(cluster: Cluster) -> bool:
    for process in cluster.all_processes():
        process.check()
    return not cluster.unready_nodes()
