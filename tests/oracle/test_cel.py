"""Each expression of our CEL tests means to Kubernetes what it means to us."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from controller.allocator import quantity
from controller.allocator.cel import TURN_STEPS
from controller.allocator.cel_program import MAX_COST
from tests.oracle.oracle import Answer, ask
from tests.oracle.selectors import Generator
from tests.oracle.selectors import ask as ask_selectors
from tests.unit.allocator import world
from tests.unit.allocator.test_cel import CEL, DEVICE, ERRORS, ONE, TRUE

NODE: dict[str, Any] = {"metadata": {"name": "node"}}


def answers(expressions: list[str]) -> list[Answer]:
    slices = msgspec.to_builtins(world.slices([DEVICE]))
    exactly = {"deviceClassName": "any", "allocationMode": "ExactCount", "count": 1}
    claim = {
        "metadata": {"name": "claim", "namespace": "default", "uid": "claim"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}},
    }
    return ask(
        {
            "node": NODE,
            "slices": slices,
            "classes": [
                {"metadata": {"name": "any"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}}
            ],
            "claims": [claim],
        }
        for expression in expressions
    )


def test_what_is_true_here_is_true_there() -> None:
    said = dict(zip(TRUE, answers(list(TRUE)), strict=True))
    assert {
        expression: answer.error or "false" for expression, answer in said.items() if not answer.placed
    } == {}


def test_what_is_false_here_is_false_there() -> None:
    """A true one with a sign before it: an error would be an error still."""
    said = dict(zip(TRUE, answers([f"!({expression})" for expression in TRUE]), strict=True))
    wrong = {e: a.error or "true" for e, a in said.items() if a.placed or a.error}
    assert wrong == {}


def test_what_is_an_error_here_is_an_error_there() -> None:
    said = dict(zip(ERRORS, answers(list(ERRORS)), strict=True))
    assert [expression for expression, answer in said.items() if not answer.error] == []


GENERATED = 1_000


def test_selectors_cost_here_what_they_cost_there() -> None:
    """The estimate is Kubernetes' to the unit, nearly always; which side of the limit it is on, always."""
    generator = Generator(seed=1)
    expressions = [*TRUE, *(generator.selector() for _ in range(GENERATED))]
    compared = other = beside = 0
    for expression, theirs in zip(expressions, ask_selectors(expressions, DEVICE), strict=True):
        if theirs.compile_error:
            continue  # lists of mixed kinds, which we take
        ours = CEL.check(expression)
        compared += 1
        other += ours.cost != theirs.estimate
        assert (ours.cost > MAX_COST) == (theirs.estimate > MAX_COST), expression
        assert theirs.cost <= MAX_COST or theirs.estimate > MAX_COST, expression
        if ours.steps > TURN_STEPS:  # takes long, or could
            beside += theirs.estimate <= MAX_COST
            continue
        (verdict,) = CEL.select(ONE, expression)
        assert isinstance(verdict, str) == bool(theirs.error), expression
        assert theirs.error or verdict is theirs.matches, expression
    assert compared > 0.95 * len(expressions)
    assert other < 0.02 * compared
    assert beside < 0.03 * compared


def test_a_quantity_is_read_as_there() -> None:
    """What is one, and how it compares with others."""
    random = Random(1)
    parts = ["", "+", "-", "0", "00", "1", "9", "12345678901234567890", ".", "5", "e", "E", "i"]
    parts += ["k", "Ki", "Ei", "m", "n", "e3", "e-12", "E+2", "e4294967297", "e99999999999999999999"]
    texts = ["".join(random.choices(parts, k=random.randint(1, 4))) for _ in range(1_500)]
    expressions = [f'isQuantity("{text}")' for text in texts]
    known = [
        text for text, said in zip(texts, ask_selectors(expressions, DEVICE), strict=True) if said.matches
    ]
    assert [text for text in texts if _is_quantity(text)] == known
    pairs = [(random.choice(known), random.choice(known)) for _ in range(1_500)]
    expressions = [f'quantity("{a}").isLessThan(quantity("{b}"))' for a, b in pairs]
    for (a, b), said in zip(pairs, ask_selectors(expressions, DEVICE), strict=True):
        assert (quantity.parse(a) < quantity.parse(b)) == said.matches, (a, b)


def _is_quantity(text: str) -> bool:
    try:
        quantity.parse(text)
    except ValueError:
        return False
    return True
