"""The attach engine with real virtual functions and the production ledger."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from driver import names
from driver.devices import Inventory, Vf
from driver.probes.net import NetdevProbe
from kubeletplugin.attach.engine import AttachEngine
from kubeletplugin.attach.protocol import CniCall
from kubeletplugin.attach.results import CniError, Code
from kubeletplugin.attach.store import Attachment, VfPort
from kubeletplugin.claims import Consumer
from kubeletplugin.ledger import Ledger
from kubeletplugin.planner import Plan, PlannedDevice
from tests.unit.attach.machine import ip, show

PREVIOUS = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/pod"}]}


@dataclass
class Node:
    """A node with one prepared claim: a VF of nic0, for a pod whose namespace is `pod`."""

    engine: AttachEngine
    ledger: Ledger
    vf: Vf
    pod: str = "pod"

    @property
    def pci_address(self) -> str:
        return self.vf.pci_address

    def call(self, command: str, **config: Any) -> dict[str, Any]:
        path = Path("/run/netns") / self.pod
        args = {"K8S_POD_UID": "pod-uid", "K8S_POD_NAMESPACE": "team", "K8S_POD_NAME": "pod"}
        config = {"cniVersion": "1.1.0", "prevResult": PREVIOUS} | config
        with contextlib.ExitStack() as stack:
            fd = os.open(path, os.O_RDONLY) if path.exists() else None
            if fd is not None:
                stack.callback(os.close, fd)
            reply = self.engine.handle(CniCall(command, "sandbox", str(path), "eth0", args, config), fd)
        assert reply.exit_code == 0
        answer: dict[str, Any] = json.loads(reply.stdout or b"{}")
        return answer

    def home(self) -> dict[str, Any]:
        """What `ip` says of the VF in the node's own namespace."""
        found = show(None, NetdevProbe().read()[self.pci_address].name)
        assert found is not None
        return {key: found[key] for key in ("ifname", "address", "mtu")} | {"up": "UP" in found["flags"]}


@pytest.fixture
def node(inventory: Inventory, machine: dict[str, str], tmp_path: Path) -> Iterator[Node]:
    vf = next(nic for nic in inventory.nics if nic.pci_address == machine["nic0"]).vfs[0]
    device = names.device_name(names.TYPE_VF, vf.pci_address)
    row = Attachment(
        "claim", "team/claim", device, vf.pci_address, "net1", ("10.200.0.1/24", "fd00::1/64"), 1400
    )
    consumers = (Consumer("pod-uid", "pod"),)
    planned = PlannedDevice("nic", "pool", device, None, True, device)
    ledger = Ledger(tmp_path / "ledger.db", boot_id="boot", instance="plugin")
    ledger.begin_prepare(Plan("claim", "team", "claim", (planned,), (row,), consumers, joinable=False))
    ledger.finish_prepare("claim", consumers)
    ip("netns", "add", "pod")
    yield Node(AttachEngine(ledger, lambda *_: None, tmp_path / "lock"), ledger, vf)
    if Path("/run/netns/pod").exists():
        ip("netns", "delete", "pod")
    ledger.close()


def test_add_puts_the_vf_into_the_pod_with_name_address_and_mtu_and_del_brings_it_home_as_it_was(
    node: Node,
) -> None:
    before = node.home()

    result = node.call("ADD")

    inside = show("pod", "net1")
    assert inside is not None
    assert inside["mtu"] == 1400
    assert "UP" in inside["flags"]
    assert {a["local"] for a in inside["addr_info"]} >= {"10.200.0.1", "fd00::1"}
    assert node.pci_address not in NetdevProbe().read()
    assert result["interfaces"][1] == {
        "name": "net1",
        "mac": before["address"],
        "mtu": 1400,
        "sandbox": "/run/netns/pod",
        "pciID": node.pci_address,
    }
    node.call("CHECK")

    node.call("DEL")

    assert node.home() == before
    assert show("pod", "net1") is None
    assert node.ledger.unsettled() == []


