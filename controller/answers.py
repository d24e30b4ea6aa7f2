"""The allocator's answers, kept: one for all nodes in equal state and all claims that ask for the same.

A claim may look at what the state of a node leaves out. How closely it looks decides who shares its answers:

- `GROUP`: nodes in equal state, the usual case. The allocator is asked as if the first devices of each class
  were taken; the answer is moved to a node by taking that node's free devices of the class instead.
- `DEVICES`: nodes that publish the same and on which the very same devices are taken. For claims that tell
  devices of a class apart, or where Kubernetes' order of devices decides.
- `NODE`: nobody. For claims that look, or could look, at what identifies single devices in the world.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Protocol

import msgspec

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache, SelectorError
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice, content_of
from controller.allocator.problem import Work
from controller.allocator.reads import reads
from controller.allocator.results import moved_to, share_id
from controller.allocator.solve import allocating
from controller.allocator.traits import values
from controller.allocator.verdict import Allocation, ClaimAllocation, Refusal
from controller.attachments import both
from controller.books import Pool
from controller.effort import ASK_STEPS, Effort, Interrupted, done_within
from controller.equal import IDENTITIES, Published, Standing, moved_positions
from controller.nodes import Group, NodeIndex, NodeRecord
from controller.pools import Pools
from controller.quest import Quest
from driver.kube.objects import (
    DeviceClass,
    ExactDeviceRequest,
    ResourceClaim,
)

Answer = Allocation | Refusal

_KEPT_SHAPES: Final = 256
_KEPT_BEGUN: Final = 16
"""Searches that were interrupted."""
_KEPT_ANSWERS: Final = 64
"""Of one group."""
_KEPT_CLOSE: Final = 20_000
"""Of one kind of nodes, for claims that look closer."""


class Closeness(IntEnum):
    """How closely a claim looks at devices."""

    GROUP = 0
    DEVICES = 1
    NODE = 2


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What claims ask for, and how closely they look at least; `expressions` and `attributes` (of
    constraints) are what they look with.
    """

    wanted: tuple[ResourceClaim, ...]
    limits: tuple[Limit | None, ...]
    closeness: Closeness
    expressions: frozenset[str]
    attributes: frozenset[str]


class Cluster(Protocol):
    """What is asked about: nodes with devices, and what classes and networks say."""

    @property
    def index(self) -> NodeIndex:
        """The nodes by what they publish and what is taken of it."""

    @property
    def pools(self) -> Pools:
        """The slices."""

    @property
    def classes(self) -> Mapping[str, DeviceClass]:
        """By name."""

    @property
    def classes_generation(self) -> int:
        """Changes whenever a class does."""

    def network_limits(self, claims: Sequence[ResourceClaim]) -> tuple[Limit | None, ...]:
        """For each claim the rails that its networks leave open; or empty."""


