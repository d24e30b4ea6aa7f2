"""Puts the shim on a host and into the chain of the cluster's default network, without editing anyone's file.

libcni (1.3; containerd 2.1 and later) appends every ``<conf dir>/<network name>/*.conf`` to the plugins of
the network of that name, if a ``.conflist`` defines it. The default network is the first file of the folder,
in byte order, as containerd chooses it; that can change, so `install` is cheap and is repeated. containerd
reloads when a file in the conf dir itself is written or removed, not when one is made below it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from driver.errors import PermanentError, RetryableError

BINARY: Final = "tandem"
DROP_IN: Final = "50-tandem.conf"
RELOAD: Final = ".tandem-reload"
_CONF_SUFFIXES: Final = (".conf", ".conflist", ".json")


class NoNetworkError(RetryableError):
    """The host has no network configuration yet: the network plugin writes it when it comes up."""


class ChainError(PermanentError):
    """The default network cannot take a drop-in; the message says what would."""


@dataclass(frozen=True, slots=True)
class InstallReport:
    """What is on the host now.

    Attributes:
        network: name of the network that was joined; empty after `uninstall`.
        conflist: file that defines it.
        drop_in: our file.
        changed: paths that this call wrote or removed; empty if all was in place.
    """

    network: str
    conflist: Path | None
    drop_in: Path | None
    changed: tuple[Path, ...]


def install(
    host_cni_bin: Path, host_cni_conf: Path, shim: Path, socket: Path, records: Path
) -> InstallReport:
    """Put the shim into `host_cni_bin` and our drop-in beside the default network. Idempotent.

    Args:
        host_cni_bin: the runtime's CNI_PATH folder, for example ``/opt/cni/bin``, as seen from here.
        host_cni_conf: the runtime's conf dir, for example ``/etc/cni/net.d``, as seen from here.
        shim: the static binary.
        socket: the plugin's CNI socket, as the host sees it.
        records: the folder of the pod records, as the host sees it.

    Raises:
        NoNetworkError: nothing to join yet; call again.
        ChainError: the default network takes no drop-in.
        OSError: the folders cannot be written.
    """
    changed = []
    if _copy(shim, host_cni_bin / BINARY):
        changed.append(host_cni_bin / BINARY)
    conflist, network = default_network(host_cni_conf)
    drop_in = host_cni_conf / network / DROP_IN
    content = drop_in_config(socket, records)
    strays = [path for path in _drop_ins(host_cni_conf) if path != drop_in]
    if not drop_in.exists() or drop_in.read_bytes() != content:
        drop_in.parent.mkdir(mode=0o755, exist_ok=True)
        _write(drop_in, content)
        changed.append(drop_in)
    for stray in strays:  # the default network was another one before
        _remove(stray)
        changed.append(stray)
    if any(path.name == DROP_IN for path in changed):
        reload(host_cni_conf)
    return InstallReport(network, conflist, drop_in, tuple(changed))


def uninstall(host_cni_bin: Path, host_cni_conf: Path) -> InstallReport:
    """Remove our drop-ins, then the shim: in this order, or the runtime would look for a plugin that is gone.

    Raises:
        OSError: the folders cannot be written.
    """
    changed = list(_drop_ins(host_cni_conf))
    for drop_in in changed:
        _remove(drop_in)
    if changed:
        reload(host_cni_conf)
    binary = host_cni_bin / BINARY
    if binary.exists():
        binary.unlink()
        changed.append(binary)
    return InstallReport("", None, None, tuple(changed))


def default_network(host_cni_conf: Path) -> tuple[Path, str]:
    """File and name of the network that the runtime takes: the first file in byte order.

    Raises:
        NoNetworkError: there is none.
        ChainError: it is not a conflist, has no usable name, or is closed to drop-ins.
    """
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(host_cni_conf.iterdir()):
            if path.suffix in _CONF_SUFFIXES and path.is_file():
                return path, _network_name(path)
    raise NoNetworkError(f"{host_cni_conf} holds no network configuration yet")


def drop_in_config(socket: Path, records: Path) -> bytes:
    """Our plugin's configuration, in the bytes of the file."""
    config = {"type": BINARY, "socket": str(socket), "podRecords": str(records)}
    return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"


def reload(host_cni_conf: Path) -> None:
    """Make containerd read its configuration again: it watches writes and removals in the conf dir itself."""
    trigger = host_cni_conf / RELOAD
    trigger.write_bytes(b"\n")
    trigger.unlink()


def _network_name(path: Path) -> str:
    if path.suffix != ".conflist":
        raise ChainError(
            f"{path} is a single-plugin configuration, which takes no drop-ins; "
            f"make it a .conflist, or attach by a NetworkAttachmentDefinition of type {BINARY}"
        )
    try:
        config = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ChainError(f"{path} is not JSON: {error}") from error
    name = config.get("name") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name or "/" in name or name in (".", ".."):
        raise ChainError(f"{path}: name: {name!r} cannot be the name of a folder of drop-ins")
    if config.get("loadOnlyInlinedPlugins") in (True, "true"):
        raise ChainError(
            f"{path}: loadOnlyInlinedPlugins: true keeps drop-ins out; take it away, "
            f'or put {{"type": "{BINARY}"}} at the end of its plugins'
        )
    return name


def _drop_ins(host_cni_conf: Path) -> Iterator[Path]:
    return iter(sorted(host_cni_conf.glob(f"*/{DROP_IN}")))


def _remove(drop_in: Path) -> None:
    drop_in.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        drop_in.parent.rmdir()  # only if nobody else's file is there


def _copy(source: Path, target: Path) -> bool:
    """Copy an executable, by rename since the old one may be running. False if it is there already."""
    wanted = source.read_bytes()
    if target.exists() and target.read_bytes() == wanted and os.access(target, os.X_OK):
        return False
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, fresh)
    fresh.chmod(0o755)
    fresh.replace(target)
    return True


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")  # libcni reads *.conf only
    fresh.write_bytes(content)
    fresh.chmod(0o644)
    fresh.replace(path)
