"""A fault in an object: where, what stands there, and what would be right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

_VALUE_LENGTH = 120


@dataclass(frozen=True, slots=True)
class Fault:
    """One value that the API server would refuse.

    Attributes:
        field: path in the object, for example ``spec.devices.requests[0].name``.
        value: what stands there, as decoded; None where nothing does.
        right: what would be right, as the end of the sentence "… right is".
        says: instead, what another checker says of the value.
    """

    field: str
    value: object
    right: str
    says: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.field} is missing; right is {self.right}"
        shown = json.dumps(self.value, ensure_ascii=False, default=str)
        if len(shown) > _VALUE_LENGTH:
            shown = f"{shown[:_VALUE_LENGTH]}…"
        return f"{self.field} is {shown}{self.says and ': '}{self.says or f'; right is {self.right}'}"


Faults = Iterator[Fault]
