"""Answers /healthz, /readyz and /metrics over HTTP, whatever else is connected.

The port is open to the cluster's network, so any client there may hold connections, and send slowly or not at
all. One thread serves all of them; the number of connections, the length of a request and the time for it are
bounded. When all places are taken, a new connection replaces the oldest one of the peer that has the most. So
the kubelet's probe and Prometheus get through even while another client takes all it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, cast

log = logging.getLogger(__name__)

_PLACES: Final = 256
_DEADLINE_SECONDS: Final = 5.0
_HEAD_BYTES: Final = 8192
_BACKLOG: Final = 128
_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Answer = tuple[HTTPStatus, bytes]


def health(problem: str) -> Answer:
    """Answer a probe: ``ok``, or what is wrong."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
    return status, f"{problem or 'ok'}\n".encode()


class StatusServer:
    """Serves on a thread of its own.

    Attributes:
        port: where, also where 0 was asked for.
    """

    def __init__(
        self,
        port: int,
        pages: Mapping[str, Callable[[], Answer]],
        *,
        places: int = _PLACES,
        deadline_seconds: float = _DEADLINE_SECONDS,
    ) -> None:
        """Begin to serve.

        Args:
            port: 0 takes a free one.
            pages: what answers each path; called on the server's thread.
            places: how many connections are kept at once.
            deadline_seconds: for a connection, from its begin to the last byte of the answer.

        Raises:
            OSError: the port is taken.
        """
        listener = socket.create_server(("", port), backlog=_BACKLOG)
        self.port: int = listener.getsockname()[1]
        self._open = _Connections(pages, places, deadline_seconds)
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="status", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """The thread serves."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Close the port and all connections."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(timeout=2.0)

    def _run(self, listener: socket.socket) -> None:
        self._loop.run_until_complete(self._serve(listener))
        self._loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        server = await self._loop.create_server(
            lambda: _Connection(self._open), sock=listener, backlog=_BACKLOG
        )
        await self._ended.wait()
        server.close()
        self._open.abort_all()
        await server.wait_closed()


class _Connections:
    """Those that are open, by peer, each peer's oldest first."""

    def __init__(
        self, pages: Mapping[str, Callable[[], Answer]], places: int, deadline_seconds: float
    ) -> None:
        self.pages = pages
        self.deadline_seconds = deadline_seconds
        self._places = places
        self._by_peer: dict[str, dict[_Connection, None]] = {}

    def add(self, connection: _Connection) -> None:
        if sum(map(len, self._by_peer.values())) >= self._places:
            _, crowd = max((len(of_peer), peer) for peer, of_peer in self._by_peer.items())
            oldest = next(iter(self._by_peer[crowd]))
            self.discard(oldest)
            oldest.transport.abort()
        self._by_peer.setdefault(connection.peer, {})[connection] = None

    def discard(self, connection: _Connection) -> None:
        of_peer = self._by_peer.get(connection.peer, {})
        of_peer.pop(connection, None)
        if not of_peer:
            self._by_peer.pop(connection.peer, None)

    def abort_all(self) -> None:
        for of_peer in list(self._by_peer.values()):
            for connection in list(of_peer):
                connection.transport.abort()


class _Connection(asyncio.Protocol):
    """One request, one answer."""

    transport: asyncio.Transport
    peer = ""

    def __init__(self, connections: _Connections) -> None:
        self._all = connections
        self._head = bytearray()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = (transport.get_extra_info("peername") or ("",))[0]
        self._all.add(self)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._all.deadline_seconds, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) <= _HEAD_BYTES:
            return
        if end < 0 or end > _HEAD_BYTES:
            self._send(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"the request is too long\n")
        else:
            self._send(*self._answer(bytes(self._head.partition(b"\r\n")[0])))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._all.discard(self)

    def _answer(self, request: bytes) -> Answer:
        words = request.split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return HTTPStatus.BAD_REQUEST, b"that is no request of HTTP/1\n"
        if words[0] != b"GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, b"try GET\n"
        page = self._all.pages.get(words[1].partition(b"?")[0].decode("latin-1"))
        if page is None:
            return HTTPStatus.NOT_FOUND, f"try {', '.join(self._all.pages)}\n".encode()
        try:
            return page()
        except Exception:
            log.exception("answering %s", words[1])
            return HTTPStatus.INTERNAL_SERVER_ERROR, b"a bug: see the log\n"

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {_CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
