"""The same verdict and the same subrequests as Kubernetes' own allocator, on random questions.

A question that ever differed lives on as a small case under tests/unit/allocator/cases.
"""

from __future__ import annotations

import pytest

from tests.oracle.compare import differential
from tests.oracle.generate import question
from tests.oracle.holds import broken
from tests.oracle.oracle import ask

SEED = 2026
BATCHES, BATCH = 4, 600


@pytest.mark.parametrize("batch", range(BATCHES))
def test_kubernetes_says_the_same(batch: int) -> None:
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    outcome = differential(SEED, numbers, seconds=0.5)
    assert [f"{d.name}: {d.detail}" for d in outcome.differences] == []
    assert outcome.asked == BATCH
    assert outcome.placed > BATCH / 6  # or the questions would prove little
    assert outcome.out_of_time < BATCH / 100


def test_kubernetes_keeps_the_rules_by_which_we_are_held() -> None:
    questions = [question(SEED, number) for number in range(300)]
    answers = ask(questions, seconds=0.5)
    faults = {
        number: found
        for number, (asked, answer) in enumerate(zip(questions, answers, strict=True))
        if answer.placed and (found := broken(asked, answer.raw))
    }
    assert faults == {}
