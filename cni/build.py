"""Builds the shim: one static binary that runs on any Linux host, whatever C library it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from driver.errors import PermanentError

SOURCE: Final = Path(__file__).with_name("tandem.c")
FLAGS: Final = ("-std=gnu11", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--gc-sections")


class BuildError(PermanentError):
    """The C compiler is missing or refused; attribute `output` holds what it said."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(f"{message}\n{output}".strip())
        self.output = output


def build(binary: Path, *, compiler: str = "cc") -> Path:
    """Compile the shim to `binary` (0.3 s), unless it is newer than its source already.

    Raises:
        BuildError: no compiler, or it failed.
    """
    if binary.exists() and binary.stat().st_mtime >= SOURCE.stat().st_mtime:
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    fresh = binary.with_name(f".{binary.name}.new")
    try:
        done = subprocess.run(
            [compiler, *FLAGS, "-o", str(fresh), str(SOURCE)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise BuildError(f"no C compiler {compiler!r}: install gcc and libc6-dev") from error
    if done.returncode:
        raise BuildError(f"{compiler} failed on {SOURCE.name}", done.stderr)
    return fresh.replace(binary)


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else "build/tandem")))
