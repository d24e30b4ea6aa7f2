"""Kubernetes' allocator (tests/oracle/tool, built once) as a process that answers many questions."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from driver.kube.objects import AllocationResult
from tests.controlplane.build import TOOLS, build
from tests.oracle.generate import Json


@dataclass(frozen=True, slots=True)
class Answer:
    """What Kubernetes said.

    Attributes:
        placed: all claims together.
        out_of_time: it gave up, so nothing is known.
        error: its words where it called the claims wrong.
        allocations: of the claims that had none, in their order; `raw` is the same as JSON.
        micros: what it took, in microseconds.
    """

    placed: bool
    out_of_time: bool
    error: str
    allocations: tuple[AllocationResult, ...]
    raw: tuple[Json, ...]
    micros: int


def ask(questions: Iterable[Json], *, seconds: float = 3.0) -> list[Answer]:
    """All answers, in order; `seconds` is the limit for each."""
    lines = "".join(json.dumps({**question, "seconds": seconds}) + "\n" for question in questions)
    program = build(TOOLS["oracle"]) / "oracle"
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [_answer(json.loads(line)) for line in done.stdout.splitlines()]


def _answer(raw: Json) -> Answer:
    return Answer(
        placed=raw["placed"],
        out_of_time=raw.get("outOfTime", False),
        error=raw.get("error", ""),
        allocations=tuple(msgspec.convert(raw.get("allocations", []), tuple[AllocationResult, ...])),
        raw=tuple(raw.get("allocations", ())),
        micros=raw["micros"],
    )
