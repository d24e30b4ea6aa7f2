"""GPUs and their partitions: which are broken already, and what one more partition would spoil.

Devices that draw on one counter set are one piece of hardware in several forms (`driver.partitions`). It is
broken once something of it is taken: the whole cannot be had any more, so further partitions cost nobody a
whole GPU. Which partitions exclude each other follows from what they consume; pieces of one make are alike,
so it is worked out once for each make.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from controller.allocator import quantity
from controller.allocator.model import NodeDevices, PoolId
from controller.allocator.traits import Counter, consumption, pool_of

_Amounts = tuple[tuple[str, Fraction], ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Forms of one piece of hardware, by index of the device, and for each the forms (as bits, in the same
    order) that it excludes, itself too.
    """

    forms: tuple[int, ...]
    amounts: tuple[_Amounts, ...]
    limits: _Amounts
    excludes: tuple[int, ...]


class Partitions:
    """The pieces of one node, given what is spent of their counters."""

    def __init__(self, node: NodeDevices, spent: Mapping[Counter, Fraction]) -> None:
        self._node = node
        self._pieces, self._piece_of = node.derived("pieces", lambda: _pieces(node))
        self._left: dict[tuple[PoolId, str], int] = {}
        for (pool, counter_set, _), amount in spent.items():
            if amount and (pool, counter_set) in self._pieces:
                self._left[pool, counter_set] = 0
        for key in self._left:
            self._left[key] = _possible(self._pieces[key], key, spent)

    def gone(self) -> Collection[int]:
        """Forms of broken pieces that cannot be had any more, taken ones among them."""
        return [
            index
            for key, left in self._left.items()
            for bit, index in enumerate(self._pieces[key].forms)
            if not left >> bit & 1
        ]

    def whole(self, index: int) -> bool:
        """Is the device all of a piece that could also be had in parts?"""
        key = self._piece_of.get(index)
        if key is None:
            return False
        piece = self._pieces[key]
        return piece.excludes[piece.forms.index(index)] == (1 << len(piece.forms)) - 1

    def breaks(self, index: int) -> bool:
        """Is the device a part of a piece that is whole?"""
        key = self._piece_of.get(index)
        return key is not None and key not in self._left and not self.whole(index)

    def spoils(self, index: int) -> int:
        """Of a part: other forms of the piece that could be had now and could not be with this one."""
        key = self._piece_of.get(index)
        if key is None or self.whole(index):
            return 0
        piece = self._pieces[key]
        bit = piece.forms.index(index)
        left = self._left.get(key, -1)
        return (piece.excludes[bit] & left & ~(1 << bit)).bit_count()


def _pieces(node: NodeDevices) -> tuple[dict[tuple[PoolId, str], _Piece], dict[int, tuple[PoolId, str]]]:
    """Pieces of several forms, and the piece of each form. A device of two counter sets is of neither."""
    forms: dict[tuple[PoolId, str], list[int]] = {}
    for index, device in enumerate(node.devices):
        sets = {use.counter_set for use in device.device.consumes_counters}
        if len(sets) == 1:
            forms.setdefault((pool_of(device), sets.pop()), []).append(index)
    pieces: dict[tuple[PoolId, str], _Piece] = {}
    for (pool, counter_set), indices in forms.items():
        if len(indices) < 2:
            continue
        amounts = tuple(
            tuple(sorted((name, n) for (_, _, name), n in consumption(pool, node.devices[i].device)))
            for i in indices
        )
        limits = tuple(
            sorted(
                (name, quantity.parse(value))
                for (p, s, name), value in node.counters.items()
                if p == pool and s == counter_set
            )
        )
        pieces[pool, counter_set] = _Piece(tuple(indices), amounts, limits, _excludes(amounts, limits))
    return pieces, {index: key for key, piece in pieces.items() for index in piece.forms}


@lru_cache(maxsize=64)
def _excludes(amounts: Sequence[_Amounts], limits: _Amounts) -> tuple[int, ...]:
    most = dict(limits)
    tables = [dict(one) for one in amounts]
    return tuple(
        sum(
            1 << bit
            for bit, other in enumerate(tables)
            if bit == number or any(one[c] + other[c] > most[c] for c in one.keys() & other.keys())
        )
        for number, one in enumerate(tables)
    )


def _possible(piece: _Piece, key: tuple[PoolId, str], spent: Mapping[Counter, Fraction]) -> int:
    room = {name: limit - spent.get((*key, name), Fraction(0)) for name, limit in piece.limits}
    return sum(
        1 << bit for bit, one in enumerate(piece.amounts) if all(amount <= room[name] for name, amount in one)
    )
