"""The bench's first fit takes the very devices that Kubernetes' allocator takes."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from bench.first_fit import NodeBooks, Shape, on_node
from controller.allocator.model import NodeDevices
from driver.kube.objects import Node, ResourceSlice
from tests.oracle.oracle import ask

SHAPES = (
    Shape("pair", gpus=1, vfs=1),
    Shape("three pairs", gpus=3, vfs=3),
    Shape("GPUs", gpus=2),
    Shape("NIC", vfs=1),
    Shape("part", profile="small"),
)
OF_TYPE = 'device.attributes["tandem-dra.io"].type == "%s"'
SWITCHES = "tandem-dra.io/pcieSwitch"
NODE: dict[str, Any] = {"metadata": {"name": "node"}}


def device(name: str, **attributes: str) -> dict[str, Any]:
    return {"name": name, "attributes": {key: {"string": value} for key, value in attributes.items()}}


def slices() -> list[dict[str, Any]]:
    """Four switches with two GPUs and three functions each; the last GPU also in two halves."""
    devices = [
        device(f"{kind}-{switch}-{number}", type=kind, pcieSwitch=f"s{switch}")
        for kind, numbers in (("gpu", 2), ("vf", 3))
        for switch in range(4)
        for number in range(numbers)
    ]
    halves = [device(f"mig-{n}", type="mig", profile="small", pcieSwitch="s3") for n in range(2)]
    whole = next(one for one in devices if one["name"] == "gpu-3-1")
    for one, amount in ((whole, "2"), *((half, "1") for half in halves)):
        one["consumesCounters"] = [{"counterSet": "gpu", "counters": {"slices": {"value": amount}}}]
    pool = {"name": "pool", "generation": 1, "resourceSliceCount": 2}
    base = {"driver": "tandem-dra.io", "pool": pool, "nodeName": "node"}
    counters = [{"name": "gpu", "counters": {"slices": {"value": "2"}}}]
    return [
        {"metadata": {"name": "a"}, "spec": {**base, "devices": devices + halves}},
        {"metadata": {"name": "b"}, "spec": {**base, "sharedCounters": counters}},
    ]


def claim(shape: Shape) -> dict[str, Any]:
    pairs = min(shape.gpus, shape.vfs)
    kinds = ["gpu", "vf"] * pairs + ["gpu"] * (shape.gpus - pairs) + ["vf"] * (shape.vfs - pairs)
    kinds += ["mig"] * bool(shape.profile)
    requests = [
        {"name": f"r{n}", "exactly": {"deviceClassName": kind, "allocationMode": "ExactCount", "count": 1}}
        for n, kind in enumerate(kinds)
    ]
    matches = [{"matchAttribute": SWITCHES, "requests": [f"r{2 * n}", f"r{2 * n + 1}"]} for n in range(pairs)]
    spec = {"devices": {"requests": requests, "constraints": matches}}
    return {"metadata": {"name": "new", "namespace": "default", "uid": "new"}, "spec": spec}


def holder(number: int, name: str) -> dict[str, Any]:
    result = {"request": "r0", "driver": "tandem-dra.io", "pool": "pool", "device": name}
    old = claim(Shape("one", gpus=1))
    old["metadata"] = {"name": f"old-{number}", "namespace": "default", "uid": f"old-{number}"}
    return {**old, "status": {"allocation": {"devices": {"results": [result]}}}}


@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_kubernetes_takes(seed: int) -> None:
    rng = random.Random(seed)
    raw = slices()
    node = NodeDevices.build(msgspec.convert(raw, list[ResourceSlice]), msgspec.convert(NODE, Node))
    books = NodeBooks.of(node)
    taken = []
    for one in rng.sample(node.devices, rng.randint(0, 14)):
        if books.free(one):
            books.take({one.id})
            taken.append(one.id.device)
    classes = [
        {"metadata": {"name": kind}, "spec": {"selectors": [{"cel": {"expression": OF_TYPE % kind}}]}}
        for kind in ("gpu", "vf", "mig")
    ]
    held = [holder(number, name) for number, name in enumerate(taken)]
    questions = [
        {"node": NODE, "slices": raw, "classes": classes, "claims": [*held, claim(shape)]} for shape in SHAPES
    ]
    for shape, answer in zip(SHAPES, ask(questions), strict=True):
        ours = on_node(books, shape)
        theirs = [r.device for a in answer.allocations for r in a.devices.results] if answer.placed else None
        assert (None if ours is None else [one.id.device for one in ours]) == theirs, (shape, taken)
