"""What is published, on a real API server: every machine, what kube-scheduler makes of it, and changes of a
running node's hardware.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest

from driver.devices import Inventory
from driver.inventory import HostProbe
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import Device, ResourceSlice
from driver.mock import sysfs
from driver.mock.machine import Machine, known, load
from driver.mock.nvml import FakeNvml
from driver.mock.source import FileNetdevs, read
from driver.names import DRIVER_NAME, LINK_DOWN_TAINT, PCIE_SWITCH, UNHEALTHY_TAINT, device_name
from driver.slices import SliceOptions, build
from tests.cluster.tandem import MACHINE, Plugin, Tandem, installed
from tests.cluster.tenant import Tenant, at, pod
from tests.controlplane import Cluster, wait_for

BUS = PurePosixPath("/var/lib/tandem/mock/sys/bus/pci/devices")
WITHOUT_PAIR = {"aws-p4d", "dgx-a100", "oci-gb200", "workstation"}
"""Machines on which no GPU shares a switch with a NIC that is published."""

CLASSES = {"vf": "rdma-vf.tandem-dra.io", "nic": "nic.tandem-dra.io", "gpu": "gpu.tandem-dra.io"}
PARTITION = 'device.attributes["tandem-dra.io"].type == "mig"'
READ = "the hardware has changed"
PARTITIONED = "dgx-h100-partitioned"


@pytest.fixture(scope="module")
def tandem(cluster: Cluster) -> Iterator[Tandem]:
    with installed(cluster, "scheduler") as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[KubeClient]:
    made = KubeClient.load(cluster.kubeconfig, user_agent="tests")
    yield made
    made.close()


# ---- every machine, on nodes that are names only


@dataclass(frozen=True, slots=True)
class Published:
    """What was sent for a node, and what the API server has of it."""

    sent: list[ResourceSlice]
    stored: list[ResourceSlice]

    def devices(self) -> dict[str, Device]:
        """As stored, by name."""
        return {device.name: device for slice_ in self.stored for device in slice_.spec.devices}


@pytest.fixture(scope="module")
def published(
    cluster: Cluster, tandem: Tandem, client: KubeClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Published]]:
    """Every machine on a node of its name, and one whose GPUs can be cut."""
    tmp = tmp_path_factory.mktemp("partitioned")
    with contextlib.ExitStack() as stack:
        everything = {name: (name, False) for name in known()} | {PARTITIONED: (MACHINE, True)}
        found = {}
        for node, (machine, partitioned) in everything.items():
            uid = _make_node(cluster, node)
            stack.callback(cluster.api.delete, f"/api/v1/nodes/{node}")
            options = SliceOptions(controller_taint=False, mig="dynamic" if partitioned else "static")
            made = load(machine)
            sent = build(
                _in_mig_mode(made, tmp) if partitioned else read(made, made.load_overlay()),
                driver_name=DRIVER_NAME,
                node_name=node,
                node_uid=uid,
                generation=1,
                options=options,
            )
            for slice_ in sent:
                client.create(paths.slices(), slice_, ResourceSlice)
                stack.callback(client.delete, paths.slice_(slice_.metadata.name))
            stored, _ = client.list(paths.slices(), ResourceSlice, field_selector=f"spec.nodeName={node}")
            found[node] = Published(sent, stored)
        yield found


def _in_mig_mode(machine: Machine, directory: Path) -> Inventory:
    nvml = FakeNvml(machine, PARTITIONED)
    nvml.mig_mode.update(gpu.pci_address for gpu in machine.gpus)
    nvml.install()
    try:
        return HostProbe(sysfs.render(machine, directory), netdevs=FileNetdevs(machine)).read()
    finally:
        nvml.uninstall()


def _make_node(cluster: Cluster, name: str) -> str:
    labels = {"kubernetes.io/hostname": name}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    uid = cluster.api.post("/api/v1/nodes", node)["metadata"]["uid"]
    status = {
        "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    cluster.api.request(
        "PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, "application/merge-patch+json"
    )
    return str(uid)


def test_the_server_stores_every_slice_of_every_machine_as_it_was_sent(
    published: dict[str, Published],
) -> None:
    assert len(published) == 17
    for name, node in published.items():
        sent = {slice_.metadata.name: slice_.spec for slice_ in node.sent}
        assert {slice_.metadata.name: slice_.spec for slice_ in node.stored} == sent, name
    assert any(slice_.spec.shared_counters for slice_ in published[PARTITIONED].stored)


def test_kube_scheduler_finds_a_pair_on_one_switch_wherever_there_is_one(
    published: dict[str, Published], cluster: Cluster, namespace: str
) -> None:
    kinds = {name: kind for name, node in published.items() if (kind := _pair_kind(node.devices()))}
    assert published.keys() - kinds.keys() == WITHOUT_PAIR
    tenant = Tenant(cluster, namespace)
    tenant.apply(*(_pair_template(kind) for kind in ("vf", "nic")))
    tenant.apply(*(_on_node(name, f"pair-{kind}") for name, kind in kinds.items()))
    try:
        for name in kinds:
            devices = published[name].devices()
            results = tenant.claim_of(name)["status"]["allocation"]["devices"]["results"]
            one, other = (devices[result["device"]] for result in results)
            assert one.attributes["type"].string == "gpu"
            assert one.attributes[PCIE_SWITCH] == other.attributes[PCIE_SWITCH]
    finally:
        tenant.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")


def test_kube_scheduler_never_gives_a_partition_and_its_gpu(
    published: dict[str, Published], cluster: Cluster, namespace: str
) -> None:
    whole = [name for name in published[PARTITIONED].devices() if name.startswith("gpu-")]
    tenant = Tenant(cluster, namespace)
    part = {"name": "mig", "exactly": {"deviceClassName": "any", "selectors": _cel(PARTITION)}}
    gpus = {"name": "gpus", "exactly": {"deviceClassName": CLASSES["gpu"], "count": len(whole)}}
    gpus_but_one = {"name": "gpus", "exactly": {**gpus["exactly"], "count": len(whole) - 1}}  # type: ignore[dict-item]
    cluster.apply(json.dumps(_class("any")))
    tenant.apply(_template("part-and-rest", part, gpus_but_one), _template("part-and-all", part, gpus))
    tenant.apply({**_on_node(PARTITIONED, "part-and-all"), "metadata": {"name": "impossible"}})
    try:
        tenant.wait_message("impossible", "cannot allocate all claims")
        tenant.kubectl("delete", "pod", "impossible", "--force", "--grace-period=0")
        tenant.apply({**_on_node(PARTITIONED, "part-and-rest"), "metadata": {"name": "possible"}})
        results = tenant.claim_of("possible")["status"]["allocation"]["devices"]["results"]
        (cut,) = (result["device"] for result in results if result["request"] == "mig")
        parent = "gpu-" + "-".join(cut.split("-")[1:5])
        assert parent in whole
        assert parent not in {result["device"] for result in results}
    finally:
        tenant.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
        cluster.kubectl("delete", "deviceclass", "any")


def _pair_kind(devices: dict[str, Device]) -> str:
    """Type of the NICs that share a switch with a GPU; empty if none do."""
    kinds: dict[str | None, set[str]] = defaultdict(set)
    for device in devices.values():
        if PCIE_SWITCH in device.attributes:
            kinds[device.attributes[PCIE_SWITCH].string].add(device.attributes["type"].string or "")
    found = {kind for there in kinds.values() if "gpu" in there for kind in there & {"vf", "nic"}}
    return min(found, default="")


def _cel(expression: str) -> list[dict[str, Any]]:
    return [{"cel": {"expression": expression}}]


def _class(name: str) -> dict[str, Any]:
    selectors = _cel(f'device.driver == "{DRIVER_NAME}"')
    kind = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass"}
    return {**kind, "metadata": {"name": name}, "spec": {"selectors": selectors}}


def _template(name: str, *requests: dict[str, Any], **devices: Any) -> dict[str, Any]:
    spec = {"devices": {"requests": list(requests), **devices}}
    kind = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate"}
    return {**kind, "metadata": {"name": name}, "spec": {"spec": spec}}


def _pair_template(kind: str) -> dict[str, Any]:
    requests = [
        {"name": name, "exactly": {"deviceClassName": CLASSES[what]}}
        for name, what in (("gpu", "gpu"), ("nic", kind))
    ]
    constraints = [{"matchAttribute": f"{DRIVER_NAME}/{PCIE_SWITCH}"}]
    return _template(f"pair-{kind}", *requests, constraints=constraints)


def _on_node(node: str, template: str) -> dict[str, Any]:
    """A pod that is placed there and never runs: nobody is at home."""
    made = pod(node, node=node, template=template)
    made["spec"]["tolerations"] = [{"operator": "Exists"}]
    return made


# ---- changes of a node's hardware


@dataclass(frozen=True, slots=True)
class Watched:
    """One node's slices over time."""

    client: KubeClient
    plugin: Plugin

    def slices(self) -> list[ResourceSlice]:
        """Now."""
        node = self.plugin.node.name
        found, _ = self.client.list(paths.slices(), ResourceSlice, field_selector=f"spec.nodeName={node}")
        return found

    def generation(self) -> int:
        """Of the pool."""
        (generation,) = {slice_.spec.pool.generation for slice_ in self.slices()}
        return generation

    def taints(self) -> dict[str, list[str]]:
        """Keys by device name."""
        devices = [device for slice_ in self.slices() for device in slice_.spec.devices]
        return {device.name: [taint.key for taint in device.taints] for device in devices}

    def follows(self, change: Callable[[], object], true: Callable[[dict[str, list[str]]], bool]) -> None:
        """After the change, within a second, in one generation."""
        before = self.generation()
        change()
        begin = time.monotonic()
        wait_for("the slices to follow", lambda: true(self.taints()), 5, 0.02)
        assert time.monotonic() - begin < 1.0
        assert READ in self.plugin.log()
        assert wait_for("one generation", self.generation, 1, 0.02, (ValueError,)) == before + 1

    def hide(self, *addresses: str) -> None:
        """Functions are gone from the (rendered) bus."""
        self.plugin.node.run(["rm", *(str(BUS / address) for address in addresses)])

    def show(self, paths: dict[str, str]) -> None:
        """They are back; paths below devices/ by PCI address."""
        script = "\n".join(f"ln -s ../../../devices/{path} {BUS / name}" for name, path in paths.items())
        self.plugin.node.run(["sh", "-c", script])


