"""Tandem as pods, from its manifests and in its image: `make demo` is as promised, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.controlplane import state

DEMO = [sys.executable, "-m", "deploy.demo"]


@pytest.fixture
def own_state(tmp_path: Path) -> dict[str, str]:
    """An environment in which the demo's cluster is the only one."""
    return os.environ | {"XDG_STATE_HOME": str(tmp_path)}


def test_the_demo_finds_all_as_promised(own_state: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(DEMO, env=own_state, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as promised" in done.stdout
    assert list((tmp_path / "tandem" / "clusters").iterdir()) == []


def test_an_interrupted_demo_leaves_nothing(own_state: dict[str, str], tmp_path: Path) -> None:
    clusters = tmp_path / "tandem" / "clusters"
    with subprocess.Popen(
        DEMO, env=own_state, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:  # every word up to the one that says that pods are being started
            if "one GPU + one VF" in line:
                break
        (record,) = [state.load(folder) for folder in clusters.iterdir()]
        assert record is not None
        time.sleep(0.5)
        os.killpg(demo.pid, signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait(timeout=60) == 130, rest
    assert list(clusters.iterdir()) == []
    assert not Path("/sys/class/net", record.id).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{record.id}"))
