"""Which side of a pair a request's devices can be on: GPUs on the one, NICs on the other.

Nothing in the API says what a request yields, only its devices do. So an Alignment that names a request for
NICs as its GPUs is found out here, by the devices that match, whether they are free or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from controller.allocator.asks import ParsedClaim
from controller.allocator.build import Chosen
from controller.allocator.candidates import wanted
from controller.allocator.model import NodeDevices
from controller.allocator.traits import traits
from controller.allocator.verdict import Refusal
from driver.names import TYPE_GPU, TYPE_MIG, TYPE_NIC, TYPE_VF, TYPE_VFIO

GPU: Final = "GPU"
NIC: Final = "NIC"

_SIDES: Final = {TYPE_GPU: GPU, TYPE_MIG: GPU, TYPE_VFIO: GPU, TYPE_NIC: NIC, TYPE_VF: NIC}
_OTHER: Final = {GPU: NIC, NIC: GPU}


def side_of(node: NodeDevices, one: Chosen) -> str | None:
    """Say whether the request yields nothing but GPUs, or nothing but NICs; None where neither, or where no
    device matches.
    """
    types = traits(node).types
    sides = {_SIDES.get(type_) for type_ in set(map(types.__getitem__, one.found.matching))}
    return sides.pop() if len(sides) == 1 else None


def aligned_sides(
    claims: Sequence[ParsedClaim], chosen: Sequence[Chosen], node: NodeDevices
) -> list[Chosen] | Refusal:
    """Leave to each aligned request the devices of its side, or refuse where it has none.

    Devices that do not say what they are (other drivers') may be on either side. The refusal is not
    permanent, for what a request yields depends on the devices that nodes publish.
    """
    answer = list(chosen)
    for claim in claims:
        if not claim.alignments:
            continue
        places = {
            name: i
            for i, one in enumerate(chosen)
            if one.ask.claim == claim.index
            for name in (one.ask.main, one.ask.request)
        }
        for aligned in claim.alignments:
            pairs = aligned.pairs
            sides = {
                name: side_of(node, answer[places[name]])
                for name in (pairs.gpus, pairs.nics)
                if name in places
            }
            swapped = sides == {pairs.gpus: NIC, pairs.nics: GPU}
            for side, name in ((GPU, pairs.gpus), (NIC, pairs.nics)):
                if name not in places:
                    continue  # a subrequest that was not chosen
                right = (
                    f"pairs: {{gpus: {pairs.nics}, nics: {pairs.gpus}}}"
                    if swapped
                    else f"a request for {side}s"
                )
                subject = f'{aligned.where}: pairs.{side.lower()}s is "{name}"'
                left = _of_side(node, answer[places[name]], side, right)
                if isinstance(left, Refusal):
                    return replace(
                        left, claim=claim.name, subject=subject, message=f"{subject}, {left.message}"
                    )
                answer[places[name]] = left
    return answer


def _of_side(node: NodeDevices, one: Chosen, side: str, right: str) -> Chosen | Refusal:
    """The request with its free devices of that side, or a refusal without a subject."""
    types = traits(node).types
    wrong = [index for index in one.found.matching if _SIDES.get(types[index]) == _OTHER[side]]
    if not wrong:
        return one
    yields = f"{_OTHER[side]}s ({', '.join(sorted({types[index] for index in wrong}))})"
    if len(wrong) == len(one.found.matching):
        return Refusal("", "", f"which yields {yields} and no {side}; right is {right}")
    if one.ask.everything:
        return Refusal("", "", f"which asks for all devices, {yields} among them; right is {right}")
    others = set(one.found.free).difference(wrong)
    count = wanted(one.ask, one.found)
    if len(others) < count:
        message = f"of which {count} {side}s are wanted and {len(others)} free (it yields {yields} too)"
        return Refusal("", "", message, wanted=count)
    free = tuple(index for index in one.found.free if index in others)
    return replace(one, found=replace(one.found, free=free))
