from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from controller.actions import Clear, Cleared, NotWritten, Outcome, Write, Written
from controller.binder import Binder
from driver.errors import KubeConflictError, KubeError, KubeRefusedError, KubeUnavailableError
from driver.kube.objects import (
    AllocationResult,
    DeviceAllocationConfig,
    DeviceAllocationResult,
    OpaqueConfig,
    ResourceClaim,
)
from driver.names import CLAIM_FINALIZER
from tests.unit.controller.things import a_claim
from tests.unit.kube.hostile import HOSTILE

ALLOCATION: dict[str, Any] = {
    "devices": {"results": [{"request": "gpu", "driver": "d", "pool": "p", "device": "gpu-1"}]}
}
OTHER: dict[str, Any] = {
    "devices": {"results": [{"request": "gpu", "driver": "d", "pool": "p", "device": "gpu-2"}]}
}


class ClaimApi:
    """One claim behind patches with an optimistic lock; `before` runs ahead of each request."""

    def __init__(self) -> None:
        self.claim: dict[str, Any] = json.loads(msgspec.json.encode(a_claim("c")))
        self.claim["metadata"]["annotations"] = {"unknown": "to us"}
        self.requests: list[str] = []
        self.sent: list[tuple[str, bytes]] = []
        self.before: list[Callable[[str], None]] = []

    def get(self, path: str, type: type[ResourceClaim]) -> ResourceClaim:
        self._begin("GET")
        return self._read()

    def patch(self, path: str, body: Any, type: type[ResourceClaim], *, kind: str = "merge") -> ResourceClaim:
        status = path.endswith("/status")
        self.sent.append((kind, msgspec.json.encode(body)))
        self._begin("status" if status else "claim")
        if kind == "json":
            body = as_merge(body)
        if body["metadata"].pop("resourceVersion") != self.claim["metadata"]["resourceVersion"]:
            raise KubeConflictError("modified", status=409)
        if status:
            body["metadata"].pop("finalizers", None)  # as the API server does
        self.change(json.loads(msgspec.json.encode(body)))
        return self._read()

    def add_finalizer(self, path: str, finalizer: str, type: type[ResourceClaim]) -> ResourceClaim:
        self._begin("finalizer")
        self.change({"metadata": {"finalizers": [*self.claim["metadata"].get("finalizers", []), finalizer]}})
        return self._read()

    def change(self, patch: dict[str, Any]) -> None:
        self.claim = merge(self.claim, patch)
        self.claim["metadata"]["resourceVersion"] = str(int(self.claim["metadata"]["resourceVersion"]) + 1)

    def _begin(self, what: str) -> None:
        self.requests.append(what)
        if self.before:
            self.before.pop(0)(what)

    def _read(self) -> ResourceClaim:
        return msgspec.json.decode(json.dumps(self.claim), type=ResourceClaim)


