"""What the allocator answers: an allocation for each claim, or a refusal that says which request or rule was
in the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from controller.allocator.model import PoolDevice
from driver.devices import Tier
from driver.kube.objects import AllocationResult

_MESSAGE_LENGTH: Final = 900
"""Characters; an Event's note ends at 1024."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A GPU and its NIC, how near they are, and their rail where it is one."""

    gpu: PoolDevice
    nic: PoolDevice
    tier: Tier
    rail: int | None = None


@dataclass(frozen=True, slots=True)
class ClaimAllocation:
    """One claim's share.

    Attributes:
        result: ready for ``status.allocation`` but for its time stamp and what the controller adds as
            config; the i-th GPU of a pairing stands in the same order as its NIC.
        devices: the device of each result, in the results' order.
        pairs: of all the claim's alignments, in order.
    """

    result: AllocationResult
    devices: tuple[PoolDevice, ...]
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True)
class Allocation:
    """All claims placed on one node.

    Attributes:
        claims: in the order in which they were given.
        score: less is better; compares nodes for the same claims: subrequests in order, then the levels of
            `controller.allocator.weights`.
        steps: nodes of the search that were looked at.
    """

    claims: tuple[ClaimAllocation, ...]
    score: tuple[int, ...]
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Filtered:
    """How many of a node's devices were left for a request after each filter; `closed`: how many of the
    tolerated ones a limit on rails keeps from it.
    """

    devices: int
    of_class: int
    selected: int
    ample: int
    tolerated: int
    free: int
    closed: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the claims cannot be placed on a node.

    Attributes:
        claim: ``namespace/name``; empty where it is the claims together.
        subject: the request, constraint or pairing, for example ``request "gpu"``.
        message: one sentence for people, which names the subject.
        permanent: the claim itself (or its class) is wrong: no node and no waiting will help.
        unsupported: the feature that this allocator does not have; empty otherwise.
        gave_up: the search ran out of steps, so nothing is proved.
        filtered: for a request, what each filter left.
        wanted: for a request, devices wanted.
    """

    claim: str
    subject: str
    message: str
    permanent: bool = False
    unsupported: str = ""
    gave_up: bool = False
    filtered: Filtered | None = field(default=None, compare=False)
    wanted: int = 0


def aggregate(refusals: Iterable[Refusal]) -> str:
    """One line over all nodes, most frequent reason first: ``0/2 nodes: 2 × request "gpu": …``."""
    messages = Counter(refusal.message for refusal in refusals)
    parts = [
        f"{count} × {message}" for message, count in sorted(messages.items(), key=lambda m: (-m[1], m[0]))
    ]
    text = f"0/{messages.total()} nodes"
    for index, part in enumerate(parts):
        more = f"{': ' if index == 0 else '; '}{part}"
        if index and len(text) + len(more) > _MESSAGE_LENGTH:
            return f"{text}; and {len(parts) - index} other reasons"
        text += more
    return text
