"""Our answer beside Kubernetes' to the same question, and what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.model import NodeDevices, shared_by, taken_by
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation, Refusal
from driver.kube.objects import AllocationResult, DeviceClass, Node, ResourceClaim, ResourceSlice
from tests.oracle.generate import Json, question
from tests.oracle.holds import broken
from tests.oracle.oracle import Answer, ask

_CEL = CelCache()


@dataclass(frozen=True, slots=True)
class Difference:
    """A question on which we and Kubernetes do not agree, or of which our answer breaks a rule."""

    name: str
    question: Json
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of many questions: how many Kubernetes placed, how many it had no time for, what differs."""

    asked: int
    placed: int
    out_of_time: int
    differences: tuple[Difference, ...]


def differential(seed: int, numbers: Iterable[int], *, seconds: float = 3.0) -> Outcome:
    """Ask both about the seed's questions."""
    names = list(numbers)
    questions = [question(seed, number) for number in names]
    answers = ask(questions, seconds=seconds)
    differences = [
        Difference(f"{seed}/{number}", asked, detail)
        for number, asked, answer in zip(names, questions, answers, strict=True)
        if (detail := compare(asked, answer))
    ]
    return Outcome(
        asked=len(names),
        placed=sum(answer.placed for answer in answers),
        out_of_time=sum(answer.out_of_time for answer in answers),
        differences=tuple(differences),
    )


def compare(asked: Json, theirs: Answer) -> str:
    """What differs; empty if nothing does."""
    ours = ours_to(asked)
    placed = isinstance(ours, Allocation)
    if isinstance(ours, Refusal) and ours.gave_up:
        return f"ours gave up: {ours.message}"
    if isinstance(ours, Allocation):
        faults = broken(asked, [msgspec.to_builtins(c.result) for c in ours.claims])
        if faults:
            return f"ours breaks rules: {'; '.join(faults)}"
    if theirs.out_of_time:
        return ""
    if placed != theirs.placed:
        said = ours.message if isinstance(ours, Refusal) else _requests(c.result for c in ours.claims)
        return f"ours: {said}; theirs: {theirs.error or _requests(theirs.allocations) or 'refused'}"
    if isinstance(ours, Allocation):
        mine, other = _requests(c.result for c in ours.claims), _requests(theirs.allocations)
        if mine != other:
            return f"subrequests: ours {mine}; theirs {other}"
    return ""


def ours_to(asked: Json) -> Allocation | Refusal:
    """Our answer to a question as the API has it."""
    claims = msgspec.convert(asked["claims"], list[ResourceClaim])
    classes = msgspec.convert(asked["classes"], list[DeviceClass])
    node = NodeDevices.build(
        msgspec.convert(asked["slices"], list[ResourceSlice]), msgspec.convert(asked["node"], Node)
    )
    return allocate(
        [claim for claim in claims if claim.status.allocation is None],
        node,
        {one.metadata.name: one for one in classes},
        taken_by(claims),
        Options(managed_only=False),
        _CEL,
        shared_by(claims),
        explained=True,
    )


def _requests(allocations: Iterable[AllocationResult]) -> Sequence[Sequence[str]]:
    """By claim, the requests and subrequests that got something."""
    return [sorted({r.request for r in allocation.devices.results}) for allocation in allocations]
