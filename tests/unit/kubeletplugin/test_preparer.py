from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from driver.devices import Inventory, RdmaDevice
from driver.errors import PermanentError, RetryableError
from driver.kube import paths
from kubeletplugin.attach.store import AttachmentGoneError, HomeState, Sandbox
from kubeletplugin.ledger import DeviceHeldError
from kubeletplugin.planner import DeviceMissingError
from kubeletplugin.preparer import CancelledError, ClaimRef
from tests.unit.kubeletplugin.world import (
    GPUS,
    MIG_NODES,
    MIGS,
    VFS,
    World,
    config,
    in_mig_mode,
    inventory,
    placement,
)


def cdi(world: World, uid: str) -> dict[str, Any]:
    (file,) = [file for file in world.cdi.iterdir() if uid in file.name]
    spec: dict[str, Any] = json.loads(file.read_text())
    return spec


def attach(world: World, uid: str, pod_uid: str = "uid-pod-1", container: str = "c1") -> None:
    """What an ADD leaves in the ledger."""
    sandbox = Sandbox(pod_uid=pod_uid, pod="ns/pod-1", container_id=container, netns_path="", netns_inode=1)
    rows = [
        replace(row, sandbox=sandbox, home=HomeState("eth1", "02:00:00:00:00:01", 1500))
        for row in world.ledger.by_claim(uid)
    ]
    world.ledger.begin_attach(rows)
    world.ledger.finish_attach(rows)


def test_a_prepared_claim_has_its_devices_files_and_rows(world: World) -> None:
    word = placement((VFS[0], "net7", ["10.0.0.1/24"]))
    ref = world.allocate("c", GPUS[0], VFS[0], configs=[config(word)])
    answer = world.preparer.prepare(ref)
    assert [(device.request, device.device) for device in answer] == [("gpu", GPUS[0]), ("vf", VFS[0])]
    spec = cdi(world, ref.uid)
    assert [f"{spec['kind']}={device['name']}" for device in spec["devices"]] == [
        d.cdi_ids[0] for d in answer
    ]
    (row,) = world.ledger.for_pod("uid-pod-1")
    assert (row.interface, row.addresses, row.rdma_device) == ("net7", ("10.0.0.1/24",), "mlx5_1")
    assert world.record_files() == {"uid-pod-1"}
    assert world.prepared == [ref.uid]


def test_a_repeated_prepare_answers_the_same_and_adds_pods_that_share_the_claim(world: World) -> None:
    ref = world.allocate("c", GPUS[0], VFS[0], generated=False)
    first = world.preparer.prepare(ref)
    world.allocate("c", GPUS[0], VFS[0], generated=False, pods=["pod-1", "pod-2"])
    assert world.preparer.prepare(ref) == first
    assert world.record_files() == {"uid-pod-1", "uid-pod-2", f".shared-{ref.uid}"}


def test_unprepare_leaves_nothing_and_may_come_twice_and_after_the_claim_is_gone(world: World) -> None:
    ref = world.allocate("c", GPUS[0], VFS[0])
    world.preparer.prepare(ref)
    world.api.remove(paths.claim("ns", "c"))
    world.preparer.unprepare(ref)
    world.preparer.unprepare(ref)
    assert (world.ledger.claims(), world.cdi_files(), world.record_files()) == ([], set(), set())


def test_unprepare_takes_the_nic_out_of_the_pod_first(world: World) -> None:
    ref = world.allocate("c", VFS[0])
    world.preparer.prepare(ref)
    attach(world, ref.uid)
    world.preparer.unprepare(ref)
    assert world.engine.released == [ref.uid]
    assert world.ledger.unsettled() == []


def test_a_nic_that_does_not_come_home_keeps_its_claim_until_the_next_try(world: World) -> None:
    ref = world.allocate("c", VFS[0])
    world.preparer.prepare(ref)
    attach(world, ref.uid)
    world.engine.stuck = True
    with pytest.raises(RetryableError, match="does not come home"):
        world.preparer.unprepare(ref)
    assert world.ledger.holder(VFS[0]) == ref.uid
    with pytest.raises(AttachmentGoneError):  # nor does a sandbox get it any more
        world.ledger.begin_attach(world.ledger.by_claim(ref.uid))
    world.engine.stuck = False
    world.preparer.unprepare(ref)
    assert world.ledger.claims() == []


def test_an_unprepare_whose_pod_still_runs_leaves_it_all_until_it_has_ended(world: World) -> None:
    ref = world.allocate("c", GPUS[0], VFS[0])
    world.preparer.prepare(ref)
    attach(world, ref.uid)
    world.set_running("uid-pod-1")
    with pytest.raises(RetryableError, match="claim ns/c: processes of pod pod-1 still run"):
        world.preparer.unprepare(ref)
    assert (world.ledger.holder(GPUS[0]), world.engine.released) == (ref.uid, [])
    assert world.record_files() == {"uid-pod-1"}
    world.set_running("uid-pod-1", False)
    world.preparer.unprepare(ref)
    assert (world.ledger.claims(), world.engine.released) == ([], [ref.uid])


