"""How NICs come home: DEL, GC, the sweep, and the end of a claim, over a real kernel."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from driver.names import pci_altname
from kubeletplugin.attach import mover
from kubeletplugin.attach.engine import AttachEngine
from kubeletplugin.attach.protocol import Reply
from kubeletplugin.attach.results import CniError
from kubeletplugin.attach.store import Attachment, HomeState, Sandbox, VfPort, Vlan
from kubeletplugin.attach.vfport import PfMissingError
from tests.unit.attach.bench import Bench
from tests.unit.attach.machine import ip, show


@pytest.mark.parametrize("there", [False, True])
def test_a_claim_ends_though_a_card_died_with_its_vlan_but_not_before_a_living_vf_has_its_own(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(mover, "RETURN_SECONDS", 0.0)
    functions = tmp_path / "devices"
    functions.mkdir()
    sandbox = Sandbox("p1", "team/pod-p1", "sandbox-1", "/run/netns/gone", 1)
    home = HomeState("vf9", "02:00:00:00:00:09", 1500, vlan=Vlan(0))
    row = Attachment("a", "team/a", "vf-9", "ffff:ff:1e.1", "net1", vlan=7, port=VfPort("ffff:ff:1e.0", 0))
    bench.store.prepare("p1", row)
    bench.store.begin_attach([replace(row, state="attaching", sandbox=sandbox, home=home)])
    if there:
        (functions / row.pci_address).mkdir()
    engine = AttachEngine(bench.store, lambda *_: None, tmp_path / "lock", pci_devices=functions)
    with pytest.raises(PfMissingError) if there else contextlib.nullcontext():
        engine.release_claim("a")
    assert bool(bench.store.unsettled()) is there


def test_delete_restores_name_mtu_mac_and_up_flag(bench: Bench) -> None:
    pod = bench.machine.pod()
    row = bench.claim("a", "p1", 1, mtu=1400)
    ip("link", "set", bench.machine.vfs[row.pci_address], "up")
    before = bench.home(row)
    bench.add("p1", pod)
    ip("-n", pod, "link", "set", "net1", "address", "02:00:00:00:00:99")

    assert bench.call("DEL", "p1", pod) == Reply(0)

    after = bench.home(row)
    assert before is not None
    assert after is not None
    assert {k: after[k] for k in ("ifname", "mtu", "address")} == {
        k: before[k] for k in ("ifname", "mtu", "address")
    }
    assert ("UP" in after["flags"]) == ("UP" in before["flags"])
    assert show(pod, "net1") is None
    assert bench.store.by_claim("a") == [row]


def test_delete_again_and_delete_of_an_unknown_sandbox_succeed(bench: Bench) -> None:
    pod = bench.machine.pod()
    bench.claim("a", "p1", 1)
    bench.add("p1", pod)
    for _ in range(2):
        assert bench.call("DEL", "p1", pod) == Reply(0)
    assert bench.call("DEL", "p9", None, "never-seen") == Reply(0)


def test_delete_with_empty_netns_uses_the_recorded_one(bench: Bench) -> None:
    pod = bench.machine.pod()
    row = bench.claim("a", "p1", 1)
    bench.add("p1", pod)
    assert bench.call("DEL", "p1", None) == Reply(0)
    assert bench.home(row) is not None


def test_delete_after_the_namespace_died_succeeds_and_frees_the_row(bench: Bench) -> None:
    pod = bench.machine.pod()
    bench.claim("a", "p1", 1)
    bench.add("p1", pod)
    ip("netns", "delete", pod)
    assert bench.call("DEL", "p1", None) == Reply(0)
    assert bench.store.unsettled() == []


def test_a_nic_that_the_kernel_gave_back_gets_its_name_and_mtu_back(bench: Bench) -> None:
    row = bench.claim("a", "p1", 1)
    name = bench.machine.vfs[row.pci_address]
    seen = show(None, name)
    assert seen is not None
    gone = Sandbox("p1", "team/pod-p1", "sandbox-1", "/run/netns/gone", 1)
    home = HomeState(name, seen["address"], seen["mtu"])
    bench.store.rows[row.key] = replace(row, state="attached", sandbox=gone, home=home)
    ip("link", "set", name, "mtu", "1300", "name", f"dev{bench.machine.tag}")

    assert bench.call("DEL", "p1", None) == Reply(0)

    after = show(None, name)
    assert after is not None
    assert after["mtu"] == seen["mtu"]
    assert bench.store.unsettled() == []


def test_home_comes_even_if_the_old_name_is_taken(bench: Bench) -> None:
    pod = bench.machine.pod()
    row = bench.claim("a", "p1", 1)
    name = bench.machine.vfs[row.pci_address]
    bench.add("p1", pod)
    ip("link", "add", "link", bench.machine.pf, "name", name, "type", "macvlan", "mode", "bridge")
    assert bench.call("DEL", "p1", pod) == Reply(0)
    assert show(None, pci_altname(row.pci_address)) is not None
    assert show(pod, "net1") is None


def test_gc_releases_what_the_runtime_does_not_list(bench: Bench) -> None:
    pods = [bench.machine.pod(), bench.machine.pod()]
    rows = [bench.claim("a", "p1", 1), bench.claim("b", "p2", 2)]
    bench.add("p1", pods[0], "sandbox-1")
    bench.add("p2", pods[1], "sandbox-2")
    listed = [{"containerID": "sandbox-2", "ifname": "eth0"}]
    assert bench.call("GC", "", None, "", **{"cni.dev/valid-attachments": listed}) == Reply(0)
    assert bench.home(rows[0]) is not None
    assert show(pods[1], "net2") is not None
    with pytest.raises(CniError, match="valid-attachments"):
        bench.call("GC", "", None, "")


@pytest.mark.parametrize("moved", [False, True])
def test_an_attach_cut_off_by_a_kill_is_undone_by_the_sweep(bench: Bench, moved: bool) -> None:
    pod = bench.machine.pod()
    row = bench.claim("a", "p1", 1)
    before = bench.home(row)
    bench.add("p1", pod)
    attached = bench.store.rows[row.key]
    if not moved:
        bench.call("DEL", "p1", pod)
    bench.store.rows[row.key] = replace(attached, state="attaching")

    bench.restarted().sweep()

    assert bench.home(row) == before
    assert bench.store.by_claim("a") == [row]


def test_a_detach_cut_off_by_a_kill_is_finished_by_the_sweep(bench: Bench) -> None:
    pod = bench.machine.pod()
    row = bench.claim("a", "p1", 1)
    bench.add("p1", pod)
    bench.store.rows[row.key] = replace(bench.store.rows[row.key], state="detaching")
    bench.restarted().sweep()
    assert bench.home(row) is not None
    assert bench.store.unsettled() == []


def test_the_sweep_leaves_running_pods_alone_and_frees_dead_ones(bench: Bench) -> None:
    alive, dead = bench.machine.pod(), bench.machine.pod()
    bench.claim("a", "p1", 1)
    bench.claim("b", "p2", 2)
    bench.add("p1", alive, "sandbox-1")
    bench.add("p2", dead, "sandbox-2")
    ip("netns", "delete", dead)
    bench.engine.sweep()
    assert [row.claim_uid for row in bench.store.unsettled()] == ["a"]
    assert show(alive, "net1") is not None


def test_release_of_a_claim_takes_its_nics_home(bench: Bench) -> None:
    pod = bench.machine.pod()
    row = bench.claim("a", "p1", 1)
    bench.add("p1", pod)
    bench.engine.release_claim("a")
    assert bench.home(row) is not None
    bench.engine.release_claim("a")


def test_the_sweep_of_another_process_waits_for_an_attach_under_way(bench: Bench) -> None:
    pod = bench.machine.pod()
    bench.claim("a", "p1", 1)
    under_way, go_on = threading.Event(), threading.Event()
    begin = bench.store.begin_attach

    def stop_there(intents: list[Attachment]) -> None:
        begin(intents)
        under_way.set()
        assert go_on.wait(30)

    bench.store.begin_attach = stop_there  # type: ignore[method-assign,assignment]
    adding = threading.Thread(target=bench.add, args=("p1", pod))
    adding.start()
    assert under_way.wait(30)
    sweeping = threading.Thread(target=bench.restarted().sweep)
    sweeping.start()
    sweeping.join(0.2)
    assert sweeping.is_alive()
    go_on.set()
    adding.join()
    sweeping.join()
    assert [row.state for row in bench.store.by_claim("a")] == ["attached"]
    assert show(pod, "net1") is not None
