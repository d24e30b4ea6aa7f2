"""What is left of a cluster after many pods have come and gone, placed by us and by first fit.

200 DGX H100 of the machine file, two GPUs of each in MIG mode, one function on each NIC, so that a GPU alone
or a NIC alone leaves half a pair. First fit is what kube-scheduler does (`bench.first_fit`). Both get the
same stream: pods of several shapes arrive, live for a random time and leave; who finds no place goes away.
Counted are stranded devices (free, but of no use to the claims that want them) in the second half of it, and
the claims for four pairs that were refused.

    python -m bench.fragmentation [--events 20000] [--nodes 200] [--vfs 1]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import yaml

from bench.first_fit import NodeBooks, Shape, first_fit
from bench.report import Goal, finish, progress
from controller.allocator.cel import CelCache
from controller.allocator.model import DeviceId, NodeDevices
from controller.allocator.traits import type_of
from controller.choice import Chooser
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState
from driver.devices import Inventory
from driver.inventory import HostProbe
from driver.kube.objects import DeviceClass, Node, Pod, ResourceClaim, ResourceSlice
from driver.mock.hardware import MockHardware
from driver.names import API_VERSION, DRIVER_NAME, TYPE_GPU, TYPE_MIG, TYPE_VF
from driver.slices import SliceOptions, build

SEED: Final = 7
LOAD: Final = 0.97
"""GPUs wanted by those who are there, of all."""
MIG_GPUS: Final = 2
"""The last GPUs of each node."""
SAMPLE: Final = 50
"""Arrivals between two looks at what is stranded."""
MIX: Final = (
    (Shape("one pair", gpus=1, vfs=1), 30),
    (Shape("four pairs", gpus=4, vfs=4), 15),
    (Shape("one GPU", gpus=1), 15),
    (Shape("one NIC", vfs=1), 20),
    (Shape("1g.10gb", profile="1g.10gb"), 12),
    (Shape("3g.40gb", profile="3g.40gb"), 8),
)
"""Shapes and how often each comes, of 100."""

_CLONE_NEWNET = 0x40000000
_CLASSES = Path(__file__).parent.parent / "deviceclasses"


@dataclass(frozen=True, slots=True)
class Event:
    """A pod arrives, or (`shape` None) the pod of that number leaves."""

    pod: int
    shape: Shape | None


class Arm(Protocol):
    """Whoever allocates; says on which node and which devices."""

    def place(self, pod: int, shape: Shape) -> tuple[NodeBooks, frozenset[DeviceId]] | None:
        """Find a place, and keep it in mind."""

    def leave(self, pod: int) -> None:
        """The pod, which was placed, is gone."""


@dataclass(slots=True)
class Tally:
    """What one arm did."""

    arrived: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    stranded: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    seconds: float = 0.0

    @property
    def mean_stranded(self) -> float:
        """Devices, at any time of the second half."""
        return self.stranded.total() / max(1, self.samples)


class FirstFit:
    """kube-scheduler."""

    def __init__(self, nodes: Sequence[NodeBooks]) -> None:
        self._nodes = nodes

    def place(self, pod: int, shape: Shape) -> tuple[NodeBooks, frozenset[DeviceId]] | None:
        """`pod` does not matter."""
        return first_fit(self._nodes, shape)

    def leave(self, pod: int) -> None:
        """It remembers nothing."""


class Tandem:
    """Our controller's own choice of node and devices."""

    def __init__(self, nodes: Sequence[NodeBooks], slices: Sequence[ResourceSlice]) -> None:
        self._nodes = {books.node.node: books for books in nodes}
        self._state = ClusterState(DRIVER_NAME)
        for path in sorted(_CLASSES.glob("*.yaml")):
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            if document["kind"] == "DeviceClass":
                self._state.apply_class(None, msgspec.convert(document, DeviceClass))
        for name in self._nodes:
            self._state.apply_node(None, _node(name))
        for item in slices:
            self._state.apply_slice(None, item)
        self._chooser = Chooser(self._state, PlacementSettings(), CelCache())
        self._claims: dict[int, ResourceClaim] = {}

    def place(self, pod: int, shape: Shape) -> tuple[NodeBooks, frozenset[DeviceId]] | None:
        """As the placement does, without the API server."""
        claim = _claim(pod, shape)
        quest = Quest(msgspec.convert({"metadata": {"name": str(pod), "uid": f"pod-{pod}"}}, Pod), (claim,))
        choice = self._chooser.choose(quest)
        assert not choice.permanent, choice.why_not
        best = choice.best
        if best is None:
            return None
        result = best.allocation.claims[0].result
        status = msgspec.structs.replace(claim.status, allocation=result)
        self._claims[pod] = msgspec.structs.replace(claim, status=status)
        self._state.apply_claim(None, self._claims[pod], 0.0)
        devices = frozenset(DeviceId(r.driver, r.pool, r.device) for r in result.devices.results)
        return self._nodes[best.node], devices

    def leave(self, pod: int) -> None:
        """The claim is gone."""
        self._state.apply_claim(self._claims.pop(pod), None, 0.0)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=20_000, help="arrivals and departures (%(default)d)")
    parser.add_argument("--nodes", type=int, default=200, help="%(default)d")
    parser.add_argument("--vfs", type=int, default=1, help="on each NIC (%(default)d)")
    options = parser.parse_args()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise SystemExit(f"a network namespace: {os.strerror(ctypes.get_errno())}; run as root")
    inventory = _inventory(options.vfs)
    names = [f"node-{number:04}" for number in range(options.nodes)]
    slices = {name: _slices(inventory, name) for name in names}
    indexed = [NodeDevices.build(slices[name], _node(name)) for name in names]
    events = list(stream(options.events, options.nodes * len(inventory.gpus)))
    tallies = {}
    for arm in ("first fit", "Tandem"):
        nodes = [NodeBooks.of(node) for node in indexed]
        everything = [one for name in names for one in slices[name]]
        allocator = FirstFit(nodes) if arm == "first fit" else Tandem(nodes, everything)
        tallies[arm] = run(events, allocator, nodes)
        progress(f"{arm}: {_said(tallies[arm])}")
    theirs, ours = tallies["first fit"], tallies["Tandem"]
    finish(
        "fragmentation",
        {
            "nodes": options.nodes,
            "events": len(events),
            "first_fit": _result(theirs),
            "tandem": _result(ours),
        },
        [
            Goal("stranded_vs_first_fit", ours.mean_stranded / theirs.mean_stranded, "ratio", 0.99),
            Goal(
                "refused_vs_first_fit",
                ours.refused["four pairs"] / max(1, theirs.refused["four pairs"]),
                "ratio",
                0.99,
            ),
        ],
    )


