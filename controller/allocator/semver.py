"""Semantic versions and their order (semver.org 2.0.0), as CEL selectors and version attributes use them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_NUMBER = r"(0|[1-9]\d*)"
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_PATTERN = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-({_IDENTIFIERS}))?(?:\+({_IDENTIFIERS}))?")
_PARTIAL = re.compile(r"[vV]?(\d+)(?:\.(\d+))?(?:\.(\d+))?(.*)")


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


@lru_cache(maxsize=8192)
def parse(text: str) -> Version:
    """A version from its strict text.

    Raises:
        ValueError: it is none.
    """
    found = _PATTERN.fullmatch(text)
    prerelease = tuple(found[4].split(".")) if found and found[4] else ()
    if not found or any(p.isdigit() and len(p) > 1 and p[0] == "0" for p in prerelease):
        raise ValueError(f"{text!r} is no semantic version such as 1.2.3")
    return Version(int(found[1]), int(found[2]), int(found[3]), prerelease)


def normalize(text: str) -> str:
    """A lenient version as strict text: a leading v goes, missing parts are 0, leading zeros go."""
    found = _PARTIAL.fullmatch(text)
    if not found:
        return text
    return ".".join(str(int(found[i] or 0)) for i in (1, 2, 3)) + found[4]
