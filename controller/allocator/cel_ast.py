"""A checked CEL expression as a tree, as Kubernetes' parser and checker would have it.

The C++ runtime hands out what it checked as protobuf (cel.expr.CheckedExpr, google/cel-spec). It is read by
hand: its messages are nested far deeper than the protobuf runtime allows. What `cel_syntax` rewrote for the
C++ runtime is turned back, so that a reader of the tree sees the selector as it was meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from controller.allocator.cel_syntax import LOCAL

Bytes = memoryview


@dataclass(frozen=True, slots=True)
class Type:
    """`kind` is list, map, message, abstract, dyn or a scalar's name; `name` a message's."""

    kind: str
    name: str = ""
    parameters: tuple[Type, ...] = ()


DYN: Final = Type("dyn")
_COMPARISONS: Final = frozenset({"_<_", "_<=_", "_>_", "_>=_"})
Value = str | bytes | bool | int | float | None


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A part of an expression.

    Attributes:
        kind: what it is.
        type: what it gives.
        name: of a variable, a field, a function or a loop's first variable.
        overloads: of a call, those that may be meant.
        target: what a call or a selection is on.
        parts: arguments, items, or keys and values in turn.
        value: of a literal.
        test: a selection that only asks whether the field is there.
        loop: of a loop, the rest.
    """

    kind: Literal["literal", "name", "select", "call", "list", "map", "message", "loop"]
    type: Type = DYN
    name: str = ""
    overloads: tuple[str, ...] = ()
    target: Node | None = None
    parts: tuple[Node, ...] = ()
    value: Value = None
    test: bool = False
    loop: Loop | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """Over `over`, collecting in the variable `result_name`; `second` is the name of a second variable."""

    over: Node
    result_name: str
    begin: Node
    condition: Node
    step: Node
    result: Node
    second: str = ""


def tree(serialized: bytes, *, free_numbers: bool = False) -> Node:
    """The tree of an expression that the C++ runtime checked; `free_numbers`: numbers that are compared were
    freed of their types.
    """
    (checked,) = (value for number, value in _fields(memoryview(serialized)) if number == 2)
    references: dict[int, tuple[str, ...]] = {}
    types: dict[int, Type] = {}
    seen: dict[bytes, Type] = {}
    root = memoryview(b"")
    for number, value in _fields(_bytes(checked)):
        if number == 2:
            key, entry = _entry(value)
            references[key] = tuple(_text(v) for n, v in _fields(entry) if n == 3)
        elif number == 3:
            key, entry = _entry(value)
            raw = bytes(entry)
            types[key] = known = seen.get(raw) or _type(entry)
            seen[raw] = known
        elif number == 4:
            root = _bytes(value)
    return _Reader(references, types, free_numbers).node(root)


class _Reader:
    def __init__(
        self, overloads: dict[int, tuple[str, ...]], types: dict[int, Type], free_numbers: bool
    ) -> None:
        self._overloads = overloads
        self._types = types
        self._free_numbers = free_numbers

    def node(self, data: Bytes) -> Node:
        key, kind, content = 0, 0, memoryview(b"")
        for number, value in _fields(data):
            if number == 2:
                key = _int(value)
            else:
                kind, content = number, _bytes(value)
        node = self._of(kind, list(_fields(content)), self._types.get(key, DYN), self._overloads.get(key, ()))
        if self._free_numbers and node.name in _COMPARISONS:
            node = replace(node, parts=tuple(_bound(part) for part in node.parts))
        return _turned_back(node)

    def _of(
        self, number: int, fields: list[tuple[int, int | Bytes]], kind: Type, overloads: tuple[str, ...]
    ) -> Node:
        match number:
            case 4:
                return Node("name", kind, _text(fields[0][1]))
            case 5:
                target, name, test = self._target(fields), self._name(fields), any(n == 3 for n, _ in fields)
                return Node("select", kind, name, target=target, test=test)
            case 6:
                parts = tuple(self.node(_bytes(v)) for n, v in fields if n == 3)
                return Node("call", kind, self._name(fields), overloads, self._target(fields), parts)
            case 7:
                return Node("list", kind, parts=tuple(self.node(_bytes(v)) for n, v in fields if n == 1))
            case 8:
                entries = (list(_fields(_bytes(v))) for n, v in fields if n == 2)
                parts = tuple(self.node(_bytes(v)) for entry in entries for n, v in entry if n in (3, 4))
                name = next((_text(v) for n, v in fields if n == 1), "")
                return Node("message" if name else "map", kind, name, parts=parts)
            case 9:
                return self._loop(fields, kind)
        return Node("literal", kind, value=_literal(*fields[0]) if fields else None)

    def _target(self, fields: list[tuple[int, int | Bytes]]) -> Node | None:
        return next((self.node(_bytes(value)) for number, value in fields if number == 1), None)

    def _name(self, fields: list[tuple[int, int | Bytes]]) -> str:
        return next((_text(value) for number, value in fields if number == 2), "")

    def _loop(self, fields: list[tuple[int, int | Bytes]], kind: Type) -> Node:
        names = {n: _text(v) for n, v in fields if n in (1, 3, 8)}
        nodes = {n: self.node(_bytes(v)) for n, v in fields if n not in (1, 3, 8)}
        loop = Loop(nodes[2], names[3], nodes[4], nodes[5], nodes[6], nodes[7], names.get(8, ""))
        return Node("loop", kind, names.get(1, ""), loop=loop)


