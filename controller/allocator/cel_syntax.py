"""Selectors as text: what must be rewritten before the C++ runtime understands them as Kubernetes does, and
what they could cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

MAX_LENGTH: Final = 10 * 1024
"""Bytes of an expression (resource.k8s.io/v1)."""
MAX_STEPS: Final = 1_000_000
"""Kubernetes' own limit of cost is as high, and refuses more precisely; this one keeps a node's worth of
devices from taking minutes.
"""
_MOST_ITEMS: Final = 32
"""Attributes of a device."""

_TOKEN: Final = re.compile(
    r"""(?P<literal>(?P<raw>[rR]?)(?P<quote>\"{3}|'{3}|"|')|//[^\n]*)"""
    r"""|(?<![\w.])(?P<map>device\s*\.\s*(?:attributes|capacity))\s*\[\s*(?P<optional>\??)"""
    r"""|(?P<call>\.\s*(?:indexOf|lastIndexOf)(?=\s*\())"""
    r"""|(?P<first>\.\s*validate|(?<![\w.])format\s*\.\s*named)\s*\("""
    r"""|(?<![\w.])(?P<string>string)\s*\("""
    r"""|\.\s*(?P<maps>transformMap|transformMapEntry)\s*\("""
    r"""|(?<![\w.])(?P<unwrap>optional\s*\.\s*unwrap)\s*\("""
    r"""|(?P<unwrapped>\.\s*unwrapOpt\s*\(\s*\))"""
)
_UNWRAPPED: Final = ".filter(some__, some__.hasValue()).map(some__, some__.value())"
_NUMBER: Final = r"(?<![\w.])-?(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|0x[0-9a-fA-F]+u?|\d+u?)(?![\w.])"
_COMPARED: Final = re.compile(
    rf"(?P<before>{_NUMBER})(?=\s*[<>])|(?P<operator>[<>]=?\s*)(?P<after>{_NUMBER})"
)
_ADDRESSES: Final = re.compile(r"\b(?:ip|cidr|masked)\s*\(")
_LOOP: Final = re.compile(
    r"\.\s*(?:all|exists|exists_one|existsOne|map|filter|transformList|transformMap|transformMapEntry|sortBy)\s*\("
)


def rewritten(expression: str) -> str:
    """The expression for the C++ runtime.

    ``device.attributes[X]`` becomes an empty map for an unknown domain X, and ``[?X]`` an optional of it;
    ``indexOf`` and ``lastIndexOf`` become functions of ours that know lists too, and ``string`` is asked of
    addresses and networks by their texts. What the formats call an optional is the first of a list. Maps are
    transformed into lists, of which a function of ours makes maps.
    """
    out: list[str] = []
    at = 0
    while found := _TOKEN.search(expression, at):
        out.append(expression[at : found.start()])
        if found["literal"]:
            at = _literal_end(expression, found)
            out.append(expression[found.start() : at])
            continue
        if found["call"]:
            out.append(f"{found['call']}Any")
            at = found.end()
            continue
        if found["unwrapped"]:
            out.append(_UNWRAPPED)
            at = found.end()
            continue
        end = _bracket_end(expression, found.end())
        if end < 0:
            at = found.start()
            break
        index = rewritten(expression[found.end() : end])
        at = end + 1
        if found["first"]:
            out.append(f"{found['first']}Any({index}).first()")
            continue
        if found["maps"]:
            out.append(_map_from_list(found["maps"], index))
            continue
        if found["unwrap"]:
            out.append(f"({index}){_UNWRAPPED}")
            continue
        if found["string"]:
            out.append(f"string(plainAny({index}))" if _ADDRESSES.search(expression) else f"string({index})")
            continue
        mapping = "".join(found["map"].split())
        value = f"(({index}) in {mapping} ? {mapping}[{index}] : {{}})"
        out.append(f"optional.of{value}" if found["optional"] else value)
    out.append(expression[at:])
    return "".join(out)


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


def _map_from_list(macro: str, arguments: str) -> str:
    """``transformMap(k, v, e)`` as a list of pairs, ``transformMapEntry(k, v, e)`` as one of maps."""
    *before, value = _arguments(arguments)
    if macro == "transformMapEntry":
        return f".transformList({','.join((*before, value))}).mergedAny()"
    pair = f"[dyn({before[0]}), dyn({value})]" if before else value
    return f".transformList({','.join((*before, pair))}).mappedAny()"


def _arguments(text: str) -> list[str]:
    """Parted by the commas that are in no bracket."""
    parts, at, begin = [], 0, 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found and found["literal"]:
            at = _literal_end(text, found)
        elif text[at] in "[({":
            end = _bracket_end(text, at + 1)
            at = end + 1 if end >= 0 else len(text)
        else:
            if text[at] == ",":
                parts.append(text[begin:at])
                begin = at + 1
            at += 1
    return [*parts, text[begin:]]


def too_costly(expression: str) -> str:
    """Why the expression must not be evaluated; empty if it may: it is too long, or its loops run in each
    other so deep that they could take more than a million rounds.
    """
    if len(expression.encode()) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} bytes"
    code = _without_literals(expression)
    items = max(_MOST_ITEMS, code.count(",") + 1)
    if items ** _deepest_loop(code) > MAX_STEPS:
        return f"has {_deepest_loop(code)} loops in each other, which could take too long"
    return ""


def _without_literals(expression: str) -> str:
    return "".join(part for part, literal in _parts(expression) if not literal)


def _parts(expression: str) -> Iterator[tuple[str, bool]]:
    """Code, and texts and comments in it, which are literal."""
    begin = at = 0
    while found := _TOKEN.search(expression, at):
        at = found.end()
        if found["literal"]:
            yield expression[begin : found.start()], False
            begin = at = _literal_end(expression, found)
            yield expression[found.start() : at], True
    yield expression[begin:], False


def _deepest_loop(code: str) -> int:
    starts = {found.end() - 1 for found in _LOOP.finditer(code)}
    depth = deepest = 0
    open_loops: list[bool] = []
    for at, char in enumerate(code):
        if char in "([{":
            open_loops.append(at in starts)
            depth += at in starts
            deepest = max(deepest, depth)
        elif char in ")]}" and open_loops:
            depth -= open_loops.pop()
    return deepest


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
