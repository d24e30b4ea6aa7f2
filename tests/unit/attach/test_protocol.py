from __future__ import annotations

import json
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeletplugin.attach.protocol import (
    HEADER,
    REPLY_HEADER,
    Reply,
    body_length,
    decode_call,
    encode_request,
)
from kubeletplugin.attach.results import AttachedInterface, CniError, Code, encode_result
from kubeletplugin.attach.server import receive_call

_words = st.text(st.characters(codec="utf-8", exclude_characters="\0;="), max_size=20)
_keys = st.from_regex(r"[A-Z_0-9]{1,12}", fullmatch=True)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=10,
)


@given(_words, _words, st.dictionaries(_keys, _words, max_size=5), st.dictionaries(_words, _json, max_size=4))
def test_what_a_shim_sends_is_what_the_engine_sees(
    command: str, container: str, args: dict[str, str], config: dict[str, Any]
) -> None:
    args.pop("K8S_POD_UID", None)
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in args.items()),
    }
    left, right = socket.socketpair()
    with left, right:
        left.sendall(encode_request(variables, json.dumps(config).encode()))
        call, descriptor = receive_call(right)
    assert descriptor is None
    assert (call.command, call.container_id, call.args, call.config) == (command, container, args, config)


@given(st.integers(0, 255), st.binary(max_size=200))
def test_a_reply_carries_code_and_bytes(code: int, stdout: bytes) -> None:
    frame = Reply(code, stdout).encode()
    assert REPLY_HEADER.unpack_from(frame) == (code, len(stdout))
    assert frame[REPLY_HEADER.size :] == stdout


@given(st.binary(min_size=HEADER.size, max_size=HEADER.size))
def test_any_header_gives_bounded_lengths_or_an_error(header: bytes) -> None:
    try:
        environment, config = body_length(header)
    except CniError:
        return
    assert header[:4] == b"TND1"
    assert environment + config <= (64 << 10) + (1 << 20)


@pytest.mark.parametrize("length", [(1 << 16) + 1, 1 << 31])
def test_a_header_that_promises_too_much_is_refused(length: int) -> None:
    with pytest.raises(CniError):
        body_length(struct.pack("=4sII", b"TND1", length, 0))


@pytest.mark.parametrize("uid", ["../etc", "a/b", "x" * 200, "a b"])
def test_a_pod_uid_that_is_no_uid_is_refused(uid: str) -> None:
    with pytest.raises(CniError, match="K8S_POD_UID") as caught:
        decode_call(f"CNI_ARGS=IgnoreUnknown=1;K8S_POD_UID={uid}\0".encode(), b"{}")
    assert caught.value.code == Code.ENVIRONMENT


@pytest.mark.parametrize("config", [b"{", b"[1]", b"\xff", b'"x"'])
def test_a_configuration_that_is_no_object_is_refused(config: bytes) -> None:
    with pytest.raises(CniError) as caught:
        decode_call(b"", config)
    assert caught.value.code == Code.DECODE


def test_an_empty_configuration_is_an_empty_object() -> None:
    assert decode_call(b"CNI_COMMAND=DEL\0", b" \n").config == {}


_interface = AttachedInterface(
    "net1", "02:00:00:00:00:01", 4200, "/run/netns/x", "0000:1a:00.1", ("fd00::1/64",)
)


def test_fields_that_a_version_does_not_know_are_left_out() -> None:
    old = json.loads(encode_result({}, [_interface], "0.4.0"))
    assert old["interfaces"] == [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}]
    assert old["ips"] == [{"interface": 0, "address": "fd00::1/64", "version": "6"}]
    middle = json.loads(encode_result({}, [_interface], "1.0.0"))
    assert "mtu" not in middle["interfaces"][0]
    assert "version" not in middle["ips"][0]
    new = json.loads(encode_result({}, [_interface], "1.1.0"))
    assert new["interfaces"][0]["pciID"] == "0000:1a:00.1"


@given(st.dictionaries(st.sampled_from(["dns", "routes", "x"]), _json))
def test_prev_result_passes_through_whole(previous: dict[str, Any]) -> None:
    assert json.loads(encode_result(previous, [], "1.1.0")) == previous | {"cniVersion": "1.1.0"}


def test_a_version_that_is_none_is_an_error() -> None:
    with pytest.raises(CniError, match="cniVersion 'new'"):
        encode_result({}, [], "new")


def test_an_error_is_the_specifications_object() -> None:
    error = CniError(Code.TRY_LATER, "claim a is held", "by pod b")
    assert json.loads(error.encode("1.0.0")) == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "tandem: claim a is held",
        "details": "by pod b",
    }
