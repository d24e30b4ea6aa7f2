"""The ledger's SQLite file: its schema, opening it, what is done when it is damaged, and transactions."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from driver.errors import PermanentError, RetryableError

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
_BUSY_SECONDS = 5.0  # the other instance in a rolling update
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('rebuild', '1');
CREATE TABLE claims (
    uid TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('preparing', 'prepared', 'unpreparing')),
    owner TEXT NOT NULL,
    joinable INTEGER NOT NULL,
    since REAL NOT NULL
);
CREATE TABLE devices (
    claim_uid TEXT NOT NULL REFERENCES claims ON DELETE CASCADE,
    position INTEGER NOT NULL,
    device TEXT NOT NULL,
    exclusive INTEGER NOT NULL,
    plan TEXT NOT NULL,
    PRIMARY KEY (claim_uid, position)
) WITHOUT ROWID;
CREATE UNIQUE INDEX one_claim_a_device ON devices (device) WHERE exclusive;
CREATE TABLE consumers (
    claim_uid TEXT NOT NULL REFERENCES claims ON DELETE CASCADE,
    pod_uid TEXT NOT NULL,
    pod_name TEXT NOT NULL,
    PRIMARY KEY (claim_uid, pod_uid)
) WITHOUT ROWID;
CREATE INDEX consumers_by_pod ON consumers (pod_uid);
CREATE TABLE attachments (
    claim_uid TEXT NOT NULL REFERENCES claims ON DELETE CASCADE,
    device TEXT NOT NULL,
    position INTEGER NOT NULL,
    attachment TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('prepared', 'attaching', 'attached', 'detaching')),
    container_id TEXT,
    sandbox TEXT,
    home TEXT,
    PRIMARY KEY (claim_uid, device)
) WITHOUT ROWID;
CREATE INDEX attachments_by_container ON attachments (container_id) WHERE container_id IS NOT NULL;
"""
_REBUILD = "rebuild"
_BOOT_ID = "boot_id"


class LedgerError(RetryableError):
    """SQLite failed (disk full, I/O error, busy)."""


class LedgerVersionError(PermanentError):
    """The file was written by a newer version; attribute `version` is its schema's."""

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(
            f"ledger {path} has schema {version}, this version knows {SCHEMA_VERSION}: "
            "run the newer version, or drain the node and remove the file"
        )
        self.version = version


class Database:
    """One connection in WAL mode, any number of threads."""

    def __init__(self, path: Path, now: float) -> None:
        """Open or make the file. A damaged one is put aside as ``<name>.damaged-<now>`` (Unix seconds).

        Raises:
            LedgerVersionError: the file is a newer version's.
            LedgerError: it cannot be opened or written.
        """
        self._lock = threading.Lock()
        self._durable = True
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(path.parent):
                try:
                    self._connection = _connect(path)
                except sqlite3.DatabaseError as error:
                    if type(error) is not sqlite3.DatabaseError:
                        raise  # busy, full or unreadable is not damaged
                    _put_aside(path, now, error)
                    self._connection = _connect(path)
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"ledger {path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """See what is committed. Raises LedgerError."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise LedgerError(f"ledger: {error}") from error

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction; nothing of it is left after an exception.

        Durable: on the disk at the end of the block. Else it survives the process, but not a power loss.

        Raises:
            LedgerError: SQLite failed.
        """
        with self._lock:
            try:
                if durable != self._durable:
                    self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                    self._durable = durable
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise LedgerError(f"ledger: {error}") from error

    def needs_rebuild(self) -> bool:
        """Is the file new, or in a damaged one's place, and not yet filled from the API?"""
        return self._meta(_REBUILD) == "1"

    def rebuilt(self) -> None:
        """It is filled."""
        with self.write() as db:
            db.execute("UPDATE meta SET value = '0' WHERE key = ?", (_REBUILD,))

    def note_boot(self, boot_id: str) -> None:
        """After another boot every NIC is at home; claims stay."""
        if self._meta(_BOOT_ID) == boot_id:
            return
        with self.write() as db:
            db.execute(
                "UPDATE attachments SET state = 'prepared', container_id = NULL, sandbox = NULL, home = NULL"
            )
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_BOOT_ID, boot_id))

    def _meta(self, key: str) -> str | None:
        with self.read() as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No other instance makes, or puts aside, the file meanwhile."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _check(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a damaged or newer file, fill an empty one."""
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise LedgerVersionError(path, version)
    if version == 0:
        # One transaction, or a kill in the middle would leave half a schema.
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


def _put_aside(path: Path, now: float, error: Exception) -> None:
    aside = path.with_name(f"{path.name}.damaged-{int(now)}")
    log.error(
        "ledger %s is damaged (%s); it is kept as %s, and a new one is filled from the API",
        path,
        error,
        aside.name,
    )
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
