"""Label selectors as values: which objects a LabelSelector of the API means.

kube-scheduler's rules between pods (affinity, spreading) are said in label selectors. As values they can be
compared, so that a hundred pods of one Deployment share one count of whom they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition; operator is In, NotIn, Exists or DoesNotExist. A missing label is in no set."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def met_by(self, labels: Labels) -> bool:
        """An operator that the API does not know is met by nobody."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case _:
                return False


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements (sorted) must be met: without any, it means everything. None: it means nothing."""

    requirements: tuple[Requirement, ...] | None

    def matches(self, labels: Labels) -> bool:
        """It means an object with these labels."""
        return self.requirements is not None and all(need.met_by(labels) for need in self.requirements)

    def also(self, more: Iterable[Requirement]) -> Selector:
        """With more requirements; what means nothing still does."""
        if self.requirements is None:
            return self
        return Selector(tuple(sorted({*self.requirements, *more})))

    @property
    def anchor(self) -> tuple[str, str] | None:
        """A label that all it means have, for finding it by an object's labels; None where there is none."""
        for need in self.requirements or ():
            if need.operator == "In" and len(need.values) == 1:
                return need.key, need.values[0]
        return None


EVERYTHING = Selector(())
NOTHING = Selector(None)


def selector(wire: Mapping[str, Any] | None) -> Selector:
    """A LabelSelector as it stands on the wire; a missing one means nothing, an empty one everything."""
    if wire is None:
        return NOTHING
    equal = [Requirement(key, "In", (value,)) for key, value in (wire.get("matchLabels") or {}).items()]
    others = [
        Requirement(need["key"], need["operator"], tuple(sorted(set(need.get("values") or ()))))
        for need in wire.get("matchExpressions") or ()
    ]
    return EVERYTHING.also(equal + others)