@pytest.fixture
def watched(tandem: Tandem, client: KubeClient) -> Iterator[Watched]:
    tandem.start()
    made = Watched(client, tandem.plugins[0])
    assert not any(made.taints().values())
    yield made
    tandem.wait_clean()


def test_a_link_that_goes_down_and_up_is_followed_within_a_second(watched: Watched, cluster: Cluster) -> None:
    machine = load(MACHINE)
    rails = machine.rails()
    nic = next(nic for nic in machine.nics if rails.get(nic.pci_address) == 0 and nic.vfs)
    vfs = {device_name("vf", vf.pci_address) for vf in machine.vfs_of(nic)}
    far_end = f"node{cluster.nodes.index(watched.plugin.node)}rail0"

    def is_down(taints: dict[str, list[str]]) -> bool:
        return {name for name, keys in taints.items() if LINK_DOWN_TAINT in keys} == vfs

    watched.follows(lambda: cluster.container.ip([f"link set {far_end} down"]), is_down)
    watched.follows(
        lambda: cluster.container.ip([f"link set {far_end} up"]), lambda taints: not any(taints.values())
    )


def test_vfs_that_go_and_come_are_followed_within_a_second_in_one_generation(watched: Watched) -> None:
    machine = load(MACHINE)
    vfs = machine.vfs_of(next(nic for nic in machine.nics if nic.vfs))
    names = {device_name("vf", vf.pci_address) for vf in vfs}
    assert names <= watched.taints().keys()
    functions = {vf.pci_address: vf.path for vf in vfs[1:]}
    watched.follows(
        lambda: watched.hide(*functions),
        lambda taints: names & taints.keys() == {device_name("vf", vfs[0].pci_address)},
    )
    watched.follows(lambda: watched.show(functions), lambda taints: names <= taints.keys())


