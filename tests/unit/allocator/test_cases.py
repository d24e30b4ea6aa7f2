"""The rules, one small case each (cases/*.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.allocator import quantity
from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, NodeDevices
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation, Refusal
from driver.names import DRIVER_NAME
from tests.unit.allocator import world

CEL = CelCache()
CLASSES = world.classes()
KEYS = {"rule", "devices", "claims", "taken", "counters", "unmanaged", "any_manager", "limits"} | {
    "placed", "pairs", "count", "refused", "permanent", "unsupported", "shares", "consumed",
}  # fmt: skip


def load() -> list[Any]:
    files = sorted((Path(__file__).parent / "cases").glob("*.yaml"))
    cases = [(f.stem, case) for f in files for case in yaml.safe_load(f.read_text())]
    return [pytest.param(case, id=f"{stem}: {case['rule']}") for stem, case in cases]


def run(case: dict[str, Any]) -> Allocation | Refusal:
    assert case.keys() <= KEYS
    slices = world.slices(
        case["devices"], managed=not case.get("unmanaged"), counters=case.get("counters"), cut=64
    )
    claims = [
        world.claim(
            claim["requests"],
            name=f"c{number}",
            match=[tuple(m) for m in claim.get("match", ())],
            distinct=[tuple(d) for d in claim.get("distinct", ())],
            config=[world.alignment(**a) for a in claim.get("align", ())],
        )
        for number, claim in enumerate(case["claims"])
    ]
    taken = {DeviceId(DRIVER_NAME, "pool", name) for name in case.get("taken", ())}
    options = Options(managed_only=not case.get("any_manager"), steps=50)
    shared = {
        DeviceId(DRIVER_NAME, "pool", name): {c: quantity.parse(v) for c, v in amounts.items()}
        for name, amounts in case.get("shares", {}).items()
    }
    limits = [
        Limit(frozenset(limit["rails"]), limit.get("reason", "closed"), limit.get("exactly", False))
        for limit in case.get("limits", ())
    ]
    node = NodeDevices.build(slices, world.node())
    return allocate(claims, node, CLASSES, taken, options, CEL, shared, limits)


@pytest.mark.parametrize("case", load())
def test_rule(case: dict[str, Any]) -> None:
    answer = run(case)
    if "refused" in case:
        assert isinstance(answer, Refusal), answer
        assert case["refused"] in answer.message
        assert answer.permanent == case.get("permanent", False)
        assert answer.unsupported == case.get("unsupported", "")
        return
    assert isinstance(answer, Allocation), answer
    if "placed" in case:
        results = [[f"{r.request} {r.device}" for r in c.result.devices.results] for c in answer.claims]
        assert results == case["placed"]
    if "consumed" in case:
        shares = [r for c in answer.claims for r in c.result.devices.results]
        assert [r.consumed_capacity for r in shares] == case["consumed"]
        assert len({r.share_id for r in shares if r.share_id}) == len(shares)
    if "pairs" in case:
        pairs = [p for c in answer.claims for p in c.pairs]
        words = [f"{p.gpu.id.device} {p.nic.id.device} {p.tier.name} {p.rail}" for p in pairs]
        assert [text.removesuffix(" None") for text in words] == case["pairs"]
    if "count" in case:
        assert sum(len(c.devices) for c in answer.claims) == case["count"]
