"""Prepare and unprepare: from an allocated claim to what a container can use, and back.

A call for one claim waits for the calls before it; calls for different claims run side by side. Every
step may be the process's last: the ledger has the intent before the act, so the next start, the
kubelet's next try or the sweep goes on from there. What will pass by itself (a device that its old pod
still uses) is waited for here, since the kubelet tries again only after more than a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

import msgspec

from driver.errors import KubeNotFoundError, RetryableError, TandemError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import ResourceClaim
from kubeletplugin import cdi, claims, gpus, planner, podrecords
from kubeletplugin.attach.locks import KeyedLocks
from kubeletplugin.claims import AllocatedClaim, ClaimError, ClaimNotReadyError
from kubeletplugin.ledger import ClaimRecord, DeviceHeldError, Ledger
from kubeletplugin.planner import DeviceMissingError, NodeFacts, Plan
from kubeletplugin.steps import step

log = logging.getLogger(__name__)

HOLD_SECONDS: Final = 40.0
"""How long a Prepare waits for a device that another claim still has; the kubelet allows 45 s a call."""
_LOOK_AGAIN_SECONDS = 5.0
_PROCESS_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class ClaimRef:
    """A claim as the kubelet names it."""

    namespace: str
    name: str
    uid: str

    @property
    def title(self) -> str:
        """``namespace/name``, for messages."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """One device of the answer."""

    request: str
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    share_id: str | None = None


class PodRunsError(RetryableError):
    """A claim cannot be taken back: processes of its pods still run, whatever was said of their end."""


class CancelledError(RetryableError):
    """An Unprepare came during the Prepare, which undid what it had done."""


class Machine(Protocol):
    """The node's facts."""

    def facts(self, *, fresh: bool = False) -> NodeFacts:
        """As last read, or read now."""
        ...


class Engine(Protocol):
    """What takes NICs out of pods."""

    def release_claim(self, claim_uid: str) -> None:
        """Take all NICs of a claim home. Raises TandemError where one did not come."""
        ...


class Pods(Protocol):
    """What runs on the node."""

    def running(self, pod_uids: Iterable[str]) -> list[str]:
        """Those of the pods that have a process now."""
        ...


class _PodSpec(msgspec.Struct, rename="camel"):
    host_users: bool | None = None


class _Pod(msgspec.Struct):
    spec: _PodSpec


