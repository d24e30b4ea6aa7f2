"""The form of every bench's answer, so that those of different days and machines can be laid side by side.

Progress goes to stderr; the last line of stdout is one JSON object:
``{"bench", "machine", "results": {…}, "goals": [{"name", "value", "unit", "goal", "met"}]}``.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that the bench is run for. `at_most` False: the value must be at least the goal."""

    name: str
    value: float
    unit: str
    goal: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Is the value on the right side of the goal?"""
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile: the smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """``p50``, ``p99``, ``min``, ``max`` and the count of some measurements, rounded to three places."""
    return {
        "p50": round(percentile(values, 50), 3),
        "p99": round(percentile(values, 99), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
        "count": len(values),
    }


def finish(bench: str, results: Mapping[str, Any], goals: Sequence[Goal]) -> None:
    """Print the goals for people on stderr, and the one line for machines on stdout."""
    for goal in goals:
        sign = "≤" if goal.at_most else "≥"
        verdict = "met" if goal.met else "MISSED"
        progress(f"{goal.name}: {goal.value:g} {goal.unit} (goal {sign} {goal.goal:g}): {verdict}")
    line = {
        "bench": bench,
        "machine": {
            "cpus": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "results": results,
        "goals": [
            {"name": g.name, "value": round(g.value, 4), "unit": g.unit, "goal": g.goal, "met": g.met}
            for g in goals
        ],
    }
    print(json.dumps(line))
