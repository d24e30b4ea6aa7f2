"""What kube-scheduler would find first.

It tries subrequests in order, and for each of them devices in order, request after request, and stops at the
first solution (Kubernetes 1.36). So the subrequest that a later request gets depends on devices that an
earlier one took, and an `All` that it meets on the way and whose devices a constraint rules out is an error
of the whole claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from controller.allocator.asks import ParsedClaim
from controller.allocator.build import Builder, Chosen, concerns
from controller.allocator.model import NodeDevices
from controller.allocator.problem import Steps, Work
from controller.allocator.traits import values
from controller.allocator.walk import Path, Stage, Walk
from driver.kube.objects import DeviceConstraint


@dataclass(frozen=True, slots=True)
class Broken:
    """An `All` that kube-scheduler calls an error: its request, and the attribute that does not match."""

    claim: int
    request: str
    attribute: str


class FirstFit:
    """Asks about the same claims on the same node."""

    def __init__(
        self, claims: Sequence[ParsedClaim], node: NodeDevices, builder: Builder, steps: Steps
    ) -> None:
        self._claims = claims
        self._node = node
        self._builder = builder
        self._steps = steps

    def decide(self, stages: Sequence[Stage], first: tuple[int, ...]) -> Work[Path | Broken | None]:
        """The first solution, what is an error before that, or None where nothing (or no step) is left.
        `first`: the first ways in which the stages can be met, whatever the devices.
        """
        path = yield from Walk(self._claims, self._builder, self._steps, stages, first=first).first()
        if path is None:
            return None
        for number, stage in enumerate(stages):
            for rank, one in enumerate(stage):
                if one.ask.everything:
                    attribute = yield from self._error(
                        stages[:number], one, (path[:number], path[number][0]), rank
                    )
                    if attribute:
                        return Broken(one.ask.claim, one.ask.request, attribute)
        return path

    def _error(self, before: Sequence[Stage], one: Chosen, found: tuple[Path, int], rank: int) -> Work[str]:
        """The attribute, if some choice for the stages before, tried before the solution was found, leads to
        the error; else empty.
        """
        claim = self._claims[one.ask.claim]
        for constraint in claim.constraints:
            if constraint.match_attribute and concerns(constraint, one.ask, claim):
                for stages, part in self._conflicts(before, one, constraint):
                    path = yield from Walk(self._claims, self._builder, self._steps, stages, part).first()
                    if path is not None and (path, rank) < found:
                        return constraint.match_attribute
        return ""

    def _conflicts(
        self, before: Sequence[Stage], one: Chosen, constraint: DeviceConstraint
    ) -> Iterator[tuple[Sequence[Stage], Chosen]]:
        """Restricted stages before, and devices of the `All` that are gone through up to the error."""
        column = values(self._node, constraint.match_attribute or "")
        devices, free = one.found.matching, set(one.found.free)
        usable = next((i for i, index in enumerate(devices) if index not in free), len(devices))
        if not usable:
            return
        value = column[devices[0]]
        alone = next((i for i, index in enumerate(devices[:usable]) if not value & column[index]), None)
        if alone is not None:
            yield before, _part(one, devices[: alone + 1])
        claim = self._claims[one.ask.claim]
        touched = [
            i for i, stage in enumerate(before) if any(concerns(constraint, o.ask, claim) for o in stage)
        ]
        for required in touched:
            # Whoever of them has a value has another one, and this one has one.
            stages = [
                [
                    _only(o, [i for i in o.found.free if column[i] and not column[i] & value])
                    if concerns(constraint, o.ask, claim)
                    else _only(o, [] if number == required else o.found.free)
                    for o in stage
                ]
                for number, stage in enumerate(before)
            ]
            yield stages, _part(one, devices[:1])


def _part(one: Chosen, devices: tuple[int, ...]) -> Chosen:
    return Chosen(one.ask, replace(one.found, matching=devices, free=devices))


def _only(one: Chosen, free: Sequence[int]) -> Chosen:
    return Chosen(one.ask, replace(one.found, free=tuple(free)))
