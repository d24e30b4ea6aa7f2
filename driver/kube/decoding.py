"""Decodes objects of the API server into wire types, whatever their free-form fields hold.

The fast way is msgspec's. It checks the whole text, including `msgspec.Raw` and fields that no type names,
and fails at what Go's decoder accepts: deep nesting (RecursionError) and half surrogate pairs (DecodeError).
Users may have both in opaque parameters, so one user's object would make a whole list unreadable. Only then
the slow way is used: it follows the type, decodes the fields that it names, copies raw ones byte for byte
and skips all others.

Source: `runtime.RawExtension` keeps the bytes; encoding/json limits nesting to 10,000.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from driver.kube.json_text import Cursor, JsonTextError

T = TypeVar("T")

_Read = Callable[[Cursor], Any]
"""Returns the value at the cursor and moves past it."""


class Decoder(Generic[T]):
    """Decodes JSON into one type. Thread-safe."""

    def __init__(self, type: type[T]) -> None:
        self._type = type
        self._fast = msgspec.json.Decoder(type)

    def decode(self, text: bytes | msgspec.Raw) -> T:
        """Decode a text.

        Raises:
            msgspec.DecodeError: it is no JSON, or a field that the type names cannot be decoded; as
                msgspec.ValidationError where it has another form.
        """
        try:
            return self._fast.decode(text)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, RecursionError):
            return self._decode_named(bytes(text))

    def tree(self, text: bytes | msgspec.Raw) -> Any:
        """Decode a text into dicts, lists and scalars.

        Where msgspec gives up, fields that the type does not name are left out; raw ones are `msgspec.Raw`.

        Raises:
            msgspec.DecodeError: it is no JSON, or a field that the type names cannot be decoded.
        """
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return self._tree(bytes(text))

    @functools.cached_property
    def _slow(self) -> _Read:
        return _reader(inspect.type_info(self._type))

    def _decode_named(self, text: bytes) -> T:
        return msgspec.convert(self._tree(text), self._type)

    def _tree(self, text: bytes) -> Any:
        cursor = Cursor(text)
        try:
            tree = self._slow(cursor)
            cursor.end()
        except JsonTextError as error:
            raise msgspec.DecodeError(str(error)) from error
        return tree


def _reader(type_: inspect.Type) -> _Read:
    """Return what reads a value of the type as `msgspec.convert` takes it."""
    match _plain(type_):
        case inspect.RawType():
            return lambda cursor: msgspec.Raw(cursor.skip())
        case inspect.StructType(fields=fields):
            named = {msgspec.json.encode(f.encode_name): (f.encode_name, _reader(f.type)) for f in fields}
            return lambda cursor: _read_struct(cursor, named) if cursor.head() == b"{" else _read_leaf(cursor)
        case inspect.ListType(item_type=item_type):
            item = _reader(item_type)
            return lambda cursor: _read_list(cursor, item) if cursor.head() == b"[" else _read_leaf(cursor)
        case inspect.DictType(value_type=value_type):
            value = _reader(value_type)
            return lambda cursor: _read_dict(cursor, value) if cursor.head() == b"{" else _read_leaf(cursor)
    return _read_leaf


def _read_struct(cursor: Cursor, fields: Mapping[bytes, tuple[str, _Read]]) -> dict[str, Any]:
    found = {}
    for quoted in cursor.members():
        if quoted in fields:
            name, read = fields[quoted]
            found[name] = read(cursor)
        else:
            cursor.skip()
    return found


def _read_list(cursor: Cursor, item: _Read) -> list[Any]:
    return [item(cursor) for _ in cursor.elements()]


def _read_dict(cursor: Cursor, value: _Read) -> dict[Any, Any]:
    return {_decode_leaf(name): value(cursor) for name in cursor.members()}


def _read_leaf(cursor: Cursor) -> Any:
    return _decode_leaf(cursor.skip())


def _decode_leaf(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except RecursionError as error:
        raise msgspec.DecodeError("a field is nested too deeply") from error


def _plain(type_: inspect.Type) -> inspect.Type:
    """Return the type itself of one that may be null."""
    if isinstance(type_, inspect.Metadata):
        return _plain(type_.type)
    if isinstance(type_, inspect.UnionType):
        others = [one for one in type_.types if not isinstance(one, inspect.NoneType)]
        return _plain(others[0]) if len(others) == 1 else type_
    return type_
