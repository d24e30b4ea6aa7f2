"""What travels between the host shim and the plugin: one framed request, one framed reply, on a unix stream.

The shim stays a byte forwarder because everything that could need a change is decoded here. Integers are in
host byte order, since both ends are one host.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from kubeletplugin.attach.results import CniError, Code

MAGIC: Final = b"TND1"
MAX_ENVIRONMENT: Final = 64 << 10
MAX_CONFIG: Final = 1 << 20
HEADER: Final = struct.Struct("=4sII")
"""Magic, length of the environment block, length of the configuration, in bytes."""
REPLY_HEADER: Final = struct.Struct("=II")
"""Exit code, length of what goes to stdout."""

_UID = re.compile(r"[-_0-9A-Za-z]{1,127}")


@dataclass(frozen=True, slots=True)
class CniCall:
    """One CNI call. Strings are empty where the runtime did not set them.

    Attributes:
        command: CNI_COMMAND: ADD, DEL, CHECK, GC, STATUS.
        container_id: CNI_CONTAINERID.
        netns_path: CNI_NETNS.
        ifname: CNI_IFNAME, the interface of the default network (ours are named by the claim).
        args: CNI_ARGS, split.
        config: the network configuration.
    """

    command: str
    container_id: str = ""
    netns_path: str = ""
    ifname: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pod_uid(self) -> str:
        """UID of the pod, empty for a sandbox that is not Kubernetes'."""
        return self.args.get("K8S_POD_UID", "")

    @property
    def pod_namespace(self) -> str:
        """Namespace of the pod."""
        return self.args.get("K8S_POD_NAMESPACE", "")

    @property
    def pod_name(self) -> str:
        """Name of the pod."""
        return self.args.get("K8S_POD_NAME", "")

    @property
    def pod(self) -> str:
        """``namespace/name``, for messages."""
        return f"{self.pod_namespace}/{self.pod_name}"

    @property
    def cni_version(self) -> str:
        """Version of the specification that the answer has to follow; libcni sets it, 0.3.0 if it did not."""
        return str(self.config.get("cniVersion") or "0.3.0")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the shim prints and exits with."""

    exit_code: int
    stdout: bytes = b""

    def encode(self) -> bytes:
        """The frame."""
        return REPLY_HEADER.pack(self.exit_code, len(self.stdout)) + self.stdout


def encode_request(environment: Mapping[str, str], config: bytes) -> bytes:
    """The frame that the shim makes of its environment and stdin (the netns travels beside it)."""
    block = b"".join(f"{key}={value}".encode() + b"\0" for key, value in environment.items())
    return HEADER.pack(MAGIC, len(block), len(config)) + block + config


def body_length(header: bytes) -> tuple[int, int]:
    """Lengths in bytes of the environment block and of the configuration that follow a header.

    Raises:
        CniError: not our magic, or longer than the shim would ever send.
    """
    magic, environment, config = HEADER.unpack(header)
    if magic != MAGIC or environment > MAX_ENVIRONMENT or config > MAX_CONFIG:
        raise CniError(Code.IO, f"a request that begins with {header.hex()} is not from this version's shim")
    return environment, config


def decode_call(environment: bytes, config: bytes) -> CniCall:
    """The two blocks of a request → a call.

    Raises:
        CniError: CNI_ARGS, the pod UID or the configuration is not what the specification says.
    """
    variables = _pairs(environment.decode("utf-8", "replace").split("\0"), "the environment")
    args = _pairs(variables.get("CNI_ARGS", "").split(";"), "CNI_ARGS")
    uid = args.get("K8S_POD_UID", "")
    if uid and not _UID.fullmatch(uid):
        raise CniError(Code.ENVIRONMENT, f"K8S_POD_UID={uid!r} in CNI_ARGS is not a UID")
    try:
        decoded = msgspec.json.decode(config) if config.strip() else {}
    except msgspec.DecodeError as error:
        raise CniError(Code.DECODE, "the network configuration is not JSON", str(error)) from error
    if not isinstance(decoded, dict):
        raise CniError(Code.DECODE, f"the network configuration is a {type(decoded).__name__}, not an object")
    return CniCall(
        command=variables.get("CNI_COMMAND", ""),
        container_id=variables.get("CNI_CONTAINERID", ""),
        netns_path=variables.get("CNI_NETNS", ""),
        ifname=variables.get("CNI_IFNAME", ""),
        args=args,
        config=decoded,
    )


def _pairs(items: Iterable[str], where: str) -> dict[str, str]:
    pairs = {}
    for item in filter(None, items):
        key, separator, value = item.partition("=")
        if not separator:
            raise CniError(Code.ENVIRONMENT, f"{item!r} in {where} is not KEY=value")
        pairs[key] = value
    return pairs
