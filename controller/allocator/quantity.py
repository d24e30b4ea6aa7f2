"""Kubernetes quantities as exact numbers: ``1500m``, ``80Gi``, ``1e3``.

Grammar after k8s.io/apimachinery's resource.Quantity: a signed decimal number, then a decimal exponent, a
decimal SI suffix or a binary suffix. As there, a part of a billionth counts as a whole one, and a binary
suffix reaches to 2^63 - 1 at most.

A text of ten bytes can name a number of a million digits. No number is built that is longer
than its text or `_LARGEST`, to which larger ones are cut.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

_PATTERN: Final = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:([eE][+-]?[0-9]+)|([KMGTPE]i|[numkMGTPE]?))")
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_PLACES: Final = 9
"""There is nothing smaller than a billionth."""
_LARGEST_DIGITS: Final = 1000
_LARGEST: Final = Fraction(10**_LARGEST_DIGITS)
_LARGEST_BINARY: Final = 2**63 - 1
_LONG_TEXT: Final = 64
"""Longer ones are not remembered."""


def parse(text: str) -> Fraction:
    """The number that `text` stands for; 10^1000 at most.

    Raises:
        ValueError: it is no quantity.
    """
    return _remembered(text) if len(text) <= _LONG_TEXT else _parse(text)


def _parse(text: str) -> Fraction:
    found = _PATTERN.fullmatch(text)
    exponent = _exponent(found[4]) if found and found[4] else 0
    bare = found is not None and not found[2] and not found[3]
    if not found or not text or exponent is None or (bare and _needs_digits(found[5], exponent)):
        raise ValueError(f"{_shown(text)} is no quantity such as 4, 500m or 80Gi")
    suffix = found[5] or ""
    twos = _BINARY.get(suffix)
    value = _rounded_up(found[2].lstrip("0"), found[3] or "", exponent + _DECIMAL.get(suffix, 0), twos or 0)
    if twos is not None:
        value = min(value, Fraction(_LARGEST_BINARY))
    return -value if found[1] == "-" else value


def _needs_digits(suffix: str | None, exponent: int) -> bool:
    """A suffix alone is 0 to Kubernetes, but for the ones that its fast reading leaves to the exact one."""
    return suffix in ("Pi", "Ei") or exponent < -_PLACES


_remembered = lru_cache(maxsize=8192)(_parse)


def _exponent(text: str) -> int | None:
    """Of ``e12``: as Kubernetes reads it, a number of 64 bits of which the lower 32 count."""
    digits = text[1:].lstrip("+-").lstrip("0")
    if len(digits) > len(str(2**63)):
        return None
    number = int(digits or "0") * (-1 if text[1] == "-" else 1)
    if not -(2**63) <= number < 2**63:
        return None
    return (number + 2**31) % 2**32 - 2**31


def _rounded_up(whole: str, part: str, tens: int, twos: int) -> Fraction:
    """``whole.part`` times 10^tens times 2^twos, to the next billionth."""
    digits = (whole + part).lstrip("0")
    if not digits:
        return Fraction(0)
    exponent = tens - len(part)
    if len(digits) + exponent > _LARGEST_DIGITS:
        return _LARGEST
    if len(digits) + exponent + _PLACES < -len(str(2**twos)):
        return Fraction(1, 10**_PLACES)
    if len(digits) > 2 * _LARGEST_DIGITS:  # what comes behind can only round up
        rest = digits[2 * _LARGEST_DIGITS :]
        digits = digits[: 2 * _LARGEST_DIGITS] + ("1" if rest.strip("0") else "0")
        exponent += len(rest) - 1
    value = Fraction(int(digits) << twos) * Fraction(10) ** exponent
    if value.denominator > 1:
        value = Fraction(math.ceil(value * 10**_PLACES), 10**_PLACES)
    return min(value, _LARGEST)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONG_TEXT else f"{text[:_LONG_TEXT]}…")


def binary(number: int) -> str:
    """A whole number as a quantity with the largest binary suffix that keeps it whole."""
    for suffix, twos in reversed(_BINARY.items()):
        if number and number % 2**twos == 0:
            return f"{number // 2**twos}{suffix}"
    return str(number)


def shortest(number: Fraction) -> str:
    """A number as a quantity, for people, with whatever suffix makes it shortest."""
    if number.denominator > 1:
        return f"{float(number * 1000):g}m"
    decimals = [(1000**power, suffix) for power, suffix in enumerate(("", "k", "M", "G", "T", "P"))]
    texts = [f"{number // unit}{suffix}" for unit, suffix in decimals if number and number % unit == 0]
    return min((binary(int(number)), *texts), key=len)
