"""Running short commands, with errors that tell."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from tests.controlplane.errors import CommandError


def run(
    command: Sequence[str],
    stdin: str | bytes | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float | None = 60,
) -> subprocess.CompletedProcess[str]:
    """Runs `command` and returns its status and output as text.

    Raises CommandError with what it said, if `check` and the status is not 0; subprocess.TimeoutExpired when
    it takes too long.
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    source: dict[str, object] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    done = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, env=env, timeout=timeout_seconds, check=False, **source
    )
    result = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    if check and result.returncode:
        raise CommandError(command, result.returncode, result.stderr + result.stdout)
    return result
