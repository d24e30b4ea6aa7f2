"""What the allocator prefers among all that is possible, in one place (docs/placement.md says it for people).

Weights only order what the rules allow. In this order, each level outweighing all below it together:

1. tiers of the pairs, by how many pairs of the best, then of the next (`RANK`);
2. devices that a pod which is gone on paper still uses are left alone (`HELD`);
3. nothing is stranded (`BREAKS_PAIR`, `BREAKS_GPU`, `BESIDE_PAIR`, `SPOILS`);
4. the node of which the fewest sets of GPUs are broken (`sets`), of these the fullest, by its free GPUs, then
   by all that is free;
5. several GPUs of one request are neighbours (`APART`), what draws least from shared hardware (`THIRST`,
   `COULD_BE_PARTS`), and the NUMA node that is fullest already (`CROWD`).

Costs are sums over devices; `split` parts such a sum at level 4, which compares nodes and is in no sum.
"""

from __future__ import annotations

from typing import Final

_FINE: Final = 10**5
"""More than all devices of a question cost on level 5."""

CROWD: Final = 1
"""For each free GPU on the device's NUMA node, up to `MOST_CROWD`: single devices fill up one NUMA node, so
that the other keeps whole sets."""
MOST_CROWD: Final = 15

COULD_BE_PARTS: Final = 20
"""A whole GPU that could be had in partitions too."""

THIRST: Final = 40
"""For using up a whole shared counter or capacity at once."""

APART: Final = (256, 64)
"""Where a request takes several GPUs: one that is not on the NVLink domain, or not on the NUMA node, that the
others are on."""

SPOILS: Final = 1 * _FINE
"""For each other partition that could be made of the same GPU and then no more."""

BESIDE_PAIR: Final = 50 * _FINE
"""A device of which its switch has more than it has mates: pairs are left, but one choice fewer."""

BREAKS_GPU: Final = 100 * _FINE
"""A partition of a GPU that is whole."""

BREAKS_PAIR: Final = 200 * _FINE
"""A device that leaves its mate on the switch alone."""

HELD: Final = 5_000 * _FINE

CONTENDED: Final = 20_000 * _FINE
"""No preference but a hint to the search: what another part of the same question would take, so that guesses
seldom collide."""

DEAR: Final = CONTENDED
"""The same: the first price of a whole budget that a guess has overdrawn."""

RANK: Final = 10**13
"""One step of rank outweighs all else that a question can cost."""


def sets(gpus: int) -> int:
    """How many sets of 2, of 4, of 8 … these GPUs could be, together: most claims ask for such numbers, so
    a node with five is a better place for one than a node with four.
    """
    return sum(gpus >> bit for bit in range(1, gpus.bit_length()))


def split(cost: int) -> tuple[int, int]:
    """A cost as what outweighs a fuller node, and what does not."""
    return divmod(cost, _FINE)
