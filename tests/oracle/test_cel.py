"""Each expression of our CEL tests means to Kubernetes what it means to us."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.oracle.oracle import Answer, ask
from tests.unit.allocator import world
from tests.unit.allocator.test_cel import DEVICE, ERRORS, TRUE

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
