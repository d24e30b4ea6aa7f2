"""The process beside: real, started once for all tests here."""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence

import pytest

from controller.allocator.cel_beside import BesideProcess
from controller.allocator.cel_program import Content, Program, Verdict
from driver.kube.objects import DeviceAttribute

PATIENCE_SECONDS = 60.0
DRIVER = "tandem-dra.io"
ENDLESS = 'lists.range(3000).all(x, !"a".matches("(((a{10}){10}){10})"))'
DOUBLED = "[1, 2]"
for _ in range(25):
    DOUBLED = f"cel.bind(a, {DOUBLED}, a + a)"


def content(rail: int) -> Content:
    return DRIVER, False, {"rail": DeviceAttribute(int_=rail)}, {}


@pytest.fixture(scope="module")
def beside() -> Iterator[BesideProcess]:
    process = BesideProcess(seconds=0.3)
    yield process
    process.stop()


def answers(
    beside: BesideProcess, expression: str, contents: Sequence[Content]
) -> Sequence[Verdict | None] | Program:
    """Ask until all is known."""
    while True:
        answer = beside.verdicts(expression, contents)
        if isinstance(answer, Program) or None not in answer:
            return answer
        if beside.fileno() >= 0:
            assert select.select([beside], [], [], PATIENCE_SECONDS)[0]


def test_says_what_it_is_asked(beside: BesideProcess) -> None:
    rail = f'device.attributes["{DRIVER}"].rail'
    few = [content(rail) for rail in range(3)]
    assert answers(beside, f"{rail} == 1", few) == [False, True, False]
    (error,) = answers(beside, f"{rail}.x == 1", few[:1])  # type: ignore[misc]
    assert "SELECT to non-message type" in str(error)
    many = [content(rail) for rail in range(2000)]  # more than a pipe holds
    assert answers(beside, f"{rail} < 1000", many) == [rail < 1000 for rail in range(2000)]


def test_what_does_not_compile_is_told_apart(beside: BesideProcess) -> None:
    answer = answers(beside, "device.nope", [content(1)])
    assert isinstance(answer, Program)
    assert "undeclared" in answer.error


def test_what_takes_too_long_is_given_up_and_others_are_answered(beside: BesideProcess) -> None:
    some = [content(rail) for rail in range(5)]
    answer = answers(beside, ENDLESS, some)
    assert not isinstance(answer, Program)
    assert {str(verdict) for verdict in answer} == {
        "evaluating it takes longer than 0.3 s, or too much memory"
    }
    assert answers(beside, "device.driver == ''", some) == [False] * 5


def test_what_takes_too_much_memory_is_given_up(beside: BesideProcess) -> None:
    (answer,) = answers(beside, f"size({DOUBLED}) == 1", [content(1)])  # type: ignore[misc]
    assert isinstance(answer, str)
    assert answers(beside, "device.driver != ''", [content(1)]) == [True]


def test_a_question_is_not_lost_where_the_process_ends(beside: BesideProcess) -> None:
    assert answers(beside, "size(device.driver) > 1", [content(1)]) == [True]
    beside.stop()
    assert beside.fileno() == -1
    assert answers(beside, "size(device.driver) > 2", [content(1)]) == [True]


def test_a_process_that_lost_much_memory_is_replaced(beside: BesideProcess) -> None:
    leaks = 'lists.range(1000).all(x, isQuantity("1"))'
    some = [content(rail) for rail in range(120)]
    assert answers(beside, leaks, some) == [True] * 120
    before = beside._process
    assert answers(beside, leaks.replace("1000", "999"), some) == [True] * 120
    assert answers(beside, "device.driver == 'x'", some[:1]) == [False]
    assert beside._process is not before
