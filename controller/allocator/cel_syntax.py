"""Selectors as text: what must be rewritten before the C++ runtime understands them as Kubernetes does.

One pass with a stack of open brackets, for the text may be hostile: what comes out is longer by a constant
for each thing that is rewritten, however deep they stand in each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

LOCAL: Final = "some__"
"""The name of the variable in `_UNWRAPPED`, by which it is known again."""
_UNWRAPPED: Final = f".filter({LOCAL}, {LOCAL}.hasValue()).map({LOCAL}, {LOCAL}.value())"

_LITERAL: Final = r"""(?P<literal>(?P<raw>[rR]?)(?P<quote>\"{3}|'{3}|"|')|//[^\n]*)"""
_TOKEN: Final = re.compile(
    _LITERAL + r"|(?<![\w.])(?P<map>device\s*\.\s*(?:attributes|capacity))\s*\[\s*(?P<optional>\??)"
    r"|(?P<call>\.\s*(?:indexOf|lastIndexOf)(?=\s*\())"
    r"|(?P<first>\.\s*validate|(?<![\w.])format\s*\.\s*named)\s*\("
    r"|(?<![\w.])(?P<string>string)\s*\("
    r"|\.\s*(?P<maps>transformMap|transformMapEntry)\s*\("
    r"|(?<![\w.])(?P<unwrap>optional\s*\.\s*unwrap)\s*\("
    r"|(?P<unwrapped>\.\s*unwrapOpt\s*\(\s*\))"
    r"|(?P<open>[\[({])|(?P<close>[\])}])|(?P<comma>,)"
)
_NUMBER: Final = r"(?<![\w.])-?(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|0x[0-9a-fA-F]+u?|\d+u?)(?![\w.])"
_COMPARED: Final = re.compile(
    rf"(?P<before>{_NUMBER})(?=\s*[<>])|(?P<operator>[<>]=?\s*)(?P<after>{_NUMBER})"
)
_ADDRESSES: Final = re.compile(r"\b(?:ip|cidr|masked)\s*\(")
_NAME: Final = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_]*\s*")
_START: Final = re.compile(_LITERAL)


@dataclass(slots=True)
class _Bracket:
    """An open one. `close` is put in the place of its end; `commas` are those between its parts, and `maps`
    is set where these are a macro's that makes a map.
    """

    close: str | None = None
    begin: int = 0
    maps: bool = False
    commas: list[int] = field(default_factory=list)


def rewritten(expression: str) -> str:
    """The expression for the C++ runtime.

    ``device.attributes[X]`` becomes an empty map for an unknown domain X, and ``[?X]`` an optional of it;
    ``indexOf`` and ``lastIndexOf`` become functions of ours that know lists too, and ``string`` is asked of
    addresses and networks by their texts. What the formats call an optional is the first of a list. Maps are
    transformed into lists, of which a function of ours makes maps.
    """
    plain_text = _ADDRESSES.search(expression) is not None
    out: list[str] = []
    brackets: list[_Bracket] = []
    at = 0
    while found := _TOKEN.search(expression, at):
        out.append(expression[at : found.start()])
        at = _end(expression, found)
        out.append(expression[found.start() : at])
        if found["call"]:
            out[-1] = f"{found['call']}Any"
        elif found["unwrapped"]:
            out[-1] = _UNWRAPPED
        elif found["comma"]:
            if brackets:
                brackets[-1].commas.append(len(out) - 1)
        elif found["close"]:
            _close(out, brackets.pop() if brackets else _Bracket())
        elif not found["literal"]:
            brackets.append(_opened(out, found, plain_text))
    out.append(expression[at:])
    return "".join(out)


def _opened(out: list[str], found: re.Match[str], plain_text: bool) -> _Bracket:
    bracket = _Bracket(begin=len(out))
    if found["map"]:
        mapping = "".join(found["map"].split())
        out[-1] = f"optional.of({mapping}[?" if found["optional"] else f"{mapping}[?"
        bracket.close = "].orValue({}))" if found["optional"] else "].orValue({})"
    elif found["first"]:
        out[-1] = f"{found['first']}Any("
        bracket.close = ").first()"
    elif found["unwrap"]:
        out[-1] = "("
        bracket.close = f"){_UNWRAPPED}"
    elif found["string"] and plain_text:
        out[-1] = "string(plainAny("
        bracket.close = "))"
    elif found["maps"]:
        out[-1] = ".transformList("
        bracket.maps = found["maps"] == "transformMap"
        bracket.close = ").mappedAny()" if bracket.maps else ").mergedAny()"
    return bracket


def _close(out: list[str], bracket: _Bracket) -> None:
    if bracket.close is not None:
        out[-1] = bracket.close
    if bracket.maps and bracket.commas:  # the last argument is the value, the first names the key
        key = "".join(out[bracket.begin : bracket.commas[0]])
        if _NAME.fullmatch(key):
            out[bracket.commas[-1]] = f", [dyn({key}), dyn("
            out[-1] = f")]{out[-1]}"


def with_free_numbers(expression: str) -> str:
    """The expression with numbers that are compared (``x < 2.0``) of no type that is known beforehand: as
    Kubernetes, the C++ runtime compares those of different types, but its checker does not let it.
    """
    return "".join(part if literal else _freed(part) for part, literal in _parts(expression))


def _freed(code: str) -> str:
    def free(found: re.Match[str]) -> str:
        if found["before"]:
            return f"dyn({found['before']})"
        return f"{found['operator']}dyn({found['after']})"

    return _COMPARED.sub(free, code)


def _parts(expression: str) -> Iterator[tuple[str, bool]]:
    """Code, and texts and comments in it, which are literal."""
    begin = 0
    while found := _START.search(expression, begin):
        yield expression[begin : found.start()], False
        begin = _end(expression, found)
        yield expression[found.start() : begin], True
    yield expression[begin:], False


def _end(text: str, found: re.Match[str]) -> int:
    """Where a token ends; a text in quotes is one."""
    quote = found["quote"]
    if quote is None:
        return found.end()
    at = found.end()
    while at < len(text):
        if text[at] == "\\" and not found["raw"]:
            at += 2
        elif text.startswith(quote, at):
            return at + len(quote)
        else:
            at += 1
    return len(text)
