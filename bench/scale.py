"""A large cluster: how long until the first decision, how long a decision takes, and how much memory that is.

The listed objects go, as bytes, through the decoding and the indices that the controller has. The cluster is
90 % full of claims for one pair and for four, which the controller has placed itself, with departures in
between. Then pods come and go, and each decision is timed: from the pod's arrival in the placement to the
allocation that is to be written. The same is done at smaller sizes, which shows how the cost grows; and at
the smallest beside what asking every node would cost (answers kept for each node, as for each state here).
Times are of the clock on the wall; those of the processor alone stand beside them (`…_cpu_…`), since a busy
machine makes the former say little.

    python -m bench.scale [--nodes 5000] [--decisions 4000]
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.report import Goal, finish, percentile, progress, summary
from bench.scale_load import GPUS, Fleet, bound_json, claim_json, classes, paged, pod_json
from controller.actions import Allocate, Written
from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation
from controller.choice import Chooser
from controller.placement import Placer
from controller.quest import Quest
from controller.reading import ClaimReader, NodeReader, PodReader, SliceReader
from controller.settings import PlacementSettings
from controller.state import ClusterState
from driver.kube.objects import Pod, ResourceClaim, ResourceClaimConsumerReference
from driver.names import DRIVER_NAME

SEED: Final = 1
FULL: Final = 0.9
FOUR_PAIRS: Final = 0.3
"""So many of the claims want four pairs, the others one."""
SIZES: Final = (1000, 2000)
"""Besides the size that the goals are for."""

Json = dict[str, Any]


class Page(msgspec.Struct):
    """An answer to a list request."""

    items: list[msgspec.Raw]


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=5000, help="of the largest cluster (%(default)d)")
    parser.add_argument("--decisions", type=int, default=4000, help="that are timed (%(default)d)")
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill is not None:
        fill(options.nodes, options.fill)
    elif options.measure is not None:
        print(json.dumps(measure(options.nodes, options.decisions, options.measure)))
    else:
        report(options.nodes, options.decisions)


def report(nodes: int, decisions: int) -> None:
    """Every size in a process of its own, so that memory is its own, too."""
    rows: dict[int, Json] = {}
    for size in sorted({*SIZES, nodes}):
        with tempfile.TemporaryDirectory() as folder:
            _child("--fill", folder, size, decisions)
            rows[size] = json.loads(_child("--measure", folder, size, decisions))
        row = rows[size]
        progress(
            f"{size} nodes: first decision after {row['cold_start_s']:.1f} s, {row['rss_mb']:.0f} MB, "
            f"decisions p50 {row['decision_ms']['p50']} ms, p99 {row['decision_ms']['p99']} ms; "
            f"{row['states']} states"
        )
    largest = rows[nodes]
    finish(
        "scale",
        {"sizes": {str(size): row for size, row in rows.items()}},
        [
            Goal("scale_decision_p99_ms", largest["decision_ms"]["p99"], "ms", 10),
            Goal("scale_decision_p50_ms", largest["decision_ms"]["p50"], "ms", 1),
            Goal("scale_cold_start_s", largest["cold_start_s"], "s", 30),
            Goal("scale_rss_mb", largest["rss_mb"], "MB", 2048),
        ],
    )


def _child(mode: str, folder: str, nodes: int, decisions: int) -> str:
    command = [sys.executable, "-m", "bench.scale", mode, folder, "--nodes", str(nodes)]
    command += ["--decisions", str(decisions)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Cluster:
    """The controller's state and placement, and around them an API server that takes every write."""

    def __init__(self) -> None:
        self.state = ClusterState(DRIVER_NAME)
        self.cel = CelCache()
        self.placer = Placer(self.state, PlacementSettings(), self.cel)
        self.read_claim, self.read_pod = ClaimReader(), PodReader()
        self.stored: list[Any] = []
        """Objects that only the informers' stores would keep."""
        self.running: list[tuple[Pod, ResourceClaim]] = []
        self.taken = 0
        self._version = 10
        self._number = 0

    def load(self, fleet: Fleet, folder: Path | None) -> tuple[float, float]:
        """List everything. Returns the seconds that it took, without those of making the bytes, and how many
        of them the processor worked.
        """
        for device_class in classes():
            self.state.apply_class(None, device_class)
        state = self.state
        spent = [
            self._read(fleet.node_pages(), NodeReader(), lambda o: state.apply_node(None, o)),
            self._read(fleet.slice_pages(), SliceReader(), lambda o: state.apply_slice(None, o)),
            self._read(fleet.bystander_pages(), self.read_pod, lambda o: state.apply_pod(None, o)),
        ]
        if folder is not None:
            claims, pods = (paged(_lines(folder / name)) for name in ("claims", "pods"))
            spent += [
                self._read(claims, self.read_claim, lambda o: state.apply_claim(None, o, 0.0)),
                self._read(pods, self.read_pod, lambda o: state.apply_pod(None, o)),
            ]
            for pod in list(state.claimants.values()):
                self._add(pod, state.claims[pod.metadata.namespace, pod.metadata.name])
        return sum(wall for wall, _ in spent), sum(cpu for _, cpu in spent)

    def _read(
        self, pages: Iterator[bytes], read: Callable[[msgspec.Raw], Any], apply: Callable[[Any], None]
    ) -> tuple[float, float]:
        decoder, seconds, cpu = msgspec.json.Decoder(Page), 0.0, 0.0
        for page in pages:
            start, start_cpu = time.perf_counter(), time.thread_time()
            for raw in decoder.decode(page).items:
                item = read(raw)
                self.stored.append(item)
                apply(item)
            seconds += time.perf_counter() - start
            cpu += time.thread_time() - start_cpu
        return seconds, cpu

    def arrive(self, pairs: int) -> tuple[Pod, ResourceClaim]:
        """A pod with its claim."""
        self._number += 1
        name = f"pairs-{pairs}-{self._number}"
        claim = self.read_claim(msgspec.Raw(claim_json(name, pairs)))
        pod = self.read_pod(msgspec.Raw(pod_json(name, claim=name)))
        self.state.apply_claim(None, claim, 0.0)
        self.state.apply_pod(None, pod)
        return pod, claim

    def decide(self) -> Allocate | None:
        """What the placement does with who has arrived."""
        actions = self.placer.absorb(0.0)
        while self.placer.next_due() == 0.0:  # pods that were bound have a turn, too, which is short
            actions += self.placer.step(0.0)
        return next((action for action in actions if isinstance(action, Allocate)), None)

    def bind(self, pod: Pod, claim: ResourceClaim, action: Allocate) -> None:
        """The write arrives, and the pod is bound."""
        (write,) = action.writes
        self._version += 1
        change = msgspec.structs.replace
        user = ResourceClaimConsumerReference(resource="pods", name=pod.metadata.name, uid=pod.metadata.uid)
        written = change(
            claim,
            metadata=change(claim.metadata, resource_version=str(self._version)),
            status=change(claim.status, allocation=write.allocation, reserved_for=[user]),
        )
        self.state.apply_claim(claim, written, 0.0)
        self.placer.outcome(Written(claim.metadata.uid, str(self._version)), 0.0)
        bound = change(pod, spec=change(pod.spec, node_name=action.node))
        self.state.apply_pod(pod, bound)
        self._add(bound, written)

    def depart(self, number: int) -> None:
        """One of the pods ends, and its claim with it."""
        pod, claim = self.running[number]
        self.running[number] = self.running[-1]
        self.running.pop()
        self.taken -= _gpus(claim)
        self.state.apply_pod(pod, None)
        self.state.apply_claim(claim, None, 0.0)

    def give_up(self, pod: Pod, claim: ResourceClaim) -> None:
        """One that waits in vain leaves."""
        self.state.apply_pod(pod, None)
        self.state.apply_claim(claim, None, 0.0)

    def _add(self, pod: Pod, claim: ResourceClaim) -> None:
        self.running.append((pod, claim))
        self.taken += _gpus(claim)


