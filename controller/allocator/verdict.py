"""What the allocator answers: an allocation for each claim, or a refusal that says which request or rule was
in the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from controller.allocator.model import PoolDevice
from driver.devices import Tier
from driver.kube.objects import AllocationResult

_MESSAGE_LENGTH: Final = 900
"""Characters; an Event's note ends at 1024."""
_PART_LENGTH: Final = 500
_EXPLAINED: Final = 4


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
    """How many of a node's devices were left for a request after each filter, and what took off the others.

    Attributes:
        closed: tolerated ones that a limit on rails keeps from it.
        crowded: tolerated ones that are shared and have too little capacity left.
        barred: tolerated ones of a pool with an overdrawn counter.
        unmanaged: ample ones without the controller's taint, which kube-scheduler allocates.
        taints: keys of taints that are not tolerated, the most frequent first.
    """

    devices: int
    of_class: int
    selected: int
    ample: int
    tolerated: int
    free: int
    closed: int = 0
    crowded: int = 0
    barred: int = 0
    unmanaged: int = 0
    taints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the claims cannot be placed on a node.

    Attributes:
        claim: ``namespace/name``; empty where it is the claims together.
        subject: the request, constraint or pairing, for example ``request "gpu"``.
        message: one sentence for people, which names the subject; alike on nodes that lack the same.
        numbers: what belongs to it on this node: values, and how many free devices have which.
        permanent: the claim or its class is wrong, whatever nodes publish: only another claim or class helps.
        unsupported: the feature that this allocator does not have; empty otherwise.
        gave_up: the search ran out of steps, so nothing is proved.
        erred: a selector cannot be evaluated on some device.
        filtered: for a request, what each filter left.
        wanted: for a request, devices wanted.
    """

    claim: str
    subject: str
    message: str
    permanent: bool = False
    unsupported: str = ""
    gave_up: bool = False
    erred: bool = False
    numbers: str = field(default="", compare=False)
    filtered: Filtered | None = field(default=None, compare=False)
    wanted: int = 0


def aggregate(
    refusals: Iterable[Refusal], explained: Callable[[str], tuple[str, Refusal] | None] = lambda message: None
) -> str:
    """One line over all nodes, most frequent reason first: ``0/2 nodes: 2 × request "gpu": …``.

    Args:
        refusals: of each node.
        explained: for a message one of its nodes, and the refusal of that node for people, of which the
            numbers follow in brackets. Only the first few are asked for.
    """
    messages = Counter(refusal.message for refusal in refusals)
    parts: list[str] = []
    for message, count in sorted(messages.items(), key=lambda m: (-m[1], m[0])):
        found = explained(message) if len(parts) < _EXPLAINED else None
        brackets = ""
        if found is not None:
            node, refusal = found
            message = refusal.message
            where = f"on node {node}: " if count > 1 else ""
            brackets = f" [{where}{refusal.numbers}]" if refusal.numbers else ""
        parts.append(f"{count} × {clipped(message, _PART_LENGTH)}{brackets}")
    text = f"0/{messages.total()} nodes"
    for index, part in enumerate(parts):
        more = f"{': ' if index == 0 else '; '}{part}"
        if index and len(text) + len(more) > _MESSAGE_LENGTH:
            return f"{text}; and {len(parts) - index} other reasons"
        text += more
    return text


def clipped(text: str, length: int) -> str:
    """The beginning of a text that is longer than `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
