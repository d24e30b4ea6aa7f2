"""CNI's commands: which NICs go into which pod, whose they are already, and what nobody will ask for again.

Works from the ledger alone, because a sandbox may be re-made without a Prepare. What a kill leaves behind is
undone by the pod's next ADD or DEL, or by `sweep`: under the pod's lock, a row on its way is an orphan. A pod
with a NIC claim never starts without its interface; a pod without one costs two reads.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from driver.errors import RetryableError, TandemError
from kubeletplugin.attach import links
from kubeletplugin.attach.links import NameTakenError
from kubeletplugin.attach.locks import PodLocks
from kubeletplugin.attach.mover import Mover
from kubeletplugin.attach.netlink import Netlink, NetlinkError
from kubeletplugin.attach.netns import Netns, inode_at
from kubeletplugin.attach.protocol import CniCall, Reply
from kubeletplugin.attach.results import AttachedInterface, CniError, Code, encode_result
from kubeletplugin.attach.store import (
    Attachment,
    AttachmentStore,
    AttachmentTakenError,
    Sandbox,
)
from kubeletplugin.attach.vfport import VlanUnsupportedError

ReservationLookup = Callable[[str, str, str], None]
"""(namespace, name, UID of a pod): bring what the ledger knows of its claims up to date from the API."""

_log = logging.getLogger(__name__)
_OK = Reply(0)


class AttachEngine:
    """ADD, DEL, CHECK, GC and STATUS over a store; any number of threads may call.

    Its home is the network namespace of the thread that makes it, which must be the process's.

    Args:
        store: the node's memory.
        look_up: asked when a pod starts while a claim is prepared that it could share without our knowing.
        lock_file: the same for all plugin processes of the node; on a file system that a reboot empties.
        pci_devices: tells a real PCI function, which comes home from a dead namespace by itself, from one
            that died with it.
    """

    def __init__(
        self,
        store: AttachmentStore,
        look_up: ReservationLookup,
        lock_file: Path,
        *,
        pci_devices: Path = Path("/sys/bus/pci/devices"),
    ) -> None:
        self._store = store
        self._look_up = look_up
        self._mover = Mover(store, pci_devices)
        self._locks = PodLocks(lock_file)

    def handle(self, call: CniCall, netns_fd: int | None) -> Reply:
        """Answer one call. The descriptor stays the caller's.

        Raises:
            CniError: the call failed; nothing of it is left, or the next DEL or sweep undoes it.
        """
        pod = Netns(netns_fd) if netns_fd is not None else None
        try:
            match call.command:
                case "ADD":
                    return self._add(call, pod)
                case "DEL":
                    return self._delete(call, pod)
                case "CHECK":
                    return self._check(call, pod)
                case "GC":
                    return self._collect(call)
                case "STATUS":
                    return _OK
        except CniError:
            raise
        except AttachmentTakenError as error:
            raise _in_use(error.holder, call) from error
        except NameTakenError as error:
            raise CniError(Code.INTERFACE_EXISTS, f"pod {call.pod}", str(error)) from error
        except (NetlinkError, VlanUnsupportedError) as error:
            raise CniError(Code.KERNEL, f"pod {call.pod}", str(error)) from error
        except TandemError as error:
            raise CniError(Code.TRY_LATER, f"pod {call.pod}", str(error)) from error
        raise CniError(Code.ENVIRONMENT, f"CNI_COMMAND={call.command!r} is not a command of CNI 1.1")

    def sweep(self) -> None:
        """Undo or finish what no call will: at start, and now and then.

        Rows on their way without a call under way (this process or the one before it was stopped), and rows
        in a namespace that is gone (no DEL ever came).
        """
        self._mover.read_rdma_mode()
        self._release(self._store.unsettled(), only=_is_orphan)

    def release_claim(self, claim_uid: str) -> None:
        """Take all NICs of a claim home: before Unprepare forgets it.

        The store must by then give the claim's rows to no ADD any more.

        Raises:
            TandemError: one did not come home; call again.
        """
        failures = self._release(self._store.by_claim(claim_uid))
        if failures:
            raise failures[0]

    # ---- commands

    def _add(self, call: CniCall, pod: Netns | None) -> Reply:
        previous = call.config.get("prevResult")
        rows = self._rows_of(call)
        if not rows:
            if not isinstance(previous, dict):
                raise CniError(Code.CONFIG, "no prevResult: tandem must follow another plugin in the chain")
            return Reply(0, encode_result(previous, (), call.cni_version))
        if pod is None:
            raise CniError(Code.ENVIRONMENT, f"CNI_NETNS={call.netns_path!r} cannot be opened")
        if pod.inode == self._mover.home.inode:
            raise CniError(Code.ENVIRONMENT, f"CNI_NETNS={call.netns_path!r} is the node's own namespace")
        elsewhere = [row for row in rows if row.sandbox and row.sandbox.pod_uid != call.pod_uid]
        self._release(elsewhere, only=_is_orphan)  # of a pod that ended without DEL
        with self._locks.hold(call.pod_uid):
            ours = self._attach(call, pod)
        return Reply(0, encode_result(previous or {}, ours, call.cni_version))

    def _delete(self, call: CniCall, pod: Netns | None) -> Reply:
        with self._locks.hold(call.pod_uid):  # an ADD that the runtime gave up may still be under way
            rows = self._store.by_container(call.container_id)
            if rows:
                self._mover.take_home(rows, pod)
        return _OK

    def _check(self, call: CniCall, pod: Netns | None) -> Reply:
        with self._locks.hold(call.pod_uid):
            rows = self._store.for_pod(call.pod_uid) if call.pod_uid else []
            for row in rows:
                if (
                    row.state != "attached"
                    or not row.sandbox
                    or row.sandbox.container_id != call.container_id
                ):
                    raise _deviates(row, f"is {row.state}, not attached to sandbox {call.container_id}")
            if rows:
                if pod is None:
                    raise CniError(Code.ENVIRONMENT, f"CNI_NETNS={call.netns_path!r} cannot be opened")
                with pod.netlink() as inside:
                    for row in rows:
                        _compare(row, inside)
        return _OK

    def _collect(self, call: CniCall) -> Reply:
        valid: Any = call.config.get("cni.dev/valid-attachments")
        if not isinstance(valid, list) or not all(isinstance(item, dict) for item in valid):
            raise CniError(Code.CONFIG, "GC needs the list cni.dev/valid-attachments")
        keep = {item.get("containerID") for item in valid}
        rows = [
            row for row in self._store.unsettled() if row.sandbox and row.sandbox.container_id not in keep
        ]
        failures = self._release(rows)
        if failures:
            raise failures[0]
        return _OK

    def _rows_of(self, call: CniCall) -> list[Attachment]:
        if not call.pod_uid:
            return []  # not a Kubernetes pod
        if self._store.joinable(call.pod_uid):
            self._look_up(call.pod_namespace, call.pod_name, call.pod_uid)
        return self._store.for_pod(call.pod_uid)

    # ---- under the pod's lock

    def _attach(self, call: CniCall, pod: Netns) -> list[AttachedInterface]:
        rows = self._store.for_pod(call.pod_uid)
        for row in rows:
            if row.sandbox and row.sandbox.pod_uid != call.pod_uid:
                raise AttachmentTakenError(row)
        if not rows:
            raise CniError(Code.TRY_LATER, f"the NIC claims of pod {call.pod} were unprepared just now")
        _refuse_same_names(rows)
        for left in _by_container([row for row in rows if row.sandbox]):
            self._mover.take_home(left)  # the sandbox before this one, or an ADD that was cut off
        visible = inode_at(call.netns_path) == pod.inode  # else sweep could not tell whether it still lives
        sandbox = Sandbox(
            pod_uid=call.pod_uid,
            pod=call.pod,
            container_id=call.container_id,
            netns_path=call.netns_path if visible else "",
            netns_inode=pod.inode,
        )
        inside = self._mover.attach(rows, sandbox, pod)
        return [
            AttachedInterface(link.name, link.mac, link.mtu, call.netns_path, row.pci_address, row.addresses)
            for row, link in zip(rows, inside, strict=True)
        ]

    def _release(
        self, rows: Sequence[Attachment], *, only: Callable[[Attachment], bool] = lambda _: True
    ) -> list[TandemError]:
        """Take rows home, pod by pod under its lock, each looked at again there; returns what failed."""
        failures: list[TandemError] = []
        for group in _by_container([row for row in rows if row.sandbox]):
            sandbox, keys = group[0].sandbox, {row.key for row in group}
            if sandbox is None:
                continue
            with self._locks.hold(sandbox.pod_uid):
                now = self._store.by_container(sandbox.container_id)
                orphans = [row for row in now if row.key in keys and only(row)]
                if not orphans:
                    continue
                try:
                    self._mover.take_home(orphans)
                except (TandemError, OSError) as error:
                    _log.warning("NICs of pod %s did not come home: %s", sandbox.pod, error)
                    failures.append(error if isinstance(error, TandemError) else RetryableError(str(error)))
        return failures


def _is_orphan(row: Attachment) -> bool:
    """Under the pod's lock: nothing is under way for it, and nothing will come."""
    sandbox = row.sandbox
    if sandbox is None or row.state != "attached":
        return True
    return bool(sandbox.netns_path) and inode_at(sandbox.netns_path) != sandbox.netns_inode


