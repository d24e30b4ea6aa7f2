from __future__ import annotations

from driver.kube import paths
from tests.unit.kubeletplugin.world import GPUS, VFS, World


def test_a_claim_that_is_over_goes_when_its_pods_are_gone(world: World) -> None:
    ref = world.allocate("c", GPUS[0], VFS[0])
    world.preparer.prepare(ref)
    (world.pods / "uid-pod-1").mkdir()
    world.api.remove(paths.claim("ns", "c"))
    world.sweeper.sweep(world.preparer)
    assert world.ledger.holder(GPUS[0]) == ref.uid
    assert world.held == [frozenset({GPUS[0], VFS[0]})]
    (world.pods / "uid-pod-1").rmdir()
    world.sweeper.sweep(world.preparer)
    assert (world.ledger.claims(), world.cdi_files()) == ([], set())
    assert world.held[-1] == frozenset()


def test_a_claim_in_use_stays_though_no_pod_directory_is_seen(world: World) -> None:
    world.preparer.prepare(world.allocate("c", GPUS[0]))
    world.sweeper.sweep(world.preparer)
    assert len(world.ledger.claims()) == 1
    assert world.held == []


def test_nothing_is_swept_where_the_kubelets_directory_cannot_be_seen(world: World) -> None:
    world.preparer.prepare(world.allocate("c", GPUS[0]))
    world.deallocate("c")
    world.pods.rmdir()
    world.sweeper.sweep(world.preparer)
    assert len(world.ledger.claims()) == 1


def test_nothing_is_swept_while_the_api_does_not_answer(world: World) -> None:
    world.preparer.prepare(world.allocate("c", GPUS[0]))
    world.deallocate("c")
    world.api.refuse = [503]
    world.sweeper.sweep(world.preparer)
    assert len(world.ledger.claims()) == 1


def test_a_claim_made_again_under_its_name_is_another(world: World) -> None:
    world.preparer.prepare(world.allocate("c", GPUS[0]))
    world.allocate("c", GPUS[0], uid="uid-second")
    world.sweeper.sweep(world.preparer)
    assert world.ledger.claims() == []


def test_a_start_fills_an_empty_ledger_with_what_the_api_gives_to_this_node_where_it_may_list(
    world: World,
) -> None:
    world.close()
    world.open(may_list=True)
    ref = world.allocate("c", GPUS[0], VFS[0])
    world.allocate("elsewhere", GPUS[1], pool="tandem-dra.io/node-b")
    world.allocate("unused", GPUS[1], pods=[])
    world.sweeper.rebuild(world.preparer)
    assert [(record.plan.uid, record.state) for record in world.ledger.claims()] == [(ref.uid, "prepared")]
    assert not world.ledger.needs_rebuild()


def lose_the_ledger(world: World) -> None:
    world.close()
    for file in (world.root / "state").iterdir():
        file.unlink()
    world.open()


def test_a_new_node_has_nothing_to_fill_its_ledger_with_and_lists_nothing(world: World) -> None:
    world.sweeper.rebuild(world.preparer)
    assert (world.sweeper.lost, world.ledger.needs_rebuild()) == ("", False)
    assert paths.claims() not in [path for _, path in world.api.requests]


def test_a_ledger_that_was_lost_is_told_until_the_last_unknown_claim_has_ended(world: World) -> None:
    first, second = world.allocate("a", GPUS[0]), world.allocate("b", GPUS[1])
    for ref in (first, second):
        world.preparer.prepare(ref)
    lose_the_ledger(world)
    world.sweeper.rebuild(world.preparer)
    assert world.sweeper.lost == "the ledger was lost, and 2 prepared claims are unknown to it"
    world.preparer.prepare(world.allocate("c", VFS[0]))
    world.preparer.unprepare(first)
    world.sweeper.rebuild(world.preparer)
    assert world.sweeper.lost == "the ledger was lost, and 1 prepared claims are unknown to it"
    assert world.ledger.needs_rebuild()
    world.preparer.unprepare(second)
    world.sweeper.rebuild(world.preparer)
    assert (world.sweeper.lost, world.ledger.needs_rebuild()) == ("", False)
    assert paths.claims() not in [path for _, path in world.api.requests]


def test_the_sweep_asks_for_claims_by_name_alone(world: World) -> None:
    world.preparer.prepare(world.allocate("c", GPUS[0]))
    world.sweeper.sweep(world.preparer)
    asked = {path for _, path in world.api.requests if "resourceclaims" in path}
    assert asked == {paths.claim("ns", "c")}


def test_what_a_killed_process_left_is_undone_or_finished_at_start(world: World) -> None:
    half, ending, whole = (world.allocate(name, device) for name, device in zip("abc", VFS, strict=False))
    for ref in (ending, whole):
        world.preparer.prepare(ref)
    plan = world.ledger.claim(whole.uid)
    assert plan is not None
    world.allocate("a", VFS[0])
    world.preparer.prepare(half)
    world.ledger._db._connection.execute("UPDATE claims SET state = 'preparing' WHERE uid = ?", (half.uid,))
    world.ledger.begin_unprepare(ending.uid)
    world.reopen()
    assert [record.plan.uid for record in world.ledger.claims()] == [whole.uid]
    assert len(world.cdi_files()) == 1


def test_files_that_a_reboot_took_are_made_again_and_strays_removed(world: World) -> None:
    world.preparer.prepare(world.allocate("c", VFS[0]))
    before = world.cdi_files(), world.record_files()
    for folder in (world.cdi, world.records):
        for file in folder.iterdir():
            file.unlink()
    (world.cdi / "tandem-dra.io-claim-stray.json").touch()
    (world.cdi / "another.json").touch()
    world.reopen(boot_id="boot-2")
    assert (world.cdi_files() - {"another.json"}, world.record_files()) == before
