from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubeletplugin.attach.store import (
    Attachment,
    AttachmentGoneError,
    AttachmentTakenError,
    HomeState,
    Sandbox,
)
from kubeletplugin.claims import Consumer
from kubeletplugin.database import SCHEMA_VERSION, LedgerError, LedgerVersionError
from kubeletplugin.ledger import DeviceHeldError, Ledger
from kubeletplugin.planner import Plan, PlannedDevice


def device(name: str, *, exclusive: bool = True) -> PlannedDevice:
    return PlannedDevice("r", "pool", name, None, exclusive, name, (("A", "b"),))


WHOLE = device("gpu-0")
PART = replace(device("mig-0-1g-10gb-0"), parent="gpu-0")


def plan(uid: str, *names: str, pods: tuple[str, ...] = ("pod",), joinable: bool = False) -> Plan:
    nics = [name for name in names if name.startswith("vf")]
    return Plan(
        uid=uid,
        namespace="ns",
        name=uid,
        devices=tuple(device(name) for name in names),
        attachments=tuple(Attachment(uid, f"ns/{uid}", name, f"pci-{name}", "net1") for name in nics),
        consumers=tuple(Consumer(pod, pod) for pod in pods),
        joinable=joinable,
    )


def prepared(ledger: Ledger, made: Plan) -> None:
    ledger.begin_prepare(made)
    ledger.finish_prepare(made.uid, made.consumers)


def sandbox(container: str, pod: str = "pod") -> Sandbox:
    return Sandbox(pod, f"ns/{pod}", container, f"/run/netns/{container}", 7)


