"""Who holds what: devices, addresses and interface names, from the claims' allocations alone.

The claims are the only store there is. These books turn them round, so that "is this device free" and "is
this address free" cost a look-up; they follow the claims one change at a time. An allocation that we have
decided but that the watch does not show yet is recorded in the same way, under the same claim UID, so that
nothing is counted twice and nothing is given twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from fractions import Fraction

from controller.addressbook import AddressBook, Given
from controller.allocator.capacity import Amounts
from controller.allocator.model import DeviceId, add_amounts, shares_of
from driver.codec import PLACEMENT, kind_of
from driver.errors import ConfigError
from driver.kube.objects import AllocationResult
from driver.placement import Placement, decode_placement

log = logging.getLogger(__name__)

Pool = tuple[str, str]
"""Driver and pool name."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one allocation takes. `devices` are held whole, of `shares` a part (by capacity). `placement` is
    ours, None if another client decided; an empty one if its words are newer than ours.
    """

    devices: frozenset[DeviceId]
    shares: Mapping[DeviceId, Amounts]
    placement: Placement | None
    node: str | None

    @property
    def pools(self) -> Set[Pool]:
        """Where something of it is."""
        return {(d.driver, d.pool) for devices in (self.devices, self.shares) for d in devices}

    @property
    def addresses(self) -> Iterable[Given]:
        """Of all its interfaces."""
        interfaces = self.placement.interfaces if self.placement else ()
        return (Given(i.network, address) for i in interfaces for address in i.addresses)

    @property
    def interfaces(self) -> Set[str]:
        """Interface names in the pod."""
        return {i.interface for i in (self.placement.interfaces if self.placement else ())}


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two claims, by UID, were given the same device, at least one of them whole."""

    device: DeviceId
    first_uid: str
    second_uid: str


def read(allocation: AllocationResult, driver_name: str) -> Held:
    """What the allocation takes, as far as it is ours to count.

    Admin access takes nothing from anybody (KEP-5018), a share takes but a part (KEP-5075).
    """
    return Held(
        devices=frozenset(
            DeviceId(result.driver, result.pool, result.device)
            for result in allocation.devices.results
            if not result.admin_access and result.share_id is None
        ),
        shares=_shares(allocation),
        placement=_placement(allocation, driver_name),
        node=node_of(allocation),
    )


def node_of(allocation: AllocationResult) -> str | None:
    """The one node that the allocation is good for, None if its selector has another form than ours."""
    terms = allocation.node_selector.node_selector_terms if allocation.node_selector else []
    fields = terms[0].match_fields if len(terms) == 1 and not terms[0].match_expressions else []
    if len(fields) == 1 and fields[0].key == "metadata.name" and fields[0].operator == "In":
        return fields[0].values[0] if len(fields[0].values) == 1 else None
    return None


