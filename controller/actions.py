"""What the placement wants done, and what came of it: the values between the pure core and the writers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from controller.state import Key
from driver.kube.objects import AllocationResult, Pod, ResourceClaim, ResourceSlice

ALLOCATED_BY_ANOTHER: Final = "the claim was allocated by another client"
"""Of a claim that was not written."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write this allocation into this claim, as it was seen. The time stamp is the writer's to add."""

    claim: ResourceClaim
    allocation: AllocationResult


@dataclass(frozen=True, slots=True)
class Allocate:
    """The claims of one pod, decided together for one node."""

    pod: Key
    node: str
    writes: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class Clear:
    """Take this claim's allocation back, if it is still as seen and nobody has reserved it."""

    claim: ResourceClaim
    node: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Record an Event on an object."""

    regarding: ResourceClaim | Pod | ResourceSlice
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Allocate | Clear | Tell


@dataclass(frozen=True, slots=True)
class Written:
    """The allocation is in the API server, at this resourceVersion."""

    uid: str
    version: str


@dataclass(frozen=True, slots=True)
class NotWritten:
    """The allocation is not in the API server and will not be."""

    uid: str
    message: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """The attempt to take an allocation back has ended, well or not; the watch shows which."""

    uid: str
    error: str = ""


Outcome = Written | NotWritten | Cleared
