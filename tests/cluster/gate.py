"""A proxy before the API server at which a controller is killed, exactly before or after a write.

The controller is the program as it is, with no code for tests in it; only its kubeconfig names the gate
instead of the API server. Each controller has a gate of its own, so that a gate knows whom to kill.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from tests.controlplane import Cluster, wait_for
from tests.controlplane.pki import Authority

Point = Literal[
    "finalizer not sent",
    "finalizer written, answer not read",
    "allocation not sent",
    "allocation sent",
    "allocation written, answer not read",
    "allocation written, answer read",
]
POINTS: Final[tuple[Point, ...]] = (
    "finalizer not sent",
    "finalizer written, answer not read",
    "allocation not sent",  # hence the finalizer written, answer read
    "allocation sent",  # the API server is at it while the controller ends
    "allocation written, answer not read",
    "allocation written, answer read",
)

_CLAIMS = "/apis/resource.k8s.io/v1/namespaces/"


class Gate:
    """What one controller says to the API server goes through here.

    Args:
        cluster: whose API server.
        at: called at every point of every write, from any thread; may wait, and may `kill`.
    """

    def __init__(self, cluster: Cluster, at: Callable[[Gate, Point], None]) -> None:
        self.at = at
        self.pid = 0
        """The controller's, once it is there."""
        self.hearing = threading.Event()
        """Cleared: what a watch of claims tells is held back."""
        self.hearing.set()
        self.upstream = urlsplit(cluster.server)
        self.tls = ssl.create_default_context(cafile=str(Authority(cluster.directory / "pki").certificate))
        self._dead = False
        self._lock = threading.Lock()
        self._writes = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """For the kubeconfig."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def open(self) -> bool:
        """False once the controller was killed: what it had not sent by then, it never sends."""
        return not self._dead

    def kill(self) -> None:
        """SIGKILL."""
        self._dead = True
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Returns when no write is under way any more; for a controller that has ended."""
        self._dead = True
        self.hearing.set()
        wait_for("the last writes to be answered", lambda: not self._writes, 30, 0.005)
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> None:
        with self._lock:
            self._writes += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._writes -= 1


def _handler(gate: Gate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One connection of the controller, with one of its own to the API server."""

        protocol_version = "HTTP/1.1"
        upstream: HTTPSConnection

        def setup(self) -> None:
            super().setup()
            self.upstream = HTTPSConnection(
                gate.upstream.hostname or "", gate.upstream.port, context=gate.tls, timeout=400
            )

        def handle(self) -> None:
            with suppress(ConnectionError):  # it was killed
                super().handle()

        def finish(self) -> None:
            self.upstream.close()
            with suppress(OSError):
                super().finish()

        def do_GET(self) -> None:
            try:
                self._pass_on(b"")
            except (OSError, HTTPException):
                self.close_connection = True

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # it was killed
                self.close_connection = True
                return
            with gate:
                try:
                    self._write(body)
                except (OSError, HTTPException):
                    self.close_connection = True

        do_PUT = do_PATCH = do_POST  # noqa: N815

        def _write(self, body: bytes) -> None:
            what = _what(self.command, self.path, body)
            if what == "finalizer":
                gate.at(gate, "finalizer not sent")
            elif what == "allocation":
                gate.at(gate, "allocation not sent")
            if not gate.open:
                self.close_connection = True
                return
            self._send(body)
            if what == "allocation":
                gate.at(gate, "allocation sent")
            response = self.upstream.getresponse()
            answer = response.read()
            written = response.status < 300
            if what == "finalizer" and written:
                gate.at(gate, "finalizer written, answer not read")
            elif what == "allocation" and written:
                gate.at(gate, "allocation written, answer not read")
            self._answer(response.status, response.headers.items(), answer)
            if what == "allocation" and written:
                gate.at(gate, "allocation written, answer read")

        def _pass_on(self, body: bytes) -> None:
            self._send(body)
            response = self.upstream.getresponse()
            if "watch=" not in self.path:
                self._answer(response.status, response.headers.items(), response.read())
                return
            self.send_response(response.status)
            self.send_header("Content-Type", response.headers["Content-Type"])
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while chunk := response.read1(2**16):
                if "/resourceclaims?" in self.path:
                    gate.hearing.wait()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")

        def _send(self, body: bytes) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            self.upstream.request(self.command, self.path, body or None, headers)

        def _answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody asks."""

    return Handler


def _what(method: str, path: str, body: bytes) -> Literal["finalizer", "allocation", ""]:
    """Which write of a claim it is."""
    parts = urlsplit(path).path.removeprefix(_CLAIMS).split("/")
    if method not in ("PUT", "PATCH") or len(parts) < 3 or parts[1] != "resourceclaims":
        return ""
    if parts[3:] == ["status"]:
        return "allocation" if _allocates(json.loads(body)) else ""
    return "finalizer"


def _allocates(patch: Any) -> bool:
    """A JSON patch adds an allocation; a merge patch of the status takes one back."""
    return isinstance(patch, list) and any(step["path"] == "/status/allocation" for step in patch)
