"""Selectors, made up and answered: what Kubernetes says of an expression on one device, and its cost."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from driver.names import DRIVER_NAME
from tests.controlplane.build import TOOLS, build
from tests.unit.allocator import world

DOMAIN = f'"{DRIVER_NAME}"'
OURS = f"device.attributes[{DOMAIN}]"
_TEXTS = ["", "a", "gpu", "h100", "10.0.0.1", "10.0.0.0/8", "1.2.3", "80Gi", "x-y.z", "pci0000:15"]
_PATTERNS = ["a", "^g.u$", "[0-9]+", "(a|b)*c", "^[a-z]{1,8}$"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What Kubernetes says.

    Attributes:
        matches: kube-scheduler's verdict.
        error: why it has none.
        compile_error: why the API server refuses the expression, its cost aside.
        estimate: what the API server takes it to cost at most.
        cost: what it cost kube-scheduler.
    """

    matches: bool
    error: str
    compile_error: str
    estimate: int
    cost: int


def ask(expressions: Iterable[str], device: str) -> list[Verdict]:
    """Kubernetes' verdicts on a device in `world`'s notation, in order."""
    said = msgspec.to_builtins(world.slices([device]))[0]["spec"]["devices"][0]
    questions = ({"expression": e, "driver": DRIVER_NAME, "device": said} for e in expressions)
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    program = str(build(TOOLS["oracle"]) / "oracle")
    done = subprocess.run([program, "selectors"], input=lines, capture_output=True, text=True, check=True)
    return [_verdict(json.loads(line)) for line in done.stdout.splitlines()]


def _verdict(raw: dict[str, Any]) -> Verdict:
    return Verdict(
        raw["matches"], raw.get("error", ""), raw.get("compileError", ""), raw["estimate"], raw["cost"]
    )


