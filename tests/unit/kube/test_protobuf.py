from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.errors import KubeError
from driver.kube.protobuf import with_finalizer


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def text(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def envelope(metadata: bytes, spec: bytes, before: bytes = b"") -> bytes:
    """As the API server sends it: runtime.Unknown with typeMeta, the object, two empty strings."""
    obj = before + text(1, metadata) + text(2, spec)
    return b"k8s\0" + text(1, b"\x0a\x02v1") + text(2, obj) + text(3, b"") + text(4, b"")


@given(metadata=st.binary(max_size=300), spec=st.binary(max_size=300))
def test_metadata_grows_by_the_finalizer_and_nothing_else_changes(metadata: bytes, spec: bytes) -> None:
    assert with_finalizer(envelope(metadata, spec), "f/g") == envelope(metadata + text(14, b"f/g"), spec)


def test_fields_of_other_wire_types_are_passed_over() -> None:
    numbers = varint(5 << 3) + varint(300) + varint(6 << 3 | 1) + bytes(8) + varint(7 << 3 | 5) + bytes(4)
    made = with_finalizer(envelope(b"", b"spec", numbers), "f")
    assert made == envelope(text(14, b"f"), b"spec", numbers)


@pytest.mark.parametrize(
    "raw",
    [b'{"kind":"Status"}', b"k8s\0", envelope(b"m", b"s")[:-12], b"k8s\0" + varint(2 << 3 | 3), b"k8s\0\xff"],
    ids=["JSON", "empty", "cut off", "a group", "half a number"],
)
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(KubeError, match="protobuf"):
        with_finalizer(raw, "f")
