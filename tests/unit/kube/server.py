"""An HTTP server on loopback that answers as the API server would: the lowest level to play it at."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kubernetes.client.configuration import Configuration

from driver.kube.client import KubeClient


@dataclass
class Served:
    """What the server holds, and what it was asked."""

    objects: dict[str, dict[str, Any] | bytes] = field(default_factory=dict)
    version: int = 1
    events: queue.Queue[bytes | dict[str, Any] | None] = field(default_factory=queue.Queue)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    hang_up: int = 0
    """So many reads are not answered: the connection ends."""

    def put(self, name: str, kind: str = "MODIFIED", *, send: bool = True, **more: Any) -> None:
        self.version += 1
        metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(self.version)}
        obj = {"metadata": metadata, **more}
        self.objects[name] = obj
        if kind == "DELETED":
            del self.objects[name]
        if send:
            self.events.put({"type": kind, "object": obj})

    def put_raw(self, name: str, raw: bytes, kind: str = "MODIFIED", *, send: bool = True) -> None:
        """Hold an object as it is sent, which no encoder of Python's would."""
        self.version += 1
        self.objects[name] = raw
        if send:
            self.events.put(b'{"type":"%s","object":%s}' % (kind.encode(), raw))


def _encoded(value: dict[str, Any] | bytes) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._read()
            if served.hang_up:
                served.hang_up -= 1
                self.close_connection = True
            elif served.refuse:
                self._answer(served.refuse.pop(0), {"reason": "Said", "message": "no"})
            elif "watch=1" in self.path:
                self._watch()
            elif self.path.split("?")[0].count("/") > 4:
                obj = served.objects.get(self.path.rsplit("/", 1)[1])
                self._answer(200 if obj else 404, obj or {"message": "not found", "reason": "NotFound"})
            else:
                self._list()

        def _list(self) -> None:
            """A page of the objects, those after the one that `continue` names."""
            query = dict(parse_qsl(urlsplit(self.path).query))
            names = list(served.objects)
            begin = names.index(query["continue"]) + 1 if "continue" in query else 0
            page = names[begin : begin + int(query.get("limit", 1000))]
            more = page[-1] if page and page[-1] != names[-1] else ""
            metadata = {"resourceVersion": str(served.version), "continue": more}
            items = b",".join(_encoded(served.objects[name]) for name in page)
            self._answer(200, b'{"metadata":%s,"items":[%s]}' % (_encoded(metadata), items))

        def do_PATCH(self) -> None:
            self._read()
            self._answer(409, {"message": "the object has been modified", "reason": "Conflict"})

        def _read(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            served.requests.append((self.command, self.path, body))

        def _answer(self, status: int, body: dict[str, Any] | bytes) -> None:
            raw = _encoded(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def _watch(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while (event := served.events.get()) is not None:
                raw = _encoded(event) + b"\n"
                half = len(raw) // 2  # an event may come in pieces
                for piece in (raw[:half], raw[half:]):
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    return Handler


@contextmanager
def serve() -> Iterator[tuple[Served, KubeClient]]:
    served = Served()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_address[1]}"
    client = KubeClient(configuration, user_agent="test", timeout_seconds=5)
    try:
        yield served, client
    finally:
        served.events.put(None)
        server.shutdown()
        server.server_close()
        client.close()
