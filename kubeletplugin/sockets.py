"""Where the plugin's sockets are, and which instance they belong to.

Names carry the pod's UID, so that in a rolling update two instances serve side by side. What they must
not do at once (serve one socket, publish, replay the ledger) is behind file locks, which the kernel
drops with a dead process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from driver.errors import ConfigError

log = logging.getLogger(__name__)

MAX_PATH_BYTES: Final = 107
"""sun_path of unix(7) without its NUL."""


@dataclass(frozen=True, slots=True)
class SocketPaths:
    """The files of one instance.

    Attributes:
        dra: socket of the DRA service.
        registration: socket in the kubelet's registry.
        health: where `tandem healthz` asks.
        lock: held as long as the instance lives.
        node_lock: held by the one instance that publishes and sweeps.
    """

    dra: Path
    registration: Path
    health: Path
    lock: Path
    node_lock: Path


def socket_paths(plugins_dir: Path, registry_dir: Path, driver_name: str, pod_uid: str) -> SocketPaths:
    """The paths of an instance; `pod_uid` is empty for a plain process, of which there is one on a node.

    Raises:
        ConfigError: one is longer than a socket's path may be.
    """
    folder = plugins_dir / driver_name
    suffix = f"-{pod_uid}" if pod_uid else ""
    paths = SocketPaths(
        dra=folder / f"dra{suffix}.sock",
        registration=registry_dir / f"{driver_name}{suffix}-reg.sock",
        health=folder / f"health{suffix}.sock",
        lock=folder / f"dra{suffix}.lock",
        node_lock=folder / "node.lock",
    )
    for path in (paths.dra, paths.registration, paths.health):
        length = len(os.fsencode(path))
        if length > MAX_PATH_BYTES:
            raise ConfigError(
                f"socket path {path} has {length} bytes, the kernel allows {MAX_PATH_BYTES}: "
                "choose a shorter driver name or folder"
            )
    return paths


class FileLock:
    """An exclusive lock on a file, until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, timeout_seconds: float = 0.0, *, poll_seconds: float = 0.05) -> bool:
        """Try, at most that long. False if another process has it still.

        Raises:
            OSError: the file cannot be made.
        """
        deadline = time.monotonic() + timeout_seconds
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_file(descriptor):
                    self._descriptor = descriptor
                    return True
            except BlockingIOError:
                pass
            os.close(descriptor)
            if time.monotonic() >= deadline:
                return False
            time.sleep(poll_seconds)

    def release(self, *, remove: bool = False) -> None:
        """Let go; with `remove` the file goes as well."""
        if self._descriptor is None:
            return
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def _is_file(self, descriptor: int) -> bool:
        """Is the locked file still the one of that name? Its last owner may have removed it meanwhile."""
        try:
            return self._path.stat().st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return False


def remove_dead(paths: SocketPaths, driver_name: str) -> None:
    """Remove the sockets that instances left which died without SIGTERM: their locks are free."""
    for file in paths.lock.parent.glob("dra*.lock"):
        if file == paths.lock:
            continue
        lock = FileLock(file)
        if not lock.acquire():
            continue
        suffix = file.name.removeprefix("dra").removesuffix(".lock")
        log.info("removing the sockets of an instance that is gone (%s)", suffix.removeprefix("-") or "plain")
        for stale in (
            file.with_suffix(".sock"),
            file.with_name(f"health{suffix}.sock"),
            paths.registration.parent / f"{driver_name}{suffix}-reg.sock",
        ):
            with contextlib.suppress(FileNotFoundError):
                stale.unlink()
        lock.release(remove=True)
