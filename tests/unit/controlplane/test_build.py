"""Building a tool module once, and never taking half a build for a whole one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.controlplane import build
from tests.controlplane.build import TOOLS, Programs, Tool, build_flags, cache_key, version_of
from tests.controlplane.errors import BuildError, PrerequisiteError

TOOL = Tool(
    "thing", "example.com/thing", ("thing",), ldflags="-X v={version} -X m={minor}", rename={"main": "thing"}
)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module of TOOL, and a `go` that is a script in `go`."""
    module = tmp_path / "modules" / "thing"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module m\n\nrequire example.com/thing v1.2.3\n")
    (module / "go.sum").write_text("")
    monkeypatch.setattr(build, "MODULES", tmp_path / "modules")
    monkeypatch.setattr(build, "go_command", lambda: str(tmp_path / "go"))
    return tmp_path


def _go(modules: Path, script: str) -> None:
    """Makes `go` run `script`, with the output folder in $out."""
    find_out = 'while [ "$1" != -o ]; do shift; done; out=$2'
    (modules / "go").write_text(f"#!/bin/sh\n{find_out}\n{script}\n")
    (modules / "go").chmod(0o755)


def test_a_tool_is_built_once(modules: Path) -> None:
    _go(modules, f'echo built >> {modules}/count; echo program > "$out/main"')
    first = build.build(TOOL, modules / "cache")
    second = build.build(TOOL, modules / "cache")
    assert first == second
    assert first.name.startswith("thing-v1.2.3-")
    assert (first / "thing").read_text() == "program\n"
    assert (modules / "count").read_text() == "built\n"


def test_another_version_is_another_build_beside_the_first(modules: Path) -> None:
    _go(modules, 'echo program > "$out/main"')
    first = build.build(TOOL, modules / "cache")
    (modules / "modules/thing/go.mod").write_text("module m\n\nrequire example.com/thing v1.2.4\n")
    second = build.build(TOOL, modules / "cache")
    assert first != second
    assert (first / "thing").exists()


def test_a_failed_build_tells_the_compilers_words_and_is_tried_again(modules: Path) -> None:
    _go(modules, 'echo half > "$out/main"; echo "undefined: x" >&2; exit 1')
    with pytest.raises(BuildError, match="undefined: x"):
        build.build(TOOL, modules / "cache")
    _go(modules, 'ls -A "$out/.." > "$out/main"')
    made = build.build(TOOL, modules / "cache")
    listed = (made / "thing").read_text().split()
    assert len([name for name in listed if name.startswith(".thing.")]) == 1  # what the first left is gone


def test_a_build_without_a_promised_program_fails(modules: Path) -> None:
    _go(modules, 'echo program > "$out/main"; echo > "$out/other"')
    wants_more = Tool("thing", "example.com/thing", ("thing", "helper"), rename={"main": "thing"})
    with pytest.raises(BuildError, match="helper"):
        build.build(wants_more, modules / "cache")


def test_ready_programs_are_taken_if_all_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_KUBE_BIN", str(tmp_path))
    with pytest.raises(PrerequisiteError, match=f"{re.escape(str(tmp_path))} lacks thing"):
        build.find_programs([TOOL])
    (tmp_path / "thing").write_text("")
    assert build.find_programs([TOOL])["thing"] == tmp_path / "thing"


def test_a_missing_program_is_named() -> None:
    with pytest.raises(PrerequisiteError, match="kubelet is not in /nowhere"):
        Programs((Path("/nowhere"),))["kubelet"]


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_every_tool_of_the_table_has_its_module_pinned_and_hashed(tool: Tool) -> None:
    go_mod = (tool.source / "go.mod").read_text()
    version = version_of(tool, go_mod)
    assert re.fullmatch(r"v\d+\.\d+\.\d+", version)
    assert f"{tool.module} {version} h1:" in (tool.source / "go.sum").read_text()


def test_the_version_is_stamped_and_debug_data_stripped() -> None:
    assert build_flags(TOOL, "v1.36.3")[-1] == "-s -w -X v=v1.36.3 -X m=36"


def test_a_version_that_is_not_required_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"requires no example\.com/thing"):
        version_of(TOOL, "require example.com/thing/v2 v2.0.0\n")


def test_the_cache_key_changes_with_every_part() -> None:
    base = ("mod", "sum", ("-a", "b"))
    others = [
        ("mod2", "sum", ("-a", "b")),
        ("mod", "sum2", ("-a", "b")),
        ("mod", "sum", ("-ab",)),
        ("mods", "um", ("-a", "b")),
    ]
    keys = {cache_key(*parts) for parts in (base, *others)}
    assert len(keys) == 5
    assert cache_key(*base) == cache_key(*base)
