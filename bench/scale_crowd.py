"""Many pods that wait in vain: what they cost, and whether others have their turn meanwhile.

A thousand equal pods of one Job wait on a large cluster. Every 100 ms one pod of the cluster ends, and at
once another arrives that has room. What is measured is the processor's time until the controller has nothing
left to do, and how long the newcomer waits for its decision behind those who have waited longer.
"""

from __future__ import annotations

import random
import time
from typing import Any, Final

from bench.report import summary
from bench.scale_cluster import Cluster
from bench.scale_load import GPUS

CROWD: Final = 1000
DEPARTURES: Final = 100
PAUSE_SECONDS: Final = 0.1

Json = dict[str, Any]


def for_devices(cluster: Cluster, nodes: int, chance: random.Random) -> Json:
    """The crowd waits for GPUs of which none is free; who departs leaves one to one of it."""
    while cluster.taken < GPUS * nodes:
        cluster.arrive(1, 1)
        (action,) = cluster.decide()
        cluster.bind(action)
    return _measured(cluster, chance, gpus=1)


def for_cpu(cluster: Cluster, chance: random.Random) -> Json:
    """Every node has what the crowd wants of devices, none has the CPU, now or ever."""
    return _measured(cluster, chance, gpus=0, cpu="200")


def _measured(cluster: Cluster, chance: random.Random, *, gpus: int, cpu: str = "500m") -> Json:
    crowd = [cluster.arrive(gpus, 1, cpu=cpu) for _ in range(CROWD)]
    start = time.thread_time()
    placed = cluster.decide()
    refusing = time.thread_time() - start
    costs: list[float] = []
    waits: list[float] = []
    for _ in range(DEPARTURES):
        cluster.now += PAUSE_SECONDS
        start = time.thread_time()
        cluster.depart(chance.randrange(len(cluster.running)))
        spent = time.thread_time() - start
        pod, _ = cluster.arrive(0, 1, created="2026-01-02T00:00:00Z")
        start, arrived, now = time.thread_time(), time.perf_counter(), cluster.now
        decided: float | None = None
        for allocated in cluster.decisions():
            if allocated.pod[1] == pod.metadata.name:
                decided = time.perf_counter() + cluster.now - now
            placed.append(allocated)
            cluster.bind(allocated)
        spent += time.thread_time() - start
        if decided is None:
            raise RuntimeError("a pod that has room was not placed")
        costs.append(spent * 1e3)
        waits.append((decided - arrived) * 1e3)
    for pod, claim in crowd:
        if cluster.waits(pod):
            cluster.give_up(pod, claim)
    return {
        "crowd": CROWD,
        "placed_of_it": len(placed) - DEPARTURES,
        "refusing_ms_each": round(refusing / CROWD * 1e3, 3),
        "departure_cpu_ms": summary(costs),
        "newcomer_ms": summary(waits),
    }