class Answers:
    """Asks the allocator where it must. Not thread-safe."""

    def __init__(self, state: Cluster, options: Options, cel: CelCache) -> None:
        self._state = state
        self._options = options
        self._cel = cel
        self._shapes: dict[object, Shape] = {}
        self._begun: dict[object, Work[Answer]] = {}
        self.effort = Effort()
        """What may be asked of the allocator; from then on, questions that are new raise `Interrupted`."""

    def shape(self, quest: Quest, *, named: bool = False) -> Shape:
        """The shape of what is wanted, with the rails that its networks leave open; the same object for the
        same. `named`: claims with other names are another shape, since refusals of several claims call them
        by name.

        Raises:
            NetworkRefusedError: a claim may not have its network.
        """
        quest = replace(quest, limits=both(quest.limits, self._state.network_limits(quest.wanted)))
        specs = msgspec.json.encode([claim.spec for claim in quest.wanted], order="sorted")
        names = tuple((c.metadata.namespace, c.metadata.name) for c in quest.wanted) if named else ()
        key = (specs, names, quest.limits, self._state.classes_generation)
        known = self._shapes.pop(key, None) or _shape(quest, self._state.classes)
        if len(self._shapes) >= _KEPT_SHAPES:
            del self._shapes[next(iter(self._shapes))]  # the one not asked for the longest
        self._shapes[key] = known
        return known

    def of_group(self, shape: Shape, group: Group) -> Answer | None:
        """The answer of all nodes of the group, in the group's terms; None where each node has its own.

        Raises:
            Interrupted: it is not known yet, and the effort is used up.
        """
        known: Answer | None = group.answers.get(shape)
        if known is None:
            if not self._serves_group(shape, group.published):
                return None
            taken = group.published.first(group.counts)
            known = self._ask(shape, group.published, Standing(taken, group.shared))
            if len(group.answers) >= _KEPT_ANSWERS:
                del group.answers[next(iter(group.answers))]
            group.answers[shape] = known
        return known

    def of_node(self, shape: Shape, record: NodeRecord, standing: Standing) -> Answer:
        """The answer of one node that stands so, in its group's terms; see `moved`.

        Raises:
            Interrupted: it is not known yet, and the effort is used up.
        """
        if record.published is None:
            return Refusal(claim="", subject="node", message="the node is gone")
        known: Answer | None = self.of_group(shape, self._state.index.group_of(record.published, standing))
        if known is None:
            asked = self.asked(shape, record)
            known = asked.memo.get((shape, standing))
            if known is None:
                known = self._ask(shape, asked, standing)
                _keep(asked, (shape, standing), known)
        return known

    def moved(
        self, shape: Shape, answer: Allocation, quest: Quest, record: NodeRecord, standing: Standing
    ) -> Allocation:
        """The answer in the terms of one node, for the quest's claims."""
        asked = self.asked(shape, record)
        fresh = self._devices(shape, answer, asked, record, standing)
        claims = []
        for claim, share in zip(quest.wanted, answer.claims, strict=True):
            results = []
            for result in share.result.devices.results:
                where = fresh[DeviceId(result.driver, result.pool, result.device)].id
                share_of = share_id(claim, result.request, where) if result.share_id is not None else None
                results.append(
                    msgspec.structs.replace(result, pool=where.pool, device=where.device, share_id=share_of)
                )
            devices = msgspec.structs.replace(share.result.devices, results=results)
            claims.append(
                ClaimAllocation(
                    result=msgspec.structs.replace(
                        share.result,
                        devices=devices,
                        node_selector=moved_to(share.result.node_selector, record.name),
                    ),
                    devices=tuple(fresh[device.id] for device in share.devices),
                    pairs=tuple(
                        replace(pair, gpu=fresh[pair.gpu.id], nic=fresh[pair.nic.id]) for pair in share.pairs
                    ),
                )
            )
        return replace(answer, claims=tuple(claims))

    def _devices(
        self, shape: Shape, answer: Allocation, asked: Published, record: NodeRecord, standing: Standing
    ) -> dict[DeviceId, PoolDevice]:
        """By the devices of the answer: those that the node has for them."""
        places = {device.id: asked.place(device.id) for share in answer.claims for device in share.devices}
        if self._serves_group(shape, asked):
            source = asked.first(asked.counts(standing.taken))
            positions = moved_positions(asked, source, standing.taken, [p for _, p in places.values()])
        else:
            positions = {position: position for _, position in places.values()}
        wanted: dict[Pool, list[str]] = {}
        for rank, position in places.values():
            wanted.setdefault(record.pools[rank], []).append(asked.ids[positions[position]].device)
        real = {
            (pool, device.name): device
            for pool, names in wanted.items()
            for device in self._state.pools.devices(pool, names)
        }
        fresh: dict[DeviceId, PoolDevice] = {}
        for device_id, (rank, position) in places.items():
            like = asked.devices.devices[positions[position]]
            pool, name = record.pools[rank], like.id.device
            device = real[pool, name]
            content = like.content if device is like.device else content_of(pool[0], device)
            fresh[device_id] = PoolDevice(DeviceId(*pool, name), device, like.place, content)
        return fresh

    def asked(self, shape: Shape, record: NodeRecord) -> Published:
        """What the answers of one node are about: what equal nodes publish, or what this one does."""
        if shape.closeness is Closeness.NODE or record.published is None:
            return self._state.index.own(record)
        return record.published

    def _serves_group(self, shape: Shape, published: Published) -> bool:
        """Do the claims look at nothing that tells devices of a class apart?"""
        if shape.closeness is not Closeness.GROUP:
            return False
        known: bool | None = published.memo.get(("uniform", shape))
        if known is None:
            known = all(
                len({column[position] for position in members}) == 1
                for column in self._columns(shape, published.devices)
                for members in published.classes
                if members[0] < len(column)
            )
            _keep(published, ("uniform", shape), known)
        return known

    def _columns(self, shape: Shape, devices: NodeDevices) -> Iterator[Sequence[object]]:
        """What the claims see, by position."""
        for expression in shape.expressions:
            try:
                yield self._cel.select(devices, expression)
            except SelectorError:
                continue  # refuses everywhere
        for attribute in shape.attributes:
            yield values(devices, attribute)

    def _ask(self, shape: Shape, published: Published, standing: Standing) -> Answer:
        key = (shape, published, standing)
        work = self._begun.pop(key, None)
        if work is None:
            if self.effort.over:
                raise Interrupted
            self.effort.spend(ASK_STEPS)
            work = self._asking(shape, published, standing)
        answer = done_within(work, self.effort)
        if answer is not None:
            return answer
        if len(self._begun) >= _KEPT_BEGUN:
            del self._begun[next(iter(self._begun))]
        self._begun[key] = work
        raise Interrupted

    def _asking(self, shape: Shape, published: Published, standing: Standing) -> Work[Answer]:
        return allocating(
            shape.wanted,
            published.devices,
            self._state.classes,
            published.taken_ids(standing.taken),
            self._options,
            self._cel,
            published.shared_ids(standing.shared),
            shape.limits,
        )


def _keep(published: Published, key: object, value: object) -> None:
    """Shapes come and go, so what is known of them must not pile up."""
    if len(published.memo) >= _KEPT_CLOSE:
        published.memo.clear()
    published.memo[key] = value


def _shape(quest: Quest, classes: Mapping[str, DeviceClass]) -> Shape:
    expressions: set[str] = set()
    attributes: set[str] = set()
    closeness = Closeness.GROUP
    ways = [request.alternatives for claim in quest.wanted for request in claim.spec.devices.requests]
    for number, asks in enumerate(ways):
        if number and len(asks) > 1:
            closeness = Closeness.DEVICES
        for ask in asks:
            device_class = classes.get(ask.device_class_name)
            selectors = [*(device_class.spec.selectors if device_class else ()), *ask.selectors]
            expressions |= {selector.cel.expression for selector in selectors if selector.cel is not None}
            admin = isinstance(ask, ExactDeviceRequest) and ask.admin_access
            if ask.allocation_mode != "ExactCount" or admin:
                closeness = Closeness.DEVICES
    for claim in quest.wanted:
        for constraint in claim.spec.devices.constraints:
            attributes |= {constraint.match_attribute or "", constraint.distinct_attribute or ""} - {""}
    looks = [reads(expression) for expression in expressions]
    looks.append(frozenset(attribute.rpartition("/")[2] for attribute in attributes))
    if any(names is None or names & IDENTITIES for names in looks):
        closeness = Closeness.NODE
    return Shape(quest.wanted, quest.limits, closeness, frozenset(expressions), frozenset(attributes))
