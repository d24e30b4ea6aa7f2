"""Tests below `guest/` run in the machine, and are reported by the pytest that was started on the host.

The host collects them as any others, so that they are chosen, named and counted as usual, and puts a
`GuestTest` in the place of each. The first one boots the machine, in which a second pytest runs all that
were chosen, in the same order, and writes down what became of each as soon as it is known.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import pytest

from tests.vm import image, packages
from tests.vm.errors import GuestError, UnavailableError
from tests.vm.machine import Machine

REPORTS = "reports"
"""Name of the file, in the shared folder, with one JSON object for each test."""


@dataclass(frozen=True, slots=True)
class TestReport:
    """What became of a test; `text` is the reason of a skip, or the failure as pytest shows it."""

    __test__ = False
    nodeid: str
    outcome: str
    text: str


class GuestFailureError(Exception):
    """A test failed in the machine; its text is the report."""


class GuestRun:
    """The chosen tests in the machine. `progress` takes lines for whoever waits."""

    def __init__(self, nodeids: Sequence[str], progress: Callable[[str], None]) -> None:
        """Raises UnavailableError where this host cannot have the machine."""
        lack = packages.missing()
        if lack is not None:
            raise UnavailableError(lack)
        made = image.find()
        self.shared = Path(tempfile.mkdtemp(prefix="tandem-vm-"))
        self._progress = progress
        self._begin = time.monotonic()
        self._reports: dict[str, TestReport] = {}
        self._offset = 0
        progress("vm: booting")
        plugins = "-p no:cacheprovider -p pytest_timeout"
        tests = " ".join(map(shlex.quote, nodeids))
        command = f"PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 exec python3 -m pytest {plugins} -q {tests}"
        self._machine = Machine(made, command, self.shared)

    def report(self, nodeid: str) -> TestReport:
        """What became of a test; waits for it.

        Raises:
            GuestError: the machine ended before it was known.
        """
        while nodeid not in self._reports:
            running = self._machine.running  # asked before the file is read, so that its end is not missed
            self._read()
            if nodeid in self._reports:
                break
            if not running:
                raise GuestError(f"the machine ended before {nodeid} did\n{self._machine.traces()}")
            time.sleep(0.05)
        return self._reports[nodeid]

    def end(self) -> None:
        """Nothing is left of it."""
        self._machine.__exit__()
        shutil.rmtree(self.shared, ignore_errors=True)

    def _read(self) -> None:
        try:
            with (self.shared / REPORTS).open() as stream:
                stream.seek(self._offset)
                lines = stream.read().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for line in lines:
            if not line.endswith("\n"):
                break
            if not self._reports:
                self._progress(f"vm: first result after {time.monotonic() - self._begin:.0f} s")
            report = TestReport(**json.loads(line))
            self._reports[report.nodeid] = report
            self._offset += len(line.encode())


class GuestTest(pytest.Item):
    """Stands on the host for a test that runs in the machine."""

    original: pytest.Item
    find_run: Callable[[], GuestRun]

    @classmethod
    def standing_for(cls, original: pytest.Item, find_run: Callable[[], GuestRun]) -> GuestTest:
        """An item of the same name, with the same marks."""
        if original.parent is None:
            raise ValueError(f"{original.nodeid} has no parent")
        made: GuestTest = cls.from_parent(original.parent, name=original.name)
        made.original = original
        made.find_run = find_run
        made.own_markers.extend(original.own_markers)
        made.keywords.update({mark.name: mark for mark in original.own_markers})
        return made

    def runtest(self) -> None:
        try:
            report = self.find_run().report(self.nodeid)
        except UnavailableError as error:
            pytest.skip(str(error))
        if report.outcome == "skipped":
            pytest.skip(report.text)
        if report.outcome != "passed":
            raise GuestFailureError(report.text)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        if isinstance(excinfo.value, (GuestFailureError, GuestError)):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        path, line, name = self.original.reportinfo()
        return Path(path), line, name


class Recorder:
    """In the machine: a pytest plugin that writes the file that `GuestRun` reads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._worst: dict[str, TestReport] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = self._worst.get(report.nodeid)
        if known is None or (known.outcome != "failed" and report.outcome != "passed"):
            if report.skipped and isinstance(report.longrepr, tuple):
                text = report.longrepr[2].removeprefix("Skipped: ")
            else:
                sections = [f"--- {title} ---\n{content}" for title, content in report.sections]
                text = "\n".join([report.longreprtext, *sections]) if report.failed else ""
            self._worst[report.nodeid] = TestReport(report.nodeid, report.outcome, text)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._stream.write(json.dumps(asdict(self._worst.pop(nodeid))) + "\n")
        self._stream.flush()
