"""Claims as the allocator reads them: requests with their alternatives, constraints and alignments, checked
once.

What the API server would refuse, a class that is missing, a document that does not decode or a feature that
we do not have ends here as a permanent `Refusal`, before any device is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controller.allocator import quantity
from controller.allocator.alignments import Aligned, Misaligned, alignments
from controller.allocator.capacity import Requests
from controller.allocator.verdict import Refusal
from driver.kube.objects import (
    DeviceClass,
    DeviceConstraint,
    DeviceSelector,
    DeviceSubRequest,
    DeviceToleration,
    ExactDeviceRequest,
    ResourceClaim,
)

MAX_RESULTS: Final = 32
"""Devices in one claim's allocation (resource.k8s.io/v1)."""


class Refused(Exception):  # noqa: N818  # a verdict on its way out, not an error
    """Carries a refusal up to `allocate`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Ask:
    """One way to meet a request.

    Attributes:
        claim: index of the claim.
        request: name in results: ``gpu``, or ``gpu/big`` for a subrequest.
        main: name of the request itself.
        class_selectors: CEL expressions of its class.
        selectors: CEL expressions of its own.
        everything: all matching devices, not `count`.
        admin: besides whoever holds the devices, without holding them itself (KEP-5018).
        capacity: amounts that it asks of each device.
    """

    claim: int
    request: str
    main: str
    device_class: DeviceClass
    class_selectors: tuple[str, ...]
    selectors: tuple[str, ...]
    count: int
    everything: bool
    tolerations: tuple[DeviceToleration, ...]
    admin: bool = False
    capacity: Requests = ()


@dataclass(frozen=True, slots=True)
class ParsedClaim:
    """A claim, the ways to meet each of its requests in order of preference, and its alignments."""

    index: int
    name: str
    claim: ResourceClaim
    options: tuple[tuple[Ask, ...], ...]
    constraints: tuple[DeviceConstraint, ...]
    alignments: tuple[Aligned, ...]


def label(claim: ResourceClaim) -> str:
    """``namespace/name``."""
    return f"{claim.metadata.namespace}/{claim.metadata.name}"


def parse(index: int, claim: ResourceClaim, classes: Mapping[str, DeviceClass], driver: str) -> ParsedClaim:
    """Check one claim.

    Raises:
        Refused: permanently.
    """
    reader = _Reader(index, claim, classes)
    options = tuple(reader.options())
    least = sum(min((0 if ask.everything else ask.count) for ask in asks) for asks in options)
    if least > MAX_RESULTS:
        raise reader.refused("claim", f"wants {least} devices; a claim can hold {MAX_RESULTS} at most")
    return ParsedClaim(
        index=index,
        name=label(claim),
        claim=claim,
        options=options,
        constraints=tuple(reader.constraints()),
        alignments=tuple(reader.alignments(options, driver)),
    )


class _Reader:
    def __init__(self, index: int, claim: ResourceClaim, classes: Mapping[str, DeviceClass]) -> None:
        self._index = index
        self._claim = claim
        self._classes = classes
        self._mains = {request.name for request in claim.spec.devices.requests}
        self._names = self._mains | {
            f"{request.name}/{sub.name}"
            for request in claim.spec.devices.requests
            for sub in request.first_available
        }

    def refused(self, subject: str, detail: str, *, unsupported: str = "") -> Refused:
        return Refused(
            Refusal(
                claim=label(self._claim),
                subject=subject,
                message=f"{subject}: {detail}",
                permanent=True,
                unsupported=unsupported,
            )
        )

    def options(self) -> list[tuple[Ask, ...]]:
        answer: list[tuple[Ask, ...]] = []
        for request in self._claim.spec.devices.requests:
            subject = f'request "{request.name}"'
            if request.exactly is not None:
                answer.append((self._ask(request.name, request.name, request.exactly),))
            elif request.first_available:
                answer.append(
                    tuple(
                        self._ask(f"{request.name}/{sub.name}", request.name, sub)
                        for sub in request.first_available
                    )
                )
            else:
                raise self.refused(subject, "is neither exactly nor firstAvailable")
        return answer

    def _ask(self, name: str, main: str, wish: ExactDeviceRequest | DeviceSubRequest) -> Ask:
        subject = f'request "{name}"'
        device_class = self._classes.get(wish.device_class_name)
        if device_class is None:
            raise self.refused(subject, f"there is no DeviceClass {wish.device_class_name!r}")
        if wish.allocation_mode not in ("ExactCount", "All"):
            raise self.refused(
                subject, f"allocationMode {wish.allocation_mode!r} is neither ExactCount nor All"
            )
        everything = wish.allocation_mode == "All"
        if not everything and wish.count < 1:
            raise self.refused(subject, f"count is {wish.count}, which must be 1 at least")
        return Ask(
            claim=self._index,
            request=name,
            main=main,
            device_class=device_class,
            class_selectors=self._expressions(subject, device_class.spec.selectors),
            selectors=self._expressions(subject, wish.selectors),
            count=wish.count,
            everything=everything,
            tolerations=tuple(wish.tolerations),
            admin=isinstance(wish, ExactDeviceRequest) and wish.admin_access,
            capacity=self._capacity(subject, wish),
        )

    def _capacity(self, subject: str, wish: ExactDeviceRequest | DeviceSubRequest) -> Requests:
        requests = tuple(sorted(wish.capacity.requests.items())) if wish.capacity else ()
        for name, amount in requests:
            try:
                quantity.parse(amount)
            except ValueError as error:
                raise self.refused(subject, f"capacity {name!r}: {error}") from error
        return requests

    def _expressions(self, subject: str, selectors: Sequence[DeviceSelector]) -> tuple[str, ...]:
        if any(selector.cel is None for selector in selectors):
            raise self.refused(subject, "has a selector that is not CEL", unsupported="selector type")
        return tuple(selector.cel.expression for selector in selectors if selector.cel is not None)

    def constraints(self) -> list[DeviceConstraint]:
        answer = []
        for number, constraint in enumerate(self._claim.spec.devices.constraints):
            subject = f"constraint {number}"
            unknown = sorted(set(constraint.requests) - self._names)
            if unknown:
                raise self.refused(subject, f"there is no request {unknown[0]!r}")
            if constraint.match_attribute is None and constraint.distinct_attribute is None:
                raise self.refused(
                    subject, "is neither matchAttribute nor distinctAttribute", unsupported="constraint type"
                )
            answer.append(constraint)
        return answer

    def alignments(self, options: Sequence[Sequence[Ask]], driver: str) -> list[Aligned]:
        classes = {ask.device_class.metadata.name: ask.device_class for asks in options for ask in asks}
        try:
            return alignments(self._claim, classes.values(), self._names, driver)
        except Misaligned as error:
            raise self.refused(error.subject, error.detail, unsupported=error.unsupported) from error
