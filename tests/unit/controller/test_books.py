"""Devices held whole and in part, counted by claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from controller.allocator.model import DeviceId
from controller.books import Books
from driver.kube.objects import AllocationResult

DRIVER = "tandem-dra.io"
POOL = (DRIVER, "pool")
GPU = DeviceId(DRIVER, "pool", "gpu-0")


def allocation(*results: Mapping[str, Any]) -> AllocationResult:
    base = {"request": "r", "driver": DRIVER, "pool": "pool", "device": "gpu-0"}
    return msgspec.convert({"devices": {"results": [{**base, **r} for r in results]}}, AllocationResult)


def share(name: str, **amounts: str) -> Mapping[str, Any]:
    return {"shareID": name, "consumedCapacity": amounts}


def test_shares_of_a_device_are_summed_over_claims_and_requests() -> None:
    books = Books(DRIVER)
    books.record("a", allocation(share("1", mem="1Gi"), share("2", mem="2Gi")))
    _, duplicates = books.record("b", allocation(share("3", mem="1Gi", cores="4")))
    assert books.shared(POOL) == {GPU: {"mem": 4 * 2**30, "cores": 4}}
    assert not books.taken(POOL)
    assert duplicates == []


def test_a_share_given_back_makes_room_and_says_so() -> None:
    books = Books(DRIVER)
    books.record("a", allocation(share("1", mem="1Gi")))
    before = books.version(POOL)
    books.record("b", allocation(share("2", mem="2Gi")))
    freed, _ = books.record("a", None)
    assert freed == {POOL}
    assert books.shared(POOL) == {GPU: {"mem": 2 * 2**30}}
    assert books.version(POOL) > before
    books.record("b", None)
    assert books.shared(POOL) == {}


def test_the_same_share_told_again_changes_nothing() -> None:
    books = Books(DRIVER)
    books.record("a", allocation(share("1", mem="1Gi")))
    before = books.version(POOL)
    freed, _ = books.record("a", allocation(share("1", mem="1Gi")))
    assert not freed
    assert books.version(POOL) == before


def test_a_share_without_amounts_is_there_all_the_same() -> None:
    books = Books(DRIVER)
    books.record("a", allocation(share("1")))
    assert books.shared(POOL) == {GPU: {}}


def test_admin_access_holds_nothing() -> None:
    books = Books(DRIVER)
    books.record("a", allocation({"adminAccess": True}, {"adminAccess": True, **share("1", mem="1Gi")}))
    assert not books.taken(POOL)
    assert books.shared(POOL) == {}


def test_a_device_held_by_two_claims_is_told() -> None:
    books = Books(DRIVER)
    books.record("a", allocation({}))
    _, duplicates = books.record("b", allocation({}))
    assert [(d.device, d.first_uid, d.second_uid) for d in duplicates] == [(GPU, "a", "b")]
