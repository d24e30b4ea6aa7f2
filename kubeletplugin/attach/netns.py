"""Network namespaces as handles, entered by short-lived threads.

A thread of its own because a namespace belongs to a thread: a worker that failed to come back from a pod's
namespace would serve the next call in the wrong one, while a thread that ends cannot. Never by fork: a child
of a process that serves gRPC inherits locked locks.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kubeletplugin.attach.netlink import Netlink

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Netns:
    """An open network namespace: a context manager that owns its descriptor `fd`. `inode` is its identity."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.inode = os.fstat(fd).st_ino

    @classmethod
    def current(cls) -> Netns:
        """The calling thread's namespace."""
        return cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def at(cls, path: str, inode: int | None = None) -> Netns | None:
        """The namespace bound at a path; None if there is none, or another than the one with that inode."""
        if not path or (inode is not None and inode_at(path) != inode):
            return None
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None

    def __enter__(self) -> Netns:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def run(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises, called in this namespace. It must not start threads.

        Raises:
            OSError: the descriptor is not a network namespace, or may not be entered.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                if _libc.setns(self.fd, _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, f"setns: {os.strerror(number)}")  # noqa: TRY301
                results.append(function())
            except BaseException as error:  # carried over to the caller's thread
                errors.append(error)

        thread = threading.Thread(target=enter, name="netns")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def netlink(self, protocol: int = 0) -> Netlink:
        """A netlink socket of this namespace, usable from any thread."""
        return self.run(lambda: Netlink(protocol))


def inode_at(path: str) -> int | None:
    """Inode of the namespace at a path; None if nothing that we can see is there."""
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None
