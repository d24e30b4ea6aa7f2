"""Named points at which a test may stop the process, so that crash tests are exact, without luck of timing.

Every durable transition of the ledger calls `step`, and so do the few places between two of them where
something outside it has changed. It does nothing unless TANDEM_STOP_AT names the point:

    TANDEM_STOP_AT=prepare.recorded=kill          SIGKILL to this process, each time
    TANDEM_STOP_AT=prepare.recorded=kill:/path    once: the file is made first, and spares all later
    TANDEM_STOP_AT=prepare.recorded=pause:/path   wait there until the file exists
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Final, Literal

from driver.errors import ConfigError

Point = Literal[
    "prepare.recorded",
    "prepare.files",
    "prepare.done",
    "unprepare.recorded",
    "unprepare.released",
    "unprepare.files",
    "unprepare.done",
    "attach.recorded",
    "attach.moved",
    "attach.done",
    "detach.recorded",
    "detach.moved",
    "detach.done",
]

POINTS: Final[dict[Point, str]] = {
    "prepare.recorded": "the claim and its devices are in the ledger as preparing",
    "prepare.files": "CDI file and pod records are written",
    "prepare.done": "the claim is prepared, the kubelet has no answer yet",
    "unprepare.recorded": "the claim is in the ledger as unpreparing",
    "unprepare.released": "its NICs are home",
    "unprepare.files": "CDI file and pod records are gone",
    "unprepare.done": "the ledger has forgotten the claim, the kubelet has no answer yet",
    "attach.recorded": "the rows are attaching, the kernel is not touched yet",
    "attach.moved": "the NICs are in the pod, the rows do not say so yet",
    "attach.done": "the rows are attached, the runtime has no answer yet",
    "detach.recorded": "the rows are detaching, the kernel is not touched yet",
    "detach.moved": "the NICs are home, the rows do not say so yet",
    "detach.done": "the rows are home again",
}

VARIABLE: Final = "TANDEM_STOP_AT"
_POLL_SECONDS = 0.02


def step(point: Point) -> None:
    """Pass `point`, unless the process is to stop there."""
    wanted = os.environ.get(VARIABLE)
    if wanted and wanted.startswith(f"{point}="):
        _stop(wanted.split("=", 1)[1])


def check_environment() -> str:
    """What TANDEM_STOP_AT says, empty without it.

    Raises:
        ConfigError: it names no point or no action.
    """
    wanted = os.environ.get(VARIABLE, "")
    point, _, action = wanted.partition("=")
    kind, _, file = action.partition(":")
    if wanted and (point not in POINTS or kind not in ("kill", "pause") or (kind == "pause" and not file)):
        raise ConfigError(
            f"{VARIABLE}={wanted} is not POINT=kill, POINT=kill:FILE or POINT=pause:FILE "
            f"with one of {', '.join(POINTS)}"
        )
    return wanted


def _stop(action: str) -> None:
    kind, _, file = action.partition(":")
    if kind == "pause":
        while not Path(file).exists():
            time.sleep(_POLL_SECONDS)
    elif not file or _first(Path(file)):
        os.kill(os.getpid(), signal.SIGKILL)


def _first(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