class Books:
    """Allocations by claim UID, turned round. Not thread-safe.

    Attributes:
        addresses: those in use.
    """

    def __init__(self, driver_name: str) -> None:
        self._driver_name = driver_name
        self._held: dict[str, Held] = {}
        self._holders: dict[Pool, dict[DeviceId, set[str]]] = {}
        self._shares: dict[Pool, dict[DeviceId, dict[str, Amounts]]] = {}
        self._foreign: dict[Pool, set[str]] = {}
        self._versions: Counter[Pool] = Counter()
        self.addresses = AddressBook()

    def record(self, uid: str, allocation: AllocationResult | None) -> tuple[set[Pool], list[Duplicate]]:
        """Set what a claim holds (None: nothing). Returns the pools in which a device became free, and
        devices that another claim holds as well.
        """
        before = self._held.pop(uid, None)
        after = read(allocation, self._driver_name) if allocation is not None else None
        if after is not None:
            self._held[uid] = after
        old, new = before.devices if before else frozenset(), after.devices if after else frozenset()
        freed = {pool for device in old - new if (pool := self._let_go(device, uid))}
        duplicates = [clash for device in new - old if (clash := self._take(device, uid))]
        had, has = before.shares if before else {}, after.shares if after else {}
        freed |= self._share(uid, had, has)
        duplicates += [c for d in has.keys() - had.keys() if (c := _other(self._holders, d, uid))]
        self._note_foreign(uid, before, after)
        for given in after.addresses if after else ():
            self.addresses.take(given)
        for given in before.addresses if before else ():
            self.addresses.release(given)
        return freed, duplicates

    def held(self, uid: str) -> Held | None:
        """What a claim holds."""
        return self._held.get(uid)

    def taken(self, pool: Pool) -> Mapping[DeviceId, Set[str]]:
        """The pool's devices that claims hold, with the claims' UIDs. A live view."""
        return self._holders.get(pool, {})

    def shared(self, pool: Pool) -> dict[DeviceId, Amounts]:
        """What claims consume of the pool's devices that they share, by capacity."""
        answer: dict[DeviceId, Amounts] = {}
        for device, shares in self._shares.get(pool, {}).items():
            total: dict[str, Fraction] = {}
            for amounts in shares.values():
                add_amounts(total, amounts)
            answer[device] = total
        return answer

    def foreign(self, pool: Pool) -> Set[str]:
        """Claims, by UID, that hold devices of this pool of ours without our word. A live view."""
        return self._foreign.get(pool, frozenset())

    def version(self, pool: Pool) -> int:
        """A number that changes whenever what is held of the pool does."""
        return self._versions[pool]

    def _take(self, device: DeviceId, uid: str) -> Duplicate | None:
        pool = (device.driver, device.pool)
        self._versions[pool] += 1
        self._holders.setdefault(pool, {}).setdefault(device, set()).add(uid)
        return _other(self._holders, device, uid) or _other(self._shares, device, uid)

    def _note_foreign(self, uid: str, before: Held | None, after: Held | None) -> None:
        was, now = self._without_word(before), self._without_word(after)
        for pool in now - was:
            self._foreign.setdefault(pool, set()).add(uid)
        for pool in was - now:
            self._foreign[pool].discard(uid)
            if not self._foreign[pool]:
                del self._foreign[pool]

    def _without_word(self, held: Held | None) -> Set[Pool]:
        if held is None or held.placement is not None:
            return frozenset()
        return {pool for pool in held.pools if pool[0] == self._driver_name}

    def _share(self, uid: str, old: Mapping[DeviceId, Amounts], new: Mapping[DeviceId, Amounts]) -> set[Pool]:
        """Set the claim's shares. Returns the pools of which something became free."""
        freed: set[Pool] = set()
        for device in {d for d in old.keys() | new.keys() if old.get(d) != new.get(d)}:
            pool = (device.driver, device.pool)
            self._versions[pool] += 1
            sharers = self._shares.setdefault(pool, {}).setdefault(device, {})
            if device in old:
                freed.add(pool)
                del sharers[uid]
            if device in new:
                sharers[uid] = new[device]
            if not sharers:
                del self._shares[pool][device]
            if not self._shares[pool]:
                del self._shares[pool]
        return freed

    def _let_go(self, device: DeviceId, uid: str) -> Pool | None:
        pool = (device.driver, device.pool)
        self._versions[pool] += 1
        holders = self._holders[pool][device]
        holders.discard(uid)
        if holders:
            return None
        del self._holders[pool][device]
        if not self._holders[pool]:
            del self._holders[pool]
        return pool


def _other(
    users: Mapping[Pool, Mapping[DeviceId, Iterable[str]]], device: DeviceId, uid: str
) -> Duplicate | None:
    """The clash with another claim among the device's users."""
    of_device = users.get((device.driver, device.pool), {}).get(device, ())
    first = min((other for other in of_device if other != uid), default=None)
    return Duplicate(device, first, uid) if first is not None else None


def _shares(allocation: AllocationResult) -> dict[DeviceId, Amounts]:
    shares: dict[DeviceId, dict[str, Fraction]] = {}
    for device, amounts in shares_of(allocation):
        add_amounts(shares.setdefault(device, {}), amounts)
    return dict(shares)


def _placement(allocation: AllocationResult, driver_name: str) -> Placement | None:
    for entry in allocation.devices.config:
        if entry.source != "FromClass" or entry.opaque is None or entry.opaque.driver != driver_name:
            continue
        try:
            if kind_of(entry.opaque.parameters) != PLACEMENT:
                continue
        except ConfigError:
            continue
        try:
            return decode_placement(entry.opaque.parameters)
        except ConfigError as error:
            log.warning("an allocation's config of %s cannot be read: %s", driver_name, error)
            return Placement()
    return None
