"""The separate program that evaluates selectors: questions on stdin, verdicts on stdout.

A question is a line of JSON, an expression and what it sees of devices; an answer is a line for each device.
An evaluation that takes too long or too much memory ends the process. For time, the kernel's timer does that,
since no Python runs while the C++ runtime does. The controller notices, and starts another process. A process
in which the binding has leaked much memory answers null and ends.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from controller.allocator.cel_program import Compiler, Content, evaluate

SECONDS: Final = 5.0
"""Of processor time for one evaluation: Kubernetes takes a tenth of a second for what its limit allows."""
_MOST_LEAKED: Final = 100_000
"""Steps of programs that leak."""
_MEMORY: Final = 256 << 20
"""Bytes of address space, of which the runtime's code and Python's are a fifth. The controller's container
has a gigabyte for both processes.
"""

Question = tuple[str, list[Content]]
Answer = bool | str | list[str]
"""A verdict; a list of one: why the expression does not compile."""


def main(seconds: float = SECONDS) -> None:
    """Answer until stdin ends; `seconds` of processor time are what one evaluation may take."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with suppress(OSError):  # where memory is short, this process goes, not the controller
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    decoder = msgspec.json.Decoder(Question)
    compiler, leaked = Compiler(), 0
    for line in sys.stdin.buffer:
        expression, contents = decoder.decode(line)
        program = None
        for content in contents:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            verdict: Answer
            program = program or compiler.compile(expression)
            verdict = [program.error] if program.error else evaluate(program, content)
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
            sys.stdout.buffer.flush()
            leaked += program.steps if program.leaks else 0
        if leaked > _MOST_LEAKED:
            sys.stdout.buffer.write(b"null\n")
            return


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
