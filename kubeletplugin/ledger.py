"""The node's durable memory: claims, the devices they hold, who uses them, and where their NICs are.

What the API says of a device and what runs on the node differ at times (a pod deleted with grace 0, a
kubelet that was away); the ledger is what the node goes by. An intent is written before the act, the
result after it, each in one transaction. A claim's result is on the disk when the method returns. Intents
and attachments survive the process, which is all they need: a power loss undoes what they speak of. That no
device is in two prepared claims is a unique index, so that not even two plugin processes can break it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from driver.errors import RetryableError
from kubeletplugin.attach.store import (
    Attachment,
    AttachmentGoneError,
    AttachmentTakenError,
    HomeState,
    Sandbox,
    State,
)
from kubeletplugin.claims import Consumer
from kubeletplugin.database import Database
from kubeletplugin.planner import Plan, PlannedDevice
from kubeletplugin.steps import step

ClaimState = Literal["preparing", "prepared", "unpreparing"]

_CLAIMS = "SELECT uid, namespace, name, state, owner, joinable, since FROM claims"
_ATTACHMENTS = "SELECT a.attachment, a.state, a.sandbox, a.home FROM attachments a"
_TO_ATTACHED = (
    "UPDATE attachments SET state = 'attached' WHERE claim_uid = ? AND device = ? AND container_id = ?"
)
_TO_DETACHING = (
    "UPDATE attachments SET state = 'detaching' WHERE claim_uid = ? AND device = ? AND container_id = ?"
)
_HOLDER = (
    "SELECT device, uid, namespace, name FROM claims JOIN devices ON claim_uid = uid"
    " WHERE exclusive AND uid != ?"
    " AND (device IN (?, ?) OR device GLOB 'mig-*' AND json_extract(plan, '$.parent') = ?)"
)
"""Of a device, of what it is a part of, or of a part of it (the names keep this to an index's few rows)."""
_IN_ORDER = "ORDER BY a.claim_uid, a.position"


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A claim as the ledger has it.

    Attributes:
        plan: as it was recorded; consumers as they are now; attachments where they are now.
        owner: the process that wrote the intent.
        since: when it was first recorded, Unix seconds.
    """

    plan: Plan
    state: ClaimState
    owner: str
    since: float


class DeviceHeldError(RetryableError):
    """Another claim has a device. Attributes: `device`; `holder`, `holder_uid`: that claim.

    `wanted` is the device of this claim where it is a part of `device`, or the other way round.
    """

    def __init__(
        self, claim: str, device: str, holder: str, holder_uid: str, *, wanted: str | None = None
    ) -> None:
        shares = f"{wanted} shares the GPU of {device}, which" if wanted not in (None, device) else device
        super().__init__(
            f"claim {claim}: device {shares} is still held by claim {holder} ({holder_uid}) on this node"
        )
        self.device = device
        self.holder = holder
        self.holder_uid = holder_uid


class Ledger:
    """One SQLite file, one connection, any number of threads. Implements `AttachmentStore`.

    Attributes:
        instance: names this process in the intents it writes.
    """

    def __init__(
        self, path: Path, *, boot_id: str, instance: str, clock: Callable[[], float] = time.time
    ) -> None:
        """Open or make the file; `boot_id` as the kernel gives it, `clock` in Unix seconds.

        Raises:
            LedgerVersionError: the file is a newer version's.
            LedgerError: it cannot be opened or written.
        """
        self.instance = instance
        self._clock = clock
        self._db = Database(path, clock())
        self._db.note_boot(boot_id)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ---- claims

    def needs_rebuild(self) -> bool:
        """Is the file new, or put in a damaged one's place, and not yet filled from the API?"""
        return self._db.needs_rebuild()

    def rebuilt(self) -> None:
        """The API's claims are in it now."""
        self._db.rebuilt()

    def claim(self, uid: str) -> ClaimRecord | None:
        """One claim."""
        with self._db.read() as db:
            return next(iter(_records(db, "WHERE uid = ?", (uid,))), None)

    def claims(self) -> list[ClaimRecord]:
        """All claims, oldest first."""
        with self._db.read() as db:
            return _records(db, "", ())

    def siblings(self, uid: str) -> list[ClaimRecord]:
        """Claims that share a pod with this one, and itself, but not those being taken back; oldest first."""
        with self._db.read() as db:
            return _records(
                db,
                "WHERE state != 'unpreparing' AND uid IN (SELECT other.claim_uid FROM consumers mine"
                " JOIN consumers other USING (pod_uid) WHERE mine.claim_uid = ?)",
                (uid,),
            )

    def claims_of_pod(self, pod_uid: str) -> list[ClaimRecord]:
        """Claims reserved for a pod, as far as is known, but not those being taken back; oldest first."""
        with self._db.read() as db:
            return _records(
                db,
                "WHERE state != 'unpreparing' AND uid IN (SELECT claim_uid FROM consumers WHERE pod_uid = ?)",
                (pod_uid,),
            )

    def joinable_claims(self) -> list[ClaimRecord]:
        """Prepared claims with NICs that pods unknown to us could join."""
        with self._db.read() as db:
            return _records(
                db,
                "WHERE joinable AND state = 'prepared' AND uid IN (SELECT claim_uid FROM attachments)",
                (),
            )

    def nic_users(self) -> tuple[frozenset[str], frozenset[str]]:
        """UIDs of the pods, and of the joinable claims, that have NICs, being prepared or prepared."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT DISTINCT c.uid, c.joinable, p.pod_uid"
                " FROM claims c JOIN attachments a ON a.claim_uid = c.uid"
                " LEFT JOIN consumers p ON p.claim_uid = c.uid WHERE c.state != 'unpreparing'"
            ).fetchall()
        return frozenset(pod for _, _, pod in rows if pod), frozenset(
            uid for uid, joinable, _ in rows if joinable
        )

    def holder(self, device: str) -> str | None:
        """UID of the claim that has a device for itself."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT claim_uid FROM devices WHERE device = ? AND exclusive", (device,)
            ).fetchone()
        return row[0] if row else None

    def begin_prepare(self, plan: Plan) -> None:
        """Write the intent: the claim, `preparing`, and its devices.

        Raises:
            DeviceHeldError: another claim has one of them; nothing is written.
            LedgerError: the claim is there already, or SQLite failed.
        """
        with self._db.write(durable=False) as db:
            for device in plan.devices:
                row = db.execute(_HOLDER, (plan.uid, device.device, device.parent, device.device)).fetchone()
                if row and device.exclusive:
                    held, uid, namespace, name = row
                    raise DeviceHeldError(plan.title, held, f"{namespace}/{name}", uid, wanted=device.device)
            db.execute(
                "INSERT INTO claims VALUES (?, ?, ?, 'preparing', ?, ?, ?)",
                (plan.uid, plan.namespace, plan.name, self.instance, plan.joinable, self._clock()),
            )
            db.executemany(
                "INSERT INTO devices VALUES (?, ?, ?, ?, ?)",
                [
                    (plan.uid, position, device.device, device.exclusive, _encode(device))
                    for position, device in enumerate(plan.devices)
                ],
            )
            db.executemany(
                "INSERT INTO attachments VALUES (?, ?, ?, ?, 'prepared', NULL, NULL, NULL)",
                [
                    (plan.uid, attachment.device, position, _encode(attachment))
                    for position, attachment in enumerate(plan.attachments)
                ],
            )
            _set_consumers(db, plan.uid, plan.consumers)
        step("prepare.recorded")

    def finish_prepare(self, uid: str, consumers: Sequence[Consumer]) -> None:
        """`preparing` → `prepared`, for these pods."""
        with self._db.write() as db:
            db.execute("UPDATE claims SET state = 'prepared' WHERE uid = ? AND state = 'preparing'", (uid,))
            _set_consumers(db, uid, consumers)
        step("prepare.done")

    def add_consumers(self, uid: str, consumers: Sequence[Consumer]) -> None:
        """More pods use the claim. None is ever taken away: one that no longer has it may still run."""
        with self._db.write() as db:
            _set_consumers(db, uid, consumers)

    def replan(self, plan: Plan) -> None:
        """The claim's devices are the same, but what they bring has changed."""
        with self._db.write() as db:
            db.executemany(
                "UPDATE devices SET plan = ? WHERE claim_uid = ? AND position = ?",
                [(_encode(device), plan.uid, position) for position, device in enumerate(plan.devices)],
            )
            db.executemany(
                "UPDATE attachments SET attachment = ? WHERE claim_uid = ? AND device = ?",
                [
                    (_encode(replace(row, state="prepared", sandbox=None, home=None)), plan.uid, row.device)
                    for row in plan.attachments
                ],
            )

    def begin_unprepare(self, uid: str) -> ClaimRecord | None:
        """→ `unpreparing`: no ADD gets its NICs any more. Returns the claim, None if it is not there."""
        with self._db.write(durable=False) as db:
            db.execute(
                "UPDATE claims SET state = 'unpreparing', owner = ? WHERE uid = ?", (self.instance, uid)
            )
            record = next(iter(_records(db, "WHERE uid = ?", (uid,))), None)
        if record is not None:
            step("unprepare.recorded")
        return record

    def forget(self, uid: str) -> None:
        """The claim is no more on this node. One that is not there is no error."""
        with self._db.write() as db:
            db.execute("DELETE FROM claims WHERE uid = ?", (uid,))
        step("unprepare.done")

    # ---- attachments (see AttachmentStore)

    def for_pod(self, pod_uid: str) -> list[Attachment]:
        """All attachments of the prepared claims reserved for the pod, by claim, then result order."""
        return self._attachments(
            "JOIN consumers p ON p.claim_uid = a.claim_uid JOIN claims c ON c.uid = a.claim_uid"
            " WHERE p.pod_uid = ? AND c.state = 'prepared'",
            pod_uid,
        )

    def by_container(self, container_id: str) -> list[Attachment]:
        """Those whose sandbox has this container ID, whatever their state."""
        return self._attachments("WHERE a.container_id = ?", container_id)

    def by_claim(self, claim_uid: str) -> list[Attachment]:
        """Those of one claim, whatever their state."""
        return self._attachments("WHERE a.claim_uid = ?", claim_uid)

    def unsettled(self) -> list[Attachment]:
        """All that are not `prepared`."""
        return self._attachments("WHERE a.state != 'prepared'")

    def joinable(self, pod_uid: str) -> bool:
        """Is a claim with NICs prepared that is not known to be this pod's, but could be?"""
        with self._db.read() as db:
            row = db.execute(
                "SELECT 1 FROM claims WHERE joinable AND state = 'prepared'"
                " AND uid IN (SELECT claim_uid FROM attachments)"
                " AND uid NOT IN (SELECT claim_uid FROM consumers WHERE pod_uid = ?) LIMIT 1",
                (pod_uid,),
            ).fetchone()
        return row is not None

    def begin_attach(self, intents: Sequence[Attachment]) -> None:
        """Write the intents. Raises AttachmentTakenError, AttachmentGoneError."""
        with self._db.write(durable=False) as db:
            for intent in intents:
                found = db.execute(
                    f"{_ATTACHMENTS} JOIN claims c ON c.uid = a.claim_uid"
                    " WHERE a.claim_uid = ? AND a.device = ? AND c.state = 'prepared'",
                    intent.key,
                ).fetchone()
                if found is None:
                    raise AttachmentGoneError(*intent.key)
                holder = _attachment(found)
                if holder.sandbox and holder.sandbox.container_id != _container(intent):
                    raise AttachmentTakenError(holder)
                db.execute(
                    "UPDATE attachments SET state = 'attaching', container_id = ?, sandbox = ?, home = ?"
                    " WHERE claim_uid = ? AND device = ?",
                    (_container(intent), _encode(intent.sandbox), _encode(intent.home), *intent.key),
                )
        step("attach.recorded")

    def finish_attach(self, attachments: Sequence[Attachment]) -> None:
        """`attaching` → `attached`. Raises AttachmentGoneError where a row is gone."""
        with self._db.write(durable=False) as db:
            for attachment in attachments:
                done = db.execute(
                    _TO_ATTACHED,
                    (*attachment.key, _container(attachment)),
                )
                if done.rowcount == 0:
                    raise AttachmentGoneError(*attachment.key)
        step("attach.done")

    def begin_detach(self, attachments: Sequence[Attachment]) -> None:
        """→ `detaching`; sandbox and home stay."""
        with self._db.write(durable=False) as db:
            db.executemany(
                _TO_DETACHING,
                [(*attachment.key, _container(attachment)) for attachment in attachments],
            )
        step("detach.recorded")

    def finish_detach(self, attachments: Sequence[Attachment]) -> None:
        """→ `prepared`; sandbox and home are forgotten, but not another sandbox's."""
        with self._db.write(durable=False) as db:
            db.executemany(
                "UPDATE attachments SET state = 'prepared', container_id = NULL, sandbox = NULL, home = NULL"
                " WHERE claim_uid = ? AND device = ? AND container_id = ?",
                [(*attachment.key, _container(attachment)) for attachment in attachments],
            )
        step("detach.done")

    # ---- inside

    def _attachments(self, where: str, *values: str) -> list[Attachment]:
        with self._db.read() as db:
            rows = db.execute(f"{_ATTACHMENTS} {where} {_IN_ORDER}", values).fetchall()
        return [_attachment(row) for row in rows]


