"""Which claims are ours to allocate: those of which every request can be met by our driver's devices alone.

Nothing in the API ties a DeviceClass to a driver, only its selectors do. So a request is asked about two
devices of which nothing is known but their driver, ours and one that does not exist: a selector such as
``device.driver == "tandem-dra.io" && …`` says false to the stranger's and cannot say false to ours. A claim
that wants devices of others too is left to kube-scheduler whole, since a claim has one allocation.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from controller.allocator.cel import CelCache, SelectorError
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice
from driver.devices import Place
from driver.kube.objects import Device, DeviceClass, DeviceRequest, DeviceSelector, ResourceClaim


class Owner(Enum):
    """Who allocates a claim."""

    OURS = "ours"
    OTHERS = "others"
    MIXED = "mixed"
    """Some requests can be met by us alone, others by other drivers: nobody can allocate such a claim."""
    UNKNOWN = "unknown"
    """A class is not there (yet)."""


class Ownership:
    """Answers per claim; selectors' verdicts are kept. Not thread-safe."""

    def __init__(self, driver_name: str, cel: CelCache) -> None:
        self._cel = cel
        self._probes = NodeDevices(
            node="", devices=tuple(_bare_device(driver) for driver in (driver_name, "stranger.invalid"))
        )

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
        return self._selectors(device_class.spec.selectors) is Owner.OURS

    def _request(self, request: DeviceRequest, classes: Mapping[str, DeviceClass]) -> Owner:
        alternatives = [request.exactly] if request.exactly else request.first_available
        owners: set[Owner] = set()
        for wanted in alternatives:
            device_class = classes.get(wanted.device_class_name)
            if device_class is None:
                return Owner.UNKNOWN
            owners.add(self._selectors([*device_class.spec.selectors, *wanted.selectors]))
        return Owner.OURS if owners == {Owner.OURS} else Owner.OTHERS

    def _selectors(self, selectors: list[DeviceSelector]) -> Owner:
        may_be = [True] * len(self._probes.devices)
        for selector in selectors:
            if selector.cel is None:
                continue
            try:
                verdicts = self._cel.select(self._probes, selector.cel.expression)
            except SelectorError:
                return Owner.OTHERS
            may_be = [
                so_far and verdict is not False for so_far, verdict in zip(may_be, verdicts, strict=True)
            ]
        ours, stranger = may_be
        return Owner.OURS if ours and not stranger else Owner.OTHERS


def _bare_device(driver: str) -> PoolDevice:
    return PoolDevice(
        id=DeviceId(driver, "", "any"), device=Device(name="any"), place=Place(), content=driver.encode()
    )
