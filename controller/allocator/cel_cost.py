"""What an expression costs at worst, in Kubernetes' units: the estimate by which the API server refuses one.

A port of checker/cost.go (google/cel-go v0.26, as Kubernetes 1.36 has it) over the tree of `cel_ast`. The
sizes of what a device says are those that Kubernetes declares for selectors
(k8s.io/dynamic-resource-allocation, cel/compile.go). What functions cost is in `cel_function_costs`. A unit
is meant as 50 ns of Go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from controller.allocator.cel_ast import Loop, Node, Type

UNBOUNDED: Final = 2**64 - 1
_LIST_BASE, _MAP_BASE, _MESSAGE_BASE = 10, 30, 40
_SCALARS: Final = frozenset({"bool", "int", "uint", "double", "timestamp", "duration"})
_DEVICE: Final = "device"
_ATTRIBUTES, _CAPACITY = f"{_DEVICE}.attributes", f"{_DEVICE}.capacity"
_MOST_NAMES, _DOMAIN_LENGTH, _NAME_LENGTH, _VALUE_LENGTH = 32, 63, 32, 64
"""Attributes of a device, and bytes (api/resource/v1/types.go)."""
_FIXED: Final = {
    f"{_DEVICE}.driver": 63,
    f"{_DEVICE}.allowMultipleAllocations": 1,
    _ATTRIBUTES: _MOST_NAMES,
    _CAPACITY: _MOST_NAMES,
}


class Range(NamedTuple):
    """Of costs or sizes, from the least to the most; sums and products end at `UNBOUNDED`."""

    least: int
    most: int

    def plus(self, other: Range) -> Range:
        """The sum of both."""
        return Range(min(self.least + other.least, UNBOUNDED), min(self.most + other.most, UNBOUNDED))

    def times(self, other: Range) -> Range:
        """The product of both."""
        return Range(min(self.least * other.least, UNBOUNDED), min(self.most * other.most, UNBOUNDED))

    def by(self, factor: float) -> Range:
        """The product, rounded up."""
        return Range(_by(self.least, factor), _by(self.most, factor))

    def union(self, other: Range) -> Range:
        """From the smaller least to the larger most."""
        return Range(min(self.least, other.least), max(self.most, other.most))


def exactly(number: int) -> Range:
    """From the number to itself."""
    return Range(number, number)


def _by(number: int, factor: float) -> int:
    product = float(number) * factor
    return UNBOUNDED if product >= 2.0**64 else math.ceil(product)


UNKNOWN: Final = Range(0, UNBOUNDED)
NOTHING: Final = Range(0, 0)
ONE: Final = Range(1, 1)


@dataclass(frozen=True, slots=True)
class _Entries:
    """The sizes of what is in a list or map."""

    kind: str
    key: Range
    value: Range


Path = tuple[str, ...] | None
"""From a variable: names of fields, ``@items``, ``@keys`` and ``@values``; None where there is none."""


@dataclass(frozen=True, slots=True)
class _Local:
    path: Path
    size: Range | None
    entries: _Entries | None = None


@dataclass(frozen=True, slots=True)
class Operand:
    """An argument or target of a call. `size` is known or deduced."""

    node: Node
    path: Path
    size: Range

    @property
    def type(self) -> Type:
        """What it gives."""
        return self.node.type


CallCost = tuple[Range, Range | None]
"""What a call costs, its arguments aside, and the size of what it gives, where that is known."""
Functions = Callable[[Node, str, Operand | None, Sequence[Operand]], CallCost]
"""What one overload of a call costs."""


def size_of_path(path: Path) -> Range | None:
    """How large the values are that stand there in a device; None: that is not known."""
    if not path or path[0] not in _FIXED:
        return None
    size: int | None = _FIXED[path[0]]
    kind = {_ATTRIBUTES: "domains", _CAPACITY: "domains"}.get(path[0], "")
    for name in path[1:]:
        inside = name in ("@items", "@values")
        if kind == "domains" and inside:
            kind, size = "names", _MOST_NAMES
        elif kind == "domains" and name == "@keys":
            kind, size = "", _DOMAIN_LENGTH
        elif kind == "names" and name == "@keys":
            kind, size = "", _NAME_LENGTH
        elif kind == "names" and path[0] == _ATTRIBUTES:
            kind, size = "", _VALUE_LENGTH
        elif kind == "names" and inside:
            kind, size = "", 0  # a quantity
        else:
            return None
    return None if size is None else Range(0, size)


def estimate(tree: Node, functions: Functions) -> int:
    """The most that the expression can cost; `UNBOUNDED` at most."""
    return _Coster(functions).cost(tree).most


class _Coster:
    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._paths: dict[Node, Path] = {}
        self._sizes: dict[Node, Range] = {}
        self._entries: dict[Node, _Entries] = {}
        self._locals: dict[str, list[_Local]] = {}

    def cost(self, node: Node) -> Range:
        """Of this part of the expression."""
        match node.kind:
            case "literal":
                return NOTHING
            case "name":
                return self._name(node)
            case "select":
                return self._select(node)
            case "call":
                return self._call(node)
            case "list":
                return self._list(node)
            case "map":
                return self._map(node)
            case "message":
                return self._sum(node.parts).plus(exactly(_MESSAGE_BASE))
        loop = node.loop
        if loop is None:
            return NOTHING
        return self._bind(node, loop) if _is_bind(loop) else self._loop(node, loop)

    def _sum(self, nodes: Sequence[Node]) -> Range:
        cost = NOTHING
        for node in nodes:
            cost = cost.plus(self.cost(node))
        return cost

    def _name(self, node: Node) -> Range:
        local = self._local(node)
        self._paths[node] = local.path if local else (node.name,)
        of_device = local is None and node.name in _FIXED  # to Kubernetes a field of the device
        return exactly(2 if of_device else 1)

    def _select(self, node: Node) -> Range:
        target = _there(node.target)
        cost = self.cost(target)
        if node.test:
            return cost
        self._paths[node] = (*(self._path(target) or ()), node.name)
        return cost.plus(ONE) if target.type.kind in ("map", "message", "parameter") else cost

    def _list(self, node: Node) -> Range:
        items = Range(UNBOUNDED if node.parts else 0, 0)
        cost = exactly(_LIST_BASE)
        for part in node.parts:
            cost = cost.plus(self.cost(part))
            items = items.union(self._size_or_unknown(part))
        self._entries[node] = _Entries("list", ONE, items)
        return cost

    def _map(self, node: Node) -> Range:
        cost = exactly(_MAP_BASE)
        sizes = [Range(UNBOUNDED if node.parts else 0, 0)] * 2
        for number, part in enumerate(node.parts):
            cost = cost.plus(self.cost(part))
            sizes[number % 2] = sizes[number % 2].union(self._size_or_unknown(part))
        self._entries[node] = _Entries("map", *sizes)
        return cost

    # Calls

    def _call(self, node: Node) -> Range:
        if node.name == "dyn":
            (part,) = node.parts
            cost = self.cost(part)
            self._copy(node, part)
            return cost.plus(ONE)
        costs = [self.cost(part) for part in node.parts]
        operands = [self._operand(part) for part in node.parts]
        if not node.overloads:
            return NOTHING
        before, target = NOTHING, None
        if node.target is not None:
            before = self.cost(node.target)
            target = self._operand(node.target)
        cost, size = Range(UNBOUNDED, 0), None
        for overload in node.overloads:
            of_overload, of_result = self._overload(node, overload, target, operands, costs)
            cost = cost.union(of_overload)
            if of_result is not None:
                size = of_result if size is None else size.union(of_result)
            if overload in ("index_list", "index_map") and operands:
                entries = self._entries_of(node.parts[0])
                size = entries.value if entries else None
                step = "@items" if overload == "index_list" else "@values"
                self._paths[node] = (*(self._path(node.parts[0]) or ()), step)
            if size is None:
                size = self._size(node)
        if size is not None:
            self._sizes[node] = size
        return before.plus(cost)

    def _overload(
        self, node: Node, overload: str, target: Operand | None, parts: list[Operand], costs: list[Range]
    ) -> CallCost:
        if node.name in ("_&&_", "_||_"):
            return Range(costs[0].least, costs[0].plus(costs[1]).most), None
        if node.name == "_?_:_":
            self._join(node, node.parts[1], node.parts[2])
            return costs[0].plus(costs[1].union(costs[2])), parts[1].size.union(parts[2].size)
        if overload in ("add_string", "add_bytes", "add_list"):
            self._join(node, node.parts[0], node.parts[1])
        cost, size = self._functions(node, overload, target, parts)
        for one in costs:
            cost = cost.plus(one)
        return cost, size

    def _join(self, node: Node, one: Node, other: Node) -> None:
        """The result has what is in both."""
        a, b = self._entries_of(one), self._entries_of(other)
        if a is not None and b is not None:
            self._entries[node] = _Entries(a.kind, a.key.union(b.key), a.value.union(b.value))

    def _operand(self, node: Node) -> Operand:
        return Operand(node, self._path(node), self._size_or_unknown(node))

    # Loops

    def _loop(self, node: Node, loop: Loop) -> Range:
        cost = self.cost(loop.over).plus(self.cost(loop.begin))
        begin = _Local(self._path(loop.begin), self._size(loop.begin), self._entries_of(loop.begin))
        self._push(loop.result_name, begin)
        entries, path = self._entries_of(loop.over), self._path(loop.over) or ()
        of_list = (entries.kind if entries else loop.over.type.kind) == "list"
        key = _Local((*path, "@indices" if of_list else "@keys"), entries.key if entries else None)
        value = _Local((*path, "@items" if of_list else "@values"), entries.value if entries else None)
        self._push(node.name, key if loop.second or not of_list else value)
        if loop.second:
            self._push(loop.second, value)
        step = self.cost(loop.condition).plus(self.cost(loop.step))
        self._locals[node.name].pop()
        if loop.second:
            self._locals[loop.second].pop()
        cost = cost.plus(self.cost(loop.result))
        self._locals[loop.result_name].pop()
        rounds = self._size_or_unknown(loop.over)
        if loop.begin.kind in ("list", "map"):
            self._sizes[node] = rounds
            if (inside := self._entries_of(loop.step)) is not None:
                self._entries[node] = inside
        elif loop.begin.kind == "literal" and (size := self._size(loop.begin)) is not None:
            self._sizes[node] = size
        return cost.plus(rounds.times(step))

    def _bind(self, node: Node, loop: Loop) -> Range:
        cost = self.cost(loop.over).plus(self.cost(loop.begin))
        bound = _Local(self._path(loop.begin), self._size(loop.begin), self._entries_of(loop.begin))
        self._push(loop.result_name, bound)
        cost = cost.plus(self.cost(loop.result))
        self._locals[loop.result_name].pop()
        self._copy(node, loop.result)
        return cost

    def _push(self, name: str, local: _Local) -> None:
        self._locals.setdefault(name, []).append(local)

    def _local(self, node: Node) -> _Local | None:
        stack = self._locals.get(node.name) if node.kind == "name" else None
        return stack[-1] if stack else None

    # Paths and sizes

    def _path(self, node: Node) -> Path:
        local = self._local(node)
        return local.path if local is not None else self._paths.get(node)

    def _copy(self, node: Node, source: Node) -> None:
        if (size := self._size(source)) is not None:
            self._sizes[node] = size
        if (entries := self._entries_of(source)) is not None:
            self._entries[node] = entries

    def _entries_of(self, node: Node) -> _Entries | None:
        known = self._entries.get(node)
        if known is None and (local := self._local(node)) is not None:
            return local.entries
        return known

    def _size_or_unknown(self, node: Node) -> Range:
        size = self._size(node)
        return UNKNOWN if size is None else size

    def _size(self, node: Node) -> Range | None:
        if node in self._sizes:
            return self._sizes[node]
        if node.kind == "literal":
            return exactly(len(node.value) if isinstance(node.value, str | bytes) else 1)
        if node.kind in ("list", "map"):
            return exactly(len(node.parts) // (2 if node.kind == "map" else 1))
        if (size := size_of_path(self._path(node))) is not None:
            self._sizes[node] = size
            return size
        if _is_scalar(node.type):
            return ONE
        local = self._local(node)
        return local.size if local is not None else None


def _is_scalar(kind: Type) -> bool:
    if kind.kind == "abstract" and kind.name == "optional_type" and kind.parameters:
        return _is_scalar(kind.parameters[0])
    return kind.kind in _SCALARS


def _is_bind(loop: Loop) -> bool:
    return (
        loop.over.kind == "list"
        and not loop.over.parts
        and loop.condition.kind == "literal"
        and loop.condition.value is False
    )


def _there(node: Node | None) -> Node:
    if node is None:
        raise ValueError("a selection on nothing")
    return node