def stream(events: int, gpus: int) -> Iterator[Event]:
    """The same for everybody: times are counted in arrivals, lives are exponential."""
    rng = random.Random(SEED)  # noqa: S311  # a stream that is the same every time
    shapes, weights = zip(*MIX, strict=True)
    each = sum(_gpus(shape) * weight for shape, weight in MIX) / sum(weights)
    life = LOAD * gpus / each
    leaving: list[tuple[float, int]] = []
    for pod in range(events // 2):
        while leaving and leaving[0][0] <= pod:
            yield Event(leaving.pop(0)[1], None)
        yield Event(pod, rng.choices(shapes, weights)[0])
        leaving.append((pod + rng.expovariate(1 / life), pod))
        leaving.sort()
    yield from (Event(pod, None) for _, pod in leaving)


def run(events: Sequence[Event], arm: Arm, nodes: Sequence[NodeBooks]) -> Tally:
    """Play the stream to one arm."""
    tally = Tally()
    held: dict[int, tuple[NodeBooks, frozenset[DeviceId]]] = {}
    last = max(event.pod for event in events)
    begin = time.perf_counter()
    for event in events:
        if event.shape is None:
            if event.pod in held:
                books, devices = held.pop(event.pod)
                books.take(devices, -1)
                arm.leave(event.pod)
            continue
        tally.arrived[event.shape.name] += 1
        place = arm.place(event.pod, event.shape)
        if place is None:
            tally.refused[event.shape.name] += 1
        else:
            held[event.pod] = place
            place[0].take(place[1])
        if event.pod > last / 2 and event.pod % SAMPLE == 0:
            tally.samples += 1
            for books in nodes:
                tally.stranded.update(stranded(books))
    tally.seconds = time.perf_counter() - begin
    return tally


def stranded(books: NodeBooks) -> Counter[str]:
    """Free devices of a node that are of no use to who wants them: GPUs without a free function on their
    switch; functions without a free GPU there, as many as could have had one; GPUs of which partitions are in
    use and others are free.
    """
    gpus = Counter(one.place.pcie_switch for one in books.of_type(TYPE_GPU))
    vfs = Counter(one.place.pcie_switch for one in books.of_type(TYPE_VF))
    parts = {one.device.consumes_counters[0].counter_set for one in books.of_type(TYPE_MIG)}
    broken = {
        use.counter_set
        for one in books.node.devices
        if one.id in books.taken and one.id.device.startswith(TYPE_MIG)
        for use in one.device.consumes_counters
    }
    return Counter(
        {
            "gpus": sum(max(0, n - vfs[switch]) for switch, n in gpus.items()),
            "vfs": sum(
                max(0, min(vfs[switch], number - books.pairs[switch]) - gpus[switch])
                for switch, number in _gpus_by_switch(books).items()
            ),
            "broken_gpus": len(parts & broken),
        }
    )


def _gpus_by_switch(books: NodeBooks) -> Counter[str | None]:
    def derive() -> Counter[str | None]:
        return Counter(one.place.pcie_switch for one in books.node.devices if type_of(one) == TYPE_GPU)

    return books.node.derived("bench switches", derive)


def _gpus(shape: Shape) -> float:
    """What a pod of this shape is of the GPUs."""
    return {"": float(shape.gpus), "1g.10gb": 1 / 7, "3g.40gb": 1 / 2}[shape.profile]


def _claim(pod: int, shape: Shape) -> ResourceClaim:
    wanted = [("gpu", "gpu", shape.gpus), ("nic", "rdma-vf", shape.vfs), ("part", "mig", bool(shape.profile))]
    requests: list[dict[str, Any]] = [
        {
            "name": name,
            "exactly": {
                "deviceClassName": f"{kind}.{DRIVER_NAME}",
                "allocationMode": "ExactCount",
                "count": int(count),
            },
        }
        for name, kind, count in wanted
        if count
    ]
    if shape.profile:
        expression = f'device.attributes["{DRIVER_NAME}"].profile == "{shape.profile}"'
        requests[0]["exactly"]["selectors"] = [{"cel": {"expression": expression}}]
    parameters = {
        "apiVersion": API_VERSION,
        "kind": "Alignment",
        "pairs": {"gpus": "gpu", "nics": "nic"},
        "require": "PIX",
    }
    aligned = [{"opaque": {"driver": DRIVER_NAME, "parameters": parameters}}]
    devices = {"requests": requests, "config": aligned if shape.gpus and shape.vfs else []}
    metadata = {"name": f"claim-{pod}", "namespace": "default", "uid": f"claim-{pod}"}
    raw = {"metadata": metadata, "spec": {"devices": devices}}
    return msgspec.json.decode(msgspec.json.encode(raw), type=ResourceClaim)


def _node(name: str) -> Node:
    return msgspec.convert({"metadata": {"name": name}, "status": {"allocatable": {"pods": "250"}}}, Node)


def _inventory(vfs: int) -> Inventory:
    with tempfile.TemporaryDirectory() as directory:
        hardware = MockHardware("dgx-h100", Path(directory), "bench", vfs_per_pf=vfs)
        hardware.nvml.mig_mode.update(gpu.pci_address for gpu in hardware.machine.gpus[-MIG_GPUS:])
        roots = hardware.install()
        try:
            return HostProbe(roots.sysfs).read()
        finally:
            hardware.remove()


def _slices(inventory: Inventory, name: str) -> list[ResourceSlice]:
    options = SliceOptions(controller_taint=True, mig="dynamic")
    return build(
        inventory, driver_name=DRIVER_NAME, node_name=name, node_uid=name, generation=1, options=options
    )


def _said(tally: Tally) -> str:
    stranded_now = ", ".join(
        f"{kind} {count / tally.samples:.1f}" for kind, count in sorted(tally.stranded.items())
    )
    refusals = ", ".join(
        f"{name} {tally.refused[name]}/{count}" for name, count in sorted(tally.arrived.items())
    )
    return f"stranded {stranded_now}; refused {refusals}; {tally.seconds:.0f} s"


def _result(tally: Tally) -> dict[str, Any]:
    return {
        "arrived": dict(tally.arrived),
        "refused": dict(tally.refused),
        "stranded": {kind: round(count / tally.samples, 2) for kind, count in tally.stranded.items()},
        "seconds": round(tally.seconds, 1),
    }


if __name__ == "__main__":
    main()
