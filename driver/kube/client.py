"""One Kubernetes API client: set-up and transport by the official client, bytes by msgspec.

The official client's models cost some twenty times the decoding and drop what they do not know. So only its
lower half is used: it reads kubeconfig or the pod's service account, refreshes tokens, and makes the urllib3
pool; requests and answers are raw bytes here.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3

from driver.errors import (
    ConfigError,
    KubeUnavailableError,
)
from driver.kube import answers, protobuf
from driver.kube.answers import Skip, WatchStream, read_list, read_one, refusal
from driver.kube.decoding import Decoder

T = TypeVar("T")
PatchKind = Literal["merge", "json", "apply"]

_CONTENT_TYPES: Mapping[PatchKind, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
_PAGE_SIZE = 1000
_PAGE_BYTES = 32 * 2**20
_CONNECTIONS = 32
# A peer that vanished without a word is noticed after 15 + 3 × 5 s, also on a silent watch.
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class KubeClient:
    """Thread-safe; paths are those of `driver.kube.paths`, objects those of `driver.kube.objects`."""

    def __init__(self, configuration: Any, *, user_agent: str, timeout_seconds: float = 10.0) -> None:
        """Wrap a `kubernetes.client.Configuration`; see `load`."""
        from kubernetes.client.rest import RESTClientObject

        configuration.socket_options = _SOCKET_OPTIONS
        # The default goes by the CPUs; a pool smaller than the threads that write opens connections anew.
        configuration.connection_pool_maxsize = _CONNECTIONS
        self._configuration = configuration
        self._host: str = configuration.host.rstrip("/")
        self._pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager
        self._timeout = urllib3.Timeout(connect=min(timeout_seconds, 5.0), read=timeout_seconds)
        self._headers = {"User-Agent": user_agent}
        self._decoders: dict[Any, Decoder[Any]] = {}

    @classmethod
    def load(
        cls, kubeconfig: Path | None = None, *, user_agent: str, timeout_seconds: float = 10.0
    ) -> KubeClient:
        """Configure from the file given, else from $KUBECONFIG, else from the pod's service account.

        Raises:
            ConfigError: none of them is there, or it cannot be read.
        """
        from kubernetes import config
        from kubernetes.client.configuration import Configuration

        configuration = Configuration()
        path = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG", "")
        try:
            if path:
                config.load_kube_config(config_file=path, client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError) as error:
            where = f"kubeconfig {path}" if path else "service account (no --kubeconfig, no $KUBECONFIG)"
            raise ConfigError(f"{where}: {error}") from error
        return cls(configuration, user_agent=user_agent, timeout_seconds=timeout_seconds)

    def get(self, path: str, type: type[T]) -> T:
        """Read one object.

        Raises:
            KubeNotFoundError: there is none.
            KubeUnreadableError: it is not as we know it.
            KubeError: any other refusal.
        """
        return read_one(self._call("GET", path), self._decoder(type))

    def list(
        self,
        path: str,
        type: type[T],
        *,
        field_selector: str = "",
        label_selector: str = "",
        read: Callable[[msgspec.Raw], T] | None = None,
        skip: Skip | None = None,
    ) -> tuple[list[T], str]:
        """Read all objects, page by page, and the resource version to watch from.

        Each object is decoded by itself, by `read` if that is given; so of a page no more than its bytes is
        ever held besides what `read` keeps. A page of more than 32 MiB is asked for again in parts. Objects
        that are not as we know them are left out and told to `skip`, if that is given.

        Raises:
            KubeGoneError: the pages grew too old meanwhile; list again.
            KubeUnreadableError: an object is not as we know them, and there is no `skip`.
            KubeError: any other refusal.
        """
        items: list[T] = []
        limit, query = _PAGE_SIZE, _selectors(field_selector, label_selector)
        while True:
            raw = self._page(path, {**query, "limit": str(limit)}, _PAGE_BYTES if limit > 1 else None)
            if raw is None:
                limit = max(limit // 4, 1)
                continue
            page = read_list(raw, f"GET {path}")
            decode = read or self._decoder(type).decode
            found = (answers.read(item, decode, skip) for item in page.items or ())
            items.extend(item for item in found if item is not None)
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            query["continue"] = page.metadata.continue_

    def create(self, path: str, obj: object, type: type[T]) -> T:
        """POST an object.

        Raises:
            KubeConflictError: it exists.
            KubeError: any other refusal.
        """
        return read_one(self._call("POST", path, body=msgspec.json.encode(obj)), self._decoder(type))

    def update(self, path: str, obj: object, type: type[T]) -> T:
        """PUT an object that is wholly ours.

        Raises:
            KubeConflictError: its resourceVersion is not the newest.
            KubeError: any other refusal.
        """
        return read_one(self._call("PUT", path, body=msgspec.json.encode(obj)), self._decoder(type))

    def patch(
        self, path: str, body: object, type: type[T], *, kind: PatchKind = "merge", field_manager: str = ""
    ) -> T:
        """PATCH an object; with `metadata.resourceVersion` in a merge patch it is an optimistic lock.

        Raises:
            KubeConflictError: the resourceVersion given is not the newest.
            KubeError: any other refusal.
        """
        query = {"fieldManager": field_manager} if field_manager else {}
        raw = self._call(
            "PATCH", path, query=query, body=msgspec.json.encode(body), content_type=_CONTENT_TYPES[kind]
        )
        return read_one(raw, self._decoder(type))

    def add_finalizer(self, path: str, finalizer: str, type: type[T]) -> T:
        """Add a finalizer where a JSON patch will not do: see `driver.kube.protobuf`.

        Raises:
            KubeConflictError: the object changed in between.
            KubeError: any other refusal.
        """
        raw = self._call("GET", path, accept=protobuf.CONTENT_TYPE)
        body = protobuf.with_finalizer(raw, finalizer)
        raw = self._call("PUT", path, body=body, content_type=protobuf.CONTENT_TYPE)
        return read_one(raw, self._decoder(type))

    def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> None:
        """DELETE an object, if given only that very one.

        Raises:
            KubeNotFoundError: there is none.
            KubeConflictError: it is another one than named.
            KubeError: any other refusal.
        """
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in wanted.items() if value}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        self._call("DELETE", path, body=msgspec.json.encode(body))

    def watch(
        self,
        path: str,
        type: type[T],
        *,
        resource_version: str,
        field_selector: str = "",
        label_selector: str = "",
        timeout_seconds: int = 300,
        read: Callable[[msgspec.Raw], T] | None = None,
        skip: Skip | None = None,
    ) -> WatchStream[T]:
        """Open a watch, with bookmarks; the server ends it after `timeout_seconds`. The rest as for `list`.

        Raises:
            KubeGoneError: the version is too old; list again.
            KubeError: any other refusal.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
            **_selectors(field_selector, label_selector),
        }
        timeout = urllib3.Timeout(connect=5.0, read=timeout_seconds + 30.0)
        response = self._request("GET", path, query=query, timeout=timeout, stream=True)
        return WatchStream(response, read or self._decoder(type).decode, skip)

    def close(self) -> None:
        """Close idle connections; watches end with their streams."""
        self._pool.clear()

    def _decoder(self, type: type[T]) -> Decoder[T]:
        decoder = self._decoders.get(type)
        if decoder is None:
            decoder = self._decoders[type] = Decoder(type)
        return decoder

    def _page(self, path: str, query: Mapping[str, str], at_most: int | None) -> bytes | None:
        """Read a page; None where it is longer than that, of which no more is read."""
        response = self._request("GET", path, query=query, stream=True)
        try:
            raw = response.read(None if at_most is None else at_most + 1)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeUnavailableError(f"GET {path}: {error}", status=0) from error
        if at_most is not None and len(raw) > at_most:
            response.close()
            return None
        response.release_conn()
        return raw

    def _call(self, method: str, path: str, **kwargs: Any) -> bytes:
        return self._request(method, path, **kwargs).data

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: urllib3.Timeout | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        headers = {**self._headers, "Accept": accept}
        for auth in self._configuration.auth_settings().values():
            headers[auth["key"]] = auth["value"]
        if body is not None:
            headers["Content-Type"] = content_type
        url = f"{self._host}{path}?{urlencode(query)}" if query else f"{self._host}{path}"
        send = functools.partial(
            self._pool.request,
            method,
            url,
            body=body,
            headers=headers,
            timeout=timeout or self._timeout,
            retries=False,
            preload_content=not stream,
        )
        try:
            try:
                response = send()
            except urllib3.exceptions.ProtocolError:
                if method != "GET":
                    raise
                response = send()  # a pooled connection died while idle; reading again does no harm
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeUnavailableError(f"{method} {path}: {error}", status=0) from error
        if response.status >= 300:
            try:
                raise refusal(response.status, response.data, f"{method} {path}")
            finally:
                response.release_conn()
        return response


def _selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    wanted = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {key: value for key, value in wanted.items() if value}
