from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cli.main import COMMANDS, main


def test_every_command_is_there_to_be_called() -> None:
    for target, _ in COMMANDS.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))


def test_without_a_command_the_list_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert "'fly' is not a command" in capsys.readouterr().err


def test_healthz_of_a_plugin_that_is_away_fails_and_names_the_socket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["healthz", f"--plugins-dir={tmp_path}", "--pod-uid=u"]) == 1
    assert "tandem-dra.io/health-u.sock" in capsys.readouterr().err


def loaded(script: str) -> set[str]:
    """Top-level packages in a fresh interpreter after `script`."""
    command = [
        sys.executable,
        "-c",
        f"{script}; import sys; print(*{{m.split('.')[0] for m in sys.modules}})",
    ]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_probe_loads_no_library_at_all() -> None:
    script = "from cli.main import main; main(['healthz', '--plugins-dir=/nowhere'])"
    assert not loaded(script) & {"grpc", "kubernetes", "pyroute2", "google", "msgspec", "yaml"}


def test_lean_imports_leave_the_heavy_parts_out_and_the_client_works() -> None:
    script = (
        "from driver.lean import import_lean; import_lean(); import kubeletplugin.main;"
        "from pyroute2 import IPRoute, IPBatch; from kubernetes import config;"
        "from kubernetes.client.rest import RESTClientObject"
    )
    assert not loaded(script) & {"pydantic", "prometheus_client", "rich"}
