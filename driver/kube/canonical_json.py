"""JSON as the API server writes what it has decoded.

A free-form field (`runtime.RawExtension`) keeps the bytes that were sent. A later server-side apply or patch
decodes the whole object and writes it again, and the API server compares bytes: where those of an immutable
field come out otherwise, the write is refused, whatever it was about. So what we write into such a field is
written as it would come out.
"""

from __future__ import annotations

import json
from typing import Final

_INTEGRAL_BELOW: Final = 1e21
"""Go's encoding/json writes whole numbers below without exponent or point."""
_ESCAPED: Final = (b"<", b">", b"&")
_LINE_ENDS: Final = ("\u2028", "\u2029")


def canonical(text: bytes) -> bytes:
    """Return the same JSON with sorted names and without blanks, escaped as Go's encoding/json does; text
    that Python does not decode (deep nesting, half a surrogate pair) as it is.
    """
    try:
        value = json.loads(text, parse_float=_number)
        written = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        for end in _LINE_ENDS:
            written = written.replace(end, f"\\u{ord(end):04x}")
        out = written.encode()
    except (ValueError, RecursionError):
        return text
    for sign in _ESCAPED:
        out = out.replace(sign, b"\\u%04x" % sign[0])
    return out


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < _INTEGRAL_BELOW else number
