"""The status server answers whoever asks, whatever others hold open."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus
from typing import Final

import pytest

from controller.status_server import Answer, StatusServer, health

_OTHER_PEER: Final = "127.0.0.2"


def broken() -> Answer:
    raise RuntimeError("a bug")


@pytest.fixture
def server() -> Iterator[StatusServer]:
    pages = {"/healthz": lambda: health(""), "/readyz": lambda: health("not synced"), "/broken": broken}
    made = StatusServer(0, pages, places=16)
    yield made
    made.stop()


def connect(server: StatusServer, peer: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 30, source_address=(peer, 0))


def answer(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    connection.sendall(request)
    said = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def ask(
    server: StatusServer, request: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
) -> tuple[int, bytes]:
    with connect(server) as connection:
        return answer(connection, request)


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", 200, b"ok\n"),
        (b"GET /healthz?verbose HTTP/1.0\r\nA: b\r\n\r\n", 200, b"ok\n"),
        (b"GET /readyz HTTP/1.1\r\n\r\n", 503, b"not synced\n"),
        (b"GET / HTTP/1.1\r\n\r\n", 404, b"try /healthz, /readyz, /broken\n"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405, b"try GET\n"),
        (b"\x16\x03\x01\r\n\r\n", 400, b"that is no request of HTTP/1\n"),
        (b"GET /" + b"x" * 9_000, 431, b"the request is too long\n"),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500, b"a bug: see the log\n"),
    ],
    ids=["ok", "query", "unready", "unknown", "method", "no HTTP", "too long", "bug"],
)
def test_a_request_is_answered(server: StatusServer, request_: bytes, status: int, body: bytes) -> None:
    assert ask(server, request_) == (status, body)


def test_a_request_may_come_in_pieces(server: StatusServer) -> None:
    with connect(server) as connection:
        for piece in (b"GET /heal", b"thz HTTP/1.1\r", b"\n\r"):
            connection.sendall(piece)
        assert answer(connection, b"\n") == (200, b"ok\n")


def test_half_open_requests_take_no_threads_and_the_oldest_give_way(server: StatusServer) -> None:
    threads = threading.active_count()
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(100)]
        for connection in held:
            _send_quietly(connection, b"GET /hea")
        assert ask(server) == (200, b"ok\n")
        assert threading.active_count() == threads
        assert sum(map(len, server._open._by_peer.values())) <= 16
        assert _is_closed(held[0])
        assert answer(held[-1], b"lthz HTTP/1.1\r\n\r\n") == (200, b"ok\n")


def test_one_peer_takes_no_other_peers_place(server: StatusServer) -> None:
    with ExitStack() as stack:
        slow = stack.enter_context(connect(server))
        slow.sendall(b"GET /readyz HTTP/1.1\r\n")
        assert ask(server) == (200, b"ok\n")
        for _ in range(100):
            stack.enter_context(connect(server, _OTHER_PEER))
        assert answer(slow, b"\r\n") == (503, b"not synced\n")


def test_who_does_not_come_to_an_end_is_cut_off() -> None:
    server = StatusServer(0, {}, deadline_seconds=0.02)
    with connect(server) as connection:
        connection.sendall(b"GET /")
        assert _is_closed(connection)
    server.stop()
    assert not server.alive


def test_a_server_may_be_stopped_at_once_and_twice() -> None:
    for _ in range(20):
        server = StatusServer(0, {})
        server.stop()
        server.stop()
        assert not server.alive


def test_a_port_that_is_taken_is_told_to_who_starts_it(server: StatusServer) -> None:
    with pytest.raises(OSError, match="in use"):
        StatusServer(server.port, {})


def test_an_answer_is_as_http_says() -> None:
    assert health("hangs") == (HTTPStatus.SERVICE_UNAVAILABLE, b"hangs\n")


def _send_quietly(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # it was one of the oldest
        connection.sendall(data)


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
