"""The socket that the host shim calls: bytes, descriptors and threads. What a call means is the engine's."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kubeletplugin.attach.protocol import HEADER, CniCall, Reply, body_length, decode_call
from kubeletplugin.attach.results import CniError, Code

Handler = Callable[[CniCall, int | None], Reply]
"""(call, opened CNI_NETNS or None) → what the shim prints. The server closes the descriptor afterwards."""

_log = logging.getLogger(__name__)
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_PAUSE_SECONDS = 0.1
_REQUEST_TIMEOUT_SECONDS = 10.0  # the shim sends all at once; a peer that does not is no shim


class CniServer:
    """Serves one unix socket, mode 0600, root alone; a thread a call from a pool of `threads`.

    A socket that is there already (a dead process's, or the old version's in a rolling update) is replaced
    atomically, so that there is no moment without one; at `stop` the file is removed if it is still ours.
    """

    def __init__(self, path: Path, handler: Handler, *, threads: int = 16) -> None:
        self._path = path
        self._handler = handler
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cni")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._acceptor = threading.Thread(target=self._accept, name="cni-accept", daemon=True)
        self._stopping = threading.Event()
        self._inode = 0

    def start(self) -> None:
        """Listen. Raises OSError where the folder or socket cannot be made."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        self._listener.bind(str(fresh))
        fresh.chmod(0o600)
        self._inode = fresh.stat().st_ino
        self._listener.listen(128)
        fresh.replace(self._path)
        self._acceptor.start()

    def stop(self) -> None:
        """Take no more calls, end those under way, remove the socket."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        if self._acceptor.ident is not None:
            self._acceptor.join()
        self._pool.shutdown(wait=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._stopping.wait(_PAUSE_SECONDS):
                    return
                _log.warning("taking a CNI call: %s", error)  # such as too many open files
                continue
            self._pool.submit(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.ExitStack() as cleanup:
            try:
                _, uid, _ = _PEER.unpack(
                    connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
                )
                if uid != os.geteuid():
                    _log.warning("refused a CNI call from uid %d", uid)
                    return
                connection.settimeout(_REQUEST_TIMEOUT_SECONDS)
                reply = self._answer(connection, cleanup)
                connection.sendall(reply.encode())
            except OSError as error:  # the shim went away: the runtime calls again
                _log.info("a CNI call broke off: %s", error)

    def _answer(self, connection: socket.socket, cleanup: contextlib.ExitStack) -> Reply:
        version = "1.1.0"
        try:
            call, netns = receive_call(connection)
            if netns is not None:
                cleanup.callback(os.close, netns)
            version = call.cni_version
            return self._handler(call, netns)
        except CniError as error:
            return Reply(1, error.encode(version))
        except OSError:
            raise
        except Exception as error:
            _log.exception("a CNI call failed unexpectedly")
            return Reply(1, CniError(Code.TRY_LATER, "unexpected error", repr(error)).encode(version))


def receive_call(connection: socket.socket) -> tuple[CniCall, int | None]:
    """Read one request: the call, and the descriptor of CNI_NETNS (the caller closes it) or None.

    Raises:
        CniError: the request is not understood.
        OSError: the peer went away, or was too slow.
    """
    first, descriptors, _, _ = socket.recv_fds(connection, HEADER.size, 1, socket.MSG_CMSG_CLOEXEC)
    netns = descriptors[0] if descriptors else None
    try:
        environment, config = body_length(first + _read(connection, HEADER.size - len(first)))
        body = _read(connection, environment + config)
        return decode_call(body[:environment], body[environment:]), netns
    except BaseException:
        if netns is not None:
            os.close(netns)
        raise


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError(f"the peer closed after {len(data)} of {size} bytes")
        data += chunk
    return bytes(data)
