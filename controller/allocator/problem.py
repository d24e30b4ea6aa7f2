"""The question that the search answers, free of Kubernetes: demands for counts of interchangeable devices,
under rules.

Devices that no demand, rule or pairing tells apart are one `Kind` with a count, so a node with 512 virtual
functions on 8 switches is a problem of 8 kinds. All rules but equality are budgets: sums over (demand, kind)
that must not pass a limit. A kind's own count is one, a distinct attribute is one of limit 1 for each value,
shared counters and consumable capacity are further ones. The other way round there are only covers: places of
which each must be used.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeVar, cast

from driver.devices import Place, Tier
from driver.topology import tier

K = TypeVar("K")
T = TypeVar("T")

Work = Generator[int, None, T]
"""A computation that stops again and again, so that something else may be done before it goes on. It yields
what it does next, in tenths of a millisecond or so.
"""

Use = tuple[int, int]
"""A demand and a kind, by index."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Interchangeable free devices, as indices into the node's devices, in order.

    Attributes:
        seats: how often a device of this kind may be taken in all (its number; more where it is shared).
        shared: it is one device that several demands may take, each once.
        admin: claim whose admin access this is; what that takes does not count for the others.
        cost: how much it is a pity to take one of these outside a near pair; only compared with each other.
        avoid: the same, in a pair too.
    """

    devices: tuple[int, ...]
    place: Place
    seats: int
    cost: int = 0
    avoid: int = 0
    shared: bool = False
    admin: int | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """`count` devices for one request; `kinds` says how many of each kind it may take at most."""

    claim: int
    label: str
    count: int
    kinds: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Match:
    """All devices of these demands share a value (or, as `distincts`, no two do); `kinds` are those that
    have it.
    """

    label: str
    demands: tuple[int, ...]
    kinds: Mapping[Hashable, frozenset[int]]


@dataclass(frozen=True, slots=True)
class Budget:
    """The uses of `weights`, each times its weight, must not sum up to more than `limit`.

    Attributes:
        once: kinds of which the weight counts once, however many demands use them.
        unit: limit and weights are in so many parts of one, for people.
    """

    label: str
    limit: int
    weights: Mapping[Use, int]
    once: frozenset[int] = frozenset()
    unit: int = 1


@dataclass(frozen=True, slots=True)
class Cover:
    """At least one of the uses must be."""

    label: str
    detail: str
    uses: frozenset[Use]


@dataclass(frozen=True, slots=True)
class Pairing:
    """Each device of the larger demand is paired with one of the smaller, as evenly as can be.

    Attributes:
        ranks: how good a tier is, 0 the best; a tier that is missing must not be.
        required_by: who rules tiers out, where it is not the claim itself.
    """

    label: str
    gpus: int
    nics: int
    ranks: Mapping[Tier, int]
    required_by: str = ""

    @property
    def worst(self) -> Tier:
        """The farthest tier that is allowed."""
        return max(self.ranks)


@dataclass(frozen=True, slots=True)
class Problem:
    """One question. `budgets` leaves out the kinds' own counts and what `distincts` say.

    Attributes:
        parts: by demand, the one that it is a part of. Such a demand comes after all others; it has taken
            over some of the other's count, so that each can have a pairing of its own.
    """

    kinds: Sequence[Kind]
    demands: Sequence[Demand]
    matches: Sequence[Match] = ()
    distincts: Sequence[Match] = ()
    budgets: Sequence[Budget] = ()
    pairings: Sequence[Pairing] = ()
    covers: Sequence[Cover] = ()
    parts: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KindPair:
    """`count` pairs of a GPU and a NIC of these kinds."""

    gpu: int
    nic: int
    tier: Tier
    count: int


@dataclass(frozen=True, slots=True)
class Solution:
    """How many devices of each kind each demand takes, and the pairs of each pairing.

    Attributes:
        rank_cost: what the pairs' tiers cost together; compares solutions of one problem, and of like
            problems.
        cost: what else it costs (stranded devices, held ones).
    """

    uses: Mapping[Use, int]
    pairs: Sequence[Sequence[KindPair]] = ()
    rank_cost: int = 0
    cost: int = 0


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why there is no solution: the demand, match or pairing that cannot be had, as far as it can be blamed
    on one. `rule` is that demand, match or budget itself.
    """

    label: str
    detail: str
    gave_up: bool = False
    rule: Demand | Match | Budget | None = None


@dataclass(slots=True)
class Steps:
    """What is left of the budget for the search, in nodes looked at."""

    left: int = 20_000
    taken: int = field(default=0)

    def take(self) -> bool:
        """Use one; False when there are none left."""
        self.left -= 1
        self.taken += 1
        return self.left >= 0

    @property
    def over(self) -> bool:
        """There are none left, and one more was wanted."""
        return self.left < 0


def finished(work: Work[T]) -> T:
    """Do all of it at once."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast(T, end.value)


def whole_numbers(limit: Fraction, amounts: Mapping[K, Fraction]) -> tuple[int, dict[K, int], int]:
    """The same in a unit in which all amounts are whole, which count faster; and how many units are one."""
    unit = math.lcm(*(amount.denominator for amount in amounts.values()))
    return math.floor(limit * unit), {key: int(amount * unit) for key, amount in amounts.items()}, unit


def pair_tier(problem: Problem, gpu: int, nic: int) -> Tier:
    """How near devices of these two kinds are."""
    return tier(problem.kinds[gpu].place, problem.kinds[nic].place)
