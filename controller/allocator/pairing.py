"""The best pairs of GPUs and NICs by tier: as many as possible of the best tier, then of the next, and so on.

One to one it is a minimum-cost flow between kinds. Where one side is smaller, each of its devices serves as
many of the other side as its neighbours do (give or take one); which devices those are is chosen from all
combinations of kinds, with a bound that spares most of them the flow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controller.allocator.flow import Network
from controller.allocator.problem import KindPair, Pairing, Problem, Steps, Work, pair_tier
from controller.allocator.weights import CONTENDED, RANK
from driver.devices import Tier

_PASSED: Final = 8
"""So many combinations that a bound rules out count as one step: there can be millions of them."""
_SENT_A_STEP: Final = 25
_BOUNDED_A_STEP: Final = 400
"""So many pairs of kinds a flow is sent through, or a bound looks at, in a tenth of a millisecond."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Pairs by kind, devices used by kind on each side, the cost (rank part times RANK, plus the rest)."""

    pairs: tuple[KindPair, ...]
    gpus: Mapping[int, int]
    nics: Mapping[int, int]
    cost: int


def rank_cost(rank: int, ranks: int, pairs: int) -> int:
    """Cost of one pair, such that one more pair of a better rank outweighs any number of worse ones."""
    base = pairs + 1
    return int(base**ranks - base ** (ranks - rank))


def best_pairs(
    problem: Problem,
    pairing: Pairing,
    want: tuple[int, int],
    gpus: Mapping[int, int],
    nics: Mapping[int, int],
    floors: Sequence[Mapping[int, int]],
    used: Mapping[int, int],
    pairs_in_all: int,
    steps: Steps,
) -> Work[Paired | int]:
    """Find the cheapest pairs with at most so many devices of each kind, or how many there can be at most.

    Args:
        problem: whose kinds these are.
        pairing: which tiers, and how good.
        want: numbers of GPUs and NICs.
        gpus: devices that may be taken, by kind.
        nics: the same for the other side.
        floors: devices that must be taken, by kind, of GPUs and of NICs.
        used: devices that others of this problem would take, by kind: avoided among equals.
        pairs_in_all: of all the problem's pairings, which sets the scale of cost.
        steps: taken from where combinations are tried.
    """
    want_gpus, want_nics = want
    costs: dict[tuple[int, int], int] = {}
    ranks = len(Tier)
    for gpu in gpus:
        for nic in nics:
            level = pair_tier(problem, gpu, nic)
            rank = pairing.ranks.get(level)
            if rank is not None:
                left, right = problem.kinds[gpu], problem.kinds[nic]
                rest = left.avoid + right.avoid
                if level is not Tier.PIX:
                    rest += left.cost + right.cost
                costs[gpu, nic] = rank_cost(rank, ranks, pairs_in_all) * RANK + rest
    if want_gpus == want_nics:
        yield len(costs) // _SENT_A_STEP
        return _one_to_one(problem, costs, gpus, nics, floors, used, want_gpus)
    if want_gpus > want_nics:
        return (yield from _uneven(problem, costs, gpus, nics, floors, used, want, steps))
    flipped = {(nic, gpu): cost for (gpu, nic), cost in costs.items()}
    answer = yield from _uneven(
        problem, flipped, nics, gpus, floors[::-1], used, (want_nics, want_gpus), steps
    )
    if isinstance(answer, int):
        return answer
    turned = tuple(KindPair(p.nic, p.gpu, p.tier, p.count) for p in answer.pairs)
    return Paired(turned, answer.nics, answer.gpus, answer.cost)


def _one_to_one(
    problem: Problem,
    costs: Mapping[tuple[int, int], int],
    gpus: Mapping[int, int],
    nics: Mapping[int, int],
    floors: Sequence[Mapping[int, int]],
    used: Mapping[int, int],
    want: int,
) -> Paired | int:
    left = {kind: index for index, kind in enumerate(gpus)}
    right = {kind: index + len(left) for index, kind in enumerate(nics)}
    source, sink = len(left) + len(right), len(left) + len(right) + 1
    net = Network(sink + 1)
    must = _more_than_all(costs, want) if any(floors) else 0
    musts: list[tuple[int, int]] = []
    for kind, node in left.items():
        for amount, extra, floor in _seats(problem, kind, gpus[kind], floors[0].get(kind, 0), used):
            edge = net.edge(source, node, amount, extra + (0 if floor else must))
            musts += [(edge, amount)] if floor else []
    for kind, node in right.items():
        for amount, extra, floor in _seats(problem, kind, nics[kind], floors[1].get(kind, 0), used):
            edge = net.edge(node, sink, amount, extra + (0 if floor else must))
            musts += [(edge, amount)] if floor else []
    edges = {pair: net.edge(left[pair[0]], right[pair[1]], want, cost) for pair, cost in costs.items()}
    sent, cost = net.send(source, sink, want)
    if sent < want:
        return sent
    if any(net.flow(edge) < amount for edge, amount in musts):
        return want - 1
    cost -= must * (2 * want - sum(amount for _, amount in musts))
    return _paired(problem, {pair: net.flow(edge) for pair, edge in edges.items()}, None, cost)


