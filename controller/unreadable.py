"""A claim that cannot be read completely: a problem of that claim, and of no other.

Opaque parameters never cause this (see `driver.kube.decoding`); a field that a newer API server writes in
another form may. Leaving such a claim out would make its devices look free, and waiting for it would stop
everyone. So we read as much of it as says what it holds: the allocation; or, if that fails, the names of the
devices, which then count as held completely; or, if that fails too, only its name and UID, and it goes on
holding what it held before. At the first list nothing is known from before: then its devices count as free
here, and the kubelet plugin, which cannot read the claim either, prepares nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from driver.kube.decoding import Decoder
from driver.kube.meta import ObjectMeta, Wire
from driver.kube.objects import (
    AllocationResult,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    ResourceClaim,
    ResourceClaimStatus,
)


class UnreadableClaim(ResourceClaim, frozen=True, kw_only=True):
    """What could be read of a claim; its spec is empty.

    Attributes:
        problem: why it cannot be read.
        holds_known: the status tells what the claim holds.
    """

    problem: str
    holds_known: bool = True


class _Names(Wire, frozen=True, kw_only=True):
    name: str
    uid: str
    namespace: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None


class _Allocated(Wire, frozen=True, kw_only=True):
    allocation: AllocationResult | None = None


class _ByAllocation(Wire, frozen=True, kw_only=True):
    metadata: _Names
    status: _Allocated = _Allocated()

    def known(self) -> ResourceClaimStatus:
        return ResourceClaimStatus(allocation=self.status.allocation)


class _Result(Wire, frozen=True, kw_only=True):
    driver: str
    pool: str
    device: str


class _Results(Wire, frozen=True, kw_only=True):
    results: list[_Result] = msgspec.field(default_factory=list)


class _Devices(Wire, frozen=True, kw_only=True):
    devices: _Results = _Results()


class _Named(Wire, frozen=True, kw_only=True):
    allocation: _Devices | None = None


class _ByDevices(Wire, frozen=True, kw_only=True):
    metadata: _Names
    status: _Named = _Named()

    def known(self) -> ResourceClaimStatus:
        if self.status.allocation is None:
            return ResourceClaimStatus()
        results = [
            DeviceRequestAllocationResult(request="", driver=r.driver, pool=r.pool, device=r.device)
            for r in self.status.allocation.devices.results
        ]
        return ResourceClaimStatus(
            allocation=AllocationResult(devices=DeviceAllocationResult(results=results))
        )


class _ByName(Wire, frozen=True, kw_only=True):
    metadata: _Names

    def known(self) -> None:
        return None


_Decode = Callable[[bytes | msgspec.Raw], _ByAllocation | _ByDevices | _ByName]

_WAYS: Final[tuple[_Decode, ...]] = (
    Decoder(_ByAllocation).decode,
    Decoder(_ByDevices).decode,
    Decoder(_ByName).decode,
)


def read_holdings(raw: bytes | msgspec.Raw, problem: msgspec.MsgspecError) -> UnreadableClaim:
    """Read what a claim holds, as far as that is possible.

    Raises:
        msgspec.MsgspecError: `problem`, where not even the claim's name and UID can be read.
    """
    for decode in _WAYS:
        try:
            found = decode(raw)
        except msgspec.MsgspecError:
            continue
        status = found.known()
        return UnreadableClaim(
            metadata=ObjectMeta(
                name=found.metadata.name,
                namespace=found.metadata.namespace,
                uid=found.metadata.uid,
                resource_version=found.metadata.resource_version,
                deletion_timestamp=found.metadata.deletion_timestamp,
            ),
            status=status or ResourceClaimStatus(),
            problem=str(problem),
            holds_known=status is not None,
        )
    raise problem


@dataclass(slots=True)
class Unreadable:
    """Follows which claims cannot be read. Not thread-safe.

    Attributes:
        problems: why, by the claim's UID.
    """

    problems: dict[str, str] = field(default_factory=dict)
    _news: list[str] = field(default_factory=list)

    def note(
        self, uid: str, claim: ResourceClaim | None, before: ResourceClaim | None
    ) -> ResourceClaim | None:
        """Take in a change of a claim; return it with what it holds.

        Args:
            uid: of the claim.
            claim: as it is now; None: it is gone.
            before: as it was known.
        """
        if not isinstance(claim, UnreadableClaim):
            self.problems.pop(uid, None)
            return claim
        if uid not in self.problems:
            self._news.append(uid)
        self.problems[uid] = claim.problem
        if claim.holds_known or before is None:
            return claim
        return msgspec.structs.replace(claim, status=before.status)

    def take(self) -> list[tuple[str, str]]:
        """Return UID and problem of the claims that were not reported yet."""
        news, self._news = self._news, []
        return [(uid, self.problems[uid]) for uid in news if uid in self.problems]
