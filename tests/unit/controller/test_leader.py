from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.leader import LeaderElection, Lease, LeaseTimes
from driver.errors import KubeConflictError, KubeNotFoundError, KubeUnavailableError


class LeaseApi:
    """The one Lease, with the API server's optimistic lock."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.away = False

    def get(self, path: str, type: type[Lease]) -> Lease:
        if self.away:
            raise KubeUnavailableError("away", status=0)
        if self.lease is None:
            raise KubeNotFoundError("none", status=404)
        return self.lease

    def create(self, path: str, obj: Lease, type: type[Lease]) -> Lease:
        if self.lease is not None:
            raise KubeConflictError("there is one", status=409)
        return self._store(obj, 1)

    def update(self, path: str, obj: Lease, type: type[Lease]) -> Lease:
        if self.away:
            raise KubeUnavailableError("away", status=0)
        if self.lease is None or self.lease.metadata.resource_version != obj.metadata.resource_version:
            raise KubeConflictError("modified", status=409)
        return self._store(obj, int(obj.metadata.resource_version) + 1)

    def _store(self, obj: Lease, version: int) -> Lease:
        metadata = msgspec.structs.replace(obj.metadata, resource_version=str(version))
        self.lease = msgspec.structs.replace(obj, metadata=metadata)
        return self.lease


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api() -> LeaseApi:
    return LeaseApi()


def candidate(api: Any, clock: Clock, identity: str) -> LeaderElection:
    return LeaderElection(api, "ns", "lease", identity, LeaseTimes(), clock=clock)


def test_the_first_leads_and_the_second_waits(api: LeaseApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    assert a.step()
    assert not b.step()
    clock.now += 14
    assert a.step()
    clock.now += 14
    assert not b.step(), "the lease was renewed meanwhile, so b's patience starts anew"


def test_a_dead_leader_is_followed_after_the_lease_and_not_before(api: LeaseApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.step()
    b.step()
    clock.now += 14.9
    assert not b.step()
    clock.now += 0.1
    assert b.step()
    assert api.lease is not None
    assert api.lease.spec.holder_identity == "b"
    assert api.lease.spec.lease_transitions == 1


def test_a_leader_that_cannot_renew_stops_before_another_may_lead(api: LeaseApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.step()
    b.step()
    api.away = True
    for _ in range(5):
        clock.now += 2
        a.step()
    assert not a.may_write()
    api.away = False
    assert not b.step(), "five seconds are left in which writes that began may end"


def test_that_the_lease_cannot_be_had_is_said_once_and_when_it_can_again(
    api: LeaseApi, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    a = candidate(api, clock, "a")
    for away in (True, True, False, False, True):
        api.away = away
        a.step()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_a_leader_that_was_asleep_does_not_write(api: LeaseApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.step()
    b.step()
    clock.now += 60
    assert not a.may_write()
    assert b.step()
    assert not a.step()
    assert not a.may_write()


def test_who_loses_the_race_for_a_free_lease_does_not_lead(api: LeaseApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.step()
    b.step()
    clock.now += 15
    lease = api.lease
    assert lease is not None
    read_before = candidate(api, clock, "c")
    read_before.step()
    assert b.step()
    real_get = api.get
    api.get = lambda path, type: lease  # type: ignore[method-assign]  # c read the lease before b wrote it
    clock.now += 15
    assert not read_before.step()
    api.get = real_get  # type: ignore[method-assign]


def test_a_lease_given_up_is_free_at_once(api: LeaseApi, clock: Clock) -> None:
    a, b = candidate(api, clock, "a"), candidate(api, clock, "b")
    a.step()
    b.step()
    a.release()
    assert not a.may_write()
    assert b.step()
