"""An AttachmentStore that forgets at exit: a second implementation of the protocol, for engine tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from kubeletplugin.attach.store import Attachment, AttachmentGoneError, AttachmentTakenError


class MemoryStore:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Attachment] = {}
        self.reserved: dict[str, set[str]] = {}  # pod UID → claim UIDs
        self.open_to_others = False
        self.log: list[str] = []
        self._lock = threading.Lock()

    def prepare(self, pod_uid: str, *rows: Attachment) -> None:
        for row in rows:
            self.rows[row.key] = row
            self.reserved.setdefault(pod_uid, set()).add(row.claim_uid)

    def for_pod(self, pod_uid: str) -> list[Attachment]:
        claims = self.reserved.get(pod_uid, set())
        return [row for row in self.rows.values() if row.claim_uid in claims]

    def by_container(self, container_id: str) -> list[Attachment]:
        return [row for row in self.rows.values() if row.sandbox and row.sandbox.container_id == container_id]

    def by_claim(self, claim_uid: str) -> list[Attachment]:
        return [row for row in self.rows.values() if row.claim_uid == claim_uid]

    def unsettled(self) -> list[Attachment]:
        return [row for row in self.rows.values() if row.state != "prepared"]

    def joinable(self, pod_uid: str) -> bool:
        return self.open_to_others

    def begin_attach(self, intents: Sequence[Attachment]) -> None:
        with self._lock:
            self.log.append("begin_attach")
            for intent in intents:
                row = self.rows.get(intent.key)
                if row is None:
                    raise AttachmentGoneError(*intent.key)
                if row.sandbox and intent.sandbox and row.sandbox.container_id != intent.sandbox.container_id:
                    raise AttachmentTakenError(row)
            self.rows.update({intent.key: intent for intent in intents})

    def finish_attach(self, attachments: Sequence[Attachment]) -> None:
        self.log.append("finish_attach")
        self._update(attachments, lambda row: replace(row, state="attached"))

    def begin_detach(self, attachments: Sequence[Attachment]) -> None:
        self.log.append("begin_detach")
        self._update(attachments, lambda row: replace(row, state="detaching"))

    def finish_detach(self, attachments: Sequence[Attachment]) -> None:
        self.log.append("finish_detach")
        self._update(attachments, lambda row: replace(row, state="prepared", sandbox=None, home=None))

    def _update(self, attachments: Sequence[Attachment], change: Callable[[Attachment], Attachment]) -> None:
        with self._lock:
            for attachment in attachments:
                row, wanted = self.rows.get(attachment.key), attachment.sandbox
                if row and row.sandbox and wanted and row.sandbox.container_id == wanted.container_id:
                    self.rows[row.key] = change(row)
