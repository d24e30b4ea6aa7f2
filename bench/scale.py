"""A large cluster: how long until the first decision, how long a decision takes, and how much memory that is.

The listed objects go, as bytes, through the decoding and the indices that the controller has. The cluster is
90 % full of claims for one pair and for four, which the controller has placed itself, with departures in
between. Then pods come and go, and each decision is timed: from the pod's arrival in the placement to the
allocation that is to be written. Now and then 32 pods come that are one gang. Among the decisions
(`decision_ms` and the goals of that name) a gang counts once for each of its members, with its whole time
divided by their number; `gang_of_32_ms` is the whole time. The same is done at smaller sizes, which shows how
the cost grows; and at the smallest beside what asking every node would cost (answers kept for each node, as
for each state here). At last a crowd of pods waits in vain (`bench.scale_crowd`).

Times are of the clock on the wall; those of the processor alone stand beside them (`…_cpu_…`), since a busy
machine makes the former say little. `slow` says of those over 5 ms in how many another process had the
processor meanwhile, and in how many the collector ran.

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
from collections import Counter
from pathlib import Path
from typing import Any, Final

from bench import scale_crowd
from bench.report import Goal, finish, percentile, progress, summary
from bench.scale_cluster import Cluster
from bench.scale_load import GPUS, Fleet, bound_json, pod_json
from bench.scale_stalls import Stopwatch
from controller.allocator.candidates import Options
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation
from controller.choice import Chooser
from controller.quest import Quest
from controller.settings import PlacementSettings

SEED: Final = 1
FULL: Final = 0.9
FOUR_PAIRS: Final = 0.3
"""So many of the claims want four pairs, the others one."""
GANGS: Final = 40
GANG_OF: Final = 32
"""So many gangs come, each of so many pods of one pair, on the same rails."""
SIZES: Final = (1000, 2000)
"""Besides the size that the goals are for."""

Json = dict[str, Any]


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
            Goal(f"gang_of_{GANG_OF}_p99_ms", largest[f"gang_of_{GANG_OF}_ms"]["p99"], "ms", 10),
            Goal("scale_cold_start_s", largest["cold_start_s"], "s", 30),
            Goal("scale_rss_mb", largest["rss_mb"], "MB", 2048),
        ],
    )


def _child(mode: str, folder: str, nodes: int, decisions: int) -> str:
    command = [sys.executable, "-m", "bench.scale", mode, folder, "--nodes", str(nodes)]
    command += ["--decisions", str(decisions)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def fill(nodes: int, folder: Path) -> None:
    """Fill a cluster to 90 %, let a fifth of its pods depart on the way, and write down who is there."""
    cluster, chance = Cluster("filled"), random.Random(SEED)  # noqa: S311
    cluster.load(Fleet(nodes), None)
    while cluster.taken < FULL * GPUS * nodes:
        pairs = 4 if chance.random() < FOUR_PAIRS else 1
        cluster.arrive(pairs, pairs)
        (action,) = cluster.decide()
        cluster.bind(action)
        if chance.random() < 0.2:
            cluster.depart(chance.randrange(len(cluster.running)))
    with (folder / "claims").open("wb") as claims, (folder / "pods").open("wb") as pods:
        for pod, claim in cluster.running:
            claims.write(bound_json(claim) + b"\n")
            name = pod.metadata.name
            pods.write(pod_json(name, node=pod.spec.node_name, claim=name) + b"\n")


def measure(nodes: int, decisions: int, folder: Path) -> Json:
    """List the filled cluster, then decide."""
    cluster, chance = Cluster("came"), random.Random(SEED + 1)  # noqa: S311
    cold_start, cold_start_cpu = cluster.load(Fleet(nodes), folder)
    start, start_cpu = time.perf_counter(), time.thread_time()
    cluster.placer.absorb(0.0)
    cluster.arrive(1, 1)
    (action,) = cluster.decide()
    first, first_cpu = time.perf_counter() - start, time.thread_time() - start_cpu
    cluster.bind(action)
    gc.collect()
    gc.freeze()  # as the controller does when it has synced
    resident = _resident_mb()
    decided = _decisions(cluster, chance, decisions, nodes)
    row: Json = {
        "nodes": nodes,
        "cold_start_s": round(cold_start + first, 2),
        "cold_start_cpu_s": round(cold_start_cpu + first_cpu, 2),
        "first_decision_ms": round(first * 1e3, 1),
        "rss_mb": round(max(resident, _resident_mb())),
        "states": sum(1 for _ in cluster.state.index.groups()),
        "full": round(cluster.taken / (GPUS * nodes), 3),
        **decided,
        "in_vain_for_cpu": scale_crowd.for_cpu(cluster, chance),
    }
    if nodes == SIZES[0]:
        row["every_node_ms"] = round(percentile(_every_node(cluster), 50), 3)
    row["in_vain_for_devices"] = scale_crowd.for_devices(cluster, nodes, chance)
    return row


def _decisions(cluster: Cluster, chance: random.Random, decisions: int, nodes: int) -> Json:
    """Pods of one and four pairs, and now and then a gang, come as others leave."""
    times = {kind: Stopwatch() for kind in ("one_pair", "four_pairs", "gang")}
    upkeep: list[float] = []
    refused, turns = Counter[str](), Counter[int]()
    every = max(decisions // GANGS, 1)
    for number in range(decisions):
        gang = number % every == every - 1
        pairs = 4 if chance.random() < FOUR_PAIRS else 1
        kind = "gang" if gang else "one_pair" if pairs == 1 else "four_pairs"
        size = GANG_OF if gang else 1
        start = time.perf_counter()
        while cluster.taken > FULL * GPUS * nodes - (size if gang else pairs):
            cluster.depart(chance.randrange(len(cluster.running)))
        came = cluster.arrive_together(size, number) if gang else [cluster.arrive(pairs, pairs)]
        upkeep.append((time.perf_counter() - start) * 1e3)
        with times[kind].decision():
            allocated = cluster.decide()
            taken = 1
            while gang and not allocated and taken < 20:  # a long search is made in parts
                cluster.now += 1.0
                allocated, taken = cluster.decide(), taken + 1
        turns[taken] += gang
        start = time.perf_counter()
        for action in allocated:
            cluster.bind(action)
        if len(allocated) < size:
            refused[kind] += 1
            for pod, claim in came:
                cluster.give_up(pod, claim)
        upkeep[-1] += (time.perf_counter() - start) * 1e3
    given_up = cluster.placer.counts["searches_given_up"]
    if given_up:
        raise RuntimeError(f"{given_up} searches gave up")
    for watch in times.values():
        watch.close()
    gangs = times.pop("gang")
    wall, cpu = ([t / GANG_OF for t in some for _ in range(GANG_OF)] for some in (gangs.wall, gangs.cpu))
    watches = [*times.values(), gangs]
    return {
        "refused": dict(refused),
        "decision_ms": summary([*wall, *(t for watch in times.values() for t in watch.wall)]),
        "decision_cpu_ms": summary([*cpu, *(t for watch in times.values() for t in watch.cpu)]),
        **{f"{kind}_ms": summary(watch.wall) for kind, watch in times.items()},
        f"gang_of_{GANG_OF}_ms": summary(gangs.wall),
        f"gang_of_{GANG_OF}_cpu_ms": summary(gangs.cpu),
        f"gang_of_{GANG_OF}_turns": {str(n): gangs for n, gangs in sorted(turns.items()) if gangs},
        "upkeep_ms": summary(upkeep),
        "collector_ms": summary(watches[0].collector),
        "slow": {name: sum(watch.slow[name] for watch in watches) for name in gangs.slow},
    }


def _every_node(cluster: Cluster) -> list[float]:
    """What a decision would cost that asks each node: its fit, then its answer, kept until it changes."""
    state, known = cluster.state, {}
    chooser = Chooser(state, PlacementSettings(), cluster.cel)
    times = []
    for turn in range(6):
        pod, claim = cluster.arrive(1, 1)
        start = time.perf_counter()
        quest = Quest(pod, (claim,))
        best: Allocation | None = None
        for name, record in state.nodes.items():
            if chooser.why_not(quest, name) is not None:
                continue
            key = (name, state.index.taken_version(record))
            devices = state.index.devices(record)
            if key not in known and devices is not None:
                known[key] = allocate(
                    [claim], devices, state.classes, state.index.taken(record), Options(), cluster.cel
                )
            answer = known.get(key)
            if isinstance(answer, Allocation) and (best is None or answer.score < best.score):
                best = answer
        if turn:  # the first one fills what is kept
            times.append((time.perf_counter() - start) * 1e3)
        cluster.give_up(pod, claim)
    return times


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