def as_merge(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """RFC 6902, of steps that replace or add one member of a member each."""
    patch: dict[str, Any] = {}
    for step in steps:
        _, parent, name = step["path"].split("/")
        patch.setdefault(parent, {})[name] = step["value"]
    return patch


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


class Setting:
    def __init__(self) -> None:
        self.api = ClaimApi()
        self.leads = True
        self.reports: list[Outcome] = []
        api: Any = self.api
        self.binder = Binder(
            api,
            lambda: self.leads,
            self.reports.append,
            pause_seconds=0.0,
            utc_now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        )
        self.seen = self.api._read()

    def allocate(self) -> Outcome:
        allocation = msgspec.convert(ALLOCATION, AllocationResult)
        return self.binder.allocate(Write(self.seen, allocation))

    @property
    def stored(self) -> ResourceClaim:
        return self.api._read()


@pytest.fixture
def setting() -> Setting:
    return Setting()


def fail(error: KubeError) -> Callable[[str], None]:
    def raise_it(_: str) -> None:
        raise error

    return raise_it


def nothing(_: str) -> None:
    """Let the request through."""


def test_the_finalizer_goes_first_then_the_allocation_with_its_time(setting: Setting) -> None:
    outcome = setting.allocate()
    assert outcome == Written("uid-c", setting.stored.metadata.resource_version)
    assert setting.api.requests == ["claim", "status"]
    assert setting.stored.metadata.finalizers == [CLAIM_FINALIZER]
    assert setting.stored.metadata.annotations == {"unknown": "to us"}
    allocation = setting.stored.status.allocation
    assert allocation is not None
    assert allocation.allocation_timestamp == "2026-01-02T03:04:05Z"


def test_a_finalizer_that_is_there_is_not_written_again_and_others_stay(setting: Setting) -> None:
    setting.api.change({"metadata": {"finalizers": ["example.com/other"]}})
    setting.seen = setting.stored
    setting.allocate()
    assert setting.stored.metadata.finalizers == ["example.com/other", CLAIM_FINALIZER]
    setting.api.change({"status": {"allocation": None}})
    setting.seen = setting.stored
    setting.api.requests.clear()
    setting.allocate()
    assert setting.api.requests == ["status"]


def test_a_claim_that_no_json_patch_leaves_alone_gets_its_finalizer_otherwise(setting: Setting) -> None:
    setting.api.before.append(fail(KubeRefusedError("field is immutable", status=422)))
    assert isinstance(setting.allocate(), Written)
    assert setting.api.requests == ["claim", "finalizer", "status"]


def test_a_claim_of_the_same_name_made_meanwhile_is_not_written(setting: Setting) -> None:
    setting.api.before += [
        fail(KubeRefusedError("field is immutable", status=422)),
        lambda _: setting.api.change({"metadata": {"uid": "another"}}),
    ]
    assert setting.allocate() == NotWritten("uid-c", "the claim is gone")
    assert setting.stored.status.allocation is None


def test_a_change_in_between_is_read_and_the_write_made_again(setting: Setting) -> None:
    setting.api.change({"metadata": {"labels": {"somebody": "was here"}}})
    assert isinstance(setting.allocate(), Written)
    assert setting.api.requests == ["claim", "GET", "claim", "status"]


def test_another_clients_allocation_stays(setting: Setting) -> None:
    setting.api.change({"status": {"allocation": OTHER}})
    outcome = setting.allocate()
    assert isinstance(outcome, NotWritten)
    assert "another client" in outcome.message
    assert setting.stored.status.allocation == msgspec.convert(OTHER, AllocationResult)


def test_a_write_whose_answer_was_lost_is_found_and_counts(setting: Setting) -> None:
    def lost(_: str) -> None:
        setting.api.change({"status": {"allocation": ALLOCATION}})
        raise KubeUnavailableError("time-out", status=0)

    setting.api.before = [nothing, lost]
    assert setting.allocate() == Written("uid-c", setting.stored.metadata.resource_version)
    assert setting.api.requests == ["claim", "status", "GET"]


def test_while_the_api_server_is_away_the_write_is_tried_again(setting: Setting) -> None:
    away = fail(KubeUnavailableError("away", status=0))
    setting.api.before = [away] * 20
    assert isinstance(setting.allocate(), Written)


def test_a_write_that_the_api_server_answers_with_errors_of_its_own_holds_no_writer_for_ever(
    setting: Setting,
) -> None:
    broken = fail(KubeUnavailableError("500 InternalError: of this claim", status=500))
    setting.api.before = [nothing, *[broken, nothing] * 3, broken]
    outcome = setting.allocate()
    assert isinstance(outcome, NotWritten)
    assert "of this claim" in outcome.message
    assert setting.api.requests.count("status") == 4


def sent(setting: Setting, parameters: bytes) -> bytes:
    """The allocation that is sent for a claim with these parameters."""
    opaque = OpaqueConfig(driver="other.io", parameters=msgspec.Raw(parameters))
    config = [DeviceAllocationConfig(source="FromClaim", opaque=opaque)]
    allocation = AllocationResult(devices=DeviceAllocationResult(config=config))
    setting.api.before = [nothing, fail(KubeRefusedError("that is enough", status=422))]
    setting.binder.allocate(Write(setting.seen, allocation))
    kind, body = setting.api.sent[-1]
    assert kind == "json"
    return bytes(body)


def test_parameters_are_sent_as_a_later_apply_would_leave_them(setting: Setting) -> None:
    body = sent(setting, b'{"b": null, "a": {"d": 1.0, "c": "<"}}')
    assert b'{"a":{"c":"\\u003c","d":1},"b":null}' in body


@pytest.mark.parametrize("name", HOSTILE)
def test_parameters_that_cannot_be_decoded_are_sent_byte_for_byte(name: str, setting: Setting) -> None:
    parameters = HOSTILE[name][:-1] + b',"nothing":null}'
    assert parameters in sent(setting, parameters)


def test_a_claim_that_was_made_anew_under_its_name_is_left_alone(setting: Setting) -> None:
    setting.api.change({"metadata": {"uid": "another"}})
    assert setting.allocate() == NotWritten("uid-c", "the claim is gone")


def test_a_refusal_is_reported_with_its_words(setting: Setting) -> None:
    setting.api.before = [nothing, fail(KubeRefusedError("422: no right to bind", status=422))]
    outcome = setting.allocate()
    assert isinstance(outcome, NotWritten)
    assert "no right to bind" in outcome.message


def test_endless_conflicts_end(setting: Setting) -> None:
    setting.api.before = [lambda _: setting.api.change({"metadata": {"labels": {"a": "b"}}})] * 100
    assert isinstance(setting.allocate(), NotWritten)


def test_who_lost_the_lead_writes_nothing(setting: Setting) -> None:
    setting.leads = False
    assert isinstance(setting.allocate(), NotWritten)
    assert isinstance(setting.binder.clear(Clear(setting.seen, "n")), Cleared)
    assert setting.api.requests == []


def test_the_lead_is_asked_for_before_each_write(setting: Setting) -> None:
    def lose(_: str) -> None:
        setting.leads = False

    setting.api.before = [lose]
    assert isinstance(setting.allocate(), NotWritten)
    assert setting.api.requests == ["claim"]
    assert setting.stored.status.allocation is None


def test_clearing_takes_allocation_and_device_status_and_leaves_the_finalizer(setting: Setting) -> None:
    setting.allocate()
    assert setting.binder.clear(Clear(setting.stored, "n")) == Cleared("uid-c")
    assert setting.stored.status.allocation is None
    assert setting.stored.metadata.finalizers == [CLAIM_FINALIZER]


def test_a_claim_that_was_reserved_meanwhile_is_not_cleared(setting: Setting) -> None:
    setting.allocate()
    seen = setting.stored
    setting.api.change({"status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}})
    outcome = setting.binder.clear(Clear(seen, "n"))
    assert isinstance(outcome, Cleared)
    assert outcome.error
    assert setting.stored.status.allocation is not None
    assert setting.binder.clear(Clear(setting.stored, "n")) == Cleared("uid-c", "the claim is reserved")


def test_a_bug_while_clearing_is_reported_so_that_it_is_tried_again(setting: Setting) -> None:
    def odd(_: str) -> None:
        raise ValueError("an answer that nobody understands")

    setting.api.before = [odd]
    setting.binder.submit(Clear(setting.seen, "n"))
    setting.binder._pool.shutdown(wait=True)
    assert setting.reports == [Cleared("uid-c", "ValueError('an answer that nobody understands')")]
