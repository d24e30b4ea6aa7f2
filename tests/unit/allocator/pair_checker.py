"""What pairs a right allocation has: judged by trying all, as the checker does for devices."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import msgspec

from tests.unit.allocator.checker import (
    TIERS,
    Case,
    Matcher,
    Names,
    Part,
    Placement,
    broken,
    choices,
    placements,
    tier,
)


@dataclass(frozen=True)
class Wanted:
    """An Alignment that applies, with the devices of its two requests."""

    gpus: tuple[str, ...]
    nics: tuple[str, ...]
    ranks: Mapping[str, int]


def alignments(
    case: Case,
    parts: Sequence[Part],
    placement: Placement,
    deal: Mapping[tuple[int, str], Names] | None = None,
) -> list[Wanted]:
    """The claims' Alignments as far as both requests are among the parts, and the pairs of what is left,
    which are to be as near as can be. `deal`: another order of the devices of a request with several mates,
    each of which has a share of them.
    """
    answer = []
    left = dict(enumerate(parts))
    for index, claim in enumerate(case.claims):
        names = {
            name: number
            for number, part in enumerate(parts)
            if part.claim == index
            for name in (part.main, part.name)
        }
        for config in claim.spec.devices.config:
            document = msgspec.json.decode(config.opaque.parameters) if config.opaque else {}
            if document.get("kind") != "Alignment":
                continue
            gpus, nics = (names.get(document["pairs"][side]) for side in ("gpus", "nics"))
            if gpus is None or nics is None:
                continue
            order = [*document.get("prefer", TIERS)]
            order += [t for t in TIERS if t not in order]
            allowed = TIERS[: TIERS.index(document.get("require", "SYS")) + 1]
            ranks = {name: rank for rank, name in enumerate(t for t in order if t in allowed)}
            devices = [placement[index, left.pop(number).name] for number in (gpus, nics)]
            answer.append(Wanted(devices[0], devices[1], ranks))
    ranks = {name: rank for rank, name in enumerate(TIERS)}
    placed = {**placement, **(deal or {})}
    for gpu, nic, share in by_default(case, left):
        sides = [placed[part.claim, part.name] for part in (gpu, nic)]
        if share is not None:
            side, start, size = share
            sides[side] = sides[side][start : start + size]
        answer.append(Wanted(sides[0], sides[1], ranks))
    return answer


def by_default(case: Case, left: dict[int, Part]) -> Iterator[tuple[Part, Part, tuple[int, int, int] | None]]:
    """The mates among requests that no Alignment names, as docs/placement.md has it; with each the share that
    the larger has for the other, where it has several: its side, the first and the number of its devices.
    """
    side = {
        number: "gpu" if kinds == {"gpu"} else "nic"
        for number, part in left.items()
        if len(kinds := {str(d.attributes["type"].string) for d in part.yields}) == 1
    }

    def of(kind: str, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if side.get(number) == kind]

    for index, claim in enumerate(case.claims):
        for rule in claim.spec.devices.constraints:
            if rule.match_attribute and rule.requests:
                mine = [
                    number
                    for number, part in left.items()
                    if part.claim == index and {part.main, part.name} & set(rule.requests)
                ]
                gpus, nics = of("gpu", mine), of("nic", mine)
                if len(gpus) == len(nics) == 1:
                    yield left[gpus[0]], left[nics[0]], None
                    del side[gpus[0]], side[nics[0]]
    for owners in [*({index} for index in range(len(case.claims))), set(range(len(case.claims)))]:
        mine = [number for number, part in left.items() if part.claim in owners]
        for gpu in of("gpu", mine):
            for nic in of("nic", mine):
                if left[gpu].count == left[nic].count:
                    yield left[gpu], left[nic], None
                    del side[gpu], side[nic]
                    break
        gpus, nics = of("gpu", mine), of("nic", mine)
        if len(gpus) == len(nics):
            for gpu, nic in zip(gpus, nics, strict=True):
                yield left[gpu], left[nic], None
                del side[gpu], side[nic]
        elif 1 in (len(gpus), len(nics)) and gpus and nics:
            one, many, which = (gpus[0], nics, 0) if len(gpus) == 1 else (nics[0], gpus, 1)
            total = sum(left[number].count for number in many)
            sizes = [Fraction(left[one].count * left[number].count, total) for number in many]
            if all(size.denominator == 1 for size in sizes):
                start = 0
                for number, size in zip(many, sizes, strict=True):
                    pair = (left[one], left[number]) if which == 0 else (left[number], left[one])
                    yield *pair, (which, start, int(size))
                    start += int(size)
                for number in (one, *many):
                    del side[number]


def deals(case: Case, parts: Sequence[Part], placement: Placement) -> Iterator[dict[tuple[int, str], Names]]:
    """All ways in which requests with several mates can deal their devices out."""
    left = dict(enumerate(parts))
    for index, claim in enumerate(case.claims):
        for config in claim.spec.devices.config:
            document = msgspec.json.decode(config.opaque.parameters) if config.opaque else {}
            said = set(document.get("pairs", {}).values())
            for number, part in list(left.items()):
                if part.claim == index and {part.main, part.name} & said:
                    del left[number]
    dealt = {
        ((gpu, nic)[share[0]].claim, (gpu, nic)[share[0]].name)
        for gpu, nic, share in by_default(case, left)
        if share is not None
    }
    orders = [[(key, order) for order in itertools.permutations(placement[key])] for key in sorted(dealt)]
    for combination in itertools.product(*orders):
        yield dict(combination)


def pairings(case: Case, wanted: Wanted) -> Iterator[Counter[int]]:
    """Ranks of the pairs, for every even way to pair these devices."""
    by_name = {d.name: d for d in case.devices}
    many, few = sorted((wanted.gpus, wanted.nics), key=len, reverse=True)
    low, high = len(many) // len(few), -(-len(many) // len(few))
    for mates in itertools.product(few, repeat=len(many)):
        loads = Counter(mates)
        if not all(low <= loads[name] <= high for name in few):
            continue
        tiers = [tier(by_name[a], by_name[b]) for a, b in zip(many, mates, strict=True)]
        if all(t in wanted.ranks for t in tiers):
            yield Counter(wanted.ranks[t] for t in tiers)


def goodness(ranks: Counter[int]) -> tuple[int, ...]:
    """More of the best rank is better, then of the next."""
    return tuple(ranks[rank] for rank in range(5))


def best(case: Case, matcher: Matcher) -> tuple[list[str], tuple[int, ...]] | None:
    """The requests (or subrequests) that come first among what is possible, and the best pairs with them."""
    for parts in choices(case, matcher):
        found: tuple[int, ...] | None = None
        for placement in placements(case, parts):
            for deal in deals(case, parts, placement):
                options = [list(pairings(case, w)) for w in alignments(case, parts, placement, deal)]
                for combination in itertools.product(*options):
                    value = goodness(sum(combination, Counter()))
                    found = value if found is None or value > found else found
        if found is not None:
            return [part.name for part in parts], found
    return None


def violations(
    case: Case,
    matcher: Matcher,
    results: Sequence[Sequence[tuple[str, str]]],
    pairs: Sequence[Sequence[tuple[str, str, str]]],
) -> list[str]:
    """What is wrong with an allocation: by claim (request, device) in order, and (gpu, nic, tier)."""
    named = {(i, request) for i, claim in enumerate(results) for request, _ in claim}
    for parts in choices(case, matcher):
        if {(part.claim, part.name) for part in parts} == named:
            break
    else:
        return [f"no choice of subrequests gives {sorted(named)}"]
    placement = {
        (part.claim, part.name): tuple(d for request, d in results[part.claim] if request == part.name)
        for part in parts
    }
    faults = broken(case, parts, placement)
    by_name = {d.name: d for d in case.devices}
    all_pairs = [pair for claim in pairs for pair in claim]
    for gpu, nic, said in all_pairs:
        if tier(by_name[gpu], by_name[nic]) != said:
            faults.append(f"{gpu} and {nic} are not {said}")
    expected = 0
    for wanted in alignments(case, parts, placement):
        mine = [p for p in all_pairs if p[0] in wanted.gpus and p[1] in wanted.nics]
        size = max(len(wanted.gpus), len(wanted.nics))
        expected += size
        for side, names in ((0, wanted.gpus), (1, wanted.nics)):
            loads = Counter(p[side] for p in mine)
            low, high = size // len(names), -(-size // len(names))
            if len(mine) != size or not all(low <= loads[name] <= high for name in names):
                faults.append(f"pairs {mine} are not even over {names}")
            if list(names) != list(dict.fromkeys(p[side] for p in mine)):
                faults.append(f"results {names} are not in the order of the pairs")
        faults += [f"{p} is worse than required" for p in mine if p[2] not in wanted.ranks]
    if len(all_pairs) != expected:
        faults.append(f"{len(all_pairs)} pairs, not {expected}")
    return faults
