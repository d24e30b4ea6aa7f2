"""Semantic versions and their order (semver.org 2.0.0), as CEL selectors and version attributes use them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_NUMBER = r"(0|[1-9][0-9]{0,19})"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_PATTERN = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-({_IDENTIFIERS}))?(?:\+({_IDENTIFIERS}))?")
_LARGEST = 2**64 - 1
_LONG_TEXT = 64
"""Longer ones are not remembered."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version; build metadata is no part of its order and is dropped."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()

    def key(self) -> tuple[object, ...]:
        """Sort key: a release comes after its pre-releases, numbers before words."""
        before = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in self.prerelease)
        return self.major, self.minor, self.patch, 0 if before else 1, before

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        return f"{text}-{'.'.join(self.prerelease)}" if self.prerelease else text


def parse(text: str) -> Version:
    """A version from its strict text.

    Raises:
        ValueError: it is none.
    """
    return _remembered(text) if len(text) <= _LONG_TEXT else _parse(text)


def _parse(text: str) -> Version:
    found = _PATTERN.fullmatch(text)
    prerelease = tuple(found[4].split(".")) if found and found[4] else ()
    if not found or not all(map(_is_identifier, prerelease)):
        raise ValueError(f"{text[:_LONG_TEXT]!r} is no semantic version such as 1.2.3")
    numbers = int(found[1]), int(found[2]), int(found[3])
    if max(numbers) > _LARGEST:
        raise ValueError(f"{text[:_LONG_TEXT]!r} has a number above {_LARGEST}")
    return Version(*numbers, prerelease)


_remembered = lru_cache(maxsize=8192)(_parse)


def _is_identifier(text: str) -> bool:
    """Numbers have no leading zeros, and 64 bits."""
    return not text.isdigit() or (
        (text[0] != "0" or len(text) == 1) and len(text) <= len(str(_LARGEST)) and int(text) <= _LARGEST
    )


def normalize(text: str) -> str:
    """A lenient version as strict text: a leading v goes, missing parts are 0, leading zeros go.

    After normalizeAndParse of k8s.io/apiserver's CEL library (semverlib.go).
    """
    parts = [_without_zeros(part) for part in text.removeprefix("v").split(".", 2)]
    if len(parts) < 3 and re.search("[+-]", parts[-1]):
        return text  # a short version has no pre-release
    return ".".join((*parts, "0", "0")[:3] if len(parts) < 3 else parts)


def _without_zeros(part: str) -> str:
    if len(part) < 2:
        return part
    rest = part.lstrip("0")
    return rest if rest[:1] in tuple("0123456789") else f"0{rest}"