def test_a_lost_gpu_of_a_running_pod_stays_with_a_taint_until_the_pod_goes(
    watched: Watched, cluster: Cluster, namespace: str
) -> None:
    gpu = load(MACHINE).gpus[0]
    name = device_name("gpu", gpu.pci_address)
    tenant = Tenant(cluster, namespace)
    request = {
        "name": "gpu",
        "exactly": {"deviceClassName": CLASSES["gpu"], "selectors": _cel(at(gpu.pci_address))},
    }
    tenant.apply(_template("this", request), pod("a", node=watched.plugin.node.name, template="this"))
    tenant.wait_running("a")
    offered = _device(watched, name)
    try:
        watched.follows(
            lambda: watched.hide(gpu.pci_address), lambda taints: taints.get(name) == [UNHEALTHY_TAINT]
        )
        assert msgspec.structs.replace(_device(watched, name), taints=[]) == offered
        tenant.delete("a")
        wait_for("the lost GPU to leave the slices", lambda: name not in watched.taints(), 5)
    finally:
        watched.show({gpu.pci_address: gpu.path})
    wait_for("the GPU to be back", lambda: watched.taints().get(name) == [], 5)


def _device(watched: Watched, name: str) -> Device:
    (found,) = (d for slice_ in watched.slices() for d in slice_.spec.devices if d.name == name)
    return found


def test_a_nic_that_goes_to_a_pod_and_home_is_no_reason_to_read_the_machine_or_write_a_slice(
    watched: Watched, cluster: Cluster, namespace: str
) -> None:
    before = {slice_.metadata.name: slice_.metadata.resource_version for slice_ in watched.slices()}
    read = watched.plugin.log().count(READ)
    tenant = Tenant(cluster, namespace)
    tenant.apply(_pair_template("vf"), pod("a", node=watched.plugin.node.name, template="pair-vf"))
    tenant.wait_running("a")
    assert "net1" in tenant.shell("a", "ls /sys/class/net")
    tenant.delete("a")
    wait_for("the NIC to be home", watched.plugin.assert_clean, 20)
    assert {slice_.metadata.name: slice_.metadata.resource_version for slice_ in watched.slices()} == before
    assert watched.plugin.log().count(READ) == read
