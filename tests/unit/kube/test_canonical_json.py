"""JSON that the API server would leave as it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.kube.canonical_json import canonical

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{"b": 1, "a": 2}', '{"a":2,"b":1}'),
        ('{ "b" : [ 1 , { "d" : null , "c" : true } ] }', '{"b":[1,{"c":true,"d":null}]}'),
        ('{"a":"<b>&"}', r'{"a":"\u003cb\u003e\u0026"}'),
        (r'{"a":"\u2028\u00e4"}', r'{"a":"\u2028ä"}'),
        ('{"a":1.0,"b":2e3,"c":0.25}', '{"a":1,"b":2000,"c":0.25}'),
        ('{"a":1,"a":2}', '{"a":2}'),
    ],
)
def test_it_is_written_as_go_writes_it(text: str, written: str) -> None:
    assert canonical(text.encode()) == written.encode()


@pytest.mark.parametrize("text", [r'{"b":"\ud800", "a":1}', "[" * 3000 + "]" * 3000, "{", "\xff"])
def test_what_is_not_decoded_stays(text: str) -> None:
    assert canonical(text.encode("latin-1")) == text.encode("latin-1")


@given(VALUES)
def test_it_says_the_same_and_stays_as_it_is(value: object) -> None:
    once = canonical(json.dumps(value, ensure_ascii=False).encode())
    assert json.loads(once) == value
    assert canonical(once) == once