def test_an_unprepare_waits_for_its_pods_processes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.hold_seconds = 40.0
    world.open()
    ref = world.allocate("c", GPUS[0])
    world.preparer.prepare(ref)
    world.set_running("uid-pod-1")
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        assert world.ledger.holder(GPUS[0]) == ref.uid
        world.set_running("uid-pod-1", len(naps) < 3)

    monkeypatch.setattr("kubeletplugin.preparer.time.sleep", sleep)
    world.preparer.unprepare(ref)
    assert len(naps) == 3
    assert world.ledger.claims() == []


def test_a_claim_allocated_anew_while_its_pod_of_before_runs_is_not_prepared_yet(world: World) -> None:
    ref = world.allocate("c", GPUS[0])
    world.preparer.prepare(ref)
    world.set_running("uid-pod-1")
    world.allocate("c", GPUS[1], pods=["pod-2"])
    with pytest.raises(RetryableError, match="pod-1 still run"):
        world.preparer.prepare(ref)
    world.set_running("uid-pod-1", False)
    assert [device.device for device in world.preparer.prepare(ref)] == [GPUS[1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"name": "c", "namespace": "ns", "uid": "other"}}, "made again"),
        ({"status": {}}, "is not allocated"),
    ],
)
def test_a_claim_that_is_not_the_one_meant_or_not_allocated_may_be_tried_again(
    world: World, change: dict[str, Any], message: str
) -> None:
    ref = world.allocate("c", GPUS[0])
    path = paths.claim("ns", "c")
    world.api.objects[path] = world.api.objects[path] | change
    with pytest.raises(RetryableError, match=message):
        world.preparer.prepare(ref)
    assert world.ledger.claims() == []


def test_a_claim_that_goes_while_it_is_prepared_is_undone(world: World) -> None:
    ref = world.allocate("c", GPUS[0], VFS[0])
    path = paths.claim("ns", "c")
    seen: list[str] = []

    def vanish(method: str, asked: str) -> None:
        if asked == path:
            seen.append(method)
            if len(seen) == 2:
                del world.api.objects[path]

    world.api.before = vanish
    with pytest.raises(RetryableError, match="not there any more"):
        world.preparer.prepare(ref)
    assert (world.ledger.claims(), world.cdi_files(), world.record_files()) == ([], set(), set())


def test_an_unprepare_during_a_prepare_undoes_it(world: World) -> None:
    ref = world.allocate("c", GPUS[0], VFS[0])
    path = paths.claim("ns", "c")
    reads = 0
    unprepare = threading.Thread(target=world.preparer.unprepare, args=(ref,))

    def interrupt(_method: str, asked: str) -> None:
        nonlocal reads
        reads += asked == path
        if reads == 2 and not unprepare.is_alive():
            unprepare.start()
            with world.preparer._changed:
                assert world.preparer._changed.wait_for(lambda: world.preparer._unpreparing[ref.uid], 5)

    world.api.before = interrupt
    with pytest.raises(CancelledError):
        world.preparer.prepare(ref)
    unprepare.join()
    assert (world.ledger.claims(), world.cdi_files(), world.record_files()) == ([], set(), set())


def test_a_claim_allocated_anew_since_is_prepared_anew(world: World) -> None:
    ref = world.allocate("c", GPUS[0])
    world.preparer.prepare(ref)
    world.allocate("c", GPUS[1])
    assert [device.device for device in world.preparer.prepare(ref)] == [GPUS[1]]
    assert world.ledger.holder(GPUS[0]) is None


def test_a_held_device_is_waited_for_and_marked_until_its_claim_ends(world: World) -> None:
    world.hold_seconds = 30
    world.open()
    old, new = world.allocate("old", GPUS[0]), world.allocate("new", GPUS[0], pods=["pod-2"])
    (world.pods / "uid-pod-1").mkdir()  # its pod still runs
    world.preparer.prepare(old)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.preparer.prepare, new)
        while not world.held:
            threading.Event().wait(0.001)
        assert world.held == [frozenset({GPUS[0]})]
        assert not waiting.done()
        world.preparer.unprepare(old)
        assert [device.device for device in waiting.result(5)] == [GPUS[0]]
    assert world.held[-1] == frozenset()


def test_a_device_held_for_too_long_is_an_error_that_names_the_holder(world: World) -> None:
    old, new = world.allocate("old", GPUS[0]), world.allocate("new", GPUS[0])
    (world.pods / "uid-pod-1").mkdir()
    world.preparer.prepare(old)
    with pytest.raises(DeviceHeldError, match="held by claim ns/old") as error:
        world.preparer.prepare(new)
    assert (error.value.device, error.value.holder_uid) == (GPUS[0], old.uid)
    assert [record.plan.uid for record in world.ledger.claims()] == [old.uid]


