"""A step of the allocator is about as long as any other, whatever it is that is being done: what is done from
one stop to the next, in calls of functions, is in proportion to the steps that were announced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.model import NodeDevices
from controller.allocator.pairing import _choices
from controller.allocator.solve import allocating
from driver.names import DRIVER_NAME
from tests.unit.allocator import world

CALLS_A_STEP = 2_000
"""A call takes a twentieth of a microsecond at least."""

PLACES = ["part-[0-95]: type=gpu pcieRoot=r# numaNode=0", "nic-[0-15]: type=nic pcieRoot=q# numaNode=1"]
COUNTED = [
    "part-[0-95]: type=gpu pcieRoot=r# " + " ".join(f"-set{i}.slices=1" for i in range(8)),
    "nic-[0-15]: type=nic pcieRoot=q#",
]
MANY_KINDS: dict[str, tuple[list[str], list[str], list[dict[str, Any]]]] = {
    "more GPUs than NICs": (PLACES, ["gpu: gpu x16", "nic: nic x15"], [world.alignment()]),
    "more NICs than GPUs": (PLACES, ["gpu: gpu x7", "nic: nic x16"], [world.alignment()]),
    "as many of both": (PLACES, ["gpu: gpu x16", "nic: nic x16"], [world.alignment()]),
    "pairs that nobody asked for": (PLACES, ["gpu: gpu x16", "nic: nic x12"], []),
}


class _Calls:
    def __init__(self) -> None:
        self.number = 0

    def count(self, frame: FrameType, event: str, arg: object) -> None:
        self.number += event in ("call", "c_call")


@contextmanager
def counted() -> Iterator[_Calls]:
    calls, before = _Calls(), sys.getprofile()
    sys.setprofile(calls.count)
    try:
        yield calls
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("kind", MANY_KINDS)
def test_calls_from_one_stop_to_the_next_are_in_proportion_to_its_steps(kind: str) -> None:
    lines, requests, config = MANY_KINDS[kind]
    node = NodeDevices.build(world.slices(lines, managed=True), world.node())
    claim = world.claim(requests, config=config)
    work = allocating(
        [claim], node, world.classes(), set(), Options(steps=20, driver=DRIVER_NAME), CelCache()
    )
    parts: list[float] = []
    done = False
    next(work)  # the devices are looked at for the first time
    steps = next(work)
    while not done and len(parts) < 60:
        with counted() as calls:
            following = next(work, None)
        parts.append(calls.number / (1 + steps))
        done, steps = following is None, following or 0
    assert max(parts) <= CALLS_A_STEP, f"part {parts.index(max(parts))} of {len(parts)}"


def test_choices_that_cannot_be_completed_are_not_tried() -> None:
    kinds = list(range(24))
    with counted() as calls:
        assert sum(1 for _ in _choices(kinds, dict.fromkeys(kinds, 1), 23)) == 24
    assert calls.number <= 40 * len(kinds) ** 2
