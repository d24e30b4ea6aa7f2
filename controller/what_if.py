"""A refused question with something changed: asked of the allocator, to find what would have helped.

What is changed hypothetically is marked as to be avoided: the answer uses as little of it as possible, and
what it does use is the change that would help. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from controller.allocator.candidates import Options
from controller.allocator.capacity import Amounts
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice
from controller.allocator.solve import allocating
from controller.allocator.verdict import Allocation, Refusal
from controller.effort import ASK_STEPS, Effort, done_within
from driver.kube.objects import DeviceClass, DeviceTaint, ResourceClaim

_AVOIDED: Final = DeviceTaint(key="only-in-thought", effect="None")


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """Something that would help; `cost` orders: what an owner of the claim can do comes first."""

    cost: int
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """Claims that `node` refused, as they were given to the allocator; `limits` for each, or empty; the
    answers may take `effort` together.
    """

    claims: Sequence[ResourceClaim]
    node: NodeDevices
    classes: Mapping[str, DeviceClass]
    taken: Collection[DeviceId]
    options: Options
    cel: CelCache
    shared: Mapping[DeviceId, Amounts]
    limits: Sequence[Limit | None] = ()
    effort: Effort = field(default_factory=Effort)

    def explained(self) -> Refusal | None:
        """The refusal with all that people are told; None where it is none any more, or costs too much."""
        work = allocating(
            self.claims,
            self.node,
            self.classes,
            self.taken,
            self.options,
            self.cel,
            self.shared,
            self.limits,
            explained=True,
        )
        self.effort.spend(ASK_STEPS)
        answer = done_within(work, self.effort)
        return answer if isinstance(answer, Refusal) else None

    def asked(
        self,
        *,
        claims: Sequence[ResourceClaim] | None = None,
        devices: Sequence[PoolDevice] | None = None,
        taken: Collection[DeviceId] | None = None,
        limits: Sequence[Limit | None] | None = None,
        shared: Mapping[DeviceId, Amounts] | None = None,
    ) -> Allocation | None:
        """The same with something changed; None as well where the effort is used up."""
        if self.effort.over:
            return None
        node = self.node
        if devices is not None:
            node = NodeDevices(
                node=node.node,
                devices=tuple(devices),
                bad_pools=node.bad_pools,
                counters=node.counters,
                consumers=node.consumers,
            )
        work = allocating(
            self.claims if claims is None else claims,
            node,
            self.classes,
            self.taken if taken is None else taken,
            self.options,
            self.cel,
            self.shared if shared is None else shared,
            self.limits if limits is None else limits,
        )
        self.effort.spend(ASK_STEPS)
        answer = done_within(work, self.effort)
        return answer if isinstance(answer, Allocation) else None


def avoided(
    device: PoolDevice, *, without: Collection[DeviceTaint] = (), as_id: DeviceId | None = None
) -> PoolDevice:
    """A copy that is taken only where nothing else does."""
    device_id = as_id or device.id
    taints = [taint for taint in device.device.taints if taint not in without]
    copy = msgspec.structs.replace(device.device, name=device_id.device, taints=[*taints, _AVOIDED])
    return PoolDevice(id=device_id, device=copy, place=device.place, content=device.content)


def used_by(answer: Allocation) -> Iterator[DeviceId]:
    """All devices of an answer."""
    return (device.id for share in answer.claims for device in share.devices)
