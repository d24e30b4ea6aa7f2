"""Configs of a claim that have no effect, though they were meant for us.

Kubernetes gives each driver its own opaque configuration, and accepts any driver's name. So an Alignment
whose driver is misspelt is another driver's, and does nothing. Such a config does not stop the claim, but is
reported. Parameters of other drivers are never decoded, since they may be anything: searching their first
bytes must be enough. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Final

from controller.books import read
from driver.config import Alignment, Attachment, decode_user
from driver.errors import ConfigError
from driver.kube.objects import AllocationResult, DeviceClass, OpaqueConfig, ResourceClaim
from driver.names import API_VERSION

_NEAR: Final = 0.85
"""Of two names so much alike (`SequenceMatcher.ratio`) one is taken for the other misspelt."""
_SEARCHED: Final = 16 * 1024
"""Bytes; the API server takes 10 KiB at most (`OpaqueParametersMaxLength`)."""
_GROUP: Final = API_VERSION.partition("/")[0]
_OURS: Final = re.compile(rb'"apiVersion"\s*:\s*"' + re.escape(_GROUP).encode() + rb"/")


def unheeded(claim: ResourceClaim, classes: Mapping[str, DeviceClass], driver: str) -> tuple[str, ...]:
    """Say of each config of the claim, and of the classes it uses, that looks like ours, why it does nothing.

    Args:
        claim: whose configs these are.
        classes: by name.
        driver: our name.
    """
    return tuple(_unheeded(claim, classes, driver))


def unattached(claim: ResourceClaim, allocation: AllocationResult, driver: str) -> tuple[str, ...]:
    """Say of each Attachment of an allocated claim that it does nothing, where its requests got no NIC.

    A subrequest that was not chosen is no reason to say anything.
    """
    placement = read(allocation, driver).placement
    nics = {one.device for one in placement.interfaces} if placement is not None else set()
    got: dict[str, bool] = {}
    for result in allocation.devices.results:
        for name in (result.request, result.request.split("/")[0]):
            got[name] = got.get(name, False) or result.device in nics
    said = []
    for number, config in enumerate(claim.spec.devices.config):
        if placement is None or config.opaque is None or config.opaque.driver != driver:
            continue
        mine = [got[name] for name in config.requests or got if name in got]
        if mine and not any(mine) and _is_attachment(config.opaque):
            whose = " and ".join(config.requests) or "the claim"
            said.append(f"config {number}: an Attachment is for NICs, and {whose} has none; it does nothing")
    return tuple(said)


def _is_attachment(opaque: OpaqueConfig) -> bool:
    try:
        return isinstance(decode_user(bytes(opaque.parameters)), Attachment)
    except ConfigError:
        return False  # the claim is refused for it


def is_near(name: str, driver: str) -> bool:
    """Say whether a driver's name looks like ours misspelt: in another case, with other separators, with a
    part too many or too few, or with a few other letters.
    """
    one, other = name.casefold(), driver.casefold()
    if one == other or re.sub(r"[^a-z0-9]", "", one) == re.sub(r"[^a-z0-9]", "", other):
        return name != driver
    longer, shorter = sorted((one, other), key=len, reverse=True)
    if longer.startswith((f"{shorter}.", f"{shorter}-")) or (
        longer.endswith(f".{shorter}") and "." in shorter
    ):
        return True
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= _NEAR


def _unheeded(claim: ResourceClaim, classes: Mapping[str, DeviceClass], driver: str) -> Iterator[str]:
    for number, config in enumerate(claim.spec.devices.config):
        where = f"config {number}"
        yield from _of_others(where, config.opaque, driver)
        yield from _beside_pairs(where, config.requests, config.opaque, driver)
    names = {
        wish.device_class_name for request in claim.spec.devices.requests for wish in request.alternatives
    }
    for name in sorted(names & classes.keys()):
        for number, class_config in enumerate(classes[name].spec.config):
            yield from _of_others(f'DeviceClass "{name}": config {number}', class_config.opaque, driver)


def _of_others(where: str, opaque: OpaqueConfig | None, driver: str) -> Iterator[str]:
    """A config for a driver that is nearly ours, or with parameters of our API."""
    if opaque is None or opaque.driver == driver:
        return
    if _OURS.search(memoryview(opaque.parameters)[:_SEARCHED]):
        why = f"its parameters are of {_GROUP}"
    elif is_near(opaque.driver, driver):
        why = "which is nearly this driver's name"
    else:
        return
    yield f'{where}: opaque.driver is "{opaque.driver}", {why}; nothing here reads it; right is "{driver}"'


def _beside_pairs(where: str, requests: list[str], opaque: OpaqueConfig | None, driver: str) -> Iterator[str]:
    """An Alignment whose config is said to be for other requests than it pairs."""
    if not requests or opaque is None or opaque.driver != driver:
        return
    try:
        one = decode_user(bytes(opaque.parameters))
    except ConfigError:
        return  # the claim is refused for it
    if isinstance(one, Alignment) and one.pairs is not None:
        named = {name for request in requests for name in (request, request.split("/")[0])}
        left_out = [n for n in (one.pairs.gpus, one.pairs.nics) if not {n, n.split("/")[0]} & named]
        if left_out:
            yield (
                f"{where}: requests leaves out {' and '.join(left_out)}, which its pairs name; pairs count, "
                "requests does not: right is to leave it out or to name both"
            )
