"""One tenant's thousand hopeless pods, and another tenant's pods that arrive meanwhile: run in one build.

`bench.tenants` runs this file in a process of its own, once with the modules of this checkout and once with
those of the build before; so it uses only what both have. It does what the controller's loop does, without
its threads: take in what has happened, decide once, and so on. The clock is the processor's time of this
thread plus the time that the loop would sleep, so other work on the machine is no part of the answer.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from bench.scale_cluster import Cluster
from bench.scale_load import GPUS, Fleet, claim_json, pod_json
from controller.actions import Allocate

NODES: Final = 300
FULL: Final = 0.6
BIG: Final = 600
"""Pods too big for every node, no two alike."""
COSTLY: Final = 200
"""Pods with claims that only a long search refuses, no two alike."""
GANGS: Final = 10
GANG_OF: Final = 20
"""Gangs of so many pods, no two of one gang alike."""
VICTIMS: Final = 100
EVERY_SECONDS: Final = 0.1
"""So often a pod of the other tenant comes; and one of those that run ends, so that everybody looks again."""
FIRST_SECONDS: Final = 0.05
MESSAGES_AT_ONCE: Final = 1000
MESSAGES_SECONDS: Final = 0.02
DOMAIN: Final = "tandem-dra.io"

Json = dict[str, Any]
Arrival = tuple[bytes, bytes]
"""A claim and its pod, as the API server has them."""


class _TimeIsOver(BaseException):
    """No error, and nothing that the code under test may catch."""


class _Clock:
    """Seconds that this thread worked or would have slept."""

    def __init__(self) -> None:
        self._start = time.thread_time()
        self._slept = 0.0

    def now(self) -> float:
        return time.thread_time() - self._start + self._slept

    def sleep(self, seconds: float) -> None:
        self._slept += max(0.0, seconds)


class Tenants:
    """A cluster, the crowd of one tenant, and what becomes of the other's pods."""

    def __init__(self) -> None:
        self.cluster = Cluster("tenants")
        self.cluster.load(Fleet(NODES), None)
        while self.cluster.taken < FULL * GPUS * NODES:
            self.cluster.arrive(1, 1)
            for action in self.cluster.decide():
                self.cluster.bind(action)
        self.decided: dict[str, float] = {}
        self.clock = _Clock()
        self.most_seconds = 0.0

    def run(self, limit_seconds: float) -> list[float]:
        """How long each pod of the other tenant waited, in seconds; those that still wait when the time is
        over have waited so long at least.
        """
        arrivals = [FIRST_SECONDS + number * EVERY_SECONDS for number in range(VICTIMS)]
        coming = [(0.0, change) for change in _crowd()]
        coming += [
            (at, _arrival("other", f"victim-{number}", created="2026-01-02T00:00:00Z"))
            for number, at in enumerate(arrivals)
        ]
        signal.signal(signal.SIGPROF, _ring)
        signal.setitimer(signal.ITIMER_PROF, limit_seconds)
        self.clock = _Clock()
        try:
            while len(self.decided) < VICTIMS and self.clock.now() < limit_seconds:
                took_in = self._take_in(coming)
                self._turn(took_in, coming[0][0] if coming else limit_seconds)
        except _TimeIsOver:
            pass
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        end = max(self.clock.now(), limit_seconds) if len(self.decided) < VICTIMS else self.clock.now()
        return [self.decided.get(f"victim-{n}", end) - arrivals[n] for n in range(VICTIMS)]

    def _take_in(self, coming: list[tuple[float, Arrival]]) -> bool:
        """What has happened by now, as much of it as the loop takes in at once."""
        cluster, begun, number = self.cluster, self.clock.now(), 0
        while number < len(coming) and coming[number][0] <= begun and number < MESSAGES_AT_ONCE:
            _, (claim, pod) = coming[number]
            if coming[number][0] > FIRST_SECONDS:
                cluster.depart(0)
            cluster.state.apply_claim(None, cluster.read_claim(msgspec.Raw(claim)), begun)
            cluster.state.apply_pod(None, cluster.read_pod(msgspec.Raw(pod)))
            number += 1
            if self.clock.now() - begun > MESSAGES_SECONDS:
                break
        del coming[:number]
        return number > 0

    def _turn(self, took_in: bool, until: float) -> None:
        placer = self.cluster.placer
        due = placer.next_due()
        now = self.clock.now()
        if not took_in and (due is None or due > now):
            self.clock.sleep((until if due is None else min(until, due)) - now)
        begun = self.clock.now()
        self._perform(placer.absorb(begun))
        before = self.clock.now()
        actions = placer.step(before)
        ended = self.clock.now()
        took: Callable[[float, float], None] | None = getattr(placer, "took", None)
        if took is not None:
            took(ended - before, ended)
        self._perform(actions)
        self.most_seconds = max(self.most_seconds, self.clock.now() - begun)

    def _perform(self, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, Allocate):
                if action.pod[0] == "other":
                    self.decided.setdefault(action.pod[1], self.clock.now())
                self.cluster.now = self.clock.now()
                self.cluster.bind(action)


