"""Which claims are ours to allocate: those of which every request can be met by our driver's devices alone.

Nothing in the API ties a DeviceClass to a driver, only its selectors do. So the selectors of class and
request are tried: on one device of each kind that our driver publishes, on the same devices under the name of
a driver that does not exist, and on the devices of other drivers. A request is ours where one of ours matches
and no stranger's does. What nobody's devices match is judged by what could match: devices of which nothing is
known but the driver, and then the class alone, however narrow the request is (ADR 15).

A claim that wants devices of others too is left to kube-scheduler whole, since a claim has one allocation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Final

from controller.allocator.cel import CelCache, SelectorError
from controller.allocator.model import NodeDevices
from controller.known_devices import STRANGER, KnownDevices, bare_device
from driver.kube.objects import (
    DeviceClass,
    DeviceRequest,
    DeviceSelector,
    ResourceClaim,
)

_KEPT: Final = 4096


class Owner(Enum):
    """Who allocates a claim."""

    OURS = "ours"
    OTHERS = "others"
    MIXED = "mixed"
    """Some requests can be met by us alone, others by other drivers: nobody can allocate such a claim."""
    UNKNOWN = "unknown"
    """A class is not there (yet)."""


class Ownership:
    """Answers per claim; kept until a new kind of device appears. Not thread-safe."""

    def __init__(self, driver_name: str, cel: CelCache, known: KnownDevices | None = None) -> None:
        """`known` is what the cluster has had; None: what our driver typically publishes."""
        self._cel = cel
        self._known = known or KnownDevices(driver_name)
        bare = tuple(bare_device(driver) for driver in (driver_name, STRANGER))
        self._bare = NodeDevices(node="", devices=bare)
        self._answers: dict[tuple[tuple[str, ...], tuple[str, ...]], Owner] = {}
        self._version = -1

    def of(self, claim: ResourceClaim, classes: Mapping[str, DeviceClass]) -> Owner:
        """Who allocates this claim."""
        owners = {self._request(request, classes) for request in claim.spec.devices.requests}
        if Owner.UNKNOWN in owners:
            return Owner.UNKNOWN
        if len(owners) > 1:
            return Owner.MIXED
        return owners.pop() if owners else Owner.OTHERS

    def owns(self, device_class: DeviceClass) -> bool:
        """Only our devices are of this class."""
        return self._owner(_expressions(device_class.spec.selectors), ()) is Owner.OURS

    def drivers(self, claim: ResourceClaim, classes: Mapping[str, DeviceClass]) -> list[str]:
        """Other drivers of which devices are known that meet a request of the claim, or are of its class."""
        found: set[str] = set()
        for wanted in (w for request in claim.spec.devices.requests for w in request.alternatives):
            device_class = classes.get(wanted.device_class_name)
            of_class = _expressions(device_class.spec.selectors) if device_class is not None else ()
            whole = (*of_class, *_expressions(wanted.selectors))
            found |= self._matched(whole) or self._matched(of_class)
        return sorted(found)

    def _matched(self, expressions: Sequence[str]) -> set[str]:
        try:
            return {name for name, chunk in self._known.others() if self._match([chunk], expressions)}
        except SelectorError:
            return set()

    def _request(self, request: DeviceRequest, classes: Mapping[str, DeviceClass]) -> Owner:
        owners: set[Owner] = set()
        for wanted in request.alternatives:
            device_class = classes.get(wanted.device_class_name)
            if device_class is None:
                return Owner.UNKNOWN
            owners.add(self._owner(_expressions(device_class.spec.selectors), _expressions(wanted.selectors)))
        return Owner.OURS if owners == {Owner.OURS} else Owner.OTHERS

    def _owner(self, of_class: tuple[str, ...], of_request: tuple[str, ...]) -> Owner:
        if self._version != self._known.version:
            self._version = self._known.version
            self._answers.clear()
        key = of_class, of_request
        known = self._answers.get(key)
        if known is None:
            if len(self._answers) >= _KEPT:
                self._answers.clear()
            known = self._answers[key] = self._find(of_class, of_request)
        return known

    def _find(self, of_class: tuple[str, ...], of_request: tuple[str, ...]) -> Owner:
        try:
            is_ours = self._is_ours((*of_class, *of_request))
            if is_ours is None and of_request:
                is_ours = self._is_ours(of_class)
        except SelectorError:
            return Owner.OTHERS
        return Owner.OURS if is_ours else Owner.OTHERS

    def _is_ours(self, expressions: Sequence[str]) -> bool | None:
        """Do these match our devices and nobody else's? None where nobody's are known that they match."""
        if self._match((chunk for _, chunk in self._known.others()), expressions):
            return False
        if self._match(self._known.ours(), expressions):
            return not self._match(self._known.twins(), expressions)
        ours, strangers = self._may_match(expressions)
        return True if ours and not strangers else None

    def _match(self, devices: Iterable[NodeDevices], expressions: Sequence[str]) -> bool:
        """Is there a device that all of these say true of? An error is not true, as in kube-scheduler."""
        for chunk in devices:
            left: Sequence[int] = range(len(chunk.devices))
            for expression in expressions:
                verdicts = self._cel.select(chunk, expression)
                left = [index for index in left if verdicts[index] is True]
                if not left:
                    break
            if left:
                return True
        return False

    def _may_match(self, expressions: Sequence[str]) -> Sequence[bool]:
        """Could a device of ours, and one of a stranger, be such that all of these say true of it?"""
        may_be = [True] * len(self._bare.devices)
        for expression in expressions:
            verdicts = self._cel.select(self._bare, expression)
            may_be = [
                so_far and verdict is not False for so_far, verdict in zip(may_be, verdicts, strict=True)
            ]
        return may_be


def _expressions(selectors: Iterable[DeviceSelector]) -> tuple[str, ...]:
    return tuple(selector.cel.expression for selector in selectors if selector.cel is not None)
