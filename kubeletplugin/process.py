"""The plugin's own process: which boot of the machine it runs in, and how it stays small."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path


def boot_id() -> str:
    """Return what names this boot of the machine; its host name where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename


def trim() -> None:
    """Give back what only the start, or a burst, needed: glibc keeps it, for each thread that had any."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
