"""Reading sysfs (and procfs) without ever falling over it.

Hardware disappears between a listing and a read, firmware writes nonsense, and kernels leave files out.
Each such thing is one log line that names the path (once for each reader, since probes run again and
again), and the value None.
"""

# ruff: noqa: PTH115, PTH123, PTH208

from __future__ import annotations

import logging
import os
from pathlib import Path

from driver.devices import pci_address

log = logging.getLogger(__name__)

# Paths are strings where a loop over hundreds of functions is: pathlib would be most of its cost.
StrPath = str | os.PathLike[str]


class SysfsReader:
    """Reads attribute files below one root, which may be a rendered tree; `source` is its name in the log."""

    def __init__(self, root: Path, *, source: str = "sysfs") -> None:
        self.root = root
        self._source = source
        self._said: set[str] = set()

    def names(self, relative: str) -> list[str]:
        """Sorted entries of a directory; empty where there is none (a class nobody has registered)."""
        try:
            return sorted(os.listdir(f"{self.root}/{relative}"))
        except FileNotFoundError:
            return []
        except OSError as error:
            self.complain(self.root / relative, str(error.strerror))
            return []

    def text(self, path: StrPath, *, optional: bool = False) -> str | None:
        """The file's text, stripped; None if it cannot be read. A missing optional file is not worth a
        word.
        """
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().strip()
        except FileNotFoundError:
            if not optional:
                self.complain(path, "is missing")
        except OSError as error:
            # Speed and rate of a device that is down answer EINVAL, which says nothing new.
            if not optional:
                self.complain(path, f"cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self.complain(path, "is no text")
        return None

    def integer(self, path: StrPath, *, base: int = 10, optional: bool = False) -> int | None:
        """The file's number; None if missing or no number."""
        text = self.text(path, optional=optional)
        if text is None:
            return None
        try:
            return int(text, base)
        except ValueError:
            self.complain(path, f"says {text[:40]!r}, which is no number")
            return None

    def link_name(self, path: StrPath) -> str | None:
        """Last part of a symbolic link's target (``driver`` → ``mlx5_core``); None if there is no link."""
        try:
            return os.readlink(path).rstrip("/").rpartition("/")[2]
        except OSError:
            return None

    def pci_link(self, path: StrPath) -> str | None:
        """PCI address that a link (``device``, ``physfn``, ``virtfn3``) points at; None for another bus or
        no link.
        """
        name = self.link_name(path)
        try:
            return pci_address(name) if name is not None else None
        except ValueError:
            return None

    def identity(self, path: StrPath) -> tuple[int, int] | None:
        """What tells a directory entry from another one made later in its place; None if there is none."""
        try:
            status = os.lstat(path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def complain(self, path: StrPath, what: str) -> None:
        """Log one line about a path, the first time only."""
        line = f"{path} {what}"
        if line not in self._said:
            self._said.add(line)
            log.warning("%s: %s", self._source, line)
