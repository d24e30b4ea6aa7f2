"""Adds a finalizer to an object in the API server's protobuf form and leaves every other byte as it is.

Needed where JSON will not do: an object that was posted with blanks in its opaque parameters keeps them, JSON
drops them on the way out, and so the API server (1.36) refuses any JSON write of it as a change of what is
immutable. Its own components speak protobuf and never notice. No schema is needed to append to a repeated
field: what is not on the way to it is copied.

Source of the field numbers: k8s.io/apimachinery runtime.Unknown (raw = 2) and metav1.ObjectMeta (finalizers =
14); metadata is field 1 of every kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from driver.errors import KubeError

CONTENT_TYPE: Final = "application/vnd.kubernetes.protobuf"

_MAGIC: Final = b"k8s\0"
_RAW, _METADATA, _FINALIZERS = 2, 1, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def with_finalizer(raw: bytes, finalizer: str) -> bytes:
    """The same object with one finalizer more, at the end.

    Raises:
        KubeError: these bytes are not such an object.
    """
    if not raw.startswith(_MAGIC):
        raise KubeError(f"not an object in protobuf form: {raw[:16]!r}", status=0)
    added = _field(_FINALIZERS, finalizer.encode())

    def in_metadata(metadata: bytes) -> bytes:
        return metadata + added

    def in_object(obj: bytes) -> bytes:
        return _change(obj, _METADATA, in_metadata)

    try:
        return _MAGIC + _change(raw[len(_MAGIC) :], _RAW, in_object)
    except IndexError:
        raise KubeError("an object in protobuf form ends too early", status=0) from None


def _change(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """The message with its field of that number changed."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _BYTES:
            length, at = _read_varint(message, at)
            content, at = message[at : at + length], at + length
            if at > len(message):
                raise IndexError
            if key >> 3 == number:
                return message[:begin] + _field(number, change(content)) + message[at:]
        elif kind == _VARINT:
            _, at = _read_varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise KubeError(f"unknown wire type {kind} in protobuf", status=0)
    raise KubeError(f"no field {number} in protobuf", status=0)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
