"""Marks the tests of this folder, and sends those below `guest/` into the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vm.errors import UnavailableError
from tests.vm.remote import REPORTS, GuestRun, GuestTest, Recorder

HERE = Path(__file__).parent
GUEST = HERE / "guest"
IN_GUEST = "TANDEM_IN_VM" in os.environ


class Host:
    """One machine for all guest tests of a session, booted for the first of them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._run: GuestRun | UnavailableError | None = None
        self.session: pytest.Session | None = None

    def run(self) -> GuestRun:
        """The machine; raises UnavailableError where there is none, each time without another try."""
        if self._run is None and self.session is not None:
            chosen = [item.nodeid for item in self.session.items if isinstance(item, GuestTest)]
            try:
                self._run = GuestRun(chosen, self._say)
            except UnavailableError as error:
                self._run = error
        if not isinstance(self._run, GuestRun):
            raise self._run or UnavailableError("no session")
        return self._run

    def end(self) -> None:
        """Leave nothing."""
        if isinstance(self._run, GuestRun):
            self._run.end()

    def _say(self, line: str) -> None:
        manager = self._config.pluginmanager
        capture, reporter = manager.get_plugin("capturemanager"), manager.get_plugin("terminalreporter")
        if capture is None or reporter is None:
            return
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(line)


_host = pytest.StashKey[Host]()


def pytest_configure(config: pytest.Config) -> None:
    if IN_GUEST:
        stream = (Path("/out") / REPORTS).open("a")
        config.add_cleanup(stream.close)
        config.pluginmanager.register(Recorder(stream))
        return
    host = config.stash[_host] = Host(config)
    config.add_cleanup(host.end)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("vm")
    if not IN_GUEST:
        host = config.stash[_host]
        host.session = session
        items[:] = [
            GuestTest.standing_for(item, host.run) if item.path.is_relative_to(GUEST) else item
            for item in items
        ]
