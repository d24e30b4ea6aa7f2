"""Verdicts of selectors on devices: kept, within a budget, and where they may take long from another process.

An expression is compiled once; a verdict is kept by expression and content of the device. All that is kept
is bounded, for tenants write as many expressions as they like.

Kubernetes bounds a selector by its cost. What costs it little may still take our runtime long, so each
evaluation has a bound in steps (`cel_program.Program.steps`), and so has a turn of the deciding loop. A turn
that has used up its steps ends with `SelectorsPendingError`; what it evaluated is kept, so the next turn gets
further.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final, Protocol

from controller.allocator.cel_program import Compiler, Content, Program, Verdict, evaluate
from controller.allocator.kept import Kept
from controller.allocator.model import NodeDevices, PoolDevice
from driver.errors import PermanentError, RetryableError

TURN_STEPS: Final = 7_000
"""Of one turn of the deciding loop: 50 ms at worst."""
_STEPS_A_BYTE: Final = 3
"""Of compiling."""
_LONG: Final = TURN_STEPS // _STEPS_A_BYTE
"""Bytes of an expression that takes more than a turn to compile."""
_KEPT_BYTES: Final = 128 * 1024
"""Of the text of compiled expressions; what is compiled of it takes up to 300 times as much."""
_KEPT_VERDICTS: Final = 150_000
_KEPT_COLUMNS: Final = 2_000_000
"""Verdicts by node."""
_SMALL_COLUMN: Final = 16
"""A column that another node has as well counts as so many verdicts."""
_TEXT: Final = 40
"""A text for a verdict counts as so many."""
_MOST_LEAKED: Final = 50_000
"""Steps of programs that leak, in this process; what comes after them is evaluated in the other one."""
_BESIDE_SECONDS: Final = 0.02


class SelectorError(PermanentError):
    """An expression does not compile; `expression` is its text."""

    def __init__(self, expression: str, detail: str) -> None:
        super().__init__(f"CEL expression {expression!r} does not compile: {detail}")
        self.expression = expression
        self.detail = detail


class SelectorsPendingError(RetryableError):
    """Selectors are still being evaluated: ask again after `seconds`. What was evaluated is kept."""

    def __init__(self, seconds: float) -> None:
        super().__init__("selectors are still being evaluated on the devices")
        self.seconds = seconds


class Beside(Protocol):
    """Evaluates what may take long, elsewhere."""

    def verdicts(self, expression: str, contents: Sequence[Content]) -> Sequence[Verdict | None] | Program:
        """What is known by now, in their order; None: not yet. A program where it does not compile."""


class CelCache:
    """Compiled expressions and verdicts. Not for several threads at once."""

    def __init__(self, beside: Beside | None = None) -> None:
        """`beside`: evaluates what may take longer than a turn; None: so does the caller's thread."""
        self._compiler = Compiler()
        self._beside = beside
        self._left: int | None = None
        self._spent = False
        self._leaked = 0
        self._programs: Kept[str, Program] = Kept(_KEPT_BYTES)
        self._verdicts: Kept[tuple[str, bytes], Verdict] = Kept(_KEPT_VERDICTS)
        self._columns: Kept[tuple[int, str], dict[str, tuple[Verdict, ...]]] = Kept(_KEPT_COLUMNS)
        self._alike: Kept[tuple[Verdict, ...], tuple[Verdict, ...]] = Kept(_KEPT_COLUMNS)

    @contextmanager
    def turn(self, steps: int) -> Iterator[None]:
        """A turn that may spend so many steps on selectors; outside of turns there is no bound."""
        self._left, self._spent = steps, False
        try:
            yield
        finally:
            self._left = None

    def check(self, expression: str) -> Program:
        """Compile.

        Raises:
            SelectorError: it does not compile, or does not say true or false.
            SelectorsPendingError: the turn has no steps left.
        """
        program = self._programs.get(expression)
        if program is None:
            size = len(expression.encode())
            self._spend(size * _STEPS_A_BYTE)
            program = self._compiler.compile(expression)
            self._programs.put(expression, program, size + 64)
        if program.error:
            raise SelectorError(expression, program.error)
        return program

    def select(self, node: NodeDevices, expression: str) -> tuple[Verdict, ...]:
        """The verdict on each of the node's devices, in their order.

        Raises:
            SelectorError: the expression does not compile.
            SelectorsPendingError: not all verdicts are there yet.
        """
        columns: dict[str, tuple[Verdict, ...]] = node.derived("cel", dict)
        column = columns.get(expression)
        if column is None:
            column, weight = self._shared(self._evaluated(node.devices, expression))
            columns[expression] = column
            for (_, before), of_node in self._columns.put((id(columns), expression), columns, weight):
                of_node.pop(before, None)
        return column

    def _evaluated(self, devices: Sequence[PoolDevice], expression: str) -> tuple[Verdict, ...]:
        beside = self._beside if self._takes_long(expression) else None
        verdicts: dict[bytes, Verdict] = {}
        missing: dict[bytes, PoolDevice] = {}
        seen = [blake2b(device.content, digest_size=16).digest() for device in devices]
        for digest, device in zip(seen, devices, strict=True):
            verdict = verdicts.get(digest)
            if verdict is None:
                verdict = self._verdicts.get((expression, digest))
            if verdict is None and beside is not None:
                missing[digest] = device
                continue
            if verdict is None:
                program = self.check(expression)
                self._spend(program.steps)
                self._leaked += program.steps if program.leaks else 0
                verdict = evaluate(program, _content(device))
                self._keep(expression, digest, verdict)
            verdicts[digest] = verdict
        if beside is not None and missing:
            contents = [_content(device) for device in missing.values()]
            answer = beside.verdicts(expression, contents)
            if isinstance(answer, Program):
                raise SelectorError(expression, answer.error)
            for digest, verdict in zip(missing, answer, strict=True):
                if verdict is not None:
                    verdicts[digest] = verdict
                    self._keep(expression, digest, verdict)
            if len(verdicts) < len(set(seen)):
                raise SelectorsPendingError(_BESIDE_SECONDS)
        return tuple(verdicts[digest] for digest in seen)

    def _takes_long(self, expression: str) -> bool:
        """One evaluation could, or compiling; or its memory would be lost."""
        if self._beside is None or len(expression.encode()) > _LONG:
            return self._beside is not None
        program = self.check(expression)
        return program.steps > TURN_STEPS or (program.leaks and self._leaked > _MOST_LEAKED)

    def _spend(self, steps: int) -> None:
        """The first thing in a turn is done whatever it costs, so that every turn gets further."""
        if self._left is None:
            return
        if steps > self._left and self._spent:
            raise SelectorsPendingError(0.0)
        self._left -= steps
        self._spent = True

    def _keep(self, expression: str, digest: bytes, verdict: Verdict) -> None:
        self._verdicts.put((expression, digest), verdict, 1 if isinstance(verdict, bool) else _TEXT)

    def _shared(self, column: tuple[Verdict, ...]) -> tuple[tuple[Verdict, ...], int]:
        """The column, as one object for all nodes that have the same, and what it counts as."""
        known = self._alike.get(column)
        if known is not None:
            return known, _SMALL_COLUMN
        weight = sum(1 if isinstance(verdict, bool) else _TEXT for verdict in column)
        self._alike.put(column, column, weight)
        return column, weight


def _content(device: PoolDevice) -> Content:
    said = device.device
    return device.id.driver, said.allow_multiple_allocations, said.attributes, said.capacity
