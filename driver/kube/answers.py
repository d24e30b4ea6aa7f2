"""What the API server answers: lists, events of watches, single objects and refusals, as our values or
errors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
import urllib3

from driver.errors import (
    KubeConflictError,
    KubeError,
    KubeGoneError,
    KubeNotFoundError,
    KubeRefusedError,
    KubeUnavailableError,
    KubeUnreadableError,
)
from driver.kube.decoding import Decoder

T = TypeVar("T")
Skip = Callable[[KubeUnreadableError], None]
"""Told of each object that is left out, since it cannot be read."""


class _PageMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct):
    """A page of a list."""

    metadata: _PageMeta
    items: list[msgspec.Raw] | None = None


class _Named(msgspec.Struct):
    class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
        name: str = ""
        namespace: str = ""
        resource_version: str = ""

    metadata: _Metadata = _Metadata()


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    code: int = 0


class _RawWatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


_LISTS = Decoder(Page)
_NAMED = Decoder(_Named)
_STATUSES = Decoder(_Status)
_WATCH_EVENTS = Decoder(_RawWatchEvent)


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """One change; kind is ADDED, MODIFIED, DELETED or BOOKMARK (of whose object only the version counts)."""

    kind: str
    object: T


class WatchStream(Generic[T]):
    """Iterates over a watch's events until the server ends it or `close` is called, from any thread."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, read: Callable[[msgspec.Raw], T], skip: Skip | None = None
    ) -> None:
        self._response = response
        self._read = read
        self._skip = skip
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[WatchEvent[T]]:
        """Yield events.

        Raises:
            KubeGoneError: the version is too old; list again.
            KubeUnavailableError: the connection broke, or what came is no event.
            KubeUnreadableError: an object is not as we know them, and there is no `skip`.
        """
        pending = b""
        try:
            for chunk in self._response.stream(2**16):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    if line:
                        event = _WATCH_EVENTS.decode(line)
                        if event.type == "ERROR":
                            raise _error_from(_STATUSES.decode(event.object), "watch")
                        found = read(event.object, self._read, self._skip, gone=event.type == "DELETED")
                        if found is not None:
                            yield WatchEvent(event.type, found)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not self._closed.is_set():
                raise KubeUnavailableError(f"watch broke: {error}", status=0) from error
        finally:
            self._response.close()

    def close(self) -> None:
        """End the iteration; a reader blocked in it wakes up."""
        self._closed.set()
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError, AttributeError):
            self._response.close()


def read_list(raw: bytes, what: str) -> Page:
    """Return one page of a list, of which no item is decoded yet.

    Raises:
        KubeUnavailableError: `what` was not answered with a list.
    """
    try:
        return _LISTS.decode(raw)
    except msgspec.MsgspecError as error:
        raise KubeUnavailableError(f"{what}: the answer is no list: {error}", status=0) from error


def read(
    raw: msgspec.Raw, decode: Callable[[msgspec.Raw], T], skip: Skip | None, *, gone: bool = False
) -> T | None:
    """Decode one object of many; None where it cannot be read and was told to `skip`."""
    try:
        return decode(raw)
    except msgspec.MsgspecError as error:
        unreadable = _unreadable(raw, error, gone=gone)
        if skip is None:
            raise unreadable from error
    skip(unreadable)
    return None


def read_one(raw: bytes, decoder: Decoder[T]) -> T:
    """Decode the object that was asked for.

    Raises:
        KubeUnreadableError: it is not as we know it.
    """
    try:
        return decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise _unreadable(raw, error) from error


def _unreadable(raw: bytes | msgspec.Raw, error: Exception, *, gone: bool = False) -> KubeUnreadableError:
    try:
        named = _NAMED.decode(raw).metadata
    except msgspec.MsgspecError:
        named = _Named().metadata
    return KubeUnreadableError(
        str(error),
        namespace=named.namespace,
        name=named.name,
        version=named.resource_version,
        gone=gone,
    )


def refusal(code: int, body: bytes, what: str) -> KubeError:
    """Return the error for an answer with an HTTP status of 300 or more."""
    try:
        status = _STATUSES.decode(body)
    except msgspec.MsgspecError:
        status = _Status(message=body[:300].decode(errors="replace"))
    status.code = code
    return _error_from(status, what)


def _error_from(status: _Status, what: str) -> KubeError:
    message = f"{what}: {status.code} {status.reason or 'refused'}: {status.message}"
    kinds: dict[int, type[KubeError]] = {
        404: KubeNotFoundError,
        409: KubeConflictError,
        410: KubeGoneError,
        429: KubeUnavailableError,
    }
    default = KubeUnavailableError if status.code >= 500 else KubeRefusedError
    return kinds.get(status.code, default)(message, status=status.code, reason=status.reason)
