"""A claim that cannot be read is its own trouble: its devices stay taken, it is told, others are served."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from controller.allocator.cel import CelCache
from controller.notices import take
from controller.ownership import Ownership
from controller.reading import ClaimReader
from controller.state import ClusterState
from controller.unreadable import UnreadableClaim
from controller.wish import NoWish, Wishes
from driver.kube.objects import DeviceClaimConfig, OpaqueConfig, ResourceClaim
from driver.names import DRIVER_NAME
from tests.unit.controller.model import a_cluster, wish
from tests.unit.controller.things import a_claim, a_pod
from tests.unit.kube.hostile import DEEP, HALF_A_PAIR, HOSTILE, a_claim_with

RESULT = {"request": "g", "driver": DRIVER_NAME, "pool": "n0", "device": "gpu-0"}
ODD_SPEC = {"devices": "in another form"}
ODD_RESULT = {**RESULT, "request": 7, "tolerations": "in another form"}
ODD_ALLOCATION = {"devices": {"results": "in another form"}}


def read(*, name: str = "odd", version: int = 1, **fields: Any) -> ResourceClaim:
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return ClaimReader()(msgspec.Raw(json.dumps({"metadata": metadata, **fields}).encode()))


def allocated(*results: dict[str, Any]) -> dict[str, Any]:
    return {"allocation": {"devices": {"results": list(results)}}}


def taken(state: ClusterState) -> set[str]:
    return {device.device for device in state.books.taken((DRIVER_NAME, "n0"))}


@pytest.mark.parametrize(
    "fields",
    [
        {"spec": ODD_SPEC, "status": allocated(RESULT)},
        {"spec": {}, "status": allocated(ODD_RESULT)},
        {"spec": {}, "status": {**allocated(RESULT), "reservedFor": 7}},
        {"spec": {}, "status": allocated({**RESULT, "shareID": {}, "consumedCapacity": 7})},
    ],
    ids=["spec", "result", "reservation", "share"],
)
def test_what_it_holds_is_taken_whatever_else_cannot_be_read(fields: dict[str, Any]) -> None:
    claim = read(**fields)
    assert isinstance(claim, UnreadableClaim)
    state = ClusterState(DRIVER_NAME)
    state.apply_claim(None, claim, 0.0)
    assert taken(state) == {"gpu-0"}
    assert not state.unreserved
    state.apply_claim(claim, None, 1.0)
    assert taken(state) == set()
    assert not state.unreadable.problems


def test_where_nothing_tells_what_it_holds_it_holds_what_it_held() -> None:
    state = ClusterState(DRIVER_NAME)
    before = read(spec={}, status=allocated(RESULT))
    state.apply_claim(None, before, 0.0)
    odd = read(version=2, spec={}, status={"allocation": ODD_ALLOCATION})
    state.apply_claim(before, odd, 1.0)
    again = read(version=3, spec={}, status={"allocation": ODD_ALLOCATION})
    state.apply_claim(odd, again, 2.0)
    assert taken(state) == {"gpu-0"}
    state.apply_claim(again, read(version=4, spec={}, status={}), 3.0)
    assert taken(state) == set()


def test_at_the_first_list_a_claim_of_which_nothing_is_known_takes_nothing_and_is_told() -> None:
    state = ClusterState(DRIVER_NAME)
    state.apply_claim(None, read(status={"allocation": ODD_ALLOCATION}), 0.0)
    assert taken(state) == set()
    assert set(state.unreadable.problems) == {"uid-odd"}


def test_it_is_told_once_and_again_only_after_it_could_be_read() -> None:
    state, ownership = ClusterState(DRIVER_NAME), Ownership(DRIVER_NAME, CelCache())

    def told() -> list[tuple[str, str]]:
        notices = take(state, ownership, Counter())
        return [(tell.reason, tell.regarding.metadata.name) for tell in notices.tells]

    state.apply_claim(None, read(spec=ODD_SPEC), 0.0)
    (tell,) = take(state, ownership, Counter()).tells
    assert tell.reason == "Unreadable"
    assert "$.spec.devices" in tell.message
    state.apply_claim(read(spec=ODD_SPEC), read(version=2, spec=ODD_SPEC), 1.0)
    assert told() == []
    state.apply_claim(read(version=2, spec=ODD_SPEC), read(version=3, spec={}), 2.0)
    state.apply_claim(read(version=3, spec={}), read(version=4, spec=ODD_SPEC), 3.0)
    assert told() == [("Unreadable", "odd")]


def test_a_pod_that_uses_it_is_told_why_it_waits() -> None:
    state = ClusterState(DRIVER_NAME)
    state.apply_claim(None, a_claim("good"), 0.0)
    state.apply_claim(None, read(spec=ODD_SPEC), 0.0)
    found = Wishes(state, None).of(a_pod("p", ["good", "odd"]))
    assert isinstance(found, NoWish)
    assert found.reason.startswith("claim odd cannot be read: Expected `object`")


def test_what_has_no_name_is_no_claim() -> None:
    with pytest.raises(msgspec.ValidationError):
        ClaimReader()(msgspec.Raw(b'{"metadata":{"uid":"u"},"spec":7}'))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_parameters_make_a_claim_unreadable_and_what_it_holds_is_taken(name: str) -> None:
    read = ClaimReader(DRIVER_NAME)
    first, second = (read(msgspec.Raw(a_claim_with(HOSTILE[name], name=of))) for of in ("a", "b"))
    assert not isinstance(first, UnreadableClaim)
    assert first.spec is second.spec
    state = ClusterState(DRIVER_NAME)
    state.apply_claim(None, read(msgspec.Raw(a_claim_with(HOSTILE[name], driver=DRIVER_NAME))), 0.0)
    assert {device.device for device in state.books.taken((DRIVER_NAME, "n0"))} == {"d0"}


def with_parameters(claim: ResourceClaim, driver: str, parameters: bytes) -> ResourceClaim:
    config = DeviceClaimConfig(opaque=OpaqueConfig(driver=driver, parameters=msgspec.Raw(parameters)))
    devices = msgspec.structs.replace(claim.spec.devices, config=[*claim.spec.devices.config, config])
    return msgspec.structs.replace(claim, spec=msgspec.structs.replace(claim.spec, devices=devices))


@pytest.mark.parametrize("name", HOSTILE)
def test_parameters_of_another_driver_go_into_the_allocation_byte_for_byte(name: str) -> None:
    cluster = a_cluster()
    cluster.put_claim(with_parameters(a_claim("p-claim"), "other.io", HOSTILE[name]))
    cluster.put_pod(a_pod("p", ["p-claim"]))
    cluster.run()
    allocation = cluster.state.claims["default", "p-claim"].status.allocation
    assert allocation is not None
    (theirs,) = [c.opaque for c in allocation.devices.config if c.opaque and c.opaque.driver == "other.io"]
    assert bytes(theirs.parameters) == HOSTILE[name]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (DEEP, "config 1: is nested too deeply"),
        (HALF_A_PAIR, r"config 1: has \ud800, half a"),
    ],
)
def test_our_parameters_that_cannot_be_read_are_an_error_of_their_claim_alone(
    parameters: bytes, says: str
) -> None:
    cluster = a_cluster()
    cluster.put_claim(with_parameters(a_claim("bad"), DRIVER_NAME, parameters))
    cluster.put_pod(a_pod("bad-pod", ["bad"]))
    wish(cluster, "good")
    cluster.run()
    assert [pod for _, pod, _ in cluster.allocated] == [("default", "good")]
    for name in ("bad", "bad-pod"):
        (message,) = cluster.messages(name, "Unsatisfiable")
        assert says in message
