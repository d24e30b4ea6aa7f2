"""The module map in docs/architecture.md is true."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("driver", "kubeletplugin", "controller", "cni", "cli")


def named() -> list[re.Pattern[str]]:
    """What the first column names: `a/b.py`, `a/{b,c}.py`, `a/b*.py`, `a/folder/`; a bare name: same room."""
    patterns = []
    for row in re.findall(r"^\| (`.*?`) \|", (ROOT / "docs/architecture.md").read_text(), re.M):
        room = ""
        for path in re.findall(r"`([^`]+)`", row):
            if "/" in path:
                room = path.rsplit("/", 1)[0]
            full = path if "/" in path else f"{room}/{path}"
            regex = re.escape(full).replace(r"\*", r"[^/]*").replace(r"\{", "(").replace(r"\}", ")")
            patterns.append(re.compile(regex.replace(",", "|") + (".*" if full.endswith("/") else "")))
    return patterns


def modules() -> list[str]:
    """Our modules, but for packages' `__init__` and what is generated."""
    found = [path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return [path for path in found if not path.endswith("__init__.py") and "/proto/" not in path]


def test_every_module_has_its_place_in_the_map() -> None:
    patterns = named()
    assert [path for path in modules() if not any(p.fullmatch(path) for p in patterns)] == []


def test_everything_that_the_map_names_is_there() -> None:
    files = [
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file()
    ]
    absent = [p.pattern for p in named() if not any(p.fullmatch(path) for path in files)]
    assert absent == []
