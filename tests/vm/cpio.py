"""The archive format of initial RAM file systems ("newc", the kernel's buffer-format.rst), written without
root and without a copy on disk: the root file system's tar goes in, device nodes and owners as they are.
"""

from __future__ import annotations

import stat
from typing import BinaryIO


class CpioWriter:
    """Writes entries to a binary stream; `close` ends the archive, not the stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inode = 0

    def folder(self, path: str, permissions: int = 0o755) -> None:
        """Add a folder."""
        self._entry(path, stat.S_IFDIR | permissions)

    def file(self, path: str, content: bytes, permissions: int = 0o644) -> None:
        """Add a file."""
        self._entry(path, stat.S_IFREG | permissions, content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._entry(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def close(self) -> None:
        """Write the trailer."""
        self._entry("TRAILER!!!", 0)

    def _entry(self, path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        name = path.encode() + b"\0"
        # inode, mode, uid, gid, links, time, size, device, special device, length of the name, checksum
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._write(header + name)
        self._write(content)

    def _write(self, data: bytes) -> None:
        self._stream.write(data + b"\0" * (-len(data) % 4))
