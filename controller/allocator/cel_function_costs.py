"""What CEL's functions cost at worst, and how large their results are, in Kubernetes' units.

After k8s.io/apiserver v0.36 (pkg/cel/library/cost.go), then google/cel-go v0.26 (ext/lists.go, ext/sets.go,
checker/cost.go), in the order in which Kubernetes asks them. What none of them knows costs one unit.

What they cost us (`work_of`) differs where our runtime does: it compiles a pattern at each match, and copies
lists that are added. Where the result may be larger than Kubernetes thinks, the work is unbounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from controller.allocator import cel_regex
from controller.allocator.cel_ast import Node
from controller.allocator.cel_cost import (
    ONE,
    UNBOUNDED,
    UNKNOWN,
    CallCost,
    Operand,
    Range,
    exactly,
    size_of_path,
)

_TRAVERSAL: Final = 0.1
_PATTERN: Final = 0.25
_LIST_BASE: Final = 10
_FORMAT_PATTERN: Final = 128 * _PATTERN
_FORMAT_SIZE: Final = 64
_SMALL_PATTERN: Final = 10
"""Instructions that are compiled in the time of a step."""
_NETWORK_SIZE: Final = Range(4, 16)
_EQUAL_AT_ONCE: Final = frozenset({"Ip", "Cidr", "Quantity", "Semver"})

Parts = Sequence[Operand]
_Cost = Callable[[str, Operand | None, Parts], CallCost | None]


def cost_of(node: Node, overload: str, target: Operand | None, parts: Parts) -> CallCost:
    """What an overload of a call costs, its arguments aside, and the size of the result where it is known."""
    for table in (_LISTS_AND_SETS, _KUBERNETES, _STANDARD):
        cost = table.get(node.name)
        if cost is not None and (found := cost(overload, target, parts)) is not None:
            return found
    return ONE, None


def work_of(node: Node, overload: str, target: Operand | None, parts: Parts) -> CallCost:
    """The same for our runtime, in steps of some 7 µs."""
    cost, size = cost_of(node, overload, target, parts)
    if node.name in ("format", "flatten"):
        return UNKNOWN, None
    if node.name in ("matches", "find", "findAll"):
        return cost.times(exactly(_pattern_size(parts[-1] if target is None else parts[0]))), size
    if overload == "add_list" and size is not None:
        return cost.plus(size), size
    return cost, size


def _pattern_size(pattern: Operand) -> int:
    """How many times longer a match takes than with a small pattern."""
    text = pattern.node.value
    if pattern.node.kind != "literal" or not isinstance(text, str):
        return UNBOUNDED
    try:
        return 1 + cel_regex.size(text) // _SMALL_PATTERN
    except ValueError:
        return UNBOUNDED


# Lists and sets (google/cel-go, ext)


def _new_list(factor: float, size: Range) -> CallCost:
    return size.by(factor).plus(exactly(1 + _LIST_BASE)), size


def _whole(part: Operand, otherwise: int) -> int:
    value = part.node.value
    if part.node.kind != "literal" or not isinstance(value, int) or isinstance(value, bool):
        return otherwise
    return max(value, 0)


def _slice(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    if target is None or len(parts) != 2:
        return None
    length = _whole(parts[1], target.size.most) - _whole(parts[0], 0)
    return _new_list(1, exactly(length % 2**64))


def _range(_overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
    return _new_list(1, exactly(_whole(parts[0], UNBOUNDED)))


def _reverse(_overload: str, target: Operand | None, _parts: Parts) -> CallCost | None:
    return None if target is None else _new_list(1, target.size)


def _flatten(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    depth = _whole(parts[0], UNBOUNDED) if parts else 1
    return None if target is None else _new_list(float(depth), target.size)


def _distinct(_overload: str, target: Operand | None, _parts: Parts) -> CallCost | None:
    return None if target is None else _new_list(2.0, target.size.times(target.size))


def _sort(overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    by = parts[0] if parts else target
    if by is None:
        return None
    of_texts = overload.startswith(("list_string", "list_bytes"))
    return _new_list(2.0 + (_TRAVERSAL if of_texts else 0.0), by.size.times(by.size))


def _sets(factor: float) -> _Cost:
    def cost(_overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
        return parts[0].size.times(parts[1].size).by(factor).plus(ONE), None

    return cost


_LISTS_AND_SETS: Final[dict[str, _Cost]] = {
    "slice": _slice,
    "lists.range": _range,
    "reverse": _reverse,
    "flatten": _flatten,
    "distinct": _distinct,
    "sort": _sort,
    "@sortByAssociatedKeys": _sort,
    "sets.contains": _sets(1),
    "sets.intersects": _sets(1),
    "sets.equivalent": _sets(2),
}


# Kubernetes' (pkg/cel/library/cost.go)


def _each(_overload: str, target: Operand | None, _parts: Parts) -> CallCost | None:
    """A look at each item of a list, or at each character of a text."""
    if target is None:
        return None
    if not target.type.parameters:
        return target.size.by(_TRAVERSAL), None
    item, cost = target.type.parameters[0], ONE
    if item.kind in ("string", "bytes"):
        size = size_of_path(None if target.path is None else (*target.path, "@items"))
        cost = cost.plus((UNKNOWN if size is None else size).by(_TRAVERSAL))
    return target.size.times(cost), None


def _read(times: float = 1, *, same_size: bool = False) -> _Cost:
    """The first argument is read through."""

    def cost(_overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
        return parts[0].size.by(times * _TRAVERSAL), parts[0].size if same_size else None

    return cost


def _of_text(_overload: str, target: Operand | None, _parts: Parts) -> CallCost | None:
    return None if target is None else (target.size.by(_TRAVERSAL), target.size)


def _replace(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    if target is None or len(parts) < 2:
        return None
    size, old, new = target.size, parts[0].size, parts[1].size
    most = least = kept_most = kept_least = 0
    if old.least == 0:
        most, kept_most = min(size.most + 1, UNBOUNDED), size.most
    elif new.most <= old.least:
        kept_most = size.most
    else:
        most = math.ceil(float(size.most) / float(old.least))
    if old.most == 0:
        least, kept_least = min(size.least + 1, UNBOUNDED), size.least
    elif old.most <= new.least:
        kept_least = size.least
    else:
        least = math.ceil(float(size.least) / float(old.most))
    result = Range(least, min(most, UNBOUNDED)).times(new).plus(Range(kept_least, kept_most))
    return size.by(2 * _TRAVERSAL), result


def _split(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    if target is None:
        return None
    most = _whole(parts[1], target.size.most) if len(parts) > 1 else target.size.most
    return target.size.by(2 * _TRAVERSAL), Range(0, most)


def _join(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    if target is None:
        return None
    size = Range(0, 0)
    if target.type.parameters:
        item = size_of_path(None if target.path is None else (*target.path, "@items"))
        size = target.size.times(UNKNOWN if item is None else item)
    if parts:
        between = Range(max(target.size.least - 1, 0), max(target.size.most - 1, 0))
        size = size.plus(parts[0].size.times(between))
    return size.by(_TRAVERSAL), size


def _find(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    if target is None or not parts:
        return None
    cost = target.size.plus(ONE).by(_TRAVERSAL).times(parts[0].size.by(_PATTERN))
    return cost, Range(0, target.size.most)


def _ip(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    return (ONE, None) if target is not None else (parts[0].size.by(_TRAVERSAL), None)


def _contains(*, network: bool) -> _Cost:
    def cost(_overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
        spent = _NETWORK_SIZE.plus(_NETWORK_SIZE).by(_TRAVERSAL)
        if network:
            spent = spent.plus(_NETWORK_SIZE.by(_TRAVERSAL)).plus(ONE)
        if _overload.endswith("_STRING"):
            spent = spent.plus(parts[0].size.by(_TRAVERSAL))
        return spent, None

    return cost


def _validate(_overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
    return parts[0].size.by(_TRAVERSAL).by(_FORMAT_PATTERN), None


def _equal(_overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
    left, right = parts
    if left.type != right.type or left.type.kind != "message":
        return None
    name = left.type.name.rpartition(".")[2]
    if name in _EQUAL_AT_ONCE:
        return ONE, None
    if name == "Format":
        return Range(1, _FORMAT_SIZE).by(_TRAVERSAL), None
    if name == "Url":
        return Range(1, 1 if right.size == UNKNOWN else right.size.most).by(_TRAVERSAL), None
    return None


_KUBERNETES: Final[dict[str, _Cost]] = {
    **dict.fromkeys(("isSorted", "sum", "max", "min", "indexOf", "lastIndexOf"), _each),
    **dict.fromkeys(("cidr", "isIP", "isCIDR", "quantity", "isQuantity", "semver", "isSemver"), _read()),
    **dict.fromkeys(("lowerAscii", "upperAscii", "substring", "trim"), _of_text),
    **dict.fromkeys(("find", "findAll"), _find),
    "url": _read(same_size=True),
    "replace": _replace,
    "split": _split,
    "join": _join,
    "ip": _ip,
    "ip.isCanonical": _read(2),
    "containsIP": _contains(network=False),
    "containsCIDR": _contains(network=True),
    "validate": _validate,
    "_==_": _equal,
}


# CEL's own (google/cel-go, checker/cost.go)


def _format(_overload: str, target: Operand | None, _parts: Parts) -> CallCost | None:
    return None if target is None else (target.size.by(_TRAVERSAL), None)


def _converted(overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
    size = parts[0].size
    if overload == "string_to_bytes":
        return size.by(_TRAVERSAL), Range(size.least, size.most * 4 % 2**64)
    if overload == "bytes_to_string":
        return size.by(_TRAVERSAL), Range(size.least // 4, size.most)
    return None


def _quote(_overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
    size = parts[0].size
    return size.by(_TRAVERSAL), Range((size.least + 2) % 2**64, (size.most * 2 + 2) % 2**64)


def _in(overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
    return (parts[1].size.by(1), None) if overload == "in_list" else None


def _matches(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    if target is None or len(parts) != 1:
        return None
    return target.size.plus(ONE).by(_TRAVERSAL).times(parts[0].size.by(_PATTERN)), None


def _contains_text(_overload: str, target: Operand | None, parts: Parts) -> CallCost | None:
    return None if target is None else (target.size.by(_TRAVERSAL).times(parts[0].size.by(_TRAVERSAL)), None)


def _add(overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
    if overload not in ("add_string", "add_bytes", "add_list"):
        return None
    size = parts[0].size.plus(parts[1].size)
    return ONE if overload == "add_list" else size.by(_TRAVERSAL), size


def _compared(overload: str, _target: Operand | None, parts: Parts) -> CallCost | None:
    if overload not in ("equals", "not_equals") and not overload.endswith(("_string", "_bytes")):
        return None
    most = min(part.size.most for part in parts)
    return Range(1 if most else 0, most).by(_TRAVERSAL), None


_STANDARD: Final[dict[str, _Cost]] = {
    **dict.fromkeys(("_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"), _compared),
    **dict.fromkeys(("startsWith", "endsWith"), _read()),
    **dict.fromkeys(("bytes", "string"), _converted),
    "format": _format,
    "strings.quote": _quote,
    "@in": _in,
    "matches": _matches,
    "contains": _contains_text,
    "_+_": _add,
}
