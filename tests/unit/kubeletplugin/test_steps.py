from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from driver.errors import ConfigError
from kubeletplugin.steps import POINTS, check_environment, step

PASS = "from kubeletplugin.steps import step; step('prepare.recorded'); print('passed')"


def run(stop_at: str, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PASS],
        env=os.environ | {"TANDEM_STOP_AT": stop_at},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def test_off_by_default_every_point_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_STOP_AT", raising=False)
    for point in POINTS:
        step(point)


def test_the_process_is_killed_at_its_point_and_no_other() -> None:
    assert run("prepare.recorded=kill").returncode == -signal.SIGKILL
    assert run("prepare.done=kill").stdout == "passed\n"


def test_with_a_file_it_is_killed_once(tmp_path: Path) -> None:
    results = [run(f"prepare.recorded=kill:{tmp_path}/once").returncode for _ in range(2)]
    assert results == [-signal.SIGKILL, 0]


def test_a_pause_ends_when_the_file_is_there(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(f"prepare.recorded=pause:{tmp_path}/go", timeout_seconds=0.3)
    (tmp_path / "go").touch()
    assert run(f"prepare.recorded=pause:{tmp_path}/go").stdout == "passed\n"


@pytest.mark.parametrize("value", ["prepare.nowhere=kill", "prepare.done=explode", "prepare.done=pause", "x"])
def test_a_point_or_action_that_does_not_exist_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TANDEM_STOP_AT", value)
    with pytest.raises(ConfigError, match="is not POINT=kill"):
        check_environment()
