"""How much is taken in before there is a decision again, by a clock that moves only with what is applied."""

from __future__ import annotations

from itertools import count

import pytest

from controller.inbox import Inbox, taken


def taken_in(messages: int, milliseconds: int) -> int:
    """How many of them are taken in at once, if each takes so long to apply."""
    clock, inbox = [0], Inbox()
    for _ in range(messages):
        inbox.put(lambda now: clock.__setitem__(0, clock[0] + milliseconds))
    applied = 0
    for message in taken(inbox, 0.0, lambda: clock[0] / 1000):
        message(0.0)
        applied += 1
    assert inbox.qsize() == messages - applied
    return applied


@pytest.mark.parametrize(
    ("messages", "milliseconds", "count"),
    [
        (0, 1, 0),
        (5, 1, 5),
        (500, 3, 8),  # the first, those of the 20 ms after it, and the one that ends them
        (500, 15, 3),
        (500, 50, 2),
        (5_000, 0, 1_000),
    ],
)
def test_changes_are_taken_in_for_twenty_milliseconds(messages: int, milliseconds: int, count: int) -> None:
    assert taken_in(messages, milliseconds) == count


def test_messages_come_in_their_order_and_those_left_come_next() -> None:
    inbox, said, clock = Inbox(), list[int](), count()
    for number in range(8):
        inbox.put(lambda now, number=number: said.append(number))  # type: ignore[misc]
    for turns in range(1, 4):
        for message in taken(inbox, 0.0, lambda: next(clock) * 0.015):
            message(0.0)
        assert said == list(range(2 * turns))