def test_a_device_whose_old_claim_is_over_is_taken_at_once(world: World) -> None:
    old, new = world.allocate("old", GPUS[0]), world.allocate("new", GPUS[0], pods=["pod-2"])
    world.preparer.prepare(old)
    world.deallocate("old")  # its pod has no directory any more, and no Unprepare came
    world.preparer.prepare(new)
    assert world.ledger.holder(GPUS[0]) == new.uid


@pytest.mark.parametrize("whole_first", [True, False])
def test_a_mig_instance_and_its_whole_gpu_are_never_prepared_together(
    world: World, whole_first: bool
) -> None:
    """MIG mode is switched while a claim is prepared, and what comes next is allocated on it."""
    forms = [(GPUS[0], inventory()), (MIGS[0], in_mig_mode(inventory()))]
    (held, before), (wanted, after) = forms if whole_first else forms[::-1]
    world.mkdev(*MIG_NODES)
    old, new = world.allocate("old", held), world.allocate("new", wanted)
    (world.pods / "uid-pod-1").mkdir()
    world.probe.found = before
    world.preparer.prepare(old)
    world.probe.found = after
    with pytest.raises(
        DeviceHeldError, match=f"{wanted} shares the GPU of {held}, which is still held"
    ) as error:
        world.preparer.prepare(new)
    assert (error.value.device, error.value.holder_uid) == (held, old.uid)
    world.preparer.unprepare(old)
    assert [device.device for device in world.preparer.prepare(new)] == [wanted]


def made_anew() -> Inventory:
    """The instances as after a reboot: the same places, other numbers."""
    found = in_mig_mode(inventory())
    first, second = found.gpus[0].mig_instances
    swapped = (
        replace(first, uuid="MIG-3", gpu_instance_minor=21, compute_instance_minor=22),
        replace(second, uuid="MIG-4", gpu_instance_minor=12, compute_instance_minor=13),
    )
    return replace(found, gpus=(replace(found.gpus[0], mig_instances=swapped), found.gpus[1]))


def edits(world: World, uid: str) -> tuple[set[str], set[str]]:
    """Capability nodes and UUIDs that the claim's CDI devices bring."""
    found = [device["containerEdits"] for device in cdi(world, uid)["devices"]]
    nodes = {node["path"].rpartition("/")[2] for edit in found for node in edit.get("deviceNodes", [])}
    uuids = {variable.partition("=")[2] for edit in found for variable in edit["env"]}
    return {n for n in nodes if "cap" in n}, {u for u in uuids if u.startswith("MIG-")}


def test_a_mig_instance_that_was_made_anew_is_prepared_again_as_it_is_now(world: World) -> None:
    world.mkdev(*MIG_NODES)
    world.probe.found = in_mig_mode(inventory())
    ref = world.allocate("c", MIGS[0], VFS[0])
    world.preparer.prepare(ref)
    assert edits(world, ref.uid) == ({"nvidia-cap12", "nvidia-cap13"}, {"MIG-1"})
    before = world.ledger.by_claim(ref.uid)
    world.probe.found = made_anew()
    world.reopen(boot_id="boot-2")
    world.preparer.prepare(ref)
    assert edits(world, ref.uid) == ({"nvidia-cap21", "nvidia-cap22"}, {"MIG-3"})
    assert world.ledger.by_claim(ref.uid) == before
    world.probe.found = inventory()
    with pytest.raises(DeviceMissingError, match="no such MIG instance"):
        world.preparer.prepare(ref)


def test_a_vf_whose_rdma_device_has_another_number_after_a_reboot_is_prepared_again_as_it_is_now(
    world: World,
) -> None:
    world.mkdev("infiniband/uverbs77")
    ref = world.allocate("c", VFS[0])
    world.preparer.prepare(ref)
    found = inventory()
    nic = found.nics[0]
    renamed = RdmaDevice("mlx5_77", char_devices=("infiniband/uverbs77",))
    vfs = tuple(replace(vf, rdma=renamed) if vf.index == 0 else vf for vf in nic.vfs)
    world.probe.found = replace(found, nics=(replace(nic, vfs=vfs), *found.nics[1:]))
    world.reopen(boot_id="boot-2")
    world.machine.read()
    world.preparer.prepare(ref)
    (device,) = cdi(world, ref.uid)["devices"]
    nodes = [node["path"] for node in device["containerEdits"]["deviceNodes"]]
    assert nodes == ["/dev/infiniband/uverbs77"]
    assert [row.rdma_device for row in world.ledger.by_claim(ref.uid)] == ["mlx5_77"]


