"""How long the allocator thinks, beside Kubernetes' own in the same run.

Adversarial questions want pairs (said with matchAttribute) on more PCIe roots than have virtual functions, or
on just as many: counting settles them, trying does not. They are asked of a node whose slices are indexed.
Random ones are small, over all features of DRA, and their indexing counts.

    python -m bench.allocator [--random 1000] [--seconds 20]
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from bench.report import Goal, finish, percentile, progress, summary
from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.model import NodeDevices, shared_by, taken_by
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation, Refusal
from driver.kube.objects import DeviceClass, Node, ResourceClaim, ResourceSlice
from tests.oracle.generate import Json, question
from tests.oracle.oracle import Answer, ask

SEED: Final = 1
ROUNDS: Final = 9
SHAPES: Final = ((8, 4, 3, 16), (8, 5, 4, 8), (8, 8, 7, 32), (8, 8, 8, 64), (16, 16, 16, 64))
"""GPUs, each on a root of its own; pairs wanted; roots with virtual functions, and how many each."""

_DRIVER: Final = "tandem-dra.io"
_ROOT: Final = "resource.kubernetes.io/pcieRoot"
_SLICE: Final = 128


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--random", type=int, default=1000, help="random questions (%(default)d)")
    parser.add_argument("--seconds", type=float, default=20, help="Kubernetes' limit for each (%(default)g)")
    options = parser.parse_args()
    adversarial = _adversarial(options.seconds)
    ours, theirs = _random(options.random)
    worst = max(row["ms"] for row in adversarial)
    finish(
        "allocator",
        {"adversarial": adversarial, "random_ms": summary(ours), "random_kubernetes_ms": summary(theirs)},
        [
            Goal("adversarial_worst_ms", worst, "ms", 5),
            Goal("random_median_ms", percentile(ours, 50), "ms", 1),
            Goal("random_worst_ms", max(ours), "ms", 25),
        ],
    )


def _adversarial(seconds: float) -> list[Json]:
    rows = []
    for shape in SHAPES:
        gpus, pairs, roots, vfs = shape
        asked = _pigeonholes(*shape)
        reader = _Reader(asked)
        node = reader.index()
        gc.collect()
        answer, first = _timed(lambda: reader.answer(node))  # noqa: B023  # called at once
        times = [_timed(lambda: reader.answer(node))[1] for _ in range(ROUNDS)]  # noqa: B023
        theirs = ask([asked], seconds=seconds)[0]
        placed = isinstance(answer, Allocation)
        assert placed == (roots >= pairs), answer
        assert isinstance(answer, Allocation) or not answer.gave_up, answer
        assert theirs.out_of_time or theirs.placed == placed, theirs.error
        rows.append(
            {
                "gpus": gpus,
                "pairs": pairs,
                "roots_with_vfs": roots,
                "vfs_per_root": vfs,
                "placed": placed,
                "ms": round(percentile(times, 50), 3),
                "max_ms": round(max(times), 3),
                "first_ms": round(first, 3),
                "kubernetes": _said(theirs, seconds),
            }
        )
        said = f"ours {rows[-1]['ms']} ms, Kubernetes {rows[-1]['kubernetes']}"
        progress(f"{pairs} pairs, {roots} roots with {vfs} VFs: {said}")
    return rows


def _random(number: int) -> tuple[list[float], list[float]]:
    questions = [question(SEED, index) for index in range(number)]
    cel = CelCache()
    ours = []
    for asked in questions[:50]:  # which compile the expressions
        reader = _Reader(asked, cel, managed=False)
        reader.answer(reader.index())
    gc.collect()
    gc.freeze()  # as the controller does when it has synced
    for asked in questions:
        reader = _Reader(asked, cel, managed=False)
        found = reader.answer(reader.index())
        assert isinstance(found, Allocation) or not found.gave_up, found
        # The best of three, since other work on the machine is not ours.
        ours.append(min(_timed(lambda: reader.answer(reader.index()))[1] for _ in range(3)))  # noqa: B023
    answers = ask(questions, seconds=1)
    progress(
        f"{number} random questions, {sum(a.out_of_time for a in answers)} of which out of Kubernetes' time"
    )
    return ours, [answer.micros / 1e3 for answer in answers]


class _Reader:
    """A question, decoded."""

    def __init__(self, asked: Json, cel: CelCache | None = None, *, managed: bool = True) -> None:
        claims = msgspec.convert(asked["claims"], list[ResourceClaim])
        self._slices = msgspec.convert(asked["slices"], list[ResourceSlice])
        self._node = msgspec.convert(asked["node"], Node)
        classes = msgspec.convert(asked["classes"], list[DeviceClass])
        self._classes = {one.metadata.name: one for one in classes}
        self._open = [claim for claim in claims if claim.status.allocation is None]
        self._taken, self._shared = taken_by(claims), shared_by(claims)
        self._options = Options(managed_only=managed)
        self._cel = cel or CelCache()

    def index(self) -> NodeDevices:
        return NodeDevices.build(self._slices, self._node)

    def answer(self, node: NodeDevices) -> Allocation | Refusal:
        return allocate(self._open, node, self._classes, self._taken, self._options, self._cel, self._shared)


def _pigeonholes(gpus: int, pairs: int, roots: int, vfs: int) -> Json:
    devices = [_device(f"gpu-{i}", "gpu", i) for i in range(gpus)]
    devices += [_device(f"vf-{i}-{v}", "vf", i) for i in range(roots) for v in range(vfs)]
    parts = [devices[i : i + _SLICE] for i in range(0, len(devices), _SLICE)]
    pool = {"name": "pool", "generation": 1, "resourceSliceCount": len(parts)}
    spec = {"driver": _DRIVER, "pool": pool, "nodeName": "node"}
    slices = [
        {"metadata": {"name": f"pool-{i:03}"}, "spec": {**spec, "devices": part}}
        for i, part in enumerate(parts)
    ]
    classes = [
        {
            "metadata": {"name": kind},
            "spec": {
                "selectors": [{"cel": {"expression": f'device.attributes["{_DRIVER}"].type == "{kind}"'}}]
            },
        }
        for kind in ("gpu", "vf")
    ]
    tolerations = [{"key": f"{_DRIVER}/controller", "operator": "Exists"}]
    requests = [
        {
            "name": f"{kind}{i}",
            "exactly": {
                "deviceClassName": kind,
                "allocationMode": "ExactCount",
                "count": 1,
                "tolerations": tolerations,
            },
        }
        for i in range(pairs)
        for kind in ("gpu", "vf")
    ]
    matches = [{"matchAttribute": _ROOT, "requests": [f"gpu{i}", f"vf{i}"]} for i in range(pairs)]
    claim = {
        "metadata": {"name": "claim", "namespace": "default", "uid": "claim"},
        "spec": {"devices": {"requests": requests, "constraints": matches}},
    }
    return {"node": {"metadata": {"name": "node"}}, "slices": slices, "classes": classes, "claims": [claim]}


def _device(name: str, kind: str, root: int) -> Json:
    return {
        "name": name,
        "attributes": {"type": {"string": kind}, _ROOT: {"string": f"pci0000:{root:02x}"}},
        "taints": [{"key": f"{_DRIVER}/controller", "value": "", "effect": "NoSchedule"}],
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives and its milliseconds."""
    begin = time.perf_counter()
    answer = work()
    return answer, (time.perf_counter() - begin) * 1e3


def _said(theirs: Answer, seconds: float) -> str:
    if theirs.out_of_time:
        return f"not within {seconds:g} s"
    return f"{'placed' if theirs.placed else 'refused'} in {theirs.micros / 1e3:.0f} ms"


if __name__ == "__main__":
    main()