def fill(nodes: int, folder: Path) -> None:
    """Fill a cluster to 90 %, let a fifth of its pods depart on the way, and write down who is there."""
    cluster, chance = Cluster(), random.Random(SEED)  # noqa: S311
    cluster.load(Fleet(nodes), None)
    while cluster.taken < FULL * GPUS * nodes:
        pod, claim = cluster.arrive(4 if chance.random() < FOUR_PAIRS else 1)
        action = cluster.decide()
        if action is None:
            raise RuntimeError(f"nothing for {claim.metadata.name} at {cluster.taken} of {GPUS * nodes} GPUs")
        cluster.bind(pod, claim, action)
        if chance.random() < 0.2:
            cluster.depart(chance.randrange(len(cluster.running)))
    with (folder / "claims").open("wb") as claims, (folder / "pods").open("wb") as pods:
        for pod, claim in cluster.running:
            claims.write(bound_json(claim) + b"\n")
            name = pod.metadata.name
            pods.write(pod_json(name, node=pod.spec.node_name, claim=name) + b"\n")


def measure(nodes: int, decisions: int, folder: Path) -> Json:
    """List the filled cluster, then decide."""
    cluster, chance = Cluster(), random.Random(SEED + 1)  # noqa: S311
    cold_start, cold_start_cpu = cluster.load(Fleet(nodes), folder)
    start, start_cpu = time.perf_counter(), time.thread_time()
    cluster.placer.absorb(0.0)
    pod, claim = cluster.arrive(1)
    action = cluster.decide()
    if action is None:
        raise RuntimeError("the first decision was none")
    first, first_cpu = time.perf_counter() - start, time.thread_time() - start_cpu
    cluster.bind(pod, claim, action)
    gc.collect()
    gc.freeze()  # as the controller does when it has synced
    resident = _resident_mb()
    times: dict[int, list[float]] = {1: [], 4: []}
    cpu: list[float] = []
    upkeep: list[float] = []
    refused = 0
    for _ in range(decisions):
        pairs = 4 if chance.random() < FOUR_PAIRS else 1
        start = time.perf_counter()
        while cluster.taken > FULL * GPUS * nodes - pairs:
            cluster.depart(chance.randrange(len(cluster.running)))
        pod, claim = cluster.arrive(pairs)
        arrived, arrived_cpu = time.perf_counter(), time.thread_time()
        action = cluster.decide()
        decided = time.perf_counter()
        cpu.append((time.thread_time() - arrived_cpu) * 1e3)
        times[pairs].append((decided - arrived) * 1e3)
        if action is None:
            refused += 1
            cluster.give_up(pod, claim)
        else:
            cluster.bind(pod, claim, action)
        upkeep.append((time.perf_counter() - decided + arrived - start) * 1e3)
    # A gang's decisions belong here: 32 members at once, of one claim each.
    return {
        "nodes": nodes,
        "cold_start_s": round(cold_start + first, 2),
        "cold_start_cpu_s": round(cold_start_cpu + first_cpu, 2),
        "first_decision_ms": round(first * 1e3, 1),
        "rss_mb": round(max(resident, _resident_mb())),
        "states": sum(1 for _ in cluster.state.index.groups()),
        "full": round(cluster.taken / (GPUS * nodes), 3),
        "refused": refused,
        "decision_ms": summary([t for some in times.values() for t in some]),
        "decision_cpu_ms": summary(cpu),
        "one_pair_ms": summary(times[1]),
        "four_pairs_ms": summary(times[4]),
        "upkeep_ms": summary(upkeep),
        "every_node_ms": round(percentile(_every_node(cluster), 50), 3) if nodes == SIZES[0] else None,
    }


def _every_node(cluster: Cluster) -> list[float]:
    """What a decision would cost that asks each node: its fit, then its answer, kept until it changes."""
    state, known = cluster.state, {}
    chooser = Chooser(state, PlacementSettings(), cluster.cel)
    times = []
    for turn in range(6):
        pod, claim = cluster.arrive(1)
        start = time.perf_counter()
        quest = Quest(pod, (claim,))
        best: Allocation | None = None
        for name, record in state.nodes.items():
            if chooser.why_not(quest, name) is not None:
                continue
            key = (name, state.taken_version(record))
            devices = state.devices(record)
            if key not in known and devices is not None:
                known[key] = allocate(
                    [claim], devices, state.classes, state.taken(record), Options(), cluster.cel
                )
            answer = known.get(key)
            if isinstance(answer, Allocation) and (best is None or answer.score < best.score):
                best = answer
        if turn:  # the first one fills what is kept
            times.append((time.perf_counter() - start) * 1e3)
        cluster.give_up(pod, claim)
    return times


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\n")


def _gpus(claim: ResourceClaim) -> int:
    allocation = claim.status.allocation
    return sum(r.request == "gpu" for r in allocation.devices.results) if allocation is not None else 0


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