# What `cel_syntax` wrote


def _turned_back(node: Node) -> Node:
    target = node.target
    match node.kind, node.name:
        case "call", "indexOfAny" | "lastIndexOfAny" | "validateAny" | "format.namedAny":
            return replace(node, name=node.name.removesuffix("Any"))
        case "call", "orValue" if target and target.name == "_[?_]" and _is_domain(target):
            return replace(target, name="_[_]", type=node.type, overloads=("index_map",))
        case "call", "optional.of" if node.parts[0].name == "_[_]" and _is_domain(node.parts[0]):
            overloads = ("map_optindex_optional_value",)
            return replace(node.parts[0], name="_[?_]", type=node.type, overloads=overloads)
        case "call", "first" if target and target.name in ("validate", "format.named"):
            return replace(target, type=node.type)
        case "call", "string" if node.parts[0].name == "plainAny":
            return replace(node, parts=node.parts[0].parts)
        case "call", "mappedAny" | "mergedAny" if target and target.loop:
            return _map_made(node, target, target.loop)
        case "loop", str(name) if name == LOCAL and node.loop and node.loop.over.name == LOCAL:
            inner = node.loop.over.loop
            assert inner is not None  # a loop is over a loop only where both are macros  # noqa: S101
            return Node("call", node.type, "unwrapOpt", ("optional_unwrapOpt",), inner.over)
    return node


def _bound(node: Node) -> Node:
    """A number that was freed of its type."""
    freed = node.name == "dyn" and node.parts[0].kind == "literal"
    return node.parts[0] if freed else node


def _is_domain(node: Node) -> bool:
    return node.parts[0].name in ("device.attributes", "device.capacity")


def _map_made(node: Node, made: Node, loop: Loop) -> Node:
    """The loop that inserts into a map, from the one that adds to a list."""

    def insert(step: Node) -> Node:
        if step.name == "_?_:_":
            return replace(step, parts=(step.parts[0], insert(step.parts[1]), step.parts[2]))
        item = step.parts[1].parts[0]
        pair = tuple(part.parts[0] for part in item.parts) if node.name == "mappedAny" else (item,)
        parts = (step.parts[0], *pair)
        return replace(step, name="cel.@mapInsert", overloads=("@mapInsert",), parts=parts, type=node.type)

    step = insert(loop.step)
    return replace(made, type=node.type, loop=replace(loop, begin=Node("map", node.type), step=step))


# Protobuf's wire format


def _fields(data: Bytes) -> Iterator[tuple[int, int | Bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
            case 2:
                length, at = _varint(data, at)
                yield key >> 3, data[at : at + length]
                at += length
            case kind:
                length = 8 if kind == 1 else 4
                yield key >> 3, data[at : at + length]
                at += length


def _varint(data: Bytes, at: int) -> tuple[int, int]:
    if data[at] < 0x80:
        return data[at], at + 1
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _entry(value: int | Bytes) -> tuple[int, Bytes]:
    """Of a map from numbers to messages."""
    key, entry = 0, memoryview(b"")
    for number, part in _fields(_bytes(value)):
        if number == 1:
            key = _int(part)
        else:
            entry = _bytes(part)
    return key, entry


def _type(data: Bytes) -> Type:
    kind: Type = DYN
    for number, value in _fields(data):
        match number:
            case 3:
                kind = Type(_PRIMITIVES.get(_int(value), "dyn"))
            case 5:
                kind = Type(_WELL_KNOWN.get(_int(value), "dyn"))
            case 6 | 7:
                parameters = tuple(_type(_bytes(part)) for _, part in _fields(_bytes(value)))
                kind = Type("list" if number == 6 else "map", parameters=parameters)
            case 9 | 10:
                kind = Type("message" if number == 9 else "parameter", _text(value))
            case 14:
                parts = list(_fields(_bytes(value)))
                parameters = tuple(_type(_bytes(part)) for n, part in parts if n == 2)
                kind = Type("abstract", next((_text(p) for n, p in parts if n == 1), ""), parameters)
    return kind


_PRIMITIVES: Final = {1: "bool", 2: "int", 3: "uint", 4: "double", 5: "string", 6: "bytes"}
_WELL_KNOWN: Final = {2: "timestamp", 3: "duration"}


def _literal(number: int, value: int | Bytes) -> Value:
    match number:
        case 2:
            return bool(value)
        case 3:
            return _int(value) - (2**64 if _int(value) >= 2**63 else 0)
        case 4:
            return _int(value)
        case 5:
            return 0.0  # which one does not matter
        case 6:
            return _text(value)
        case 7:
            return bytes(_bytes(value))
    return None


def _int(value: int | Bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("a number was expected")
    return value


def _bytes(value: int | Bytes) -> Bytes:
    if isinstance(value, int):
        raise TypeError("bytes were expected")
    return value


def _text(value: int | Bytes) -> str:
    return str(_bytes(value), "utf-8")
