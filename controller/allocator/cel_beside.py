"""Selectors that may take long, evaluated in a separate process, so that nothing waits for them.

The process is started when the first such selector comes. It works on one expression at a time, on as many
devices as fit into a pipe, and ends by itself if one takes too long; an expression that did this twice is
given up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Final

import msgspec

from controller.allocator.cel_program import Content, Program, Verdict
from controller.allocator.cel_worker import SECONDS, Answer
from controller.allocator.kept import Kept

_PIPE_BYTES: Final = 48 * 1024
_KEPT: Final = 20_000
_KEPT_ERRORS: Final = 1000
_TRIES: Final = 2


class BesideProcess:
    """A process for what may take long. Not for several threads at once."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """`seconds` of processor time are what one evaluation may take."""
        self._seconds = seconds
        self._too_long = f"evaluating it takes longer than {seconds:g} s, or too much memory"
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: deque[tuple[str, bytes]] = deque()
        """What the process has not answered yet."""
        self._read = b""
        self._known: Kept[tuple[str, bytes], Verdict] = Kept(_KEPT)
        self._errors: Kept[str, str] = Kept(_KEPT_ERRORS)
        self._failures: Kept[str, int] = Kept(_KEPT_ERRORS)

    def verdicts(self, expression: str, contents: Sequence[Content]) -> Sequence[Verdict | None] | Program:
        """What is known by now, in their order; None: not yet. A program where it does not compile."""
        self._collect()
        if (error := self._errors.get(expression)) is not None:
            return Program(None, error)
        if (self._failures.get(expression) or 0) >= _TRIES:
            return [self._too_long] * len(contents)
        encoded = [msgspec.json.encode(content) for content in contents]
        verdicts = [self._known.get((expression, _digest(content))) for content in encoded]
        missing = [content for content, known in zip(encoded, verdicts, strict=True) if known is None]
        if missing and not self._asked:
            self._ask(expression, missing)
        return verdicts

    def fileno(self) -> int:
        """Can be read from when the process has answered or ended; -1 where none runs."""
        return -1 if self._process is None else _fd(self._process.stdout)

    def stop(self) -> None:
        """End the process, whatever it is at."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process, self._read = None, b""
        self._asked.clear()

    def _ask(self, expression: str, contents: Sequence[bytes]) -> None:
        text = msgspec.json.encode(expression)
        room = _PIPE_BYTES - len(text)
        some: list[bytes] = []
        for content in contents:
            room -= len(content) + 1
            if room < 0 and some:
                break
            some.append(content)
        process = self._process = self._process or _start(self._seconds)
        self._asked.extend((expression, _digest(content)) for content in some)
        with suppress(BrokenPipeError):  # noticed when its answers are read
            os.write(_fd(process.stdin), b"[" + text + b",[" + b",".join(some) + b"]]\n")

    def _collect(self) -> None:
        """Take in what the process has answered."""
        if self._process is None:
            return
        with suppress(BlockingIOError):
            while data := os.read(_fd(self._process.stdout), 65536):
                self._read += data
                *lines, self._read = self._read.split(b"\n")
                for line in lines:
                    answer = msgspec.json.decode(line, type=Answer | None)
                    if answer is None:  # it ends as it should
                        self._asked.clear()
                    else:
                        self._take(answer)
            failed = self._asked[0][0] if self._asked else None
            self.stop()
            if failed is not None:
                self._failures.put(failed, (self._failures.get(failed) or 0) + 1)

    def _take(self, answer: Answer) -> None:
        expression, digest = self._asked.popleft()
        if isinstance(answer, list):
            self._errors.put(expression, answer[0])
        else:
            self._known.put((expression, digest), answer)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _start(seconds: float) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.allocator.cel_worker", str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    os.set_blocking(_fd(process.stdout), False)
    return process


def _fd(pipe: object) -> int:
    return pipe.fileno()  # type: ignore[attr-defined, no-any-return]
