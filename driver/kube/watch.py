"""A local copy of one kind of object, kept true by list and watch.

The list gives a version, the watch goes on from there; bookmarks keep the version young; 410 or a broken
stream means listing again, whose differences are reported as changes, so a callback never misses one.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec

from driver.errors import KubeError, KubeGoneError, KubeNotFoundError, KubeUnreadableError
from driver.kube.answers import WatchStream
from driver.kube.client import KubeClient
from driver.kube.objects import ObjectMeta

log = logging.getLogger(__name__)

_BACKOFF_FIRST_SECONDS = 0.1
_BACKOFF_LAST_SECONDS = 10.0

Key = tuple[str, str]
"""Namespace (empty where cluster-scoped) and name."""


class HasMetadata(Protocol):
    """What an informer needs of an object."""

    @property
    def metadata(self) -> ObjectMeta:
        """Name, namespace and resourceVersion are used."""


T = TypeVar("T", bound=HasMetadata)


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """`old` is None when ADDED, `new` is None when DELETED (`old` is then the last state known)."""

    kind: str
    old: T | None
    new: T | None


class Informer(Generic[T]):
    """Lists and watches on a thread of its own; the store may be read from any.

    Callbacks run on that thread, in the order of changes, and after the store shows them; one that raises is
    logged and does not stop the others' news.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        type: type[T],
        *,
        field_selector: str = "",
        label_selector: str = "",
        on_change: Callable[[Change[T]], None] | None = None,
        read: Callable[[msgspec.Raw], T] | None = None,
        optional: bool = False,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` decodes one object, and may keep less of it than the API server sends.

        `optional`: a kind that the API server does not have (yet) is one of which there are no objects.
        `name`: of the kind, for messages. `clock` gives monotonic seconds.
        """
        self.name = name or path
        self._clock = clock
        self._well_at = clock()
        self._watching = False
        self._error = ""
        self._optional = optional
        self._client = client
        self._path = path
        self._type = type
        self._field_selector = field_selector
        self._label_selector = label_selector
        self._on_change = on_change
        self._read = read
        self._store: dict[Key, T] = {}
        self._left_out: set[Key] = set()
        self._version = ""
        self._stream: WatchStream[T] | None = None
        self._lock = threading.Lock()
        self._synced = threading.Event()
        self._stopping = threading.Event()
        self._nudged = threading.Event()
        self._asked: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name=f"watch {self.name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._well_at = self._clock()
        self._thread.start()

    def stop(self) -> None:
        """End the watch and wait for the thread."""
        self._stopping.set()
        self._interrupt()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def refresh(self, done: Callable[[], None]) -> None:
        """List again, however fresh the watch seems: it may hang behind without a sign of it.

        `done` is called on the informer's thread when the store is as new as this call and all changes up to
        there were reported; while the API server is away, that is later.
        """
        with self._lock:
            self._asked.append(done)
        self._interrupt()

    @property
    def alive(self) -> bool:
        """The thread runs, or it is not to run."""
        return self._thread.ident is None or self._stopping.is_set() or self._thread.is_alive()

    @property
    def synced(self) -> bool:
        """The first list is in the store and its changes were reported."""
        return self._synced.is_set()

    @property
    def failing(self) -> tuple[float, str]:
        """For how many seconds the kind could be neither listed nor watched, and the last error.

        A watch that opens and breaks again and again before it brings anything is failing too.
        """
        return (0.0, "") if self._watching else (self._clock() - self._well_at, self._error)

    @property
    def unreadable(self) -> int:
        """How many objects are left out now, since they cannot be read."""
        return len(self._left_out)

    def wait_synced(self, timeout_seconds: float) -> bool:
        """True as soon as the first list is in the store and its changes were reported."""
        return self._synced.wait(timeout_seconds)

    def get(self, namespace: str, name: str) -> T | None:
        """One object of the store."""
        return self._store.get((namespace, name))

    def snapshot(self) -> dict[Key, T]:
        """A copy of the store."""
        return self._store.copy()

    def _run(self) -> None:
        backoff_seconds = _BACKOFF_FIRST_SECONDS
        while True:
            self._nudged.clear()
            if self._stopping.is_set():
                return
            try:
                if not self._version or self._asked:
                    self._list()
                    backoff_seconds = _BACKOFF_FIRST_SECONDS
                self._watch()
            except KubeGoneError:
                self._version = ""
            except KubeError as error:
                if self._stopping.is_set():
                    return
                if self._optional and isinstance(error, KubeNotFoundError):
                    self._synced.set()
                    self._well_at = self._clock()
                self._error = str(error)
                log.warning("watching %s: %s; again in %.1f s", self._path, error, backoff_seconds)
                self._nudged.wait(backoff_seconds * random.uniform(0.8, 1.2))  # noqa: S311
                backoff_seconds = min(backoff_seconds * 2, _BACKOFF_LAST_SECONDS)
            except Exception as error:
                self._error = repr(error)
                log.exception("watching %s: listing again", self._path)
                self._version = ""
                self._nudged.wait(backoff_seconds)

    def _interrupt(self) -> None:
        """The thread is to look what is asked of it now."""
        self._nudged.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()

    def _list(self) -> None:
        asked = len(self._asked)  # by then
        self._left_out.clear()
        objects, version = self._client.list(
            self._path,
            self._type,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
            read=self._read,
            skip=self._leave_out,
        )
        fresh = {_key(obj): obj for obj in objects}
        for key in [key for key in self._store if key not in fresh]:
            self._forget(key)
        for key, obj in fresh.items():
            self._put(key, obj)
        self._version = version
        self._well_at = self._clock()
        self._synced.set()
        with self._lock:
            answered, self._asked = self._asked[:asked], self._asked[asked:]
        for done in answered:
            done()

    def _watch(self) -> None:
        stream = self._client.watch(
            self._path,
            self._type,
            resource_version=self._version,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
            timeout_seconds=random.randint(240, 360),  # noqa: S311
            read=self._read,
            skip=self._leave_out,
        )
        with self._lock:
            self._stream = stream
        if self._stopping.is_set() or self._asked:
            stream.close()
        self._watching = True
        try:
            for event in stream:
                self._well_at = self._clock()
                if event.kind in ("ADDED", "MODIFIED"):
                    self._put(_key(event.object), event.object)
                elif event.kind == "DELETED":
                    self._forget(_key(event.object))
                self._version = event.object.metadata.resource_version
        finally:
            self._watching = False
        self._well_at = self._clock()

    def _leave_out(self, error: KubeUnreadableError) -> None:
        log.error("watching %s: %s; it is taken for one that is not there", self._path, error)
        key = error.namespace, error.name
        self._forget(key)
        if not error.gone:
            self._left_out.add(key)
        if self._version and error.version:
            self._version = error.version

    def _put(self, key: Key, obj: T) -> None:
        old = self._store.get(key)
        self._left_out.discard(key)
        if old is not None and old.metadata.resource_version == obj.metadata.resource_version:
            return
        self._store[key] = obj
        if old is not None and old.metadata.uid != obj.metadata.uid:
            self._report(Change("DELETED", old, None))
            old = None
        self._report(Change("ADDED" if old is None else "MODIFIED", old, obj))

    def _forget(self, key: Key) -> None:
        old = self._store.pop(key, None)
        self._left_out.discard(key)
        if old is not None:
            self._report(Change("DELETED", old, None))

    def _report(self, change: Change[T]) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(change)
        except Exception:
            log.exception("handling a change of %s", self._path)


def _key(obj: HasMetadata) -> Key:
    return obj.metadata.namespace, obj.metadata.name
