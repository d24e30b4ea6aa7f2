"""What we publish, as the real API server and kube-scheduler take it: every form of device, by counters."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest

from driver.devices import Inventory
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import Node as NodeObject
from driver.kube.objects import ResourceClaim, ResourceSlice
from driver.mock import source
from driver.mock.machine import known, load
from driver.slices import SliceOptions, build
from tests.cluster.conftest import Kubectl
from tests.controlplane import Cluster
from tests.unit.driver.machines import a_gpu
from tests.unit.driver.test_partitions import mig_gpu

_TIMEOUT_SECONDS = 60.0
EVERY_FORM = SliceOptions(mig="dynamic", vfio=True, pf_and_vfs=True, shared=frozenset({"gpu", "vf", "nic"}))
Publish = Callable[[Inventory, SliceOptions], list[ResourceSlice]]


@pytest.fixture
def client(cluster: Cluster) -> Iterator[KubeClient]:
    found = KubeClient.load(cluster.kubeconfig, user_agent="tandem-test")
    yield found
    found.close()


@pytest.fixture
def driver(cluster: Cluster) -> str:
    """A driver that nobody else speaks for."""
    return f"d{secrets.token_hex(3)}.example.com"


@pytest.fixture
def publish(cluster: Cluster, client: KubeClient, driver: str) -> Iterator[Publish]:
    """Creates the slices of an inventory on the first node; they are gone after the test."""
    node = client.get(paths.node(cluster.nodes[0].name), NodeObject).metadata
    names = []

    def create(inventory: Inventory, options: SliceOptions) -> list[ResourceSlice]:
        stored = []
        for slice_ in build(
            inventory,
            driver_name=driver,
            node_name=node.name,
            node_uid=node.uid,
            generation=1,
            options=options,
        ):
            stored.append(client.create(paths.slices(), slice_, ResourceSlice))
            names.append(slice_.metadata.name)
            assert _bare(stored[-1]) == slice_.spec
        return stored

    yield create
    for name in names:
        client.delete(paths.slice_(name))


def _bare(slice_: ResourceSlice) -> object:
    """The spec but for the time at which a taint was added, which the server fills in."""
    change = msgspec.structs.replace
    devices = [
        change(device, taints=[change(taint, time_added=None) for taint in device.taints])
        for device in slice_.spec.devices
    ]
    return change(slice_.spec, devices=devices)


@pytest.mark.parametrize("options", [SliceOptions(), EVERY_FORM], ids=["default", "every form"])
@pytest.mark.parametrize("name", known())
def test_the_api_server_takes_every_machine_as_it_was_sent(
    publish: Publish, name: str, options: SliceOptions
) -> None:
    machine = load(name)
    publish(source.read(machine, machine.load_overlay()), options)


def test_the_api_server_takes_sixteen_gpus_with_all_their_partitions(publish: Publish) -> None:
    gpus = tuple(mig_gpu(number) for number in range(16))
    stored = publish(Inventory("m", gpus), EVERY_FORM)
    assert sum(len(s.spec.shared_counters) for s in stored) == 16
    assert sum(len(s.spec.devices) for s in stored) == 16 * 27


def test_the_api_server_takes_devices_that_several_claims_may_hold(publish: Publish) -> None:
    gpu = replace(a_gpu(1), memory_bytes=81559 << 20)
    (stored,) = publish(Inventory("m", (gpu,)), SliceOptions(shared=frozenset({"gpu"})))
    assert stored.spec.devices[0].allow_multiple_allocations


def test_kube_scheduler_keeps_a_gpu_and_its_partitions_apart(
    publish: Publish, client: KubeClient, driver: str, namespace: str, kubectl: Kubectl
) -> None:
    publish(Inventory("m", (mig_gpu(0x1B),)), replace(EVERY_FORM, controller_taint=False))
    names = {"part": '.profile == "3g.40gb"', "other": '.profile == "3g.40gb"', "whole": '.type == "gpu"'}
    for name, condition in names.items():
        domain, key = "tandem-dra.io", condition.split()[0][1:]
        attribute = f'device.attributes["{domain}"]'
        selector = f'device.driver == "{driver}" && "{key}" in {attribute} && {attribute}{condition}'
        _pod(kubectl, driver, name, selector)
        if name != "whole":
            _wait(lambda name=name: _allocated(client, namespace, name), f"{name} allocated")  # type: ignore[misc]
    parts = {_allocated(client, namespace, name) for name in ("part", "other")}
    assert parts == {"mig-0000-1b-00-0-3g-40gb-0", "mig-0000-1b-00-0-3g-40gb-4"}
    _wait(lambda: "Unschedulable" in kubectl("get", "pod", "whole", "-o", "json"), "whole refused")
    assert _allocated(client, namespace, "whole") is None
    kubectl("delete", "pod", "part", "other", "--force", "--grace-period=0")
    _wait(lambda: _allocated(client, namespace, "whole"), "whole allocated")
    kubectl("delete", "deviceclass", driver)


def _pod(kubectl: Kubectl, driver: str, name: str, selector: str) -> None:
    kubectl("apply", "-f", "-", stdin=json.dumps(_list(driver, name, selector)))


def _list(driver: str, name: str, selector: str) -> dict[str, object]:
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "d", "exactly": {"deviceClassName": driver}}]}},
    }
    claim["spec"]["devices"]["requests"][0]["exactly"]["selectors"] = [{"cel": {"expression": selector}}]  # type: ignore[index]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "resourceClaims": [{"name": "d", "resourceClaimName": name}],
            "containers": [{"name": "c", "image": "none", "resources": {"claims": [{"name": "d"}]}}],
        },
    }
    device_class = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": driver},
        "spec": {},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [device_class, claim, pod]}


def _allocated(client: KubeClient, namespace: str, name: str) -> str | None:
    allocation = client.get(paths.claim(namespace, name), ResourceClaim).status.allocation
    return allocation.devices.results[0].device if allocation is not None else None


def _wait(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
