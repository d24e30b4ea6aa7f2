"""What can go wrong while a cluster is built, started or used, each error with the data a reader needs to act
on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ControlPlaneError(Exception):
    """Base of all errors of this package."""


class PrerequisiteError(ControlPlaneError):
    """The machine lacks something: a program, a right, a free address range."""


class BuildError(ControlPlaneError):
    """A Go tool module did not build."""

    def __init__(self, tool: str, command: Sequence[str], output: str) -> None:
        self.tool = tool
        self.output = output
        super().__init__(f"building {tool} failed: {' '.join(command)}\n{tail(output, 30)}")


class CommandError(ControlPlaneError):
    """A command that had to succeed did not."""

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        self.command = tuple(command)
        self.status = status
        self.output = output
        super().__init__(f"{' '.join(command)}: exit status {status}\n{tail(output, 20)}")


class ComponentError(ControlPlaneError):
    """A part of the cluster ended or never became ready; `log` is its whole output."""

    def __init__(self, component: str, why: str, log: Path) -> None:
        self.component = component
        self.why = why
        self.log = log
        text = log.read_text(errors="replace") if log.exists() else ""
        super().__init__(f"{component} {why}; the end of {log}:\n{tail(text, 15)}")

    def moved(self, log: Path) -> ComponentError:
        """The same error for a log that was put elsewhere."""
        return ComponentError(self.component, self.why, log)


class WaitTimeoutError(ControlPlaneError):
    """What was waited for did not come; `last` says what was seen instead."""

    def __init__(self, what: str, timeout_seconds: float, last: str) -> None:
        self.what = what
        super().__init__(
            f"waited {timeout_seconds:g} s for {what}" + (f"; last seen: {last}" if last else "")
        )


def tail(text: str, lines: int) -> str:
    """The last `lines` lines of `text`, indented."""
    return "\n".join("  " + line for line in text.rstrip().splitlines()[-lines:])
