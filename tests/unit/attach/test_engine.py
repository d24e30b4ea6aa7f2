"""The engine over real network namespaces, a real kernel and real netdevs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from driver.errors import KubeUnavailableError
from driver.names import pci_altname
from kubeletplugin.attach.engine import AttachEngine
from kubeletplugin.attach.protocol import CniCall, Reply
from kubeletplugin.attach.results import CniError, Code
from kubeletplugin.attach.store import Attachment, VfPort
from tests.unit.attach.bench import PREVIOUS, Bench, read_in
from tests.unit.attach.machine import ip, show


def test_add_moves_names_sizes_and_addresses_all_nics_of_the_pod_at_once(bench: Bench) -> None:
    pod = bench.machine.pod()
    first = bench.claim("a", "p1", 1, addresses=("10.200.0.1/24", "fd00::1/64"), mtu=1400)
    second = bench.claim("b", "p1", 2, addresses=("10.201.0.1/24",))

    result = bench.add("p1", pod)

    net1, net2 = show(pod, "net1"), show(pod, "net2")
    assert net1 is not None
    assert net2 is not None
    assert net1["mtu"] == 1400
    assert "UP" in net1["flags"]
    assert {a["local"] for a in net1["addr_info"]} >= {"10.200.0.1", "fd00::1"}
    assert bench.home(first) is None
    assert bench.home(second) is None
    assert [i["name"] for i in result["interfaces"]] == ["eth0", "net1", "net2"]
    assert result["interfaces"][1] == {
        "name": "net1",
        "mac": net1["address"],
        "mtu": 1400,
        "sandbox": f"/run/netns/{pod}",
        "pciID": first.pci_address,
    }
    assert result["ips"] == [
        {"address": "10.0.0.5/24", "interface": 0},
        {"address": "10.200.0.1/24", "interface": 1},
        {"address": "fd00::1/64", "interface": 1},
        {"address": "10.201.0.1/24", "interface": 2},
    ]
    assert result["dns"] == PREVIOUS["dns"]
    assert [row.state for row in bench.store.for_pod("p1")] == ["attached", "attached"]


def test_the_pods_interface_ignores_router_advertisements_and_answers_for_itself_only(bench: Bench) -> None:
    pod = bench.machine.pod()
    bench.claim("a", "p1", 1, addresses=("10.200.0.1/24",))
    bench.add("p1", pod)
    values = {
        name: read_in(pod, f"/proc/sys/net/{name}")
        for name in ("ipv6/conf/net1/accept_ra", "ipv4/conf/net1/arp_ignore", "ipv4/conf/net1/arp_announce")
    }
    assert values == {
        "ipv6/conf/net1/accept_ra": "0",
        "ipv4/conf/net1/arp_ignore": "1",
        "ipv4/conf/net1/arp_announce": "2",
    }


def test_routes_lead_to_the_rails_router_and_each_nic_keeps_its_own(bench: Bench) -> None:
    pod = bench.machine.pod()
    for number in (1, 2):
        routes = (("10.0.0.0/8", f"10.20{number}.0.254"), ("fd00::/16", f"fd0{number}::fe"))
        addresses = (f"10.20{number}.0.1/24", f"fd0{number}::1/64")
        bench.claim(f"c{number}", "p1", number, addresses=addresses, routes=routes)
    bench.add("p1", pod)
    for family, to in (("-4", "10.0.0.0/8"), ("-6", "fd00::/16")):
        done = subprocess.run(
            ["ip", "-n", pod, family, "-j", "route", "show", to], check=True, capture_output=True, text=True
        )
        found = [(route["dev"], route["metric"]) for route in json.loads(done.stdout)]
        assert found == [("net1", 1024), ("net2", 1025)]


def test_a_vlan_that_the_pf_cannot_set_is_an_error_and_the_nic_stays_at_home(bench: Bench) -> None:
    pf = "ffff:ff:1f.0"
    ip("link", "property", "add", "dev", bench.machine.pf, "altname", pci_altname(pf))
    row = bench.claim("a", "p1", 1, vlan=7, port=VfPort(pf, 0))
    with pytest.raises(CniError, match=f"PF {pf} has no VLAN setting for its VF 0") as caught:
        bench.add("p1", bench.machine.pod())
    assert caught.value.code is Code.KERNEL
    assert bench.home(row) is not None
    assert bench.store.unsettled() == []


def test_a_pod_without_claims_gets_prev_result_back_after_one_read(bench: Bench) -> None:
    assert bench.add("p9", None) == PREVIOUS
    assert bench.store.log == []


def test_a_pod_without_claims_and_without_prev_result_is_told_to_chain(bench: Bench) -> None:
    with pytest.raises(CniError, match="must follow another plugin") as caught:
        bench.call("ADD", "p9", None, prevResult=None)
    assert caught.value.code == Code.CONFIG


def test_a_pod_with_a_claim_never_starts_without_its_interface(bench: Bench) -> None:
    row = bench.claim("a", "p1", 1)
    ip("link", "delete", bench.machine.vfs[row.pci_address])
    with pytest.raises(CniError, match="no interface in the node's") as caught:
        bench.add("p1", bench.machine.pod())
    assert caught.value.code == Code.TRY_LATER
    with pytest.raises(CniError, match="cannot be opened"):
        bench.add("p1", None)
    assert bench.store.log == []


def test_the_nodes_own_namespace_is_refused(bench: Bench) -> None:
    bench.claim("a", "p1", 1)
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with pytest.raises(CniError, match="node's own namespace"):
            bench.engine.handle(CniCall("ADD", "s", "/x", "eth0", {"K8S_POD_UID": "p1"}, {}), fd)
    finally:
        os.close(fd)


def test_an_existing_interface_name_is_an_error_and_the_nic_stays_at_home(bench: Bench) -> None:
    pod = bench.machine.pod()
    ip("-n", pod, "link", "add", "net1", "type", "veth", "peer", "name", "other")
    row = bench.claim("a", "p1", 1)
    before = bench.home(row)
    with pytest.raises(CniError, match="team/pod-p1: the pod has an interface net1 already") as caught:
        bench.add("p1", pod)
    assert caught.value.code == Code.INTERFACE_EXISTS
    assert bench.home(row) == before
    assert bench.store.by_claim("a") == [row]


def test_two_claims_with_one_interface_name_are_refused(bench: Bench) -> None:
    bench.claim("a", "p1", 1, interface="net1")
    bench.claim("b", "p1", 2, interface="net1")
    with pytest.raises(CniError, match="vf-1 of claim team/a and vf-2 of claim team/b are both to be net1"):
        bench.add("p1", bench.machine.pod())


def test_a_failure_half_way_rolls_all_back(bench: Bench) -> None:
    pod = bench.machine.pod()
    good = bench.claim("a", "p1", 1, mtu=1400)
    bad = bench.claim("b", "p1", 2, mtu=9000)  # over the PF's MTU: the kernel refuses after the move
    before = bench.home(good)
    with pytest.raises(CniError, match=r"move .* into the pod as net2") as caught:
        bench.add("p1", pod)
    assert caught.value.code == Code.KERNEL
    assert bench.home(good) == before
    assert bench.home(bad) is not None
    assert show(pod, "net1") is None
    assert bench.store.by_claim("a") == [good]
    assert bench.store.by_claim("b") == [bad]


def test_a_bad_address_rolls_back_too(bench: Bench) -> None:
    pod = bench.machine.pod()
    row = bench.claim("a", "p1", 1, addresses=("10.200.0.1/24", "10.200.0.1/24"))
    with pytest.raises(CniError, match=r"10\.200\.0\.1/24"):
        bench.add("p1", pod)
    assert bench.home(row) is not None
    assert bench.store.by_claim("a") == [row]


def test_a_remade_sandbox_takes_the_nic_over(bench: Bench) -> None:
    old, new = bench.machine.pod(), bench.machine.pod()
    row = bench.claim("a", "p1", 1, addresses=("10.200.0.1/24",))
    bench.add("p1", old, "sandbox-1")
    bench.add("p1", new, "sandbox-2")
    assert show(old, "net1") is None
    assert show(new, "net1") is not None
    assert bench.call("DEL", "p1", old, "sandbox-1") == Reply(0)  # late
    assert show(new, "net1") is not None
    assert bench.call("DEL", "p1", new, "sandbox-2") == Reply(0)
    assert bench.home(row) is not None


def test_add_is_repeatable_for_one_sandbox(bench: Bench) -> None:
    pod = bench.machine.pod()
    bench.claim("a", "p1", 1, addresses=("10.200.0.1/24",))
    assert bench.add("p1", pod) == bench.add("p1", pod)


def test_a_second_pod_of_the_claim_is_refused_and_told_who_has_it(bench: Bench) -> None:
    first, second = bench.machine.pod(), bench.machine.pod()
    row = bench.claim("a", "p1", 1)
    bench.store.prepare("p2", row)
    bench.add("p1", first)
    with pytest.raises(CniError, match="in pod team/pod-p1, so pod team/pod-p2 cannot") as caught:
        bench.add("p2", second, "sandbox-2")
    assert caught.value.code == Code.CLAIM_IN_USE
    assert show(first, "net1") is not None


def test_the_second_pod_gets_the_nic_once_the_firsts_namespace_is_gone(bench: Bench) -> None:
    first, second = bench.machine.pod(), bench.machine.pod()
    row = bench.claim("a", "p1", 1)
    bench.store.prepare("p2", row)
    bench.add("p1", first)
    ip("-n", first, "link", "set", "net1", "netns", str(os.getpid()))  # as the kernel does with a real VF
    ip("netns", "delete", first)
    bench.add("p2", second, "sandbox-2")
    assert show(second, "net1") is not None


def test_pods_that_race_for_one_claim_get_one_winner(bench: Bench) -> None:
    pods = [bench.machine.pod() for _ in range(4)]
    row = bench.claim("a", "p0", 1)
    outcomes: list[str] = []

    def attempt(number: int) -> None:
        bench.store.prepare(f"p{number}", bench.store.rows[row.key])
        try:
            bench.add(f"p{number}", pods[number], f"sandbox-{number}")
            outcomes.append("attached")
        except CniError as error:
            outcomes.append(error.code.name)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[-1] == "attached"
    assert outcomes.count("attached") == 1
    assert sum(show(pod, "net1") is not None for pod in pods) == 1


def test_an_unknown_pod_is_looked_up_while_a_claim_can_be_joined(bench: Bench) -> None:
    bench.store.open_to_others = True
    assert bench.add("p9", None) == PREVIOUS
    assert bench.store.log == ["look_up team/pod-p9 p9"]


def test_check_passes_what_add_made_and_names_what_differs(bench: Bench) -> None:
    pod = bench.machine.pod()
    bench.claim("a", "p1", 1, addresses=("10.200.0.1/24",))
    with pytest.raises(CniError, match="is prepared, not attached"):
        bench.call("CHECK", "p1", pod)
    bench.add("p1", pod)
    assert bench.call("CHECK", "p1", pod) == Reply(0)
    assert bench.call("CHECK", "p9", pod) == Reply(0)
    ip("-n", pod, "address", "delete", "10.200.0.1/24", "dev", "net1")
    with pytest.raises(CniError, match=r"lost its address 10\.200\.0\.1/24"):
        bench.call("CHECK", "p1", pod)
    ip("-n", pod, "link", "set", "net1", "down")
    with pytest.raises(CniError, match="is down"):
        bench.call("CHECK", "p1", pod)


def test_status_is_ok_and_an_unknown_command_is_not(bench: Bench) -> None:
    assert bench.call("STATUS", "", None, "") == Reply(0)
    with pytest.raises(CniError, match="CNI_COMMAND='FROB'"):
        bench.call("FROB", "", None, "")


def test_the_intent_is_written_before_the_kernel_is_touched(bench: Bench) -> None:
    pod = bench.machine.pod()
    row = bench.claim("a", "p1", 1)
    states: list[bool] = []
    begin = bench.store.begin_attach

    def spy(intents: list[Attachment]) -> None:
        begin(intents)
        states.append(bench.home(row) is not None)

    bench.store.begin_attach = spy  # type: ignore[method-assign,assignment]
    bench.add("p1", pod)
    intent = bench.store.rows[row.key]
    assert states == [True]
    assert intent.home is not None
    assert intent.home.name == bench.machine.vfs[row.pci_address]


def test_a_failed_look_up_keeps_the_pod_waiting(bench: Bench, tmp_path: Path) -> None:
    def fail(*_: str) -> None:
        raise KubeUnavailableError("no answer", status=0)

    bench.store.open_to_others = True
    bench.engine = AttachEngine(bench.store, fail, tmp_path / "attach.lock")
    with pytest.raises(CniError, match="no answer") as caught:
        bench.add("p9", None)
    assert caught.value.code == Code.TRY_LATER
