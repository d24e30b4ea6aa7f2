"""Writes decisions into claims: finalizer, then allocation; and takes allocations back.

Two writes, since the API server drops a finalizer inside a status write. Killed between them, a claim is
left with a finalizer and no allocation: kube-controller-manager takes that off when the claim is deleted, and
the next decision finds it there. Every write is a patch with the resourceVersion in it, so fields that we do
not know survive, and a claim that changed meanwhile is read again. Before every write the right to lead is
asked.

The allocation is a JSON patch: a merge patch drops nulls at any depth of what it adds, which are a user's in
opaque parameters, and the API server (1.36) looks for them level by level, in time that grows as the square
of the depth: seconds for one claim. A JSON patch keeps bytes, so opaque parameters are sent as they would
come out of a later server-side apply (`driver.kube.canonical_json`): else the plugin's own, of
`status.devices`, would be taken for a change of the allocation.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec

from controller.actions import (
    ALLOCATED_BY_ANOTHER,
    Allocate,
    Clear,
    Cleared,
    NotWritten,
    Outcome,
    Write,
    Written,
)
from driver.errors import KubeConflictError, KubeError, KubeRefusedError, KubeUnavailableError
from driver.kube import paths
from driver.kube.canonical_json import canonical
from driver.kube.client import KubeClient
from driver.kube.objects import AllocationResult, ResourceClaim
from driver.names import CLAIM_FINALIZER

log = logging.getLogger(__name__)

_CONFLICTS = 5
_FAILURES = 3
_PAUSE_LAST_SECONDS = 5.0
_INVALID = 422
_INTERNAL_ERROR = 500


class Binder:
    """A pool of writers. `report` is called from their threads, once for each claim."""

    def __init__(
        self,
        client: KubeClient,
        may_write: Callable[[], bool],
        report: Callable[[Outcome], None],
        *,
        timed: Callable[[str, float], None] = lambda outcome, seconds: None,
        writers: int = 8,
        pause_seconds: float = 0.2,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Args:
        client: with the rights to patch claims and their status.
        may_write: asked before each write.
        report: called with how each write ended.
        timed: called with the same in a word, and the seconds since the write was submitted.
        writers: how many write at once.
        pause_seconds: the first wait while the API server is away; it doubles.
        utc_now: for the time stamp.
        """
        self._client = client
        self._may_write = may_write
        self._report = report
        self._timed = timed
        self._waiting = 0
        self._lock = threading.Lock()
        self._pause_seconds = pause_seconds
        self._utc_now = utc_now
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(writers, thread_name_prefix="binder")

    def submit(self, action: Allocate | Clear) -> None:
        """Begin; returns at once. The claims of one pod are written one after the other, in order."""
        with self._lock:
            self._waiting += 1
        self._pool.submit(self._run, action, time.monotonic())

    @property
    def waiting(self) -> int:
        """Actions that no writer has begun yet."""
        return self._waiting

    def stop(self) -> None:
        """Let the writes that run end, drop those that wait."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, action: Allocate | Clear, submitted: float) -> None:
        with self._lock:
            self._waiting -= 1
        if isinstance(action, Clear):
            try:
                cleared = self.clear(action)
            except Exception as error:  # a bug must not keep anybody from trying again
                log.exception("clearing claim %s", _name(action.claim))
                cleared = Cleared(action.claim.metadata.uid, repr(error))
            self._end(cleared, submitted)
            return
        for write in action.writes:
            try:
                outcome = self.allocate(write)
            except Exception as error:  # a bug must not keep the devices taken for ever
                log.exception("writing claim %s", _name(write.claim))
                outcome = NotWritten(write.claim.metadata.uid, repr(error))
            self._end(outcome, submitted)

    def _end(self, outcome: Outcome, submitted: float) -> None:
        self._timed(_word(outcome), time.monotonic() - submitted)
        self._report(outcome)

    def allocate(self, write: Write) -> Outcome:
        """Write one claim; blocks, while the API server is away, until it is back or the lead is lost."""
        claim, uid = write.claim, write.claim.metadata.uid
        conflicts, failures, pause = 0, 0, self._pause_seconds
        read_again = False
        while True:
            try:
                if read_again:
                    claim = self._read(claim)
                    if claim.metadata.uid != uid or claim.metadata.deletion_timestamp:
                        return NotWritten(uid, "the claim is gone")
                    if claim.status.allocation is not None:
                        if _same(claim.status.allocation, write.allocation):
                            return Written(uid, claim.metadata.resource_version)
                        return NotWritten(uid, ALLOCATED_BY_ANOTHER)
                if CLAIM_FINALIZER not in claim.metadata.finalizers:
                    claim = self._protect(claim)
                    if claim.metadata.uid != uid:
                        return NotWritten(uid, "the claim is gone")
                claim = self._add_allocation(claim, self._stamped(write.allocation))
                return Written(uid, claim.metadata.resource_version)
            except _NotLeadingError:
                return NotWritten(uid, "this controller does not lead any more")
            except KubeConflictError as error:
                conflicts += 1
                if conflicts > _CONFLICTS:
                    return NotWritten(uid, str(error))
            except KubeUnavailableError as error:
                failures += error.status == _INTERNAL_ERROR  # an answer: this claim's trouble, maybe for ever
                if failures > _FAILURES:
                    return NotWritten(uid, str(error))
                # The write may have arrived all the same, so its devices stay taken until we know.
                log.warning("claim %s: %s; again in %.1f s", _name(claim), error, pause)
                self._stopping.wait(pause)
                pause = min(pause * 2, _PAUSE_LAST_SECONDS)
            except KubeError as error:
                return NotWritten(uid, str(error))
            read_again = True

    def clear(self, action: Clear) -> Cleared:
        """Take one allocation back. One try: if the claim changed, somebody may have reserved it."""
        claim = action.claim
        if claim.status.reserved_for:
            return Cleared(claim.metadata.uid, "the claim is reserved")
        try:
            self._patch(claim, {}, {"allocation": None, "devices": None})
        except _NotLeadingError:
            return Cleared(claim.metadata.uid, "this controller does not lead any more")
        except KubeError as error:
            return Cleared(claim.metadata.uid, str(error))
        return Cleared(claim.metadata.uid)

    def _protect(self, claim: ResourceClaim) -> ResourceClaim:
        """With the finalizer; the cluster's admission policy has mostly put it there before."""
        try:
            return self._patch(claim, {"finalizers": [*claim.metadata.finalizers, CLAIM_FINALIZER]}, None)
        except KubeRefusedError as error:
            if error.status != _INVALID:
                raise
        # The claim was posted with blanks in its opaque parameters, which no JSON patch leaves alone.
        return self._client.add_finalizer(
            paths.claim(claim.metadata.namespace, claim.metadata.name), CLAIM_FINALIZER, ResourceClaim
        )

    def _patch(
        self, claim: ResourceClaim, metadata: dict[str, object], status: dict[str, object] | None
    ) -> ResourceClaim:
        self._check_leading()
        namespace, name = claim.metadata.namespace, claim.metadata.name
        body: dict[str, object] = {
            "metadata": {
                "uid": claim.metadata.uid,
                "resourceVersion": claim.metadata.resource_version,
                **metadata,
            }
        }
        if status is None:
            return self._client.patch(paths.claim(namespace, name), body, ResourceClaim)
        return self._client.patch(
            paths.claim_status(namespace, name), {**body, "status": status}, ResourceClaim
        )

    def _add_allocation(self, claim: ResourceClaim, allocation: AllocationResult) -> ResourceClaim:
        self._check_leading()
        body = [
            {"op": "replace", "path": "/metadata/uid", "value": claim.metadata.uid},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": claim.metadata.resource_version},
            {"op": "add", "path": "/status/allocation", "value": _as_it_stays(allocation)},
        ]
        path = paths.claim_status(claim.metadata.namespace, claim.metadata.name)
        return self._client.patch(path, body, ResourceClaim, kind="json")

    def _check_leading(self) -> None:
        if not self._may_write() or self._stopping.is_set():
            raise _NotLeadingError

    def _read(self, claim: ResourceClaim) -> ResourceClaim:
        self._check_leading()
        return self._client.get(paths.claim(claim.metadata.namespace, claim.metadata.name), ResourceClaim)

    def _stamped(self, allocation: AllocationResult) -> AllocationResult:
        """With the time: without it kube-scheduler 1.36 fails to bind, for ever."""
        now = self._utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")
        return msgspec.structs.replace(allocation, allocation_timestamp=now)


class _NotLeadingError(Exception):
    """Stops a write before it is made."""


def _word(outcome: Outcome) -> str:
    match outcome:
        case Written():
            return "written"
        case NotWritten():
            return "failed"
        case Cleared():
            return "not_cleared" if outcome.error else "cleared"


def _same(found: AllocationResult, meant: AllocationResult) -> bool:
    def devices(allocation: AllocationResult) -> list[tuple[str, str, str, str]]:
        return [(r.request, r.driver, r.pool, r.device) for r in allocation.devices.results]

    return devices(found) == devices(meant)


def _name(claim: ResourceClaim) -> str:
    return f"{claim.metadata.namespace}/{claim.metadata.name}"


def _as_it_stays(allocation: AllocationResult) -> AllocationResult:
    """The allocation with opaque parameters that no later write of somebody else changes."""
    replace = msgspec.structs.replace
    configs = []
    for config in allocation.devices.config:
        if config.opaque is not None:
            parameters = msgspec.Raw(canonical(bytes(config.opaque.parameters)))
            config = replace(config, opaque=replace(config.opaque, parameters=parameters))
        configs.append(config)
    return replace(allocation, devices=replace(allocation.devices, config=configs))