def tags(pf: str) -> dict[int, int]:
    """The VLAN of each VF, as `ip` says it of the PF."""
    command = ["ip", "-j", "-d", "link", "show", "dev", NetdevProbe().read()[pf].name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {
        vf["vf"]: sum(tag.get("vlan", 0) for tag in vf["vlan_list"])
        for vf in json.loads(done.stdout)[0]["vfinfo_list"]
    }


@pytest.fixture
def in_vlan(node: Node, machine: dict[str, str]) -> Iterator[Node]:
    """The same node; its claim's network has VLAN 7, and the VF had 5 before."""
    pf, number = machine["nic0"], str(node.vf.index)
    (row,) = node.ledger.by_claim("claim")
    row = replace(row, vlan=7, port=VfPort(pf, node.vf.index))
    node.ledger.replan(Plan("claim", "team", "claim", (), (row,), (), joinable=False))
    name = NetdevProbe().read()[pf].name
    ip("link", "set", name, "vf", number, "vlan", "5")
    yield node
    ip("link", "set", name, "vf", number, "vlan", "0")


def test_a_vf_is_in_its_networks_vlan_while_the_pod_has_it_and_in_its_own_afterwards(
    in_vlan: Node, machine: dict[str, str]
) -> None:
    number, before = in_vlan.vf.index, in_vlan.home()
    in_vlan.call("ADD")
    assert tags(machine["nic0"])[number] == 7
    assert {tag for vf, tag in tags(machine["nic0"]).items() if vf != number} == {0}
    in_vlan.call("DEL")
    assert tags(machine["nic0"])[number] == 5
    assert in_vlan.home() == before


def test_a_vlan_is_restored_when_the_pods_namespace_died(in_vlan: Node, machine: dict[str, str]) -> None:
    in_vlan.call("ADD")
    ip("netns", "delete", "pod")
    in_vlan.engine.sweep()
    assert tags(machine["nic0"])[in_vlan.vf.index] == 5
    assert in_vlan.ledger.unsettled() == []


def test_the_kernel_returns_the_vf_of_a_deleted_namespace_under_the_pods_name_and_sweep_renames_it(
    node: Node,
) -> None:
    before = node.home()
    node.call("ADD")

    ip("netns", "delete", "pod")
    node.engine.sweep()

    assert node.home() == before
    assert node.ledger.unsettled() == []


def test_without_the_engine_a_returned_vf_keeps_the_pods_name(node: Node) -> None:
    """What the test before rests on: it is the sweep that renames, not the kernel."""
    before = node.home()
    node.call("ADD")
    ip("netns", "delete", "pod")
    wait_for(node.pci_address)

    assert node.home()["ifname"] == "net1"

    node.engine.sweep()
    assert node.home() == before


def test_a_pod_that_has_the_name_already_gets_an_error_and_the_vf_stays_home(node: Node) -> None:
    before = node.home()
    ip("-n", "pod", "link", "add", "net1", "type", "bridge")

    with pytest.raises(CniError) as caught:
        node.call("ADD")

    assert caught.value.code is Code.INTERFACE_EXISTS
    assert node.home() == before


def test_a_vf_that_the_pf_took_away_is_an_error_that_asks_to_try_again(
    node: Node, machine: dict[str, str]
) -> None:
    switch = Path("/sys/bus/pci/devices") / machine["nic0"] / "sriov_numvfs"
    switch.write_text("0")
    try:
        with pytest.raises(CniError) as caught:
            node.call("ADD")
        assert caught.value.code is Code.TRY_LATER
        assert node.ledger.unsettled() == []
    finally:
        switch.write_text("7")


def wait_for(pci_address: str) -> None:
    """The kernel gives a dead namespace's interfaces back in a work queue."""
    for _ in range(100):
        if pci_address in NetdevProbe().read():
            return
        subprocess.run(["sleep", "0.05"], check=True)
    raise TimeoutError(f"{pci_address} has no interface in the node's namespace after 5 s")
