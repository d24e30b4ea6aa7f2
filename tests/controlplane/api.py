"""Just enough of the Kubernetes API for putting a cluster together: JSON over one TLS connection, no process
per question.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.controlplane.errors import ControlPlaneError
from tests.controlplane.pki import Certificate

# The API server closes connections that nobody has used for 90 s.
_IDLE_SECONDS = 30


class ApiError(ControlPlaneError):
    """The API server said no; `status` is the HTTP status."""

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{method} {path}: {status} {message}")


class Api:
    """A client with the administrator's certificate. Not for several threads at once."""

    def __init__(self, server: str, certificate_authority: Path, client: Certificate) -> None:
        address = urlsplit(server)
        context = ssl.create_default_context(cafile=str(certificate_authority))
        context.load_cert_chain(client.certificate, client.key)
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, context=context, timeout=10
        )
        self._used = 0.0

    def get(self, path: str) -> Any:
        """The object at `path`, decoded. Raises ApiError, or OSError when nobody answers."""
        return self.request("GET", path)

    def post(self, path: str, body: object) -> Any:
        """Creates an object and returns it as stored."""
        return self.request("POST", path, body)

    def delete(self, path: str) -> Any:
        """Deletes the object, or the collection, at `path`."""
        return self.request("DELETE", path)

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Any:
        """One request; an answer that is not JSON (as of /readyz), or JSON that Python does not decode, is
        returned as text. A body of bytes is sent as it is.
        """
        data = body if body is None or isinstance(body, bytes) else _encoded(body)
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        if time.monotonic() - self._used > _IDLE_SECONDS:
            self.close()
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            text = response.read().decode(errors="replace")
            self._used = time.monotonic()
        except http.client.HTTPException as error:
            self.close()
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        except OSError:
            self.close()
            raise
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = text
        if response.status >= 400:
            message = answer.get("message", text) if isinstance(answer, dict) else text
            raise ApiError(method, path, response.status, message)
        return answer

    def watch(self, path: str, version: str) -> Iterator[Any]:
        """The events of a collection after that resourceVersion, until the server ends it, or `interrupt`.

        It takes the connection for itself. Raises ApiError, or OSError when nobody answers.
        """
        self.close()
        self._connection.request("GET", f"{path}?watch=1&resourceVersion={version}")
        self._connection.sock.settimeout(None)
        response = self._connection.getresponse()
        if response.status >= 400:
            raise ApiError("GET", path, response.status, response.read().decode(errors="replace"))
        try:
            while line := response.readline():
                yield json.loads(line)
        except (http.client.HTTPException, ValueError, AttributeError) as error:  # closed while it was read
            raise ConnectionError(f"watch {path}: {error!r}") from error
        finally:
            self.close()

    def interrupt(self) -> None:
        """Ends a watch; for other threads."""
        if (connected := self._connection.sock) is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Lets the connection go; the next request opens another."""
        self._connection.close()


def _encoded(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
