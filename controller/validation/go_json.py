"""JSON as the API server reads it into Go's types: null is what is not there, a number may stand for a
quantity, and what is left out is zero.

Right objects need none of it, so it is only asked when something seems wrong. Pure.
"""

from __future__ import annotations

from typing import Any

from msgspec import inspect


def as_read(value: Any, type_: inspect.Type) -> Any:
    """A copy of a decoded document in the form in which our strict types read it."""
    type_ = _plain(type_)
    if value is None:
        value = _zero(type_)
    if _is_quantity(type_):
        return _quantity(value)
    if isinstance(type_, inspect.StructType) and isinstance(value, dict):
        return _struct(value, type_)
    if isinstance(type_, inspect.ListType) and isinstance(value, list):
        return [as_read(item, type_.item_type) for item in value]
    if isinstance(type_, inspect.DictType) and isinstance(value, dict):
        return {name: as_read(inner, type_.value_type) for name, inner in value.items()}
    return value


def _struct(value: dict[str, Any], type_: inspect.StructType) -> dict[str, Any]:
    fields = {field.encode_name: field for field in type_.fields}
    read = {
        name: as_read(inner, fields[name].type) if name in fields else inner
        for name, inner in value.items()
        if inner is not None or name not in fields
    }
    for name, field in fields.items():
        number = _is_quantity(_plain(field.type)) or isinstance(field.type, inspect.IntType)
        if field.required and name not in read and number:
            read[name] = _zero(field.type)
    return read


def _plain(type_: inspect.Type) -> inspect.Type:
    """The type itself of one that may be null."""
    if isinstance(type_, inspect.UnionType):
        return next(one for one in type_.types if not isinstance(one, inspect.NoneType))
    return type_


def _is_quantity(type_: inspect.Type) -> bool:
    return isinstance(type_, inspect.Metadata) and bool((type_.extra or {}).get("quantity"))


def _quantity(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else value


def _zero(type_: inspect.Type) -> Any:
    match type_:
        case inspect.StructType() | inspect.DictType():
            return {}
        case inspect.ListType():
            return []
        case inspect.IntType():
            return 0
        case inspect.BoolType():
            return False
        case inspect.StrType():
            return ""
    return "0" if _is_quantity(type_) else None
