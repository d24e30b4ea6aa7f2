"""Why something waits and what would help, as one text that fits into an Event. Pure."""

from __future__ import annotations

from typing import Final

MOST_BYTES: Final = 1000
"""The API server takes 1024 as an Event's note (`NoteLengthLimit`, pkg/apis/core/validation/events.go in
Kubernetes); some are left for what a time-out adds.
"""
_NEAREST_BYTES: Final = 400


def joined(why_not: str, nearest: str, *, before: str = "") -> str:
    """`before`, the reasons (in parts, by "; ", the most important first), and what would help. Where that is
    too long, the last parts of the reasons are left out.
    """
    nearest = _cut(nearest, _NEAREST_BYTES)
    return f"{before}{_cut(why_not, MOST_BYTES - len((before + nearest).encode()))}{nearest}"


def _cut(text: str, most: int) -> str:
    if len(text.encode()) <= most:
        return text
    kept = text.encode()[: most - len("; …".encode())].decode(errors="ignore")
    whole, _, rest = kept.rpartition("; ")
    return f"{whole}; …" if whole and rest else f"{kept}…"