def _crowd() -> Iterator[Arrival]:
    """All that hopes in vain."""
    for number in range(BIG):
        yield _arrival("crowd", f"big-{number:03}", cpu=str(1000 + number))
    for number in range(COSTLY):
        yield _arrival("crowd", f"costly-{number:03}", requests=_costly(number))
    for gang in range(GANGS):
        for number in range(GANG_OF):
            name = f"gang-{gang}-{number:02}"
            yield _arrival("crowd", name, cpu=str(100 - number), gang=f"gang-{gang}", gpus=8)


def _arrival(
    namespace: str, name: str, *, requests: Json | None = None, gang: str = "", gpus: int = 1, **pod: str
) -> Arrival:
    claim = json.loads(claim_json(name, gpus, 1, gang=GANG_OF if gang else 0))
    claim["metadata"]["namespace"] = namespace
    if requests is not None:
        claim["spec"]["devices"] = requests
    document = json.loads(pod_json(name, claim=name, gang=gang, **pod))
    document["metadata"]["namespace"] = namespace
    return json.dumps(claim).encode(), json.dumps(document).encode()


def _costly(number: int) -> Json:
    """Sixteen requests of eight alternatives each, for functions that all differ: one too many, which only
    a search finds out. No two numbers ask for the same.
    """
    requests = [
        {
            "name": f"r{index}",
            "firstAvailable": [
                {
                    "name": f"s{way}",
                    "deviceClassName": f"rdma-vf.{DOMAIN}",
                    "allocationMode": "ExactCount",
                    "count": 1,
                    "selectors": [_selector(f'"{DOMAIN}"].rail != {(number + way) % 8}')],
                }
                for way in range(8)
            ],
        }
        for index in range(16)
    ]
    attributes = [f"{DOMAIN}/rail", f"{DOMAIN}/vfIndex"][: 1 + number % 2]
    names = [request["name"] for request in requests]
    return {
        "requests": requests,
        "constraints": [{"distinctAttribute": name, "requests": names} for name in attributes],
    }


def _selector(rest: str) -> Json:
    return {"cel": {"expression": f"device.attributes[{rest}"}}


def _ring(signum: int, frame: FrameType | None) -> None:
    raise _TimeIsOver


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _lines(limit_seconds: float) -> Iterator[str]:
    tenants = Tenants()
    waits = tenants.run(limit_seconds)
    yield json.dumps(
        {
            "waits_ms": [round(wait * 1e3, 3) for wait in waits],
            "decided": sum(name.startswith("victim-") for name in tenants.decided),
            "longest_turn_ms": round(tenants.most_seconds * 1e3, 1),
            "most_memory_mb": round(_resident_mb()),
            "decisions": dict(tenants.cluster.placer.counts),
        }
    )


if __name__ == "__main__":
    for line in _lines(float(sys.argv[1])):
        print(line)
