"""What users put into free-form fields keeps nobody from reading the rest, and is kept byte for byte."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.kube.decoding import Decoder
from driver.kube.json_text import Cursor, JsonTextError
from driver.kube.objects import Node, Pod, ResourceClaim
from tests.unit.kube.hostile import HOSTILE, a_claim_with

CLAIMS = Decoder(ResourceClaim)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_claim_is_read_whatever_its_parameters_and_they_are_kept_byte_for_byte(name: str) -> None:
    claim = CLAIMS.decode(a_claim_with(HOSTILE[name]))
    assert claim.status.allocation is not None
    (asked,), (given_) = claim.spec.devices.config, claim.status.allocation.devices.config[0]
    assert asked.opaque is not None
    assert given_.opaque is not None
    assert bytes(asked.opaque.parameters) == bytes(given_.opaque.parameters) == HOSTILE[name]
    plain = CLAIMS.decode(a_claim_with(b"{}"))
    assert claim.status.allocation.devices.results == plain.status.allocation.devices.results  # type: ignore[union-attr]
    assert (claim.metadata, claim.spec.devices.requests) == (plain.metadata, plain.spec.devices.requests)
    assert claim.status.devices == plain.status.devices


@pytest.mark.parametrize("name", HOSTILE)
def test_parameters_are_written_as_they_were_read(name: str) -> None:
    allocation = CLAIMS.decode(a_claim_with(HOSTILE[name])).status.allocation
    assert HOSTILE[name] in msgspec.json.encode({"status": {"allocation": allocation}})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_field_that_no_type_names_is_passed_over(name: str) -> None:
    text = b'{"new":%s,"metadata":{"name":"n","more":%s}}' % (HOSTILE[name], HOSTILE[name])
    assert Decoder(Node).decode(text) == Decoder(Node).decode(b'{"metadata":{"name":"n"}}')


def test_a_field_that_the_type_names_must_be_as_the_type_says_in_either_way() -> None:
    wrong = b'{"metadata":{"name":7},"more":%s}'
    for more in (b"1", HOSTILE["deep"]):
        with pytest.raises(
            msgspec.ValidationError, match=r"Expected `str`, got `int` - at `\$.metadata.name`"
        ):
            CLAIMS.decode(wrong % more)


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b'{"metadata":', b'{"a":1', b'{"a" 1}', b'{"a":"\xff', b"{}x", b'{"a":[1}', rb'{"a":"\ud8'],
)
def test_what_is_no_json_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Decoder(Pod).decode(text)
    with pytest.raises(msgspec.DecodeError):
        Decoder(Pod)._decode_named(text)


def test_a_named_field_that_is_nested_too_deeply_is_an_error_of_the_decoders() -> None:
    deep = b"[" * 4_000 + b"]" * 4_000
    with pytest.raises(msgspec.DecodeError, match="too deeply"):
        Decoder(Pod).decode(b'{"status":{"conditions":[{"x":%s}]}}' % deep)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_JSON, st.sampled_from([None, 1]))
def test_a_value_ends_where_json_says_that_it_ends(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent).encode()
    for behind in (b"", b",1]", b" }", b"]"):
        cursor = Cursor(b" " + text + behind)
        assert cursor.skip() == text
        assert cursor.at == 1 + len(text)


class Thing(msgspec.Struct, rename="camel"):
    some_name: str = ""
    raw: msgspec.Raw = msgspec.Raw(b"null")
    things: list[Thing2] | None = None
    table: dict[str, Thing2] = {}
    anything: Any = None


class Thing2(msgspec.Struct):
    number: float | None = None
    texts: list[str] = []


@given(
    _JSON,
    _JSON,
    st.lists(
        st.builds(Thing2, st.none() | st.floats(allow_nan=False, allow_infinity=False), st.lists(st.text()))
    ),
)
def test_both_ways_read_the_same(unknown: Any, raw: Any, things: list[Thing2]) -> None:
    document = {
        "x": unknown,
        "someName": "n",
        "raw": raw,
        "things": msgspec.to_builtins(things),
        "table": {str(i): msgspec.to_builtins(thing) for i, thing in enumerate(things)},
        "anything": raw,
    }
    text = json.dumps(document).encode()
    decoder = Decoder(Thing)
    try:
        fast = decoder._fast.decode(text)
    except msgspec.DecodeError:
        return  # half a surrogate pair in a text that the type names
    slow = decoder._decode_named(text)
    assert bytes(fast.raw) == bytes(slow.raw) == json.dumps(raw).encode()
    assert (fast.some_name, fast.things, fast.table, fast.anything) == (
        slow.some_name,
        slow.things,
        slow.table,
        slow.anything,
    )


def test_a_value_that_does_not_end_is_told() -> None:
    for text in (b"[[]", b'"a', b'{"a":{}'):
        with pytest.raises(JsonTextError):
            Cursor(text).skip()
