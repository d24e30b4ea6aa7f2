"""Long-running processes of a cluster, each remembered in a file, so that whoever attaches later can stop and
start them.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.controlplane.containers import Container
from tests.controlplane.errors import ComponentError, WaitTimeoutError
from tests.controlplane.wait import wait_for


@dataclass(slots=True)
class Process:
    """One process inside a container.

    `pid` is the machine's number for it. Its output is appended to `log`. Stopping waits until it is gone;
    starting again uses the same command, or another one if given.
    """

    name: str
    container: Container
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    record: Path
    pid: int = 0
    started: int = 0  # in clock ticks since boot: with the pid, it names this process and no later one

    @classmethod
    def load(cls, record: Path, container: Container) -> Process:
        """The process that another session of this package started."""
        saved = json.loads(record.read_text())
        return cls(
            saved["name"],
            container,
            tuple(saved["argv"]),
            saved["env"],
            Path(saved["log"]),
            record,
            saved["pid"],
            saved["started"],
        )

    @property
    def running(self) -> bool:
        """Whether it is there and has not ended."""
        return self.pid > 0 and start_time(self.pid) == self.started

    def start(self, argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> Process:
        """Starts it, if it does not run, and returns itself. Raises ComponentError if it ends at once."""
        if self.running:
            return self
        self.argv = tuple(argv) if argv is not None else self.argv
        self.env = dict(env) if env is not None else self.env
        with self.log.open("ab") as log:
            self.pid = self.container.start(self.argv, self.env, log)
        self.started = start_time(self.pid) if self.pid else 0
        if not self.started:
            raise ComponentError(self.name, "ended at once", self.log)
        saved = {"name": self.name, "argv": self.argv, "env": dict(self.env), "log": str(self.log)}
        temporary = self.record.with_suffix(".new")
        temporary.write_text(json.dumps(saved | {"pid": self.pid, "started": self.started}))
        temporary.rename(self.record)
        return self

    def stop(self, timeout_seconds: float = 10) -> None:
        """Asks it to end (SIGTERM) and waits; kills it after `timeout_seconds`."""
        self.signal(signal.SIGTERM)
        try:
            wait_for(f"{self.name} to end", lambda: not self.running, timeout_seconds, 0.02)
        except WaitTimeoutError:
            self.kill()

    def kill(self) -> None:
        """Ends it at once (SIGKILL) and waits until it is gone."""
        self.signal(signal.SIGKILL)
        wait_for(f"{self.name} to be killed", lambda: not self.running, 10, 0.01)

    def restart(self, timeout_seconds: float = 10) -> None:
        """Stop, then start."""
        self.stop(timeout_seconds)
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it runs."""
        if self.running:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def check(self) -> None:
        """Raises ComponentError, with the end of its log, if it does not run."""
        if not self.running:
            raise ComponentError(self.name, "has ended", self.log)


def start_time(pid: int) -> int:
    """When process `pid` started, in clock ticks since boot (proc_pid_stat(5), field 22); 0 if it is gone or
    a zombie.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in ("Z", "X") else int(fields[19])
