"""Regular expressions of CEL: RE2's syntax and its linear time, as Kubernetes has them from Go.

Python's own `re` backtracks: a pattern of thirty characters can hold the deciding loop for minutes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import re2

_KEPT: Final = 16
"""A compiled pattern may take megabytes."""


_SIZED_BYTES: Final = 256 * 1024
"""What takes more has no size: it would take tens of milliseconds to tell."""


def _options(most_bytes: int) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = most_bytes
    return options


_OPTIONS: Final = _options(8 << 20)
_SIZED: Final = _options(_SIZED_BYTES)


def new(pattern: str, options: Any = _OPTIONS) -> Any:
    """The pattern, ready for use.

    Raises:
        ValueError: it is none, or too large a one.
    """
    try:
        return re2._Regexp(pattern, options)  # `re2.compile` would keep 128 of them
    except re2.error as error:
        detail = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error
        raise ValueError(f"Illegal regex: {detail}") from error


_compiled = lru_cache(maxsize=_KEPT)(new)


def size(pattern: str) -> int:
    """Instructions of the compiled pattern, which its compilation takes time in proportion to.

    Raises:
        ValueError: it is none, or too large a one.
    """
    return int(new(pattern, _SIZED).programsize)


def find(text: str, pattern: str) -> str:
    """The first match, empty where there is none. Raises ValueError for a bad pattern."""
    found = _compiled(pattern).search(text)
    return found[0] if found else ""


def find_all(text: str, pattern: str, most: int = -1) -> list[str]:
    """All matches that do not overlap, `most` of them; as Go's, an empty one right behind another does not
    count. Raises ValueError for a bad pattern.
    """
    found: list[str] = []
    end = -1
    for match in _compiled(pattern).finditer(text) if most else ():
        if match.start() == match.end() == end:
            continue
        end = match.end()
        found.append(match[0])
        if len(found) == most:
            break
    return found
