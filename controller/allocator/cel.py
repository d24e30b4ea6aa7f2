"""The one CEL adapter: Kubernetes' device selectors over cel-expr-python.

The environment is Kubernetes': `device.driver`, `device.attributes["domain"].name`,
`device.capacity["domain"].name` (a quantity), `device.allowMultipleAllocations`. An unknown domain is an
empty map, an unknown name is an error. The C++ runtime knows no maps with a default, so
``device.attributes[X]`` is rewritten to ask first whether X is there.

An expression is compiled once; a verdict is kept by expression and content of the device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_optional, ext_strings

from controller.allocator.cel_functions import QUANTITY, declarations, quantity_value, semver_value
from controller.allocator.model import NodeDevices, PoolDevice
from driver.errors import PermanentError
from driver.kube.objects import DeviceAttribute

Verdict = bool | str
"""Does the device match; a text is why it cannot be told."""

_EXTENSIONS: Final = "extensions: [{name: sets}, {name: two-var-comprehensions}]"
_KEPT_VERDICTS: Final = 500_000
_TOKEN = re.compile(
    r"""(?P<literal>(?P<raw>[rR]?)(?P<quote>\"{3}|'{3}|"|')|//[^\n]*)"""
    r"""|(?<![\w.])(?P<map>device\s*\.\s*(?:attributes|capacity))\s*\[\s*(?P<optional>\??)"""
)


class SelectorError(PermanentError):
    """An expression does not compile; `expression` is its text."""

    def __init__(self, expression: str, detail: str) -> None:
        super().__init__(f"CEL expression {expression!r} does not compile: {detail}")
        self.expression = expression
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Compiled:
    program: Any  # cel.Expression
    error: str = ""


class CelCache:
    """Compiled expressions and verdicts. Not for several threads at once."""

    def __init__(self) -> None:
        t = cel.Type
        self._environment = cel.NewEnv(
            config=cel.NewEnvConfigFromYaml(_EXTENSIONS),
            variables={
                "device.driver": t.STRING,
                "device.attributes": t.Map(t.STRING, t.Map(t.STRING, t.DYN)),
                "device.capacity": t.Map(t.STRING, t.Map(t.STRING, QUANTITY)),
                "device.allowMultipleAllocations": t.BOOL,
            },
            extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings(), ext_bindings.ExtBindings()],
            functions=declarations(),
        )
        self._environment.compile("true")  # a declaration that clashes shows only now
        self._programs: dict[str, _Compiled] = {}
        self._verdicts: dict[tuple[str, bytes], Verdict] = {}

    def check(self, expression: str) -> None:
        """Compile.

        Raises:
            SelectorError: it does not compile, or does not say true or false.
        """
        compiled = self._compile(expression)
        if compiled.error:
            raise SelectorError(expression, compiled.error)

    def select(self, node: NodeDevices, expression: str) -> tuple[Verdict, ...]:
        """The verdict on each of the node's devices, in their order.

        Raises:
            SelectorError: the expression does not compile.
        """
        self.check(expression)
        return node.derived(
            ("cel", expression), lambda: tuple(self._verdict(expression, d) for d in node.devices)
        )

    def _verdict(self, expression: str, device: PoolDevice) -> Verdict:
        key = (expression, device.content)
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= _KEPT_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[key] = self._evaluate(expression, device)
        return verdict

    def _evaluate(self, expression: str, device: PoolDevice) -> Verdict:
        try:
            answer = self._compile(expression).program.eval(data=_data(device))
            kind, value = answer.type(), answer.value()
        except Exception as error:  # the binding raises bare RuntimeErrors and what our functions raise
            return str(error)
        if kind == cel.Type.ERROR:
            return str(value)
        return value if isinstance(value, bool) else f"is {value!r}, not true or false"

    def _compile(self, expression: str) -> _Compiled:
        compiled = self._programs.get(expression)
        if compiled is None:
            compiled = self._programs[expression] = self._compile_new(expression)
        return compiled

    def _compile_new(self, expression: str) -> _Compiled:
        try:
            program = self._environment.compile(expression)
            returns = program.return_type()
            if returns not in (cel.Type.BOOL, cel.Type.DYN):
                return _Compiled(None, f"must evaluate to bool, not {returns.name()}")
            rewritten = with_default_domains(expression)
            if rewritten != expression:
                program = self._environment.compile(rewritten)
        except Exception as error:  # the binding raises bare RuntimeErrors
            return _Compiled(None, _first_line(str(error)))
        return _Compiled(program)


def with_default_domains(expression: str) -> str:
    """Rewrite ``device.attributes[X]`` so that an unknown domain X is an empty map, and ``[?X]`` an optional
    of it.
    """
    out: list[str] = []
    at = 0
    while found := _TOKEN.search(expression, at):
        out.append(expression[at : found.start()])
        if found["literal"]:
            at = _literal_end(expression, found)
            out.append(expression[found.start() : at])
            continue
        end = _bracket_end(expression, found.end())
        if end < 0:
            break
        index = with_default_domains(expression[found.end() : end])
        mapping = "".join(found["map"].split())
        value = f"(({index}) in {mapping} ? {mapping}[{index}] : {{}})"
        out.append(f"optional.of{value}" if found["optional"] else value)
        at = end + 1
    out.append(expression[at:])
    return "".join(out)


def _literal_end(text: str, found: re.Match[str]) -> int:
    quote = found["quote"]
    if quote is None:
        return found.end()  # a comment
    at = found.end()
    while at < len(text):
        if text[at] == "\\" and not found["raw"]:
            at += 2
        elif text.startswith(quote, at):
            return at + len(quote)
        else:
            at += 1
    return len(text)


def _bracket_end(text: str, at: int) -> int:
    """Where the bracket that was opened before `at` is closed; -1 if nowhere."""
    depth = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found and found["literal"]:
            at = _literal_end(text, found)
            continue
        if text[at] in "[({":
            depth += 1
        elif text[at] in "])}":
            if depth == 0:
                return at
            depth -= 1
        at += 1
    return -1


def _data(device: PoolDevice) -> dict[str, object]:
    attributes: dict[str, dict[str, object]] = {}
    for name, attribute in device.device.attributes.items():
        domain, short = _split(name, device.id.driver)
        attributes.setdefault(domain, {})[short] = _value(attribute)
    capacity: dict[str, dict[str, object]] = {}
    for name, amount in device.device.capacity.items():
        domain, short = _split(name, device.id.driver)
        capacity.setdefault(domain, {})[short] = quantity_value(amount.value)
    return {
        "device.driver": device.id.driver,
        "device.attributes": attributes,
        "device.capacity": capacity,
        "device.allowMultipleAllocations": device.device.allow_multiple_allocations,
    }


def _split(name: str, driver: str) -> tuple[str, str]:
    domain, slash, short = name.rpartition("/")
    return (domain, short) if slash else (driver, name)


def _value(attribute: DeviceAttribute) -> object:
    for plain in (
        attribute.string,
        attribute.int_,
        attribute.bool_,
        attribute.strings,
        attribute.ints,
        attribute.bools,
    ):
        if plain is not None:
            return plain
    if attribute.versions is not None:
        return [semver_value(v) for v in attribute.versions]
    return semver_value(attribute.version or "")


def _first_line(message: str) -> str:
    return message.split("\n", 1)[0].removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: ")