class Preparer:
    """Makes claims true on this node, and takes them back.

    Args:
        on_prepared: told the UID of a claim that is prepared, or was again.
        on_freed: told the UID of a claim that is no more.
        on_held: told a claim that must wait for the UID of another: its device is allocated, but still
            held. It may end that other claim by itself.
    """

    def __init__(
        self,
        *,
        driver_name: str,
        node_name: str,
        client: KubeClient,
        ledger: Ledger,
        machine: Machine,
        engine: Engine,
        pods: Pods,
        cdi_files: cdi.CdiFiles,
        records: podrecords.PodRecords,
        on_prepared: Callable[[str], None] = lambda _: None,
        on_freed: Callable[[str], None] = lambda _: None,
        on_held: Callable[[str], None] = lambda _: None,
        hold_seconds: float = HOLD_SECONDS,
    ) -> None:
        self._driver_name = driver_name
        self._node_name = node_name
        self._client = client
        self._ledger = ledger
        self._machine = machine
        self._engine = engine
        self._pods = pods
        self._cdi_files = cdi_files
        self._records = records
        self._on_prepared = on_prepared
        self._on_freed = on_freed
        self._on_held = on_held
        self._hold_seconds = hold_seconds
        self._locks = KeyedLocks()
        self._planning = threading.Lock()  # interface names of a pod's claims are chosen one after the other
        self._writing = threading.Lock()  # files show the ledger's newest state
        self._changed = threading.Condition()
        self._unpreparing: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()
        self._closing = False

    # ---- the kubelet's calls

    def prepare(self, ref: ClaimRef) -> list[PreparedDevice]:
        """Prepare a claim, or answer again for one that is prepared.

        Raises:
            TandemError: it is not prepared, and nothing of it is left (or the next call or sweep removes it).
        """
        with self._turn(ref.uid):
            claim = self._read(ref)
            record = self._ledger.claim(ref.uid)
            if record is not None and _same_devices(record.plan, claim) and record.state == "prepared":
                plan = self._again(record, claim)
            else:
                if record is not None:  # cut off, or allocated anew since
                    self._take_back(ref.uid, self._hold_seconds)
                plan = self._prepare(ref, claim)
        self._on_prepared(ref.uid)
        return self._answer(plan)

    def unprepare(self, ref: ClaimRef) -> None:
        """Take a claim back when its pods have ended, or soon; a Prepare of it under way undoes what it did.
        Unknown claims are no error.

        Raises:
            TandemError: a process or a NIC is still in use; call again.
        """
        with self._changed:
            self._unpreparing[ref.uid] += 1
            self._changed.notify_all()
        try:
            with self._turn(ref.uid):
                self._take_back(ref.uid, self._hold_seconds)
        finally:
            with self._changed:
                self._unpreparing[ref.uid] -= 1
                if not self._unpreparing[ref.uid]:
                    del self._unpreparing[ref.uid]

    def close(self) -> None:
        """Let those who wait give up."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    # ---- for the attach engine, the start and the sweep

    def look_up(self, namespace: str, name: str, pod_uid: str) -> None:
        """A pod that got no Prepare starts: does a joinable claim serve it by now?

        Raises:
            KubeError: the API does not say.
        """
        for record in self._ledger.joinable_claims():
            plan = record.plan
            if plan.namespace != namespace:
                continue
            try:
                claim = self._read(ClaimRef(plan.namespace, plan.name, plan.uid))
            except (ClaimNotReadyError, ClaimError) as error:
                log.info("pod %s/%s: %s", namespace, name, error)
                continue
            if pod_uid in {consumer.uid for consumer in claim.consumers}:
                with self._turn(plan.uid):
                    self._ledger.add_consumers(plan.uid, claim.consumers)
                    self._write_files(plan.uid)

    def adopt(self, claim: ResourceClaim) -> None:
        """Record, as prepared, a claim that the ledger has lost. For an empty ledger at start."""
        allocated = claims.read(claim, self._driver_name, self._node_name)
        with self._turn(allocated.uid):
            if self._ledger.claim(allocated.uid) is None:
                plan = self._record(allocated, wait_seconds=0.0)
                self._ledger.finish_prepare(plan.uid, plan.consumers)

    def take_back(self, uid: str, *, wait: bool = True) -> bool:
        """Take a claim back without the kubelet's word. Without `wait`, not while a call for it runs:
        False then.

        Raises:
            TandemError: a process or a NIC is still in use.
        """
        if not wait and self._busy[uid]:
            return False
        with self._turn(uid):
            self._take_back(uid)
        return True

    def restore_files(self) -> None:
        """Make CDI files and pod records what the ledger says."""
        with self._writing:
            records = [record for record in self._ledger.claims() if record.state != "unpreparing"]
            for record in records:
                self._write_cdi(record.plan.uid)
            self._cdi_files.prune(record.plan.uid for record in records)
            self._sync_records()

    # ---- inside

    @contextmanager
    def _turn(self, uid: str) -> Iterator[None]:
        with self._changed:
            self._busy[uid] += 1
        try:
            with self._locks.hold(uid):
                yield
        finally:
            with self._changed:
                self._busy[uid] -= 1
                if not self._busy[uid]:
                    del self._busy[uid]

    def _read(self, ref: ClaimRef) -> AllocatedClaim:
        """The claim as the API has it now; it must be the one meant, allocated and reserved."""
        try:
            claim = self._client.get(paths.claim(ref.namespace, ref.name), ResourceClaim)
        except KubeNotFoundError as error:
            raise ClaimNotReadyError(ref.title, "is not there any more") from error
        if claim.metadata.uid != ref.uid:
            raise ClaimNotReadyError(
                ref.title,
                f"has UID {claim.metadata.uid}, another than {ref.uid}: it was deleted and made again",
            )
        return claims.read(claim, self._driver_name, self._node_name)

    def _prepare(self, ref: ClaimRef, claim: AllocatedClaim) -> Plan:
        self._check_cancelled(ref.uid, ref.title)
        plan = self._record(claim, self._hold_seconds)
        try:
            self._refuse_remapped_user_namespaces(plan)
            self._write_files(ref.uid)
            step("prepare.files")
            now = self._look_again(ref, plan)
            self._ledger.finish_prepare(ref.uid, now.consumers)
            if set(now.consumers) - set(plan.consumers):
                self._write_files(ref.uid)
        except Exception:
            try:
                self._take_back(ref.uid)
            except TandemError as error:
                log.warning("claim %s is not undone yet, the sweep tries again: %s", ref.title, error)
            raise
        return plan

    def _look_again(self, ref: ClaimRef, plan: Plan) -> AllocatedClaim:
        """The claim right before the commit: no Unprepare comes later for one that went meanwhile."""
        claim = self._read(ref)
        if not _same_devices(plan, claim):
            raise ClaimNotReadyError(ref.title, "was allocated anew meanwhile")
        self._check_cancelled(ref.uid, ref.title)
        return claim

    def _again(self, record: ClaimRecord, claim: AllocatedClaim) -> Plan:
        if set(claim.consumers) - set(record.plan.consumers):
            self._ledger.add_consumers(claim.uid, claim.consumers)
        plan = self._renew(record.plan, claim)
        self._write_files(claim.uid)
        return plan

    def _renew(self, plan: Plan, claim: AllocatedClaim) -> Plan:
        """The same devices as they are now: their nodes may have other numbers after a reboot, and those of a
        MIG instance whenever it is made anew.
        """
        fresh = any(device.parent for device in plan.devices)
        now = planner.plan(claim, self._machine.facts(fresh=fresh))
        rdma = {attachment.device: attachment.rdma_device for attachment in now.attachments}
        attachments = tuple(replace(row, rdma_device=rdma[row.device]) for row in plan.attachments)
        renewed = replace(plan, devices=now.devices, attachments=attachments)
        if renewed != plan:
            self._ledger.replan(renewed)
        return renewed

    def _record(self, claim: AllocatedClaim, wait_seconds: float) -> Plan:
        """Plan and write the intent, waiting for devices that other claims still have."""
        deadline = time.monotonic() + wait_seconds
        fresh = any(gpus.is_instance(device.device) for device in claim.devices)  # see `_renew`
        while True:
            facts = self._machine.facts(fresh=fresh)
            try:
                with self._planning:
                    plan = planner.plan(claim, facts, self._interfaces_of_pods(claim))
                    self._ledger.begin_prepare(plan)
            except DeviceMissingError:
                if fresh:
                    raise
                fresh = True  # it may have come since the last look
            except DeviceHeldError as held:
                self._await_end(claim, held, deadline)
            else:
                return plan

    def _interfaces_of_pods(self, claim: AllocatedClaim) -> set[str]:
        return {
            attachment.interface
            for consumer in claim.consumers
            for record in self._ledger.claims_of_pod(consumer.uid)
            for attachment in record.plan.attachments
            if attachment.claim_uid != claim.uid
        }

    def _await_end(self, claim: AllocatedClaim, held: DeviceHeldError, deadline: float) -> None:
        """Return when the device may be free. Raises `held` at the deadline, CancelledError."""
        log.info("%s: waiting for its end", held)
        while True:
            self._on_held(held.holder_uid)
            with self._changed:
                remaining = deadline - time.monotonic()
                self._changed.wait_for(
                    lambda: self._closing or self._unpreparing[claim.uid] or not self._holds(held),
                    max(0.0, min(remaining, _LOOK_AGAIN_SECONDS)),
                )
            self._check_cancelled(claim.uid, f"{claim.namespace}/{claim.name}")
            if not self._holds(held):
                return
            if remaining <= 0:
                raise held

    def _holds(self, held: DeviceHeldError) -> bool:
        return self._ledger.holder(held.device) == held.holder_uid

    def _take_back(self, uid: str, patience_seconds: float = 0.0) -> None:
        """NICs home, files away, forgotten: in this order, so that each step can be repeated."""
        self._await_pods(uid, patience_seconds)
        if self._ledger.begin_unprepare(uid) is None:
            self._cdi_files.remove(uid)
            return
        self._engine.release_claim(uid)
        step("unprepare.released")
        with self._writing:
            self._cdi_files.remove(uid)
            self._sync_records()
        step("unprepare.files")
        self._ledger.forget(uid)
        with self._changed:
            self._changed.notify_all()
        self._on_freed(uid)

    def _await_pods(self, uid: str, patience_seconds: float) -> None:
        """Return when no process of the claim's pods runs. Nothing ran with a claim that is half prepared."""
        record = self._ledger.claim(uid)
        if record is None or record.state != "prepared":
            return
        deadline = time.monotonic() + patience_seconds
        pods = [consumer.uid for consumer in record.plan.consumers]
        said = False
        while running := self._pods.running(pods):
            if self._closing or time.monotonic() >= deadline:
                names = [consumer.name for consumer in record.plan.consumers if consumer.uid in running]
                raise PodRunsError(
                    f"claim {record.plan.title}: processes of pod {', '.join(names)} still run"
                )
            if not said:
                log.info("claim %s: its pods are said to have ended; waiting for it", record.plan.title)
                said = True
            time.sleep(_PROCESS_POLL_SECONDS)

    def _check_cancelled(self, uid: str, title: str) -> None:
        if self._closing:
            raise CancelledError(f"claim {title}: the plugin ends; ask again")
        if self._unpreparing[uid] > 0:
            raise CancelledError(f"claim {title}: unprepared while it was being prepared")

    def _refuse_remapped_user_namespaces(self, plan: Plan) -> None:
        """In a pod with a user namespace runc binds the host's nodes, which keep their paths."""
        moved = [node for device in plan.devices for node in device.nodes if node.path != node.host_path]
        if not moved:
            return
        for consumer in plan.consumers:
            try:
                pod = self._client.get(paths.pod(plan.namespace, consumer.name), _Pod)
            except KubeNotFoundError:
                continue
            if pod.spec.host_users is False:
                raise ClaimError(
                    plan.title,
                    f"pod {plan.namespace}/{consumer.name} has hostUsers: false, but {moved[0].path} "
                    f"is {moved[0].host_path} on this node: a user namespace cannot show it elsewhere",
                )

    def _write_files(self, uid: str) -> None:
        """CDI files of the claim and of those that share its pods, and the pods' records."""
        with self._writing:
            self._write_cdi(uid)
            self._sync_records()

    def _write_cdi(self, uid: str) -> None:
        siblings = self._ledger.siblings(uid)
        together = [device for sibling in siblings for device in sibling.plan.devices]
        for sibling in siblings:
            if sibling.plan.uid == uid or sibling.plan.attachments:
                self._cdi_files.write(sibling.plan, together)

    def _sync_records(self) -> None:
        self._records.sync(podrecords.names(*self._ledger.nic_users()))

    def _answer(self, plan: Plan) -> list[PreparedDevice]:
        return [
            PreparedDevice(
                request=device.request,
                pool=device.pool,
                device=device.device,
                cdi_ids=(cdi.device_id(self._driver_name, plan.uid, device),),
                share_id=device.share_id,
            )
            for device in plan.devices
        ]


def _same_devices(plan: Plan, claim: AllocatedClaim) -> bool:
    mine: Sequence[tuple[str, str, str | None]] = [(d.request, d.device, d.share_id) for d in plan.devices]
    return mine == [(d.request, d.device, d.share_id) for d in claim.devices]
