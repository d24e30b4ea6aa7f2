"""A small API server on loopback HTTP: objects by path, versions, conflicts, a watch of slices."""

from __future__ import annotations

import json
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client.configuration import Configuration

from driver.kube.client import KubeClient

Json = dict[str, Any]
SLICES = "/apis/resource.k8s.io/v1/resourceslices"


class FakeApi:
    """What the server holds. `before` is called with method and path ahead of each request, in its thread."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.version = 1
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda _method, _path: None
        self.keep_taints = True
        self.user_extra: dict[str, list[str]] = {}
        self.watchers: list[queue.Queue[Json | None]] = []
        self._events: list[tuple[int, Json]] = []
        self.lock = threading.RLock()
        self.refuse: list[int] = []

    def put(self, path: str, obj: Json) -> Json:
        """Store, as if somebody else had written it."""
        with self.lock:
            self.version += 1
            there = self.objects.get(path)
            meta = obj.setdefault("metadata", {})
            meta.setdefault("uid", there["metadata"]["uid"] if there else str(uuid.uuid4()))
            meta["resourceVersion"] = str(self.version)
            self.objects[path] = obj
            self._tell(path, "MODIFIED" if there else "ADDED", obj)
            return obj

    def remove(self, path: str) -> None:
        """Delete, as if somebody else had."""
        with self.lock:
            self.version += 1
            obj = self.objects.pop(path)
            self._tell(
                path, "DELETED", obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self.version)}}
            )

    def under(self, prefix: str) -> list[Json]:
        """Objects of one kind, by name."""
        with self.lock:
            return [obj for path, obj in sorted(self.objects.items()) if path.rpartition("/")[0] == prefix]

    def watch(self, version: int) -> queue.Queue[Json | None]:
        """All that happened to slices after `version`, and what goes on happening."""
        events: queue.Queue[Json | None] = queue.Queue()
        with self.lock:
            for at, event in self._events:
                if at > version:
                    events.put(event)
            self.watchers.append(events)
        return events

    def _tell(self, path: str, kind: str, obj: Json) -> None:
        if path.startswith(SLICES):
            event = {"type": kind, "object": obj}
            self._events.append((self.version, event))
            for watcher in self.watchers:
                watcher.put(event)


@contextmanager
def serve() -> Iterator[tuple[FakeApi, KubeClient]]:
    """The server and a client of it."""
    api = FakeApi()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_address[1]}"
    client = KubeClient(configuration, user_agent="test", timeout_seconds=5)
    try:
        yield api, client
    finally:
        for watcher in api.watchers:
            watcher.put(None)
        client.close()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _path(self) -> str:
            path = self.path.split("?")[0]
            api.requests.append((self.command, path))
            api.before(self.command, path)
            return path

        def _body(self) -> Json:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return json.loads(raw) if raw else {}

        def _answer(self, status: int, body: Json | None = None) -> None:
            raw = json.dumps(
                body if body is not None else {"reason": "Said", "message": "no", "code": status}
            ).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def do_GET(self) -> None:
            path = self._path()
            if api.refuse:
                self._answer(api.refuse.pop(0))
            elif "watch=1" in self.path:
                self._watch()
            elif path in api.objects:
                self._answer(200, api.objects[path])
            elif path.rpartition("/")[2] in ("resourceslices", "resourceclaims"):
                kind = path.rpartition("/")[2]
                with api.lock:
                    items = [obj for name, obj in api.objects.items() if f"/{kind}/" in name]
                    self._answer(200, {"metadata": {"resourceVersion": str(api.version)}, "items": items})
            else:
                self._answer(404)

        def do_POST(self) -> None:
            path, obj = self._path(), self._body()
            if path.endswith("/selfsubjectreviews"):
                self._answer(201, {"status": {"userInfo": {"username": "plugin", "extra": api.user_extra}}})
                return
            name = f"{path}/{obj['metadata']['name']}"
            if name in api.objects:
                self._answer(409)
            else:
                self._answer(201, api.put(name, self._stored(obj)))

        def do_PUT(self) -> None:
            path, obj = self._path(), self._body()
            there = api.objects.get(path)
            if there is None:
                self._answer(404)
            elif obj["metadata"].get("resourceVersion") != there["metadata"]["resourceVersion"]:
                self._answer(409)
            else:
                self._answer(200, api.put(path, self._stored(obj)))

        def do_PATCH(self) -> None:
            path, patch = self._path().removesuffix("/status"), self._body()
            if api.refuse:
                self._answer(api.refuse.pop(0))
                return
            there = api.objects.get(path)
            if (
                there is None
                or patch["metadata"].get("uid", there["metadata"]["uid"]) != there["metadata"]["uid"]
            ):
                self._answer(404 if there is None else 409)
            else:
                self._answer(200, api.put(path, there | {"status": there["status"] | patch["status"]}))

        def do_DELETE(self) -> None:
            path, _ = self._path(), self._body()
            if path not in api.objects:
                self._answer(404)
            else:
                api.remove(path)
                self._answer(200, {})

        def _stored(self, obj: Json) -> Json:
            for device in obj["spec"].get("devices", ()):
                if not api.keep_taints:
                    device.pop("taints", None)
                for taint in device.get("taints", ()):
                    taint.setdefault("timeAdded", "2026-01-01T00:00:00Z")
            return obj

        def _watch(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            (version,) = parse_qs(urlsplit(self.path).query)["resourceVersion"]
            events = api.watch(int(version))
            while (event := events.get()) is not None:
                raw = json.dumps(event).encode() + b"\n"
                try:
                    self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
                    self.wfile.flush()
                except OSError:
                    return

    return Handler
