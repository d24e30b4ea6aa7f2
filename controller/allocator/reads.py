"""Which attributes a CEL expression looks at, as far as that can be told from its text."""

from __future__ import annotations

import re
from typing import Final

_QUOTED: Final = r"""(?:"([^"\\\n]*)"|'([^'\\\n]*)')"""
_READ: Final = re.compile(
    rf"device\s*\.\s*attributes\s*\[\s*(?:\?\s*)?{_QUOTED}\s*\]"
    rf"\s*(?:\.\s*(?:\?\s*)?(\w+)\b(?!\s*\()|\[\s*(?:\?\s*)?{_QUOTED}\s*\])"
)


def reads(expression: str) -> frozenset[str] | None:
    """The attributes, without domain, that a CEL expression looks at; None where that cannot be told at a
    glance. Whatever is not plainly ``device.attributes["domain"].name`` cannot.
    """
    if "//" in expression:
        return None
    found = list(_READ.finditer(expression))
    if len(found) != expression.count("attributes"):
        return None
    return frozenset(next(name for name in match.groups()[2:] if name is not None) for match in found)
