"""`status.devices` of claims: what a pod's user sees of its devices, written beside the work and never
in its way.

Conditions, the controller's pairs, and once attached the interface with its addresses. Server-side
apply, so that each driver of a claim owns its own entries.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from driver.errors import KubeNotFoundError, RetryableError, TandemError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import Condition, NetworkDeviceData, ReportedDeviceStatus, ResourceClaim
from kubeletplugin.attach.store import Attachment
from kubeletplugin.ledger import ClaimRecord, Ledger
from kubeletplugin.planner import PlannedDevice

log = logging.getLogger(__name__)

_BACKOFF_FIRST_SECONDS = 0.5
_BACKOFF_LAST_SECONDS = 60.0


def device_statuses(record: ClaimRecord, driver_name: str) -> list[ReportedDeviceStatus]:
    """One entry for each device of a prepared claim."""
    since = datetime.fromtimestamp(record.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    attachments = {attachment.device: attachment for attachment in record.plan.attachments}
    ready = Condition(type="Ready", status="True", reason="Prepared", last_transition_time=since)
    return [
        ReportedDeviceStatus(
            driver=driver_name,
            pool=device.pool,
            device=device.device,
            share_id=device.share_id,
            conditions=[ready],
            data=_data(device),
            network_data=_network(attachments.get(device.device)),
        )
        for device in record.plan.devices
    ]


def _data(device: PlannedDevice) -> dict[str, Any] | None:
    pairs = [
        {"gpu": pair.gpu, "nic": pair.nic, "tier": pair.tier.name}
        | ({"rail": pair.rail} if pair.rail is not None else {})
        for pair in device.pairs
    ]
    data: dict[str, Any] = {}
    if device.rdma_device:
        data["rdmaDevice"] = device.rdma_device
    if len(pairs) == 1:
        data["pair"] = pairs[0]
    elif pairs:
        data["pairs"] = pairs
    return data or None


def _network(attachment: Attachment | None) -> NetworkDeviceData | None:
    if attachment is None or attachment.state != "attached" or attachment.home is None:
        return None
    return NetworkDeviceData(
        interface_name=attachment.interface,
        ips=list(attachment.addresses),
        hardware_address=attachment.home.mac,
    )


class StatusWriter:
    """Writes the entries of claims that it is told of, on a thread of its own, until the API takes them."""

    def __init__(
        self,
        client: KubeClient,
        ledger: Ledger,
        driver_name: str,
        *,
        backoff_first_seconds: float = _BACKOFF_FIRST_SECONDS,
    ) -> None:
        self._backoff_first_seconds = backoff_first_seconds
        self._client = client
        self._ledger = ledger
        self._driver_name = driver_name
        self._due: dict[str, float] = {}
        self._tries: dict[str, int] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more; what is left is written when the claim changes next, or not at all."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    def changed(self, claim_uid: str) -> None:
        """The ledger has news of a claim. Never blocks."""
        with self._changed:
            self._due[claim_uid] = 0.0
            self._tries.pop(claim_uid, None)
            self._changed.notify()

    def _run(self) -> None:
        while (uid := self._next()) is not None:
            try:
                self._write(uid)
            except RetryableError as error:
                self._again(uid, error)
            except TandemError as error:
                log.warning("status.devices of claim %s is not written: %s", uid, error)
            except Exception:
                log.exception("status.devices of claim %s is not written", uid)

    def _next(self) -> str | None:
        with self._changed:
            while not self._stopping:
                uid = min(self._due, key=self._due.__getitem__, default=None)
                wait = None if uid is None else self._due[uid] - time.monotonic()
                if uid is not None and wait is not None and wait <= 0:
                    del self._due[uid]
                    return uid
                self._changed.wait(wait)
            return None

    def _again(self, uid: str, error: Exception) -> None:
        with self._changed:
            tries = self._tries.get(uid, 0)
            wait = min(self._backoff_first_seconds * 2**tries, _BACKOFF_LAST_SECONDS)
            log.log(
                logging.INFO if tries else logging.DEBUG, "claim %s: %s; again in %.1f s", uid, error, wait
            )
            self._tries[uid] = tries + 1
            self._due.setdefault(uid, time.monotonic() + wait)

    def _write(self, uid: str) -> None:
        record = self._ledger.claim(uid)
        if record is None or record.state != "prepared":
            return
        plan = record.plan
        body = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            # The UID makes it fail for a claim that was made anew under the same name.
            "metadata": {"name": plan.name, "namespace": plan.namespace, "uid": plan.uid},
            "status": {"devices": msgspec.to_builtins(device_statuses(record, self._driver_name))},
        }
        try:
            self._client.patch(
                paths.claim_status(plan.namespace, plan.name),
                body,
                ResourceClaim,
                kind="apply",
                field_manager=self._driver_name,
            )
        except KubeNotFoundError:
            log.debug("claim %s is gone", plan.title)