def _set_consumers(db: sqlite3.Connection, uid: str, consumers: Sequence[Consumer]) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO consumers SELECT uid, ?, ? FROM claims WHERE uid = ?",
        [(consumer.uid, consumer.name, uid) for consumer in consumers],
    )


def _records(db: sqlite3.Connection, where: str, values: tuple[str, ...]) -> list[ClaimRecord]:
    rows = db.execute(f"{_CLAIMS} {where} ORDER BY since, uid", values).fetchall()
    return [_record(db, row) for row in rows]


def _record(db: sqlite3.Connection, row: tuple[str, str, str, ClaimState, str, int, float]) -> ClaimRecord:
    uid, namespace, name, state, owner, joinable, since = row
    devices = db.execute("SELECT plan FROM devices WHERE claim_uid = ? ORDER BY position", (uid,)).fetchall()
    pods = db.execute(
        "SELECT pod_uid, pod_name FROM consumers WHERE claim_uid = ? ORDER BY pod_uid", (uid,)
    ).fetchall()
    attachments = db.execute(f"{_ATTACHMENTS} WHERE a.claim_uid = ? {_IN_ORDER}", (uid,)).fetchall()
    plan = Plan(
        uid=uid,
        namespace=namespace,
        name=name,
        devices=tuple(msgspec.json.decode(text, type=PlannedDevice) for (text,) in devices),
        attachments=tuple(_attachment(found) for found in attachments),
        consumers=tuple(Consumer(*pod) for pod in pods),
        joinable=bool(joinable),
    )
    return ClaimRecord(plan=plan, state=state, owner=owner, since=since)


def _attachment(row: tuple[str, State, str | None, str | None]) -> Attachment:
    text, state, sandbox, home = row
    return replace(
        msgspec.json.decode(text, type=Attachment),
        state=state,
        sandbox=msgspec.json.decode(sandbox, type=Sandbox) if sandbox else None,
        home=msgspec.json.decode(home, type=HomeState) if home else None,
    )


def _container(attachment: Attachment) -> str | None:
    return attachment.sandbox.container_id if attachment.sandbox else None


def _encode(value: object) -> str | None:
    return msgspec.json.encode(value).decode() if value is not None else None
