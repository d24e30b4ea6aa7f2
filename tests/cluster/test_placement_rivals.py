"""Others who allocate Tandem's devices: it is noticed and said, and never do two pods run with one device."""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driver.kube import paths
from driver.mock.machine import load
from driver.names import CLAIM_FINALIZER, device_name
from tests.cluster.accounts import kubeconfig_of
from tests.cluster.controllers import SYSTEM, running
from tests.cluster.gate import Gate, Point
from tests.cluster.podwatch import PodWatch
from tests.cluster.tandem import MACHINE, Plugin, Tandem
from tests.cluster.tenant import Tenant, at, claim, pod, template
from tests.controlplane import Cluster, wait_for
from tests.controlplane.errors import CommandError

_MOCK = load(MACHINE)
_VF = _MOCK.vfs_of(_MOCK.nics[0])[0]
_DEVICE = device_name("vf", _VF.pci_address)
_POLICY = Path(__file__).parents[2] / "deploy/base/admission.yaml"


@pytest.fixture
def plugin(tandem: Tandem) -> Plugin:
    """Of the node on which the device is wanted."""
    return tandem.plugin("node-0")


@pytest.fixture
def watch(plugin: Plugin, tenant: Tenant) -> Iterator[PodWatch]:
    """Which pods really run there."""
    watch = PodWatch(plugin.node)
    yield watch
    watch.stop()


@pytest.fixture
def unguarded(cluster: Cluster, tandem: Tandem, tenant: Tenant) -> Iterator[None]:
    """An admin took away the policy that refuses claims which tolerate our taint."""
    cluster.kubectl("delete", "validatingadmissionpolicybinding", "claims.tandem-dra.io")
    try:
        wait_for("the policy to be gone", lambda: tried(tenant, tolerant("probe")), retry=(CommandError,))
        yield
    finally:
        cluster.kubectl("apply", f"--filename={_POLICY}")


def tolerant(name: str) -> dict[str, Any]:
    """A template for the device that tolerates every taint."""
    made = template(name, nic=at(_VF.pci_address))
    for request in made["spec"]["spec"]["devices"]["requests"]:
        request["exactly"]["tolerations"] = [{"operator": "Exists"}]
    return made


def tried(tenant: Tenant, document: dict[str, Any]) -> str:
    """What kubectl says. Raises CommandError with the refusal."""
    return tenant.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(document))


def claim_name(tenant: Tenant, pod: str) -> str:
    """Of the pod's claim, which may have been allocated for a moment only: ours steps aside if it can."""
    return tenant.kubectl(
        "get", "pod", pod, "--output=jsonpath={.status.resourceClaimStatuses[0].resourceClaimName}"
    ).strip()


def warned(tenant: Tenant, reason: str, claim: str) -> list[str]:
    """What Events of that reason say of the claim."""
    selector = f"--field-selector=reason={reason},involvedObject.name={claim}"
    found = json.loads(tenant.kubectl("get", "events", selector, "--output=json"))["items"]
    return [event["message"] for event in found]


def wait_told(tenant: Tenant, ours: str, theirs: str) -> None:
    """Events say of each claim that the other has the device too, and of theirs that it is not our doing."""

    def told(mine: str, other: str) -> bool:
        messages = warned(tenant, "DuplicateAllocation", mine)
        return any(_DEVICE in message and other in message for message in messages)

    for mine, other in ((ours, theirs), (theirs, ours)):
        wait_for(f"an Event of {mine}", functools.partial(told, mine, other))
    wait_for(f"an Event of {theirs}", lambda: warned(tenant, "ForeignAllocation", theirs))


def wait_one_after_the_other(tenant: Tenant, watch: PodWatch, first: str, second: str) -> None:
    """The second pod runs as soon as the first has ended, and not before."""
    assert tenant.runs(first)
    assert not tenant.runs(second)
    tenant.delete(first)
    tenant.wait_running(second, timeout_seconds=120)
    watch.wait_seen(second)
    samples = watch.samples()
    assert set().union(*samples) == {first, second}
    assert max(map(len, samples)) == 1


def test_a_device_that_another_client_gave_away_as_well_serves_one_pod_at_a_time(
    cluster: Cluster, tandem: Tandem, tenant: Tenant, plugin: Plugin, watch: PodWatch
) -> None:
    tenant.apply(template("one", nic=at(_VF.pci_address)), pod("ours", node="node-0", template="one"))
    tenant.wait_running("ours")
    allocation = tenant.claim_of("ours")["status"]["allocation"]
    before = tandem.metric("duplicate_devices_total")

    tenant.apply(claim("theirs", nic=at(_VF.pci_address)))
    path = paths.claim(tenant.namespace, "theirs")
    taken = cluster.api.get(path)
    taken["metadata"]["finalizers"] = [CLAIM_FINALIZER]
    taken = cluster.api.request("PUT", path, taken)
    by_hand = copy.deepcopy(allocation)
    by_hand["devices"]["config"] = [c for c in by_hand["devices"]["config"] if c["source"] == "FromClaim"]
    cluster.api.request("PUT", f"{path}/status", taken | {"status": {"allocation": by_hand}})
    tenant.apply(pod("theirs", node="node-0", claim="theirs"))

    wait_told(tenant, ours=tenant.claim_of("ours")["metadata"]["name"], theirs="theirs")
    assert tandem.metric("duplicate_devices_total") == before + 2  # its GPU and its NIC
    wait_for("the second Prepare to wait", lambda: "still held by claim" in plugin.log())
    wait_one_after_the_other(tenant, watch, "ours", "theirs")


@pytest.mark.usefixtures("unguarded")
def test_a_claim_that_tolerates_our_taint_and_is_given_a_device_in_the_same_moment_waits_for_it(
    cluster: Cluster, tandem: Tandem, tenant: Tenant, plugin: Plugin, watch: PodWatch, tmp_path: Path
) -> None:
    """The controller has chosen the device and its write is under way, which kube-scheduler cannot know."""
    chosen, go_on = threading.Event(), threading.Event()

    def hold(gate: Gate, point: Point) -> None:
        if point == "allocation not sent":
            chosen.set()
            go_on.wait(60)

    tandem.stop_controller()
    gate = Gate(cluster, hold)
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig_of(cluster, SYSTEM, "tandem-controller", server=gate.url))
    with running(config, tmp_path / "log") as controller:
        tenant.apply(template("one", nic=at(_VF.pci_address)), pod("ours", node="node-0", template="one"))
        assert chosen.wait(30)
        tenant.apply(tolerant("any"), pod("theirs", node="node-0", template="any"))
        tenant.wait_running("theirs")
        go_on.set()

        names = {name: claim_name(tenant, name) for name in ("ours", "theirs")}
        wait_told(tenant, **names)
        assert controller.metric("duplicate_devices_total") >= 1
        assert controller.metric("foreign_allocations_total") == 1
        wait_one_after_the_other(tenant, watch, "theirs", "ours")
    gate.close()
