"""Asks the running plugin how it is, for exec probes. It runs often, so it imports next to nothing."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

OK: Final = "ok"
_TIMEOUT_SECONDS = 8.0


def ask(path: Path, question: str) -> str:
    """``ok``, or what is wrong; `question` is `healthz` or `readyz`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            connection.connect(str(path))
            connection.sendall(f"{question}\n".encode())
            with connection.makefile("r") as answer:
                return answer.readline().strip() or "no answer"
    except OSError as error:
        return f"{path}: {error}"
