"""Devices held whole and in part, counted by claim."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

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


@pytest.mark.parametrize("order", [("whole", "part"), ("part", "whole")])
def test_a_device_held_whole_by_one_claim_and_in_part_by_another_is_told(order: tuple[str, str]) -> None:
    books = Books(DRIVER)
    held = {"whole": allocation({}), "part": allocation(share("1", mem="1Gi"))}
    assert books.record(order[0], held[order[0]])[1] == []
    _, duplicates = books.record(order[1], held[order[1]])
    assert [(d.device, d.first_uid, d.second_uid) for d in duplicates] == [(GPU, *order)]
    assert books.record(order[1], held[order[1]])[1] == []  # told once


def test_a_claim_does_not_clash_with_itself() -> None:
    _, duplicates = Books(DRIVER).record("a", allocation({}, share("1", mem="1Gi")))
    assert duplicates == []


def test_an_allocation_without_our_word_is_foreign_until_it_goes() -> None:
    books = Books(DRIVER)
    books.record("a", allocation({}))
    books.record("b", allocation({"driver": "other.example.com"}))
    books.record("admin", allocation({"adminAccess": True}))
    assert books.foreign(POOL) == {"a"}
    assert not books.foreign(("other.example.com", "pool"))
    books.record("a", None)
    assert not books.foreign(POOL)


def test_our_own_word_is_not_foreign_even_where_it_is_newer_than_we_are() -> None:
    books = Books(DRIVER)
    word = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Placement", "fieldOfTomorrow": 1}
    config = [{"source": "FromClass", "opaque": {"driver": DRIVER, "parameters": word}}]
    results = [{"request": "r", "driver": DRIVER, "pool": "pool", "device": "gpu-0"}]
    ours = json.dumps({"devices": {"results": results, "config": config}})
    books.record("a", msgspec.json.decode(ours, type=AllocationResult))
    assert not books.foreign(POOL)
