"""Kubernetes quantities as exact numbers: ``1500m``, ``80Gi``, ``1e3``.

Grammar after k8s.io/apimachinery's resource.Quantity: a signed decimal number, then a decimal exponent, a
decimal SI suffix or a binary suffix. As there, a part of a billionth counts as a whole one, and a binary
suffix reaches to 2^63 - 1 at most.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache

_PATTERN = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:([eE][+-]?\d+)|([KMGTPE]i|[numkMGTPE]?))")
_SUFFIXES = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
    "P": Fraction(10**15), "E": Fraction(10**18), "Ki": Fraction(2**10), "Mi": Fraction(2**20),
    "Gi": Fraction(2**30), "Ti": Fraction(2**40), "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip
_SMALLEST = 10**9
_LARGEST_BINARY = 2**63 - 1


@lru_cache(maxsize=8192)
def parse(text: str) -> Fraction:
    """The number that `text` stands for.

    Raises:
        ValueError: it is no quantity.
    """
    found = _PATTERN.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no quantity such as 4, 500m or 80Gi")
    sign, number, exponent, suffix = found.groups()
    value = Fraction(number.rstrip(".") + (exponent or "")) * _SUFFIXES[suffix or ""]
    if _SMALLEST % value.denominator:
        value = Fraction(math.ceil(value * _SMALLEST), _SMALLEST)
    if suffix and suffix.endswith("i"):
        value = min(value, Fraction(_LARGEST_BINARY))
    return -value if sign == "-" else value


def binary(number: int) -> str:
    """A whole number as a quantity with the largest binary suffix that keeps it whole."""
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        unit = int(_SUFFIXES[suffix])
        if number and number % unit == 0:
            return f"{number // unit}{suffix}"
    return str(number)


def shortest(number: Fraction) -> str:
    """A number as a quantity, for people, with whatever suffix makes it shortest."""
    if number.denominator > 1:
        return f"{float(number * 1000):g}m"
    decimals = [(1000**power, suffix) for power, suffix in enumerate(("", "k", "M", "G", "T", "P"))]
    texts = [f"{number // unit}{suffix}" for unit, suffix in decimals if number and number % unit == 0]
    return min((binary(int(number)), *texts), key=len)
