"""Kubernetes' own CEL functions on quantities, versions, lists and texts.

The C++ runtime tells overloads apart by kind of argument alone, hence one implementation serves all overloads
on values of ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from cel_expr_python import cel
from google.protobuf.message import Message

from controller.allocator import cel_regex, quantity, semver
from controller.allocator.cel_values import QUANTITY, SEMVER, is_of, make, text_of


def quantity_value(text: str) -> Message:
    """A quantity as a CEL value. Raises ValueError where `text` is none."""
    return _of(quantity.parse(text))


def semver_value(text: str) -> Message:
    """A version as a CEL value. Raises ValueError where `text` is none."""
    return make(SEMVER, str(semver.parse(text)))


def _of(number: Fraction) -> Message:
    return make(QUANTITY, str(number))


def _number(value: Any) -> Fraction:
    return Fraction(text_of(QUANTITY, value))


def _compare(left: Any, right: Any) -> int:
    if is_of(QUANTITY, left):
        a, b = _number(left), _number(right)
        return (a > b) - (a < b)
    x, y = _version(left).key(), _version(right).key()
    return (x > y) - (x < y)


def _version(value: Any) -> semver.Version:
    return semver.parse(text_of(SEMVER, value))


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _as_integer(value: Any) -> int:
    number = _number(value)
    if number.denominator != 1 or not -(2**63) <= number < 2**63:
        raise ValueError("cannot convert value to integer")
    return int(number)


def _is_integer(value: Any) -> bool:
    number = _number(value)
    return number.denominator == 1 and -(2**63) <= number < 2**63


def _as_float(value: Any) -> float:
    number = _number(value)
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _sign(value: Any) -> int:
    number = _number(value)
    return (number > 0) - (number < 0)


def _operand(value: Any) -> Fraction:
    return Fraction(value) if isinstance(value, int) else _number(value)


def _plus(left: Any, right: Any) -> Message:
    return _of(_number(left) + _operand(right))


def _minus(left: Any, right: Any) -> Message:
    return _of(_number(left) - _operand(right))


def _strict(text: str, lenient: bool) -> str:
    return semver.normalize(text) if lenient else text


def _is_sorted(items: Sequence[Any]) -> bool:
    return all(a <= b for a, b in itertools.pairwise(items))


def _extreme(choose: Callable[[Sequence[Any]], Any], name: str) -> Callable[[Sequence[Any]], Any]:
    def of(items: Sequence[Any]) -> Any:
        if not items:
            raise ValueError(f"{name} called on empty list")
        return choose(items)

    return of


def _index(items: Any, item: Any, start: int = 0) -> int:
    """Of a text in a text (from `start`), or of an item in a list; -1 where it is not."""
    if isinstance(items, str):
        return items.find(item, start)
    return next((i for i, one in enumerate(items) if one == item), -1)


def _last_index(items: Any, item: Any, start: int | None = None) -> int:
    if isinstance(items, str):
        return items.rfind(item, 0, None if start is None else start + len(item))
    return max((i for i, one in enumerate(items) if one == item), default=-1)


def _mapped(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    return dict(pairs)


def _merged(maps: Sequence[dict[Any, Any]]) -> dict[Any, Any]:
    merged: dict[Any, Any] = {}
    for some in maps:
        for key, value in some.items():
            if key in merged:
                raise ValueError(f"insert failed: key {key} already exists")
            merged[key] = value
    return merged


def declarations() -> list[cel.FunctionDecl]:
    """The functions for a CEL environment. Two-value overloads: quantity with quantity, version with
    version.
    """
    t = cel.Type
    anything, items = t.DYN, t.List(t.DYN)

    def function(name: str, *overloads: cel.Overload) -> cel.FunctionDecl:
        return cel.FunctionDecl(name, list(overloads))

    def plain(name: str, returns: cel.Type, takes: list[cel.Type], impl: Callable[..., Any]) -> cel.Overload:
        tag = f"{name}_{'_'.join(p.name() for p in takes)}".replace(".", "_")
        return cel.Overload(tag, return_type=returns, parameters=takes, impl=impl)

    def member(
        name: str, returns: cel.Type, takes: list[cel.Type], impl: Callable[..., Any] | None
    ) -> cel.Overload:
        tag = f"member_{name}_{'_'.join(p.name() for p in takes)}".replace(".", "_")
        if impl is None:
            return cel.Overload(tag, return_type=returns, parameters=takes, is_member=True)
        return cel.Overload(tag, return_type=returns, parameters=takes, is_member=True, impl=impl)

    def comparison(name: str, returns: cel.Type, impl: Callable[..., Any]) -> cel.FunctionDecl:
        return function(
            name,
            member(name, returns, [QUANTITY, QUANTITY], impl),
            member(name, returns, [SEMVER, SEMVER], None),
        )

    def of(name: str, target: cel.Type, returns: cel.Type, impl: Callable[..., Any]) -> cel.FunctionDecl:
        return function(name, member(name, returns, [target], impl))

    def sum_like(name: str, impl: Callable[..., Any]) -> cel.FunctionDecl:
        return function(
            name,
            member(name, QUANTITY, [QUANTITY, QUANTITY], impl),
            member(name, QUANTITY, [QUANTITY, t.INT], impl),
        )

    def indices(name: str, impl: Callable[..., Any]) -> cel.FunctionDecl:
        return function(
            name,
            member(name, t.INT, [t.STRING, t.STRING], impl),
            member(name, t.INT, [t.STRING, t.STRING, t.INT], impl),
            *(member(name, t.INT, [items, kind], impl) for kind in (t.STRING, t.INT, t.BOOL, t.DOUBLE)),
        )

    return [
        indices("indexOfAny", _index),  # `cel_syntax` puts these in the place of those without Any
        indices("lastIndexOfAny", _last_index),
        function("quantity", plain("quantity", QUANTITY, [t.STRING], quantity_value)),
        function("isQuantity", plain("isQuantity", t.BOOL, [t.STRING], lambda s: _parses(quantity.parse, s))),
        function(
            "semver",
            plain("semver", SEMVER, [t.STRING], semver_value),
            plain("semver", SEMVER, [t.STRING, t.BOOL], lambda s, n: semver_value(_strict(s, n))),
        ),
        function(
            "isSemver",
            plain("isSemver", t.BOOL, [t.STRING], lambda s: _parses(semver.parse, s)),
            plain("isSemver", t.BOOL, [t.STRING, t.BOOL], lambda s, n: _parses(semver.parse, _strict(s, n))),
        ),
        comparison("compareTo", t.INT, _compare),
        comparison("isGreaterThan", t.BOOL, lambda a, b: _compare(a, b) > 0),
        comparison("isLessThan", t.BOOL, lambda a, b: _compare(a, b) < 0),
        function("sign", plain("sign", t.INT, [QUANTITY], _sign)),
        of("isInteger", QUANTITY, t.BOOL, _is_integer),
        of("asInteger", QUANTITY, t.INT, _as_integer),
        of("asApproximateFloat", QUANTITY, t.DOUBLE, _as_float),
        sum_like("add", _plus),
        sum_like("sub", _minus),
        of("major", SEMVER, t.INT, lambda v: _version(v).major),
        of("minor", SEMVER, t.INT, lambda v: _version(v).minor),
        of("patch", SEMVER, t.INT, lambda v: _version(v).patch),
        of("mappedAny", t.List(items), t.Map(anything, anything), _mapped),
        of("mergedAny", t.List(t.Map(anything, anything)), t.Map(anything, anything), _merged),
        of("isSorted", items, t.BOOL, _is_sorted),
        of("sum", items, anything, lambda xs: sum(xs)),
        of("min", items, anything, _extreme(min, "min")),
        of("max", items, anything, _extreme(max, "max")),
        function("find", member("find", t.STRING, [t.STRING, t.STRING], cel_regex.find)),
        function(
            "findAll",
            member("findAll", t.List(t.STRING), [t.STRING, t.STRING], cel_regex.find_all),
            member("findAll", t.List(t.STRING), [t.STRING, t.STRING, t.INT], cel_regex.find_all),
        ),
    ]
