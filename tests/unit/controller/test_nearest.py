from __future__ import annotations

from collections.abc import Collection

from controller.allocator.candidates import Options
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, NodeDevices
from controller.nearest import changes
from controller.what_if import Question
from driver.kube.objects import ResourceClaim
from driver.names import DRIVER_NAME
from tests.unit.controller.model import CEL
from tests.unit.controller.things import CLASSES, a_claim, a_node, an_inventory, slices_of

NODE = NodeDevices.build(slices_of("n", an_inventory(pairs=3, vfs=1)), a_node("n"))
"""Rails 0, 1, 2, each with one GPU and one VF."""
CLOSED = "on a rail without a free address of FabricNetwork blue"


def nearest(claim: ResourceClaim, limit: Limit | None, taken: Collection[str] = ()) -> list[str]:
    held = [DeviceId(DRIVER_NAME, f"{DRIVER_NAME}/n", name) for name in taken]
    classes = {device_class.metadata.name: device_class for device_class in CLASSES}
    options = Options(driver=DRIVER_NAME, managed_only=True)
    question = Question((claim,), NODE, classes, held, options, CEL, {}, (limit,))
    return [change.text for change in changes(question)]


def vf(rail: int) -> str:
    return next(d.id.device for d in NODE.devices if d.id.device.startswith(f"vf-0000-{rail + 1}3"))


def test_a_rail_without_addresses_needs_more_of_them() -> None:
    told = nearest(a_claim("c", gpus=2, nics=2), Limit(frozenset({0}), CLOSED))
    assert told[0] == "1 more address on rail 1"


def test_several_rails_without_addresses_are_counted() -> None:
    told = nearest(a_claim("c", gpus=3, nics=3), Limit(frozenset({0}), CLOSED))
    assert told[0] == "1 more address on rail 1 and 1 more address on rail 2"


def test_a_member_of_a_gang_might_go_on_another_rail() -> None:
    gangs = Limit(frozenset({2}), "not on the gang's rails", exactly=True)
    told = nearest(a_claim("c", gpus=1, nics=1), gangs, taken=[vf(2)])
    assert told[0] == "rail 0 instead of 2 would do"


def test_no_change_but_that_of_rails_looks_beyond_the_open_ones() -> None:
    told = nearest(a_claim("c", gpus=0, nics=1), Limit(frozenset({0}), CLOSED), taken=[vf(0), vf(1)])
    assert "1 more address on rail 2" in told
    assert f"if {vf(0)} were free" in told
    assert not any(vf(1) in text for text in told)


def test_without_limits_nobody_speaks_of_rails() -> None:
    told = nearest(a_claim("c", gpus=1, nics=1), None, taken=[vf(0), vf(1), vf(2)])
    assert told
    assert not any("rail" in text for text in told)
