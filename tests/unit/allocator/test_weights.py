"""Which of two nodes is the better one, by the levels of `weights`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.model import DeviceId, NodeDevices
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation
from controller.allocator.weights import sets
from driver.names import DRIVER_NAME
from tests.unit.allocator import world

CEL = CelCache()
PAIRS = ["gpu-[0-7]: type=gpu pcieSwitch=s# numaNode=0", "vf-[0-7]: type=vf pcieSwitch=s# numaNode=0"]
PARTS = [
    "gpu-[0-1]: type=gpu -g#.slices=2",
    "mig-0-[0-1]: type=mig -g0.slices=1",
    "mig-1-[0-1]: type=mig -g1.slices=1",
]
PAIR = ["gpu: gpu", "nic: nic"]
PART = ["part: any if device.attributes['tandem-dra.io'].type == 'mig'"]


def gone(*numbers: int) -> list[str]:
    return [f"{kind}-{number}" for kind in ("gpu", "vf") for number in numbers]


def score(lines: Sequence[str], taken: Sequence[str], requests: Sequence[str]) -> tuple[int, ...]:
    counters = {"g0": {"slices": "2"}, "g1": {"slices": "2"}} if lines is PARTS else None
    node = NodeDevices.build(world.slices(lines, managed=True, counters=counters, cut=64), world.node())
    held = {DeviceId(DRIVER_NAME, "pool", name) for name in taken}
    config = [world.alignment()] if requests is PAIR else []
    answer = allocate([world.claim(requests, config=config)], node, world.classes(), held, Options(), CEL)
    assert isinstance(answer, Allocation), answer
    return answer.score


@pytest.mark.parametrize(
    ("requests", "better", "worse"),
    [
        pytest.param(
            PAIR, (PAIRS, ()), (PAIRS, [*(f"vf-{n}" for n in range(7)), "gpu-7"]), id="a nearer pair"
        ),
        pytest.param(["gpu: gpu"], (PAIRS, ["vf-3"]), (PAIRS, gone(3)), id="a GPU that has lost its NIC"),
        pytest.param(["nic: nic"], (PAIRS, ["gpu-3"]), (PAIRS, gone(3)), id="a NIC that has lost its GPU"),
        pytest.param(PART, (PARTS, ["mig-0-1"]), (PARTS, ["gpu-0"]), id="a part of a broken GPU"),
        pytest.param(
            PAIR, (PAIRS, gone(0, 1, 2)), (PAIRS, gone(0, 1, 2, 3)), id="five GPUs, not a set of four"
        ),
        pytest.param(PAIR, (PAIRS, gone(0)), (PAIRS, ()), id="seven GPUs, not a whole node"),
        pytest.param(
            PAIR, (PAIRS, gone(*range(7))), (PAIRS, gone(*range(5))), id="the last GPU, not one of three"
        ),
    ],
)
def test_the_better_node_has(
    requests: Sequence[str],
    better: tuple[Sequence[str], Sequence[str]],
    worse: tuple[Sequence[str], Sequence[str]],
) -> None:
    assert score(*better, requests) < score(*worse, requests)


@pytest.mark.parametrize(("gpus", "found"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 3), (5, 3), (6, 4), (8, 7)])
def test_sets_of_two_four_and_eight_are_counted_together(gpus: int, found: int) -> None:
    assert sets(gpus) == found
