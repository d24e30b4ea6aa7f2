"""Events for people: what we did with their claim and why it waits.

Writing one never blocks or fails the work it speaks of: a bounded queue, one thread, and the same Event is
not written twice within minutes but counted (events.k8s.io/v1 series).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from driver.errors import KubeError, KubeNotFoundError
from driver.kube import paths
from driver.kube.client import KubeClient

log = logging.getLogger(__name__)

_QUEUE_LENGTH = 1000
_SERIES_EVERY_SECONDS = 60.0
_FORGET_AFTER_SECONDS = 600.0
_NOTE_LIMIT = 1024
"""Bytes of `note` that the API server takes."""


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """The object that an Event is about."""

    kind: str
    namespace: str
    name: str
    uid: str
    api_version: str


@dataclass(slots=True)
class _Written:
    name: str
    count: int
    at_seconds: float


_Key = tuple[ObjectReference, str, str, str]


class EventRecorder:
    """Records Events asynchronously; `clock` gives monotonic seconds."""

    def __init__(
        self,
        client: KubeClient,
        component: str,
        instance: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._component = component
        self._instance = instance
        self._clock = clock
        self._queue: queue.Queue[_Key | None] = queue.Queue(_QUEUE_LENGTH)
        self._actions: dict[str, str] = {}
        self._written: dict[_Key, _Written] = {}
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def event(
        self,
        regarding: ObjectReference,
        type: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        action: str = "",
    ) -> None:
        """Record an Event; a full queue drops it (and says so in the log)."""
        self._actions[reason] = action or reason
        try:
            self._queue.put_nowait((regarding, type, reason, message))
        except queue.Full:
            log.warning("event dropped, the queue is full: %s %s: %s", regarding.name, reason, message)

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """Write what is queued, then end."""
        try:
            self._queue.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self._write(key)
            except KubeError as error:
                log.warning("event not written: %s", error)

    def _write(self, key: _Key) -> None:
        regarding, _, _, _ = key
        now = self._clock()
        self._forget(now)
        written = self._written.get(key)
        path = paths.events(regarding.namespace or "default")
        if written is None:
            name = f"{regarding.name[:230]}.{uuid.uuid4().hex[:16]}"
            self._client.create(path, self._body(key, name), dict[str, Any])
            self._written[key] = _Written(name, 1, now)
            return
        written.count += 1
        if now - written.at_seconds < _SERIES_EVERY_SECONDS:
            return
        written.at_seconds = now
        self._written[key] = self._written.pop(key)  # the oldest stay first
        try:
            series = {"series": {"count": written.count, "lastObservedTime": _now()}}
            self._client.patch(f"{path}/{written.name}", series, dict[str, Any])
        except KubeNotFoundError:
            del self._written[key]

    def _forget(self, now: float) -> None:
        while self._written:
            oldest = next(iter(self._written))
            if now - self._written[oldest].at_seconds <= _FORGET_AFTER_SECONDS:
                return
            del self._written[oldest]

    def _body(self, key: _Key, name: str) -> dict[str, Any]:
        regarding, type_, reason, message = key
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": regarding.namespace or "default"},
            "eventTime": _now(),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": self._actions[reason],
            "reason": reason,
            "type": type_,
            "note": message.encode()[:_NOTE_LIMIT].decode(errors="ignore"),
            "regarding": {
                "apiVersion": regarding.api_version,
                "kind": regarding.kind,
                "namespace": regarding.namespace,
                "name": regarding.name,
                "uid": regarding.uid,
            },
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