def going(ledger: Ledger, uid: str, container: str, pod: str = "pod") -> list[Attachment]:
    home = HomeState("eth0", "02:00:00:00:00:01", 1500, True)
    return [replace(row, sandbox=sandbox(container, pod), home=home) for row in ledger.by_claim(uid)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    made = Ledger(path, boot_id="boot", instance="me", clock=lambda: 1000.0)
    yield made
    made.close()


def test_a_claim_comes_back_as_it_was_recorded_also_after_a_restart(path: Path, ledger: Ledger) -> None:
    prepared(ledger, plan("c", "gpu-1", "vf-1"))
    again = Ledger(path, boot_id="boot", instance="next")
    record = again.claim("c")
    again.close()
    assert record is not None
    assert (record.plan, record.state, record.owner, record.since) == (
        plan("c", "gpu-1", "vf-1"),
        "prepared",
        "me",
        1000.0,
    )


def test_a_device_is_in_one_claim_only_and_the_refused_claim_leaves_nothing(ledger: Ledger) -> None:
    ledger.begin_prepare(plan("a", "gpu-1"))
    with pytest.raises(DeviceHeldError) as error:
        ledger.begin_prepare(plan("b", "gpu-2", "gpu-1"))
    assert error.value.holder_uid == "a"
    assert (ledger.claim("b"), ledger.holder("gpu-2")) == (None, None)


@pytest.mark.parametrize(("first", "second"), [(PART, WHOLE), (WHOLE, PART)])
def test_a_gpu_and_a_part_of_it_are_not_in_two_claims(
    ledger: Ledger, first: PlannedDevice, second: PlannedDevice
) -> None:
    ledger.begin_prepare(replace(plan("a"), devices=(first,)))
    with pytest.raises(DeviceHeldError, match=f"{second.device} shares the GPU of {first.device}") as error:
        ledger.begin_prepare(replace(plan("b"), devices=(second,)))
    assert (error.value.device, error.value.holder_uid) == (first.device, "a")
    ledger.forget("a")
    ledger.begin_prepare(replace(plan("b"), devices=(second,)))


def test_parts_of_one_gpu_and_of_others_do_not_touch_each_other(ledger: Ledger) -> None:
    other = replace(PART, device="mig-0-1g-10gb-1")
    elsewhere = replace(WHOLE, device="gpu-1")
    monitoring = replace(WHOLE, exclusive=False)
    for uid, wanted in (("a", PART), ("b", other), ("c", elsewhere), ("d", monitoring)):
        ledger.begin_prepare(replace(plan(uid), devices=(wanted,)))
    assert len(ledger.claims()) == 4


def test_two_processes_cannot_record_one_device_either(path: Path, ledger: Ledger) -> None:
    other = Ledger(path, boot_id="boot", instance="other")
    ledger.begin_prepare(plan("a", "gpu-1"))
    with pytest.raises(DeviceHeldError):
        other.begin_prepare(plan("b", "gpu-1"))
    other.close()


def test_shared_access_takes_no_device(ledger: Ledger) -> None:
    shared = replace(plan("m"), devices=(device("gpu-1", exclusive=False),))
    prepared(ledger, shared)
    prepared(ledger, plan("a", "gpu-1"))
    assert ledger.holder("gpu-1") == "a"


def test_only_prepared_claims_have_attachments_for_a_pod(ledger: Ledger) -> None:
    ledger.begin_prepare(plan("c", "vf-1"))
    assert ledger.for_pod("pod") == []
    ledger.finish_prepare("c", [Consumer("pod2", "pod2")])
    assert [row.device for row in ledger.for_pod("pod2")] == ["vf-1"]
    ledger.begin_unprepare("c")
    assert ledger.for_pod("pod") == []


def test_an_attachment_goes_its_way_and_home_again(ledger: Ledger) -> None:
    prepared(ledger, plan("c", "vf-1"))
    intents = going(ledger, "c", "k1")
    ledger.begin_attach(intents)
    assert [(row.state, row.sandbox, row.home) for row in ledger.unsettled()] == [
        ("attaching", intents[0].sandbox, intents[0].home)
    ]
    ledger.finish_attach(intents)
    assert [row.state for row in ledger.by_container("k1")] == ["attached"]
    ledger.begin_detach(intents)
    assert [row.state for row in ledger.by_claim("c")] == ["detaching"]
    ledger.finish_detach(intents)
    assert ledger.by_claim("c") == list(plan("c", "vf-1").attachments)


def test_an_attachment_in_one_sandbox_is_taken_for_another(ledger: Ledger) -> None:
    prepared(ledger, plan("c", "vf-1"))
    ledger.begin_attach(going(ledger, "c", "k1"))
    with pytest.raises(AttachmentTakenError, match="is in pod ns/pod"):
        ledger.begin_attach(going(ledger, "c", "k2"))


def test_a_late_detach_of_an_old_sandbox_leaves_the_new_one_alone(ledger: Ledger) -> None:
    prepared(ledger, plan("c", "vf-1"))
    old = going(ledger, "c", "k1")
    ledger.begin_attach(old)
    ledger.finish_detach(old)
    new = going(ledger, "c", "k2")
    ledger.begin_attach(new)
    ledger.finish_detach(old)
    assert [row.state for row in ledger.by_container("k2")] == ["attaching"]


def test_an_attachment_of_a_forgotten_claim_is_gone(ledger: Ledger) -> None:
    prepared(ledger, plan("c", "vf-1"))
    rows = going(ledger, "c", "k1")
    ledger.forget("c")
    with pytest.raises(AttachmentGoneError):
        ledger.begin_attach(rows)
    with pytest.raises(AttachmentGoneError):
        ledger.finish_attach(rows)
    ledger.begin_detach(rows)
    ledger.finish_detach(rows)


def test_after_another_boot_nics_are_home_and_claims_stay(path: Path, ledger: Ledger) -> None:
    prepared(ledger, plan("c", "vf-1"))
    ledger.begin_attach(going(ledger, "c", "k1"))
    again = Ledger(path, boot_id="another", instance="me")
    assert [record.state for record in again.claims()] == ["prepared"]
    assert again.unsettled() == []
    again.close()


def test_joinable_asks_for_claims_that_others_could_share(ledger: Ledger) -> None:
    prepared(ledger, plan("g", "gpu-1", joinable=True))
    assert not ledger.joinable("stranger")
    prepared(ledger, plan("n", "vf-1", joinable=True))
    assert ledger.joinable("stranger")
    assert not ledger.joinable("pod")
    assert [record.plan.uid for record in ledger.joinable_claims()] == ["n"]
    assert ledger.nic_users() == (frozenset({"pod"}), frozenset({"n"}))


def test_siblings_share_a_pod(ledger: Ledger) -> None:
    prepared(ledger, plan("a", "vf-1", pods=("p1",)))
    prepared(ledger, plan("b", "vf-2", pods=("p1", "p2")))
    prepared(ledger, plan("c", "vf-3", pods=("p2",)))
    assert [record.plan.uid for record in ledger.siblings("a")] == ["a", "b"]
    assert [record.plan.uid for record in ledger.claims_of_pod("p2")] == ["b", "c"]


def test_a_damaged_file_is_put_aside_and_said_loudly(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Ledger(path, boot_id="boot", instance="me")
    first.rebuilt()
    first.close()
    path.write_bytes(b"this is not what SQLite wrote" * 300)
    with caplog.at_level(logging.ERROR):
        again = Ledger(path, boot_id="boot", instance="me", clock=lambda: 5.0)
    assert "is damaged" in caplog.text
    assert (path.parent / "ledger.db.damaged-5").exists()
    assert again.needs_rebuild()
    assert again.claims() == []
    again.close()


def test_a_page_that_rotted_is_found_at_start(path: Path) -> None:
    ledger = Ledger(path, boot_id="boot", instance="me")
    for number in range(50):
        prepared(ledger, plan(f"c{number}", f"gpu-{number}"))
    ledger.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 5] = b"\xff" * 8192
    path.write_bytes(data)
    again = Ledger(path, boot_id="boot", instance="me")
    assert again.needs_rebuild()
    again.close()


def test_a_new_file_wants_to_be_filled_until_it_is(ledger: Ledger) -> None:
    assert ledger.needs_rebuild()
    ledger.rebuilt()
    assert not ledger.needs_rebuild()


def test_a_newer_versions_file_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(LedgerVersionError, match="run the newer version"):
        Ledger(path, boot_id="boot", instance="me")


def test_a_place_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"ledger .*file/ledger.db"):
        Ledger(tmp_path / "file" / "ledger.db", boot_id="boot", instance="me")
