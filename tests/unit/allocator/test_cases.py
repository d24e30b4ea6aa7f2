"""The rules, one small case each (cases/*.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller.allocator import quantity
from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, NodeDevices
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation, Refusal
from driver.kube.objects import DeviceAllocationConfig, DeviceClass, NodeSelector, ResourceSlice
from driver.names import DRIVER_NAME
from tests.unit.allocator import world

CEL = CelCache()
CLASSES = world.classes()
QUESTION = {
    "rule", "devices", "pools", "labels", "claims", "taken", "shares", "counters", "unmanaged", "any_manager",
    "class_config", "limits",
}  # fmt: skip
ANSWER = {
    "placed", "pairs", "count", "refused", "permanent", "unsupported", "consumed", "selectors", "configs",
    "tolerations",
}  # fmt: skip


def load() -> list[Any]:
    files = sorted((Path(__file__).parent / "cases").glob("*.yaml"))
    cases = [(f.stem, case) for f in files for case in yaml.safe_load(f.read_text())]
    return [pytest.param(case, id=f"{stem}: {case['rule']}") for stem, case in cases]


def slices(case: dict[str, Any]) -> list[ResourceSlice]:
    """Of `devices`, one pool of ours on the node; of `pools`, another driver's slices as they are said to be,
    those of one name of one pool.
    """
    if "pools" not in case:
        managed = not case.get("unmanaged")
        return world.slices(case["devices"], managed=managed, counters=case.get("counters"), cut=64)
    names = [pool.get("name", "pool") for pool in case["pools"]]
    return [
        world.part(
            f"slice-{number}",
            pool.get("devices", ()),
            driver=pool.get("driver", "d.io"),
            pool=names[number],
            generation=pool.get("generation", 1),
            count=pool.get("count", names.count(names[number])),
            counters=pool.get("counters"),
            where=pool.get("from", "node"),
        )
        for number, pool in enumerate(case["pools"])
    ]


def classes(case: dict[str, Any]) -> dict[str, DeviceClass]:
    """The usual ones; `class_config` gives some of them opaque configuration."""
    found = dict(CLASSES)
    for name, config in case.get("class_config", {}).items():
        spec = msgspec.structs.replace(found[name].spec, config=[world.class_config(config)])
        found[name] = msgspec.structs.replace(found[name], spec=spec)
    return found


def run(case: dict[str, Any]) -> Allocation | Refusal:
    assert case.keys() <= QUESTION | ANSWER
    claims = [
        world.claim(
            claim["requests"],
            name=f"c{number}",
            match=[tuple(m) for m in claim.get("match", ())],
            distinct=[tuple(d) for d in claim.get("distinct", ())],
            config=[
                *(world.alignment(**a) for a in claim.get("align", ())),
                *(world.opaque(c) for c in claim.get("config", ())),
            ],
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
    node = NodeDevices.build(slices(case), world.node(**case.get("labels", {})))
    return allocate(claims, node, classes(case), taken, options, CEL, shared, limits)


@pytest.mark.parametrize("case", load())
def test_rule(case: dict[str, Any]) -> None:
    answer = run(case)
    if "refused" in case:
        assert isinstance(answer, Refusal), answer
        assert case["refused"] in answer.message
        assert not answer.gave_up
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
    if "selectors" in case:
        assert [_selector(c.result.node_selector) for c in answer.claims] == case["selectors"]
    if "configs" in case:
        assert [[_config(one) for one in c.result.devices.config] for c in answer.claims] == case["configs"]
    if "tolerations" in case:
        tolerations = [r.tolerations for c in answer.claims for r in c.result.devices.results]
        assert [[f"{t.key}:{t.effect}" for t in some] for some in tolerations] == case["tolerations"]


def _selector(selector: NodeSelector | None) -> str:
    if selector is None:
        return "any node"
    (term,) = selector.node_selector_terms
    return " ".join(f"{r.key}={r.values[0]}" for r in (*term.match_fields, *term.match_expressions))


def _config(config: DeviceAllocationConfig) -> str:
    assert config.opaque is not None
    said = msgspec.json.decode(config.opaque.parameters)
    return f"{config.source} {', '.join(config.requests) or 'all'}: {said.get('say', said.get('kind'))}"


PERMANENT = [case for case in load() if case.values[0].get("permanent")]


@pytest.mark.parametrize("case", PERMANENT)
def test_what_is_refused_for_ever_is_refused_whatever_nodes_publish(case: dict[str, Any]) -> None:
    """Nothing wakes such a claim, so nothing that may come may help it."""
    for devices in (["other-0: model=x"], ["gpu-[0-9]: type=vf", "vf-[0-9]: type=gpu"]):
        answer = run({**case, "devices": devices, "taken": []})
        assert isinstance(answer, Refusal)
        assert answer.permanent, answer
