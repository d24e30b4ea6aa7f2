"""Selectors compiled: Kubernetes' environment over cel-expr-python.

The environment is Kubernetes': `device.driver`, `device.attributes["domain"].name`,
`device.capacity["domain"].name` (a quantity), `device.allowMultipleAllocations`. An unknown domain is an
empty map, an unknown name is an error. Missing of Kubernetes' functions is ``includes``, which comes with
list attributes and is off by default: a claim that uses it is told so. Lists of mixed literals (``[1, "a"]``)
are taken, though Kubernetes refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_optional, ext_strings

from controller.allocator import cel_formats, cel_functions, cel_network
from controller.allocator.cel_ast import Node, tree
from controller.allocator.cel_cost import UNBOUNDED, CallCost, Operand, estimate
from controller.allocator.cel_function_costs import cost_of, work_of
from controller.allocator.cel_functions import quantity_value, semver_value
from controller.allocator.cel_syntax import rewritten, with_free_numbers
from controller.allocator.cel_values import QUANTITY
from driver.kube.objects import DeviceAttribute, DeviceCapacity

Verdict = bool | str
"""Does the device match; a text is why it cannot be told."""

MAX_LENGTH: Final = 10 * 1024
"""Bytes of an expression (resource.k8s.io/v1, CELSelectorExpressionMaxLength)."""
MAX_COST: Final = 1_000_000
"""Kubernetes' limit for one evaluation (the same, CELSelectorExpressionMaxCost)."""
_EXTENSIONS: Final = "extensions: [{name: sets}, {name: two-var-comprehensions}, {name: lists}]"
_STRINGS: Final = 2
"""Kubernetes' version of the extension: with the next one texts could be reversed."""
_NUMBERS: Final = re.compile(r"'_[<>]=?_' applied to '\((?:u?int|double), (?:u?int|double)\)'")
_OF_OURS: Final = re.compile(r"^(member|format)_|^@mapInsert|_(STRING|INT|BOOL|DYN|LIST|tandem_cel_)")
"""Overloads of functions in Python, by the names that they are declared with."""
_STEPS_TO_BEGIN: Final = 5
_LONGEST_REASON: Final = 300

Content = tuple[str, bool, dict[str, DeviceAttribute], dict[str, DeviceCapacity]]
"""What a selector can see of a device: driver, whether it may be allocated several times, attributes and
capacity by their names in the slice.
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled selector.

    Attributes:
        runs: what the C++ runtime made of it; None where it does not compile.
        error: why it does not.
        cost: what Kubernetes' API server takes it to cost at most.
        steps: what it costs us at most, in some 7 µs.
        leaks: it calls functions of ours. The binding loses the memory of what goes in and out of them, at
            most a kilobyte in a step (cel-expr-python 0.1.3: arguments and results keep a reference).
    """

    runs: Any  # cel.Expression
    error: str = ""
    cost: int = 0
    steps: int = 0
    leaks: bool = False


class Compiler:
    """Compiles and evaluates. Keeps nothing; not for several threads at once."""

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

    def compile(self, expression: str) -> Program:
        """Compile; what is wrong with the expression stands in the result."""
        if len(expression.encode()) > MAX_LENGTH:
            return Program(None, f"is longer than {MAX_LENGTH} bytes")
        text, free_numbers = rewritten(expression), False
        try:
            runs = self._environment.compile(text)
        except Exception as error:  # the binding raises bare RuntimeErrors
            free_numbers = _NUMBERS.search(str(error)) is not None
            runs = self._with_free_numbers(text) if free_numbers else None
            if runs is None:
                return Program(None, _shortened(self._complaint(expression) or _first_line(str(error))))
        returns = runs.return_type()
        if returns not in (cel.Type.BOOL, cel.Type.DYN):
            return Program(None, f"must evaluate to bool, not {returns.name()}")
        meant = tree(runs.serialize(), free_numbers=free_numbers)
        overloads: set[str] = set()

        def work(node: Node, overload: str, target: Operand | None, parts: Sequence[Operand]) -> CallCost:
            overloads.add(overload)
            return work_of(node, overload, target, parts)

        steps = estimate(meant, work)
        leaks = "plainAny(" in text or any(map(_OF_OURS.search, overloads))
        return Program(runs, "", estimate(meant, cost_of), steps + _STEPS_TO_BEGIN, leaks)

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


def evaluate(program: Program, content: Content) -> Verdict:
    """The verdict of a selector that compiles."""
    try:
        answer = program.runs.eval(data=_data(*content))
        kind, value = answer.type(), answer.value()
    except Exception as error:  # the binding raises bare RuntimeErrors and what our functions raise
        return _shortened(str(error))
    if kind == cel.Type.ERROR:
        return _shortened(str(value))
    return value if isinstance(value, bool) else _shortened(f"is {value!r}, not true or false")


def too_complex(program: Program) -> str:
    """Why the API server refuses to create a selector that compiles; empty where it does not
    (`validateCELSelector`, pkg/apis/resource/validation/validation.go in Kubernetes).
    """
    if program.cost <= MAX_COST:
        return ""
    cost = "without bound" if program.cost >= UNBOUNDED // 10 else f"{program.cost}"
    return f"too complex, exceeds cost limit: Kubernetes estimates its cost as {cost}, above {MAX_COST}"


def _data(
    driver: str,
    several: bool,
    attributes: Mapping[str, DeviceAttribute],
    capacities: Mapping[str, DeviceCapacity],
) -> dict[str, object]:
    values: dict[str, dict[str, object]] = {}
    for name, attribute in attributes.items():
        domain, short = _split(name, driver)
        values.setdefault(domain, {})[short] = _value(attribute)
    amounts: dict[str, dict[str, object]] = {}
    for name, capacity in capacities.items():
        domain, short = _split(name, driver)
        amounts.setdefault(domain, {})[short] = quantity_value(capacity.value)
    return {
        "device.driver": driver,
        "device.attributes": values,
        "device.capacity": amounts,
        "device.allowMultipleAllocations": several,
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


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
