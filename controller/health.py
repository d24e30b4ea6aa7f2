"""When a controller is alive, and when it is ready.

It is not alive if a restart would help: the deciding thread hangs, or a thread has died. It is ready if what
it knows is up to date: every kind was listed, and no watch has been failing for long. An API server that is
away makes every controller unready and none dead: a restart would help nothing, and lose what this one knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

HANGS_AFTER_SECONDS: Final = 60.0
FAILING_AFTER_SECONDS: Final = 30.0


def why_dead(turn_seconds: float, ended: Iterable[str]) -> str:
    """Return why a restart is needed; empty if it is not.

    Args:
        turn_seconds: since the deciding thread last began a turn.
        ended: names of threads that should run and do not.
    """
    if turn_seconds >= HANGS_AFTER_SECONDS:
        return f"the deciding thread hangs: its turn takes {turn_seconds:.0f} s"
    names = ", ".join(sorted(ended))
    return f"threads have ended: {names}" if names else ""


def why_unready(not_listed: Iterable[str], failing: Mapping[str, tuple[float, str]]) -> str:
    """Return why what this controller knows may not be true; empty if it is.

    Args:
        not_listed: kinds that were never listed.
        failing: by kind, how many seconds it could be neither listed nor watched, and the last error.
    """
    missing = sorted(not_listed)
    said = [f"not listed yet: {', '.join(missing)}"] if missing else []
    said += [
        f"{kind}: failing for {seconds:.0f} s: {error or 'no answer'}"
        for kind, (seconds, error) in sorted(failing.items())
        if seconds >= FAILING_AFTER_SECONDS
    ]
    return "; ".join(said)
