"""The members of a gang as the joint search counts them: by what they ask for.

A hundred workers of one Job ask for the same, and are one kind with a count. Members that wait for one claim
are one unit, since they must go to one node. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from controller.allocator.limits import Limit
from controller.allocator.model import PoolDevice
from controller.allocator.traits import rail_of, type_of
from controller.answers import Shape
from controller.books import node_of
from controller.gangs.book import Terms
from controller.pod_rules import newcomer
from controller.quest import Quest
from controller.wish import Wish
from driver.kube.objects import Pod
from driver.names import TYPE_NIC, TYPE_VF

_OFF_RAILS: Final = "not on the rails of the gang"


@dataclass(frozen=True, slots=True)
class Band:
    """What is to be placed together.

    Attributes:
        wishes: of the members.
        asking: UIDs of the claims that are to be on the gang's rails.
        same_rails: they are.
        within: node label of which all nodes have the same value; empty: anywhere.
        terms: of the members that are placed already.
        left_out: nodes where one of them was tried in vain, with the end of that.
    """

    wishes: Sequence[Wish]
    asking: frozenset[str]
    same_rails: bool = True
    within: str = ""
    terms: Terms = field(default_factory=Terms)
    left_out: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Unit:
    """Members that wait for the same claims: the first brings what they all want, and they go together."""

    wish: Wish
    followers: tuple[Wish, ...] = ()

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """Of all of them."""
        return self.wish, *self.followers


@dataclass(slots=True, eq=False)
class Kind:
    """Members that ask for the same.

    Attributes:
        quest: of one of them.
        asking: for each claim, is it to be on the gang's rails?
        pin: the node that they are bound to; empty: none.
        nics: how many NICs each claim gets.
        shapes: by rails; what has been asked of the allocator.
    """

    quest: Quest
    asking: tuple[bool, ...]
    pin: str
    units: list[Unit] = field(default_factory=list)
    nics: tuple[int, ...] = ()
    shapes: dict[int | None, Shape] = field(default_factory=dict)

    def quest_on(self, rails: int | None) -> Quest:
        """The quest of one of them on these rails."""
        return replace(self.quest, limits=self.limits(rails))

    def limits(self, rails: int | None) -> tuple[Limit | None, ...]:
        """On what rails each claim's NICs must be. One with fewer NICs than rails need not use them all."""
        if rails is None:
            return ()
        numbers = frozenset(rails_in(rails))
        return tuple(
            Limit(numbers, _OFF_RAILS, exactly=nics >= len(numbers)) if asks and nics else None
            for asks, nics in zip(self.asking, self.nics, strict=True)
        )


def _units(wishes: Sequence[Wish]) -> list[Unit]:
    units: list[Unit] = []
    by_claim: dict[str, Unit] = {}
    for wish in wishes:
        unit = next((by_claim[c.metadata.uid] for c in wish.wanted if c.metadata.uid in by_claim), None)
        if unit is None:
            unit = Unit(wish)
            units.append(unit)
        else:
            first, known = unit.wish, {c.metadata.uid for c in unit.wish.wanted}
            more = tuple(c for c in wish.wanted if c.metadata.uid not in known)
            allocated = (*first.allocated, *wish.allocated)
            unit.wish = Wish(first.pod, (*first.wanted, *more), allocated, first.others)
            unit.followers = (*unit.followers, wish)
        by_claim.update((claim.metadata.uid, unit) for claim in wish.wanted)
    return units


def kinds_of(band: Band) -> list[Kind]:
    """Members by what they ask for."""
    kinds: dict[object, Kind] = {}
    meant = _meant([wish.pod for wish in band.wishes])
    for unit in _units(band.wishes):
        wish = unit.wish
        asking = tuple(claim.metadata.uid in band.asking for claim in wish.wanted)
        pin = _pin(wish)
        pods = tuple((_likeness(one.pod), meant(one.pod)) for one in unit.wishes)
        others = msgspec.json.encode([[claim.spec for claim in one.others] for one in unit.wishes])
        key = (pods, msgspec.json.encode([c.spec for c in wish.wanted]), asking, pin, others)
        if key not in kinds:
            quest = Quest(wish.pod, wish.wanted, wish.allocated, left_out=band.left_out, others=wish.others)
            kinds[key] = Kind(quest, asking, pin)
        kinds[key].units.append(unit)
    return list(kinds.values())


def _meant(pods: Sequence[Pod]) -> Callable[[Pod], Hashable]:
    """What tells pods apart for each other: their own rules, and whom those of all of them mean."""
    if not any(pod.spec.affinity or pod.spec.topology_spread_constraints for pod in pods):
        return lambda pod: None
    comers = {pod.metadata.uid: newcomer(pod) for pod in pods}
    rules = {uid: (c.affinity, c.anti_affinity, c.spread) for uid, c in comers.items()}
    selectors = [*{rule.whom.selector for groups in rules.values() for some in groups for rule in some}]
    return lambda pod: (rules[pod.metadata.uid], *(s.matches(pod.metadata.labels) for s in selectors))


def _likeness(pod: Pod) -> bytes:
    """Equal for pods that fit the same nodes, as far as that does not depend on their labels."""
    spec = msgspec.structs.replace(pod.spec, resource_claims=[], scheduling_group=None)
    return msgspec.json.encode(spec, order="sorted")


def _pin(wish: Wish) -> str:
    """The node that the pod is bound to by name, or by a claim that it has already."""
    if wish.pod.spec.node_name:
        return wish.pod.spec.node_name
    nodes = (node_of(c.status.allocation) for c in wish.allocated if c.status.allocation is not None)
    return next((node for node in nodes if node), "")


def most_nics(kind: Kind) -> int:
    """NICs of its largest claim that is to be on the gang's rails."""
    return max((n for n, asks in zip(kind.nics, kind.asking, strict=True) if asks), default=0)


def nic_rails(devices: Sequence[PoolDevice]) -> Iterator[int | None]:
    """Of the NICs among them."""
    return (rail_of(device) for device in devices if type_of(device) in (TYPE_NIC, TYPE_VF))


def rails_in(mask: int | None) -> Iterator[int]:
    """The rails of a bit mask."""
    return (rail for rail in range((mask or 0).bit_length()) if (mask or 0) >> rail & 1)


def rail_mask(rails: Collection[int]) -> int:
    """Rails as a bit mask."""
    return sum(1 << rail for rail in rails)