def test_a_mig_instance_is_never_planned_from_old_facts(world: World) -> None:
    world.mkdev(*MIG_NODES)
    world.probe.found = in_mig_mode(inventory())
    world.machine.read()
    world.probe.found = made_anew()
    ref = world.allocate("c", MIGS[0])
    world.preparer.prepare(ref)
    assert edits(world, ref.uid) == ({"nvidia-cap21", "nvidia-cap22"}, {"MIG-3"})


def test_a_mig_instance_is_held_against_other_claims_but_its_neighbour_is_not(world: World) -> None:
    world.mkdev(*MIG_NODES)
    world.probe.found = in_mig_mode(inventory())
    first, again, other = (world.allocate(n, d) for n, d in zip("abc", (MIGS[0], *MIGS), strict=True))
    (world.pods / "uid-pod-1").mkdir()
    world.preparer.prepare(first)
    with pytest.raises(DeviceHeldError):
        world.preparer.prepare(again)
    world.preparer.prepare(other)
    assert {world.ledger.holder(device) for device in MIGS} == {first.uid, other.uid}


def test_admin_access_shares_a_device_that_is_held(world: World) -> None:
    first, second = world.allocate("a", GPUS[0]), world.allocate("monitor", GPUS[0])
    result = world.api.objects[paths.claim("ns", "monitor")]["status"]["allocation"]["devices"]["results"][0]
    result["adminAccess"] = True
    world.preparer.prepare(first)
    world.preparer.prepare(second)
    assert world.ledger.holder(GPUS[0]) == first.uid


def test_claims_of_one_pod_carry_the_pods_whole_list_of_nics_and_different_interfaces(world: World) -> None:
    refs = [world.allocate("a", VFS[0]), world.allocate("b", VFS[2])]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(world.preparer.prepare, refs))
    values = {
        variable
        for ref in refs
        for device in cdi(world, ref.uid)["devices"]
        for variable in device["containerEdits"]["env"]
        if variable.startswith("NCCL_IB_HCA=")
    }
    assert len(values) == 1
    (value,) = values
    assert sorted(value.removeprefix("NCCL_IB_HCA==").split(",")) == ["mlx5_1:1", "mlx5_3:1"]
    assert {row.interface for row in world.ledger.for_pod("uid-pod-1")} == {"net1", "net2"}


def test_a_pod_that_got_no_prepare_is_found_in_the_claims_it_could_have_joined(world: World) -> None:
    ref = world.allocate("c", VFS[0], generated=False)
    world.preparer.prepare(ref)
    world.allocate("c", VFS[0], generated=False, pods=["pod-1", "pod-2"])
    assert world.ledger.joinable("uid-pod-2")
    world.preparer.look_up("ns", "pod-2", "uid-pod-2")
    assert [row.claim_uid for row in world.ledger.for_pod("uid-pod-2")] == [ref.uid]
    assert "uid-pod-2" in world.record_files()


def test_a_placement_from_the_claim_is_refused_as_forged(world: World) -> None:
    word = placement((VFS[0], "net1", ["10.0.0.1/24"]))
    ref = world.allocate("c", VFS[0], configs=[config(word, source="FromClaim")])
    with pytest.raises(PermanentError, match=r"config\[0\].*only the controller"):
        world.preparer.prepare(ref)


def test_a_pod_with_a_user_namespace_is_refused_where_nodes_are_under_another_path(world: World) -> None:
    world.api.put(paths.pod("ns", "pod-1"), {"metadata": {"name": "pod-1"}, "spec": {"hostUsers": False}})
    ref = world.allocate("c", GPUS[0])
    with pytest.raises(PermanentError, match="hostUsers: false"):
        world.preparer.prepare(ref)
    assert world.ledger.claims() == []


def test_a_device_that_is_gone_from_the_node_may_come_back(world: World) -> None:
    ref = world.allocate("c", GPUS[0])
    whole = world.probe.found
    world.probe.found = replace(whole, gpus=())
    with pytest.raises(RetryableError, match=f"{GPUS[0]} is allocated but not on this node"):
        world.preparer.prepare(ref)
    world.probe.found = whole  # seen without anybody polling
    world.preparer.prepare(ref)


def test_different_claims_are_prepared_side_by_side(world: World) -> None:
    slow, fast = world.allocate("slow", GPUS[0]), world.allocate("fast", GPUS[1])
    entered, go = threading.Event(), threading.Event()

    def block(_method: str, path: str) -> None:
        if path == paths.claim("ns", "slow"):
            entered.set()
            assert go.wait(30)

    world.api.before = block
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(world.preparer.prepare, slow)
        assert entered.wait(30)
        world.preparer.prepare(fast)
        go.set()
        blocked.result(5)


def test_an_unknown_claim_is_unprepared_already(world: World) -> None:
    world.preparer.unprepare(ClaimRef("ns", "never", "uid-never"))
