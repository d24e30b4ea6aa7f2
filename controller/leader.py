"""Leader election by a Lease: of several controllers one decides, the others stand by with a warm view.

Two controllers that decide at once would give one device to two claims, and the API server would not notice.
So leading is a right that runs out by itself: `may_write` is true only until `renew_seconds` after the start
of the last renewal that succeeded, whoever is slow, and a follower waits `lease_seconds` on its own clock
after the last change it saw before it takes over. No two clocks are compared (as in client-go's
leaderelection).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from driver.errors import KubeConflictError, KubeError, KubeNotFoundError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import ObjectMeta, Wire

log = logging.getLogger(__name__)


class LeaseSpec(Wire, frozen=True, kw_only=True):
    """spec of a Lease; the times are RFC 3339 with microseconds and only shown, never compared."""

    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int = 0


class Lease(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """coordination.k8s.io/v1."""

    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: ObjectMeta = ObjectMeta()
    spec: LeaseSpec = LeaseSpec()


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds: how long followers wait, how long a leader may write without renewal, between tries."""

    lease_seconds: float = 15.0
    renew_seconds: float = 10.0
    retry_seconds: float = 2.0


class LeaderElection:
    """Call `step` every `retry_seconds` (as `run` does); ask `may_write` before each write."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes,
        *,
        clock: Callable[[], float],
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` gives monotonic seconds; `identity` must be this process's alone."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._clock = clock
        self._utc_now = utc_now
        self._seen: Lease | None = None
        self._seen_at = clock()
        self._leading_until = float("-inf")
        self._away = False

    def may_write(self) -> bool:
        """This process leads, at this moment."""
        return self._clock() < self._leading_until

    def step(self) -> bool:
        """Take or renew the lease if it can be; True if this process leads now. Never raises KubeError."""
        try:
            self._take(self._clock())
        except KubeConflictError:
            self._leading_until = float("-inf")  # somebody else was faster: read again before writing
        except KubeError as error:
            if not self._away:  # once: it may last
                log.warning("lease %s/%s: %s; trying again", self._namespace, self._name, error)
            self._away = True
            return self.may_write()
        if self._away:
            log.info("lease %s/%s: can be had again", self._namespace, self._name)
        self._away = False
        return self.may_write()

    def release(self) -> None:
        """Give the lease up, so that another need not wait for its end."""
        if not self.may_write() or self._seen is None:
            return
        self._leading_until = float("-inf")
        spec = msgspec.structs.replace(self._seen.spec, holder_identity="", lease_duration_seconds=1)
        try:
            self._client.update(self._path, msgspec.structs.replace(self._seen, spec=spec), Lease)
        except KubeError as error:
            log.warning("lease %s/%s not released: %s", self._namespace, self._name, error)

    def run(self, stopping: threading.Event, on_change: Callable[[bool], None]) -> None:
        """Step until stopped; `on_change(leading)` is called when that changes."""
        leading = False
        while not stopping.is_set():
            now_leading = self.step()
            if now_leading != leading:
                leading = now_leading
                log.info("leading: %s as %s", leading, self._identity)
                on_change(leading)
            stopping.wait(self._times.retry_seconds)

    @property
    def _path(self) -> str:
        return paths.lease(self._namespace, self._name)

    def _take(self, started: float) -> None:
        lease = self._read()
        if lease is not None and not self._may_take(lease, started):
            self._leading_until = float("-inf")
            return
        self._seen = self._write(lease)
        self._seen_at = started
        self._leading_until = started + self._times.renew_seconds

    def _read(self) -> Lease | None:
        try:
            lease = self._client.get(self._path, Lease)
        except KubeNotFoundError:
            return None
        if self._seen is None or lease.metadata.resource_version != self._seen.metadata.resource_version:
            self._seen, self._seen_at = lease, self._clock()
        return lease

    def _may_take(self, lease: Lease, now: float) -> bool:
        holder = lease.spec.holder_identity
        # The other's own duration counts; it may run with other settings than we do.
        valid_until = self._seen_at + (lease.spec.lease_duration_seconds or self._times.lease_seconds)
        return holder in ("", self._identity) or now >= valid_until

    def _write(self, lease: Lease | None) -> Lease:
        now = self._utc_now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = lease.spec if lease is not None else LeaseSpec()
        mine = old.holder_identity == self._identity
        spec = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=round(self._times.lease_seconds),
            acquire_time=old.acquire_time if mine else now,
            renew_time=now,
            lease_transitions=old.lease_transitions + (0 if mine or lease is None else 1),
        )
        if lease is None:
            metadata = ObjectMeta(name=self._name, namespace=self._namespace)
            return self._client.create(
                paths.leases(self._namespace), Lease(metadata=metadata, spec=spec), Lease
            )
        return self._client.update(self._path, msgspec.structs.replace(lease, spec=spec), Lease)
