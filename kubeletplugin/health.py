"""Liveness and readiness, answered by calls to the plugin's own sockets.

On a unix socket of its own rather than a port: the plugin is in the node's network namespace, where two
instances of a rolling update would want the same port. `tandem healthz` asks it, and needs no gRPC for
that (see `healthz`).
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc

from kubeletplugin.healthz import OK
from kubeletplugin.proto import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    pluginregistration_pb2,
    pluginregistration_pb2_grpc,
)

_CALL_SECONDS = 3.0


class SelfProbe:
    """Calls the plugin's own services as the kubelet does."""

    def __init__(self, dra: Path, registration: Path) -> None:
        self._dra = dra
        self._registration = registration
        self._lock = threading.Lock()
        self._channels: tuple[grpc.Channel, grpc.Channel] | None = None

    def check(self) -> str:
        """Empty if both services answer, else what is wrong."""
        for path in (self._dra, self._registration):
            if not path.exists():
                return f"socket {path} is not there"
        try:
            with self._lock:
                if self._channels is None:
                    self._channels = _connect(self._dra), _connect(self._registration)
            dra, registration = self._channels
            dra_v1_pb2_grpc.DRAPluginStub(dra).NodePrepareResources(
                dra_v1_pb2.NodePrepareResourcesRequest(), timeout=_CALL_SECONDS
            )
            pluginregistration_pb2_grpc.RegistrationStub(registration).GetInfo(
                pluginregistration_pb2.InfoRequest(), timeout=_CALL_SECONDS
            )
        except grpc.RpcError as error:
            return f"a socket does not answer: {error}"
        return ""

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for channel in self._channels or ():
                channel.close()
            self._channels = None


def ended_threads(names: Iterable[str]) -> str:
    """Say which threads of those names have ended, which a restart would cure; empty if all run."""
    running = {thread.name for thread in threading.enumerate()}
    ended = sorted(set(names) - running)
    return f"threads have ended: {', '.join(ended)}" if ended else ""


class HealthServer:
    """Answers one line on a unix socket: ``ok``, or what is wrong.

    Asked for `healthz` it says whether the plugin is alive, for `readyz` whether it is of use as well.

    Args:
        alive, ready: empty, or what is wrong.
    """

    def __init__(self, path: Path, alive: Callable[[], str], ready: Callable[[], str]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            timeout = _CALL_SECONDS

            def handle(self) -> None:
                question = self.rfile.readline(64).strip()
                problem = alive() or (ready() if question == b"readyz" else "")
                self.wfile.write(f"{problem or OK}\n".encode())

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self._path = path
        path.unlink(missing_ok=True)
        self._server = Server(str(path), Handler)
        path.chmod(0o600)
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """End, and remove the socket."""
        if self._thread.ident is not None:  # else shutdown() would wait for ever
            self._server.shutdown()
            self._thread.join(timeout=5.0)
        self._server.server_close()
        self._path.unlink(missing_ok=True)


def _connect(path: Path) -> grpc.Channel:
    # Every connection of its own: subchannels are shared in a process, and a dead one would be answered for.
    return grpc.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])
