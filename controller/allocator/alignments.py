"""The Alignments that hold for a claim: its own, and those of the classes that it uses.

None may be dropped silently: two that contradict each other about one pair of requests are refused, and a
claim can tighten what a class requires, but not loosen it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final

from driver.config import Alignment, RequestPair, decode_user
from driver.devices import Tier
from driver.errors import ConfigError
from driver.kube.objects import DeviceClass, OpaqueConfig, ResourceClaim

_TWICE: Final = "request in two alignments"


@dataclass(frozen=True, slots=True)
class Aligned:
    """An Alignment of two requests.

    Attributes:
        where: the config that it was written in: ``config 0``, or ``DeviceClass "gpu": config 0``.
        prefer: tiers, best first; empty: near before far.
        require: no pair may be farther than this.
        required_by: the class that requires it, where the claim asks for less; otherwise empty.
    """

    where: str
    pairs: RequestPair
    prefer: tuple[Tier, ...]
    require: Tier
    required_by: str = ""


class Misaligned(Exception):  # noqa: N818  # a verdict on its way out, not an error
    """A claim's Alignments cannot all hold. `subject` and `detail` are for people; `unsupported` is the
    feature that we do not have, if that is the reason.
    """

    def __init__(self, subject: str, detail: str, unsupported: str = "") -> None:
        super().__init__(f"{subject}: {detail}")
        self.subject = subject
        self.detail = detail
        self.unsupported = unsupported


def alignments(
    claim: ResourceClaim, classes: Iterable[DeviceClass], names: Set[str], driver: str
) -> list[Aligned]:
    """Read the Alignments that hold for the claim.

    Args:
        claim: whose configs these are.
        classes: that its requests use.
        names: of its requests and subrequests.
        driver: whose configs are read; those of others are not decoded.

    Raises:
        Misaligned: one is not valid, names a request that is not there, contradicts another, or pairs a
            request that another pairs already.
    """
    theirs: dict[RequestPair, Aligned] = {}
    for device_class in sorted(classes, key=lambda one: one.metadata.name):
        for number, class_config in enumerate(device_class.spec.config):
            where = f'DeviceClass "{device_class.metadata.name}": config {number}'
            for one in _read(where, class_config.opaque, driver):
                # A class does not know the claims that use it: its word is for those with such requests.
                if {one.pairs.gpus, one.pairs.nics} <= names:
                    _put(theirs, one)
    mine: dict[RequestPair, Aligned] = {}
    for number, config in enumerate(claim.spec.devices.config):
        for one in _read(f"config {number}", config.opaque, driver):
            for name in (one.pairs.gpus, one.pairs.nics):
                if name not in names:
                    right = ", ".join(sorted(names))
                    raise Misaligned(
                        one.where, f"pairs: there is no request {name!r}; right is one of {right}"
                    )
            _put(mine, one)
    found = [_over(mine[pairs], theirs.get(pairs)) for pairs in mine]
    found += [one for pairs, one in theirs.items() if pairs not in mine]
    _refuse_twice(found)
    return found


def _read(where: str, opaque: OpaqueConfig | None, driver: str) -> Iterator[Aligned]:
    """The config's Alignment, if it is one of pairs."""
    if opaque is None or opaque.driver != driver:
        return
    try:
        one = decode_user(bytes(opaque.parameters))
    except ConfigError as error:
        raise Misaligned(where, str(error)) from error
    if isinstance(one, Alignment) and one.pairs is not None:
        yield Aligned(where, one.pairs, one.prefer, one.require)


def _put(found: dict[RequestPair, Aligned], one: Aligned) -> None:
    """Add it, unless another of the same author contradicts it."""
    other = found.setdefault(one.pairs, one)
    if (other.prefer, other.require) != (one.prefer, one.require):
        pair = f"pairs {one.pairs.gpus}+{one.pairs.nics}"
        raise Misaligned(
            one.where, f"{pair}: {other.where} says something different about them; keep one of the two"
        )


def _over(mine: Aligned, theirs: Aligned | None) -> Aligned:
    """The claim's Alignment where a class has one of the same pair: its own preference counts, of the two
    requirements the stricter.
    """
    if theirs is None:
        return mine
    merged = replace(mine, prefer=mine.prefer or theirs.prefer)
    if theirs.require < mine.require:
        merged = replace(merged, require=theirs.require, required_by=theirs.where)
    return merged


def _refuse_twice(found: Sequence[Aligned]) -> None:
    """No request may be in two pairs, but two pairs may name two subrequests, of which one is chosen."""
    users: dict[str, list[tuple[str, str]]] = {}
    for one in found:
        for name in (one.pairs.gpus, one.pairs.nics):
            users.setdefault(name.split("/")[0], []).append((name, one.where))
    for main, uses in sorted(users.items()):
        names = [name for name, _ in uses]
        if len(names) > 1 and (main in names or len(set(names)) < len(names)):
            places = " and ".join(dict.fromkeys(where for _, where in uses))
            raise Misaligned(f'request "{main}"', f"is in two alignments ({places}); right is one", _TWICE)
