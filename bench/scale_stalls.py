"""Why a decision took longer by the clock than it worked: the collector, or others that had the processor."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

SLOW_MS: Final = 5.0


@dataclass
class Stopwatch:
    """Times of decisions, all in milliseconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    collector: list[float] = field(default_factory=list)
    """The collector's pauses."""
    slow: dict[str, int] = field(default_factory=lambda: {"over_5_ms": 0, "preempted": 0, "collector": 0})
    """Decisions slow by the clock, and those of them in which another process had the processor, or the
    collector ran for more than a fifth of the time.
    """

    def __post_init__(self) -> None:
        self._began = 0.0
        gc.callbacks.append(self._collected)

    def close(self) -> None:
        """Listen to the collector no more."""
        gc.callbacks.remove(self._collected)

    @contextmanager
    def decision(self) -> Iterator[None]:
        """Time what is done inside."""
        pauses = len(self.collector)
        switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        start, start_cpu = time.perf_counter(), time.thread_time()
        yield
        spent_cpu, spent = time.thread_time() - start_cpu, (time.perf_counter() - start) * 1e3
        self.wall.append(spent)
        self.cpu.append(spent_cpu * 1e3)
        if spent > SLOW_MS:
            self.slow["over_5_ms"] += 1
            self.slow["preempted"] += resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw > switches
            self.slow["collector"] += sum(self.collector[pauses:]) > spent / 5

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.collector.append((time.perf_counter() - self._began) * 1e3)