def _by_container(rows: Sequence[Attachment]) -> list[list[Attachment]]:
    groups: dict[str, list[Attachment]] = {}
    for row in rows:
        groups.setdefault(row.sandbox.container_id if row.sandbox else "", []).append(row)
    return list(groups.values())


def _refuse_same_names(rows: Sequence[Attachment]) -> None:
    seen: dict[str, Attachment] = {}
    for row in rows:
        other = seen.setdefault(row.interface, row)
        if other is not row:
            devices = f"{other.device} of claim {other.claim} and {row.device} of claim {row.claim}"
            raise CniError(Code.INTERFACE_EXISTS, f"{devices} are both to be {row.interface} in the pod")


def _in_use(holder: Attachment, call: CniCall) -> CniError:
    pod = holder.sandbox.pod if holder.sandbox else "another pod"
    return CniError(
        Code.CLAIM_IN_USE,
        f"NIC {holder.device} of claim {holder.claim} is in pod {pod}, so pod {call.pod} cannot have it",
        "a claim with NICs serves one pod per node; give each pod a claim from a ResourceClaimTemplate",
    )


def _deviates(row: Attachment, how: str) -> CniError:
    return CniError(Code.NOT_AS_ATTACHED, f"NIC {row.device} of claim {row.claim} {how}")


def _compare(row: Attachment, inside: Netlink) -> None:
    link = links.find(inside, row.pci_address)
    if link is None:
        raise _deviates(row, "is not in the pod")
    if link.name != row.interface:
        raise _deviates(row, f"is called {link.name}, not {row.interface}")
    if not link.up:
        raise _deviates(row, "is down")
    wanted = {str(ipaddress.ip_interface(address)) for address in row.addresses}
    missing = wanted - links.addresses(inside, link)
    if missing:
        raise _deviates(row, f"has lost its address {', '.join(sorted(missing))}")
