"""How much one decision may do before others have their turn, counted in steps and so the same on every
machine: a decision that needs more is interrupted, goes on at its next turn, and gives up at last.

A step is about a tenth of a millisecond on a machine of today. What was found out until the interruption is
kept by who found it out (`controller.answers`, `controller.gangs.node_states`), so the next turn goes on
there. What gave up is tried again after a pause that grows each time, whatever changes meanwhile. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from controller.allocator.problem import Work

T = TypeVar("T")

TURN_STEPS: Final = 250
ASK_STEPS: Final = 5
"""What a question to the allocator costs before its search begins."""
_TURNS: Final = 80
"""More than so many turns no decision takes."""
_AGAIN_FIRST_SECONDS, _AGAIN_LAST_SECONDS = 10.0, 600.0


class Interrupted(Exception):  # noqa: N818  # not an error
    """That is enough work for this turn; asked again, the search goes on."""


@dataclass(slots=True)
class Effort:
    """What is left of a turn.

    Attributes:
        left: steps; None: as many as it takes.
        last: there is no further turn: what is not known when they are used up is passed over.
    """

    left: int | None = None
    last: bool = False

    def spend(self, steps: int) -> None:
        """So many were made."""
        if self.left is not None:
            self.left -= steps

    @property
    def over(self) -> bool:
        """None are left."""
        return self.left is not None and self.left <= 0


def done_within(work: Work[T], effort: Effort) -> T | None:
    """Do as much of it as the effort allows; None where that does not bring it to its end."""
    try:
        while not effort.over:
            effort.spend(next(work))
    except StopIteration as end:
        return cast(T, end.value)
    return None


@dataclass(slots=True)
class _Trials:
    turns: int = 0
    gave_up: int = 0


class Efforts:
    """Counts the turns of each decision, and how often it gave up. Keys are hashable names of decisions."""

    def __init__(self) -> None:
        self._trials: dict[Hashable, _Trials] = {}

    def next(self, key: Hashable) -> Effort:
        """What the decision may do in this turn."""
        trials = self._trials.get(key)
        return Effort(TURN_STEPS, last=trials is not None and trials.turns >= _TURNS)

    def interrupted(self, key: Hashable) -> None:
        """It needs another turn."""
        self._trials.setdefault(key, _Trials()).turns += 1

    def decided(self, key: Hashable) -> None:
        """It came to an end by itself."""
        self._trials.pop(key, None)

    def gave_up(self, key: Hashable) -> float:
        """It did not. Returns the seconds until it may be tried again."""
        trials = self._trials.setdefault(key, _Trials())
        trials.turns, trials.gave_up = 0, trials.gave_up + 1
        exponent = min(trials.gave_up - 1, 16)
        return float(min(_AGAIN_FIRST_SECONDS * 2**exponent, _AGAIN_LAST_SECONDS))

    def forget(self, key: Hashable) -> None:
        """There is nothing to decide any more."""
        self._trials.pop(key, None)