class Generator:
    """Expressions of all kinds and sizes; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._locals: list[tuple[str, str]] = []  # name, kind
        self._kinds: dict[str, Callable[[int], str]] = {
            "bool": self._bool,
            "int": self._int,
            "text": self._text,
            "ints": self._ints,
            "texts": self._texts,
            "quantity": self._quantity,
            "version": self._version,
        }

    def selector(self) -> str:
        """One that gives true or false, if it gives anything."""
        self._locals = []
        return self._bool(self._random.randint(1, 4))

    def _any(self, kind: str, depth: int) -> str:
        known = [name for name, of in self._locals if of == kind]
        if known and self._random.random() < 0.4:
            return self._random.choice(known)
        return self._kinds[kind](max(depth - 1, 0))

    def _pick(self, depth: int, leaves: list[str], *more: Callable[[], str]) -> str:
        choices: list[Callable[[], str]] = [*more] if depth else []
        choices += [lambda: self._random.choice(leaves)] * (1 if depth else 2)
        return self._random.choice(choices)()

    def _within(self, name: str, kind: str, make: Callable[[], str]) -> str:
        self._locals.append((name, kind))
        try:
            return make()
        finally:
            self._locals.pop()

    def _bool(self, depth: int) -> str:
        a, name = self._any, f"v{len(self._locals)}"
        loop = self._random.choice(["all", "exists", "exists_one"])
        order = self._random.choice(["<", "<=", ">", ">=", "==", "!="])
        return self._pick(
            depth,
            ["true", "false", f"{OURS}.ready", "device.allowMultipleAllocations", f"has({OURS}.x)"],
            lambda: f"({a('bool', depth)} && {a('bool', depth)})",
            lambda: f"({a('bool', depth)} || {a('bool', depth)})",
            lambda: f"!{a('bool', depth)}",
            lambda: f"({a('int', depth)} {order} {a('int', depth)})",
            lambda: f"({a('text', depth)} {order} {a('text', depth)})",
            lambda: f"({a('text', depth)} in {a('texts', depth)})",
            lambda: f"({a('int', depth)} in {a('ints', depth)})",
            lambda: f"{a('text', depth)}.matches({json.dumps(self._random.choice(_PATTERNS))})",
            lambda: (
                f"{a('text', depth)}.{self._random.choice(['contains', 'startsWith', 'endsWith'])}"
                f"({a('text', depth)})"
            ),
            lambda: f"isQuantity({a('text', depth)})",
            lambda: f"(isIP({a('text', depth)}) || isCIDR({a('text', depth)}))",
            lambda: f"{a('quantity', depth)}.isLessThan({a('quantity', depth)})",
            lambda: f"({a('version', depth)} == {a('version', depth)})",
            lambda: (
                f"{a('ints', depth)}.{loop}({name}, "
                + self._within(name, "int", lambda: a("bool", depth))
                + ")"
            ),
            lambda: (
                f"{a('texts', depth)}.{loop}({name}, "
                + self._within(name, "text", lambda: a("bool", depth))
                + ")"
            ),
            lambda: f"{OURS}.{loop}({name}, " + self._within(name, "text", lambda: a("bool", depth)) + ")",
            lambda: (
                f"cel.bind({name}, {a('text', depth)}, "
                + self._within(name, "text", lambda: a("bool", depth))
                + ")"
            ),
            lambda: f"({a('bool', depth)} ? {a('bool', depth)} : {a('bool', depth)})",
            lambda: f"sets.contains({a('ints', depth)}, {a('ints', depth)})",
            lambda: f"({OURS}.?type.orValue({a('text', depth)}) == {a('text', depth)})",
        )

    def _int(self, depth: int) -> str:
        a = self._any
        return self._pick(
            depth,
            ["0", "1", "7", "-3", "dyn(2)", "size(device.attributes)"],
            lambda: f"({a('int', depth)} {self._random.choice('+-*')} {a('int', depth)})",
            lambda: f"size({a('text', depth)})",
            lambda: f"size({a('ints', depth)})",
            lambda: f"{a('text', depth)}.indexOf({a('text', depth)})",
            lambda: f"{a('ints', depth)}.{self._random.choice(['sum', 'max'])}()",
            lambda: f"{a('version', depth)}.major()",
            lambda: f"sign({a('quantity', depth)})",
        )

    def _text(self, depth: int) -> str:
        a = self._any
        leaves = [*map(json.dumps, _TEXTS), f"{OURS}.type", "device.driver"]
        return self._pick(
            depth,
            leaves,
            lambda: f"({a('text', depth)} + {a('text', depth)})",
            lambda: f"{a('text', depth)}.lowerAscii()",
            lambda: f"{a('text', depth)}.replace({a('text', depth)}, {a('text', depth)})",
            lambda: f"{a('text', depth)}.find({json.dumps(self._random.choice(_PATTERNS))})",
            lambda: f"string({a('int', depth)})",
            lambda: f'{a("texts", depth)}.join(",")',
            lambda: f"({a('bool', depth)} ? {a('text', depth)} : {a('text', depth)})",
        )

    def _ints(self, depth: int) -> str:
        a, name = self._any, f"v{len(self._locals)}"
        return self._pick(
            depth,
            ["[1]", "[1, 2, 3]", "lists.range(5)", "lists.range(40)"],
            lambda: f"({a('ints', depth)} + {a('ints', depth)})",
            lambda: (
                f"{a('ints', depth)}.map({name}, " + self._within(name, "int", lambda: a("int", depth)) + ")"
            ),
            lambda: (
                f"{a('ints', depth)}.filter({name}, "
                + self._within(name, "int", lambda: a("bool", depth))
                + ")"
            ),
            lambda: (
                f"{a('texts', depth)}.map({name}, "
                + self._within(name, "text", lambda: a("int", depth))
                + ")"
            ),
            lambda: f"{a('ints', depth)}.{self._random.choice(['sort', 'reverse', 'distinct'])}()",
            lambda: f"[{a('int', depth)}, {a('int', depth)}]",
        )

    def _texts(self, depth: int) -> str:
        a = self._any
        return self._pick(
            depth,
            ['["gpu"]', '["a", "b", "c"]'],
            lambda: f'{a("text", depth)}.split(",")',
            lambda: f"{a('text', depth)}.findAll({json.dumps(self._random.choice(_PATTERNS))})",
            lambda: f"[{a('text', depth)}, {a('text', depth)}]",
            lambda: f"({a('texts', depth)} + {a('texts', depth)})",
            lambda: f"{OURS}.map(k, k)",
        )

    def _quantity(self, depth: int) -> str:
        leaves = ['quantity("1")', 'quantity("80Gi")', f"device.capacity[{DOMAIN}].mem"]
        a = self._any
        return self._pick(
            depth,
            leaves,
            lambda: f"{a('quantity', depth)}.add({a('quantity', depth)})",
            lambda: f"quantity({a('text', depth)})",
        )

    def _version(self, depth: int) -> str:
        return self._pick(
            depth, ['semver("1.2.3")', f"{OURS}.fw"], lambda: f"semver({self._any('text', depth)})"
        )
