"""Which devices a request may take: its class's and its own selectors, taints, and what is taken already.

Counts are kept after each filter, since they are the answer to "why not".
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from controller.allocator import quantity
from controller.allocator.asks import Ask, Refused
from controller.allocator.capacity import Amounts, Requests, room, share
from controller.allocator.cel import CelCache, SelectorError
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice, PoolId
from controller.allocator.traits import Counter, consumption, pool_of, traits
from controller.allocator.verdict import Filtered, Refusal
from driver.kube.objects import Device, DeviceTaint, DeviceToleration
from driver.names import CONTROLLER_TAINT, DRIVER_NAME

_REPELLING: Final = ("NoSchedule", "NoExecute")
_TAINTS_NAMED: Final = 2


@dataclass(frozen=True, slots=True)
class Options:
    """How to allocate.

    Attributes:
        driver: whose devices carry the controller's taint, which is tolerated on them without a word.
        managed_only: take only devices that carry that taint (the live controller); otherwise any, also
            other drivers'.
        steps: how far the search may go before it gives up.
        mating_steps: how far it may go for pairs that nobody asked for, before it does without.
    """

    driver: str = DRIVER_NAME
    managed_only: bool = True
    steps: int = 1_000
    mating_steps: int = 64


@dataclass(frozen=True, slots=True)
class Taken:
    """What allocated claims hold of one node's devices, by index.

    Attributes:
        indices: devices that they hold for themselves.
        shared: what they consume of devices that they share.
        spent: what their devices, the pool's others included, draw from counters.
        barred: devices that draw from a pool of which a counter is overdrawn already.
    """

    indices: frozenset[int]
    shared: Mapping[int, Amounts]
    spent: Mapping[Counter, Fraction]
    barred: frozenset[int]

    @classmethod
    def of(
        cls, node: NodeDevices, devices: Collection[DeviceId], shared: Mapping[DeviceId, Amounts]
    ) -> Taken:
        """Numbered for `node`."""
        positions = traits(node).positions
        mine = {positions[d]: amounts for d, amounts in shared.items() if d in positions}
        spent: dict[Counter, Fraction] = {}
        if node.consumers:
            for device_id in {*devices, *shared}:
                device = node.consumers.get(device_id)
                if device is not None:
                    for counter, amount in consumption(PoolId(device_id.driver, device_id.pool), device):
                        spent[counter] = spent.get(counter, Fraction(0)) + amount
        return cls(
            indices=frozenset(positions[d] for d in devices if d in positions),
            shared=mine,
            spent=spent,
            barred=_barred(node, spent) - mine.keys(),
        )

    def draws_nothing(self, index: int) -> bool:
        """Whoever came first to a shared device has drawn for all."""
        return index in self.shared


def _barred(node: NodeDevices, spent: Mapping[Counter, Fraction]) -> frozenset[int]:
    """As kube-scheduler has it: one overdrawn counter bars all of the pool that draws from any."""
    overdrawn = {counter[0] for counter, amount in spent.items() if amount > _limit(node, counter)}
    if not overdrawn:
        return frozenset()
    return frozenset(
        index
        for index, device in enumerate(node.devices)
        if device.device.consumes_counters and pool_of(device) in overdrawn
    )


def _limit(node: NodeDevices, counter: Counter) -> Fraction:
    return quantity.parse(node.counters.get(counter, "0"))


@dataclass(frozen=True, slots=True)
class _Suitable:
    matching: tuple[int, ...]
    tolerated: tuple[int, ...]
    counts: Filtered


@dataclass(frozen=True, slots=True)
class Candidates:
    """For one ask: matching devices (by index, in order), those of them that are free, and the counts."""

    matching: tuple[int, ...]
    free: tuple[int, ...]
    filtered: Filtered


class Filter:
    """Finds candidates on one node; asks that filter alike share one answer."""

    def __init__(
        self,
        node: NodeDevices,
        taken: Taken,
        options: Options,
        cel: CelCache,
        limits: Mapping[int, Limit] = MappingProxyType({}),
    ) -> None:
        self._node = node
        self._taken = taken
        self._options = options
        self._cel = cel
        self._limits = limits
        self._known: dict[object, Candidates] = {}

    def candidates(self, ask: Ask, claim: str) -> Candidates:
        """Raises `Refused` where a selector cannot be evaluated, or an ask for all meets a pool in flux."""
        if ask.everything and self._node.bad_pools:
            bad = self._node.bad_pools[0]
            raise _refused(claim, ask, f"asks for all devices, but pool {bad.pool.name} is {bad.reason}")
        limit = self._limits.get(ask.claim)
        limit = limit if limit is not None and limit.covers(ask.request) else None
        key = (ask.class_selectors, ask.selectors, ask.tolerations, ask.capacity, ask.admin, limit)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._free(ask, self._suitable(ask, claim), limit)
        return found

    def _free(self, ask: Ask, suitable: _Suitable, limit: Limit | None) -> Candidates:
        """Of the suitable ones those that no limit closes, and that nobody has or that have room."""
        devices, taken, shared = self._node.devices, self._taken.indices, self._taken.shared

        def full(index: int) -> bool:
            held = shared.get(index)
            if held is None:
                return False
            mine = share(devices[index].device, ask.capacity)
            return mine is None or not room(devices[index].device, [held], mine.amounts)

        crowded = {index for index in shared if full(index)}
        held = frozenset() if ask.admin else taken
        bars = {*crowded, *self._taken.barred, *held}
        types = traits(self._node).types
        closed = {i for i in suitable.tolerated if limit and limit.closes(devices[i], types[i])}
        bars |= closed
        free = tuple(i for i in suitable.tolerated if i not in bars) if bars else suitable.tolerated
        matching = tuple(i for i in suitable.matching if i not in crowded) if crowded else suitable.matching
        counts = suitable.counts
        if bars:
            open_ = [index for index in suitable.tolerated if index not in closed and index not in held]
            short = sum(index in crowded for index in open_)
            barred = sum(index in self._taken.barred and index not in crowded for index in open_)
            counts = replace(counts, closed=len(closed), crowded=short, barred=barred)
        counts = replace(counts, free=len(free))
        return Candidates(matching, free, counts)

    def _suitable(self, ask: Ask, claim: str) -> _Suitable:
        """What does not depend on who holds what, kept with the node."""
        key = ("suitable", ask.device_class.metadata.name, ask.class_selectors, ask.selectors,
               ask.tolerations, ask.capacity, self._options)  # fmt: skip
        return self._node.derived(key, lambda: self._find(ask, claim))

    def _find(self, ask: Ask, claim: str) -> _Suitable:
        devices = self._node.devices
        of_class = self._select(
            range(len(devices)),
            ask.class_selectors,
            ask,
            claim,
            f'DeviceClass "{ask.device_class.metadata.name}"',
        )
        selected = self._select(of_class, ask.selectors, ask, claim, f'request "{ask.request}"')
        ample = [i for i in selected if _ample(devices[i].device, ask.capacity)]
        tolerated = tuple(i for i in ample if self._may_take(devices[i], ask.tolerations))
        matching = tuple(i for i in ample if self._managed(devices[i]))
        counts = Filtered(
            devices=len(devices),
            of_class=len(of_class),
            selected=len(selected),
            ample=len(ample),
            tolerated=len(tolerated),
            free=0,
            unmanaged=len(ample) - len(matching),
            taints=self._taints(matching, ask.tolerations) if len(tolerated) < len(matching) else (),
        )
        return _Suitable(matching, tolerated, counts)

    def _select(
        self, indices: Sequence[int], expressions: Sequence[str], ask: Ask, claim: str, where: str
    ) -> Sequence[int]:
        for number, expression in enumerate(expressions):
            try:
                verdicts = self._cel.select(self._node, expression)
            except SelectorError as error:
                raise _refused(
                    claim, ask, f"selector {number} of {where}: {error}", permanent=True
                ) from error
            kept = []
            for index in indices:
                verdict = verdicts[index]
                if verdict is True:
                    kept.append(index)
                elif verdict is not False:
                    device = self._node.devices[index].id.device
                    # Not for ever: devices may say tomorrow what they do not say today.
                    raise _refused(
                        claim,
                        ask,
                        f"selector {number} of {where}: CEL {expression!r} on device {device}: {verdict}",
                        erred=True,
                    )
            indices = kept
        return indices

    def _managed(self, device: PoolDevice) -> bool:
        """Is the device ours to hand out?"""
        if not self._options.managed_only:
            return True
        return device.id.driver == self._options.driver and any(
            taint.key == CONTROLLER_TAINT and taint.effect == "NoSchedule" for taint in device.device.taints
        )

    def _may_take(self, device: PoolDevice, tolerations: Sequence[DeviceToleration]) -> bool:
        return self._managed(device) and not any(True for _ in self._repelling(device, tolerations))

    def _repelling(
        self, device: PoolDevice, tolerations: Sequence[DeviceToleration]
    ) -> Iterator[DeviceTaint]:
        """Taints that keep the request off the device."""
        for taint in device.device.taints:
            if (
                taint.effect in _REPELLING
                and not (taint.key == CONTROLLER_TAINT and device.id.driver == self._options.driver)
                and not any(tolerates(toleration, taint) for toleration in tolerations)
            ):
                yield taint

    def _taints(self, indices: Sequence[int], tolerations: Sequence[DeviceToleration]) -> tuple[str, ...]:
        """Keys of those taints, the most frequent first."""
        keys = Counts(
            key
            for index in indices
            for key in {taint.key for taint in self._repelling(self._node.devices[index], tolerations)}
        )
        return tuple(sorted(keys, key=lambda key: (-keys[key], key))[:_TAINTS_NAMED])


def _ample(device: Device, capacity: Requests) -> bool:
    if not capacity and not device.capacity:
        return True
    wanted = share(device, capacity)
    return wanted is not None and room(device, (), wanted.amounts)


def tolerates(toleration: DeviceToleration, taint: DeviceTaint) -> bool:
    """Does this toleration cover this taint? An empty key or effect covers every one."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or toleration.value == taint.value


def wanted(ask: Ask, candidates: Candidates) -> int:
    """Devices that the ask takes if it is met."""
    return len(candidates.matching) if ask.everything else ask.count


def _refused(claim: str, ask: Ask, detail: str, *, permanent: bool = False, erred: bool = False) -> Refused:
    subject, message = f'request "{ask.request}"', f'request "{ask.request}": {detail}'
    return Refused(Refusal(claim=claim, subject=subject, message=message, permanent=permanent, erred=erred))
