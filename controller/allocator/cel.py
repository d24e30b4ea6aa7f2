"""The one CEL adapter: Kubernetes' device selectors over cel-expr-python.

The environment is Kubernetes': `device.driver`, `device.attributes["domain"].name`,
`device.capacity["domain"].name` (a quantity), `device.allowMultipleAllocations`. An unknown domain is an
empty map, an unknown name is an error. Missing of Kubernetes' functions is ``includes``, which comes with
list attributes and is off by default: a claim that uses it is told so. Lists of mixed literals (``[1, "a"]``)
are taken, though Kubernetes refuses them.

An expression is compiled once; a verdict is kept by expression and content of the device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_optional, ext_strings

from controller.allocator import cel_formats, cel_functions, cel_network
from controller.allocator.cel_functions import quantity_value, semver_value
from controller.allocator.cel_syntax import rewritten, too_costly, with_free_numbers
from controller.allocator.cel_values import QUANTITY
from controller.allocator.model import NodeDevices, PoolDevice
from driver.errors import PermanentError
from driver.kube.objects import DeviceAttribute

Verdict = bool | str
"""Does the device match; a text is why it cannot be told."""

_EXTENSIONS: Final = "extensions: [{name: sets}, {name: two-var-comprehensions}, {name: lists}]"
_STRINGS: Final = 2
"""Kubernetes' version of the extension: with the next one texts could be reversed."""
_NUMBERS: Final = re.compile(r"'_[<>]=?_' applied to '\((?:u?int|double), (?:u?int|double)\)'")
_KEPT_VERDICTS: Final = 500_000


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
            extensions=[
                ext_optional.ExtOptional(),
                ext_strings.ExtStrings(_STRINGS),
                ext_bindings.ExtBindings(),
            ],
            functions=[
                *cel_functions.declarations(),
                *cel_network.declarations(),
                *cel_formats.declarations(),
            ],
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
        costly = too_costly(expression)
        if costly:
            return _Compiled(None, costly)
        text = rewritten(expression)
        try:
            program = self._environment.compile(text)
        except Exception as error:  # the binding raises bare RuntimeErrors
            program = self._with_free_numbers(text) if _NUMBERS.search(str(error)) else None
            if program is None:
                return _Compiled(None, self._complaint(expression) or _first_line(str(error)))
        returns = program.return_type()
        if returns not in (cel.Type.BOOL, cel.Type.DYN):
            return _Compiled(None, f"must evaluate to bool, not {returns.name()}")
        return _Compiled(program)

    def _with_free_numbers(self, text: str) -> Any:
        try:
            return self._environment.compile(with_free_numbers(text))
        except Exception:  # the same
            return None

    def _complaint(self, expression: str) -> str:
        """What is wrong with the expression as it was written."""
        try:
            self._environment.compile(expression)
        except Exception as error:  # the same
            return _first_line(str(error))
        return ""


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