def _uneven(
    problem: Problem,
    costs: Mapping[tuple[int, int], int],
    many: Mapping[int, int],
    few: Mapping[int, int],
    floors: Sequence[Mapping[int, int]],
    used: Mapping[int, int],
    want: tuple[int, int],
    steps: Steps,
) -> Work[Paired | int]:
    """`many` devices each with one of the `few`; `want` gives the numbers of both."""
    want_many, want_few = want
    low, high = want_many // want_few, -(-want_many // want_few)
    order = [kind for kind in few if any((other, kind) in costs for other in many)]
    best: Paired | None = None
    most = passed = 0
    for chosen in _choices(order, few, want_few):
        yield len(many) * len(chosen) // _BOUNDED_A_STEP
        bound = _bound(costs, many, chosen, want_many) if best is not None else None
        if any(chosen.get(kind, 0) < count for kind, count in floors[1].items()) or (
            best is not None and bound is not None and bound >= best.cost
        ):
            passed += 1
            if passed % _PASSED:
                continue
            if not steps.take():
                break
            yield 1
            continue
        if not steps.take():
            break
        yield 1 + len(many) * len(chosen) // _SENT_A_STEP
        answer = _serve(problem, costs, many, chosen, floors[0], used, (want_many, low, high))
        if isinstance(answer, int):
            most = max(most, answer)
        elif best is None or answer.cost < best.cost:
            best = answer
    return best if best is not None else min(most, want_many - 1)


def _choices(order: list[int], seats: Mapping[int, int], want: int) -> Iterator[dict[int, int]]:
    """All ways to take `want` devices from kinds in `order`, spread wide before deep."""
    if want == 0:
        yield {}
    elif sum([seats[kind] for kind in order]) >= want:
        kind, rest = order[0], order[1:]
        counts = range(min(seats[kind], want) + 1)
        for count in sorted(counts, key=lambda c: (c != 1, c)):
            for others in _choices(rest, seats, want - count):
                yield {kind: count, **others} if count else others


def _bound(
    costs: Mapping[tuple[int, int], int], many: Mapping[int, int], chosen: Mapping[int, int], want: int
) -> int | None:
    """What pairs with the chosen kinds cost at least; None where some cannot be had at all."""
    cheapest = sorted(
        (min(options), seats)
        for kind, seats in many.items()
        if (options := [costs[kind, c] for c in chosen if (kind, c) in costs])
    )
    total = 0
    for cost, seats in cheapest:
        took = min(seats, want)
        total += took * cost
        want -= took
        if not want:
            return total
    return None


def _serve(
    problem: Problem,
    costs: Mapping[tuple[int, int], int],
    many: Mapping[int, int],
    chosen: Mapping[int, int],
    least: Mapping[int, int],
    used: Mapping[int, int],
    sizes: tuple[int, int, int],
) -> Paired | int:
    want, low, high = sizes
    left = {kind: index for index, kind in enumerate(many)}
    right = {kind: index + len(left) for index, kind in enumerate(chosen)}
    source, sink = len(left) + len(right), len(left) + len(right) + 1
    net = Network(sink + 1)
    must = _more_than_all(costs, want)
    floors = []
    for kind, node in left.items():
        for amount, extra, floor in _seats(problem, kind, many[kind], least.get(kind, 0), used):
            edge = net.edge(source, node, amount, extra + (must if least and not floor else 0))
            floors += [(edge, amount)] if floor else []
    for kind, node in right.items():
        # The first `low` of each device are free, the rest so dear that these fill up first.
        floors.append((net.edge(node, sink, low * chosen[kind], 0), low * chosen[kind]))
        net.edge(node, sink, (high - low) * chosen[kind], must)
    edges = {
        (one, other): net.edge(left[one], right[other], want, costs[one, other])
        for one in many
        for other in chosen
        if (one, other) in costs
    }
    sent, cost = net.send(source, sink, want)
    if sent < want:
        return sent
    if any(net.flow(edge) < amount for edge, amount in floors):
        return want - 1
    extra = sum(_dearness(problem, kind, count, used) for kind, count in chosen.items())
    cost -= must * ((2 if least else 1) * want - sum(amount for _, amount in floors))
    flows = {pair: net.flow(edge) for pair, edge in edges.items()}
    return _paired(problem, flows, chosen, cost + extra)


def _paired(
    problem: Problem, flows: Mapping[tuple[int, int], int], few: Mapping[int, int] | None, cost: int
) -> Paired:
    pairs = tuple(
        KindPair(one, other, pair_tier(problem, one, other), count)
        for (one, other), count in flows.items()
        if count
    )
    ones: dict[int, int] = {}
    others: dict[int, int] = {}
    for pair in pairs:
        ones[pair.gpu] = ones.get(pair.gpu, 0) + pair.count
        others[pair.nic] = others.get(pair.nic, 0) + pair.count
    return Paired(pairs, ones, dict(few) if few is not None else others, cost)


def _seats(
    problem: Problem, kind: int, most: int, least: int, used: Mapping[int, int]
) -> list[tuple[int, int, bool]]:
    """Up to `most` devices of a kind: those that must be taken, the uncontended ones, the rest; each part
    with its extra cost and whether it is a must.
    """
    free = max(0, min(most, problem.kinds[kind].seats - used.get(kind, 0)) - least)
    parts = ((least, 0, True), (free, 0, False), (most - least - free, CONTENDED, False))
    return [part for part in parts if part[0] > 0]


def _more_than_all(costs: Mapping[tuple[int, int], int], want: int) -> int:
    """A price that no sum of others reaches."""
    return (max(costs.values(), default=0) + 4 * CONTENDED) * (want + 1) + 1


def _dearness(problem: Problem, kind: int, count: int, used: Mapping[int, int]) -> int:
    free = max(0, problem.kinds[kind].seats - used.get(kind, 0))
    return CONTENDED * max(0, count - free)
