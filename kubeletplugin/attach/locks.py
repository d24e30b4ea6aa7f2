"""A lock per key: work on one waits, work on different ones does not.

Pods' locks hold among processes too, because in a rolling update two plugins share a node: without them the
old one's sweep would take what the new one is just attaching for the leavings of a crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FLOCK: Final = struct.Struct("@hhqqi")  # struct flock: type, whence, start, length, pid


class PodLocks:
    """Among threads and processes: one file, of which each pod's lock is one byte.

    Open file description locks (man 2 fcntl), which the kernel lets go of when their holder is killed.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where the folder cannot be made."""
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._path = path

    @contextlib.contextmanager
    def hold(self, pod_uid: str) -> Iterator[None]:
        """Hold a pod's lock; not re-entrant. Two pods share one by chance once in 2^56."""
        digest = hashlib.blake2b(pod_uid.encode(), digest_size=7).digest()
        byte = int.from_bytes(digest, "little")
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
            yield
        finally:
            os.close(fd)


class KeyedLocks:
    """Among threads; they exist only while somebody holds or awaits them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entries: dict[str, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold the lock of `key`; not re-entrant."""
        with self._guard:
            lock, users = self._entries.get(key, (threading.Lock(), 0))
            self._entries[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                _, users = self._entries.pop(key)
                if users > 1:
                    self._entries[key] = lock, users - 1
