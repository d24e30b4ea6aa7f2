"""Which devices a node can reach: generations, incomplete and invalid pools, node selection."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.model import DeviceId, NodeDevices, taken_by
from controller.allocator.solve import allocate
from controller.allocator.verdict import Refusal
from driver.kube.objects import ResourceClaim, ResourceSlice
from tests.unit.allocator import world


def part(
    name: str, devices: list[str], *, generation: int = 1, count: int = 1, pool: str = "p", **spec: Any
) -> ResourceSlice:
    where = spec if spec else {"nodeName": "node"}
    raw = {
        "metadata": {"name": name},
        "spec": {
            "driver": "d.io",
            "pool": {"name": pool, "generation": generation, "resourceSliceCount": count},
            "devices": [msgspec.to_builtins(world.device(d)) for d in devices],
            **where,
        },
    }
    return msgspec.convert(raw, ResourceSlice)


def names(*slices: ResourceSlice, **labels: str) -> list[str]:
    return [d.id.device for d in NodeDevices.build(slices, world.node(**labels)).devices]


def reasons(*slices: ResourceSlice) -> list[str]:
    return [bad.reason for bad in NodeDevices.build(slices, world.node()).bad_pools]


def test_slices_of_a_pool_come_by_name_and_devices_as_published() -> None:
    assert names(part("b", ["x"], count=2), part("a", ["z", "y"], count=2)) == ["z", "y", "x"]


def test_an_older_generation_does_not_exist() -> None:
    assert names(part("a", ["old"]), part("b", ["new"], generation=2)) == ["new"]


def test_a_pool_with_a_slice_missing_is_not_used() -> None:
    assert names(part("a", ["x"], count=2)) == []
    assert reasons(part("a", ["x"], count=2)) == ["incomplete: 1 of 2 slices of generation 1"]


def test_a_device_twice_makes_its_pool_invalid_and_no_other() -> None:
    bad = part("a", ["x", "x"])
    assert names(bad, part("b", ["y"], pool="q")) == ["y"]
    assert reasons(bad) == ["invalid: device 'x' appears twice"]


def test_an_unknown_counter_makes_a_pool_invalid() -> None:
    assert reasons(part("a", ["x: -set.slices=1"])) == ["invalid: device 'x' uses unknown counter set 'set'"]


def test_slices_of_other_nodes_count_for_completeness_only() -> None:
    assert names(part("a", ["x"], count=2), part("b", ["y"], count=2, nodeName="other")) == ["x"]


def test_a_renewal_that_leaves_the_node_out_hides_what_was() -> None:
    old, new = part("a", ["x"], count=2), part("b", ["y"], generation=2, nodeName="other")
    assert names(old, new) == []


def test_slices_for_all_nodes_and_by_selector_are_reached() -> None:
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
    chosen = part("s", ["x"], nodeSelector={"nodeSelectorTerms": terms})
    assert names(chosen, zone="a") == ["x"]
    assert names(chosen, zone="b") == []
    assert names(part("s", ["x"], allNodes=True)) == ["x"]


def test_devices_may_choose_their_nodes_one_by_one() -> None:
    mixed = part("s", ["x", "y"], perDeviceNodeSelection=True)
    here = msgspec.structs.replace(mixed.spec.devices[0], node_name="node")
    there = msgspec.structs.replace(mixed.spec.devices[1], node_name="other")
    spec = msgspec.structs.replace(mixed.spec, devices=[here, there])
    assert names(msgspec.structs.replace(mixed, spec=spec)) == ["x"]


def test_a_condition_of_a_device_elsewhere_puts_its_pool_last() -> None:
    mixed = part("s", ["x", "y"], perDeviceNodeSelection=True)
    here = msgspec.structs.replace(mixed.spec.devices[0], node_name="node")
    there = msgspec.structs.replace(mixed.spec.devices[1], node_name="other", binding_conditions=["ready"])
    spec = msgspec.structs.replace(mixed.spec, devices=[here, there])
    assert names(msgspec.structs.replace(mixed, spec=spec), part("t", ["z"], pool="q")) == ["z", "x"]


def test_all_over_a_pool_in_flux_is_refused_with_its_name() -> None:
    node = NodeDevices.build([part("a", ["x"], count=2), part("b", ["y"], pool="q")], world.node())
    wanted = world.claim(["all: any all"])
    answer = allocate([wanted], node, world.classes(), set(), Options(managed_only=False), CelCache())
    assert isinstance(answer, Refusal)
    assert answer.message == (
        'request "all": asks for all devices, but pool p is incomplete: 1 of 2 slices of generation 1'
    )
    assert not answer.permanent


@pytest.mark.parametrize(
    ("result", "held"), [({}, True), ({"adminAccess": True}, False), ({"shareID": "s"}, False)]
)
def test_only_a_plain_result_holds_its_device(result: dict[str, Any], held: bool) -> None:
    one = {"request": "g", "driver": "d", "pool": "p", "device": "x", **result}
    raw = {"status": {"allocation": {"devices": {"results": [one]}}}}
    assert taken_by([msgspec.convert(raw, ResourceClaim)]) == ({DeviceId("d", "p", "x")} if held else set())
