"""Takes a pod's NICs in and home again: the kernel's side of an attachment and the ledger's, step by step.

Each intent is in the ledger, with the NIC's home state, before the kernel is touched. So whatever a kill
leaves behind can be taken home from the ledger alone, as often as it takes: `Mover.take_home` looks for the
NIC where it can be (the pod, the node, nowhere yet) and restores what differs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from driver.errors import RetryableError
from kubeletplugin.attach import links, rdma, vfport
from kubeletplugin.attach.netlink import Link, Netlink, NetlinkError
from kubeletplugin.attach.netns import Netns
from kubeletplugin.attach.store import Attachment, AttachmentStore, HomeState, Sandbox, Vlan
from kubeletplugin.steps import step

RETURN_SECONDS: Final = 2.0
"""How long the kernel may take to give a dead namespace's NIC back (it does so in a work queue)."""

_log = logging.getLogger(__name__)


class NotAtHomeError(RetryableError):
    """A NIC has no interface in the node's network namespace; attribute `attachment` is its row."""

    def __init__(self, attachment: Attachment) -> None:
        nic = f"NIC {attachment.device} (PCI {attachment.pci_address}) of claim {attachment.claim}"
        super().__init__(f"{nic} has no interface in the node's network namespace")
        self.attachment = attachment


class Mover:
    """Not locked: callers see to it that only one at a time works on a pod.

    `home` is the network namespace of the thread that makes it, which must be the process's.

    Args:
        store: the node's memory.
        pci_devices: tells a real PCI function, which comes home from a dead namespace by itself, from one
            that died with it.
    """

    def __init__(self, store: AttachmentStore, pci_devices: Path) -> None:
        self._store = store
        self._pci_devices = pci_devices
        self.home = Netns.current()
        self._rdma_exclusive = rdma.exclusive_mode()

    def read_rdma_mode(self) -> None:
        """Look again whether RDMA devices belong to one namespace each; an admin may switch it."""
        self._rdma_exclusive = rdma.exclusive_mode()

    def attach(self, rows: Sequence[Attachment], sandbox: Sandbox, pod: Netns) -> list[Link]:
        """Move the NICs of prepared rows into a pod and make them usable; all, or none.

        Returns:
            The links in the pod, in the order of `rows`.

        Raises:
            NotAtHomeError, PfMissingError: a NIC, or its PF, is not in the node's namespace.
            VlanUnsupportedError: a NIC is to be in a VLAN, and its PF cannot do it.
            AttachmentTakenError, AttachmentGoneError: the store refused.
            NameTakenError, NetlinkError, OSError: the kernel refused; all is taken home again.
        """
        with Netlink() as home:
            moves = [(row, self._find_at_home(row, home)) for row in rows]
            intents = [
                replace(
                    row,
                    state="attaching",
                    sandbox=sandbox,
                    home=HomeState(link.name, link.mac, link.mtu, link.up, self._vlan_of(row, home)),
                )
                for row, link in moves
            ]
            self._store.begin_attach(intents)
            try:
                for row in rows:
                    if row.vlan is not None and row.port is not None:
                        vfport.set_vlan(home, row.port, Vlan(row.vlan))
                links.move_into_pod(home, pod, moves)
                self._move_rdma(rows, pod)
                inside = pod.run(lambda: links.set_up(rows))
                step("attach.moved")
                self._store.finish_attach(intents)
            except Exception:
                self._roll_back(intents, pod)
                raise
        return inside

    def take_home(self, rows: Sequence[Attachment], pod: Netns | None = None) -> None:
        """Take rows of one sandbox back to the node's namespace, as they were. What is nowhere is done.

        RDMA devices before their netdevs, the reverse of the way in.

        Args:
            rows: of one sandbox, each with its home state.
            pod: the sandbox's namespace where the caller has it open, else it is looked for at its path.

        Raises:
            NetlinkError, OSError: the kernel refused; call again.
        """
        sandbox = rows[0].sandbox
        if sandbox is None:
            return
        self._store.begin_detach(rows)
        with contextlib.ExitStack() as stack:
            home = stack.enter_context(Netlink())
            if pod is None or pod.inode != sandbox.netns_inode:
                pod = Netns.at(sandbox.netns_path, sandbox.netns_inode)
                if pod:
                    stack.enter_context(pod)
            inside = stack.enter_context(pod.netlink()) if pod else None
            if pod and self._rdma_exclusive:
                devices = [row.rdma_device for row in rows if row.rdma_device]
                with pod.netlink(rdma.NETLINK_RDMA) as rdma_inside:
                    for device in devices:
                        rdma.move(rdma_inside, device, self.home)
            for row in rows:
                self._restore(row, home, inside)
        step("detach.moved")
        self._store.finish_detach(rows)

    def _find_at_home(self, row: Attachment, home: Netlink) -> Link:
        link = links.find(home, row.pci_address)
        if link is None:
            raise NotAtHomeError(row)
        return link

    def _vlan_of(self, row: Attachment, home: Netlink) -> Vlan | None:
        return vfport.vlan(home, row.port) if row.vlan is not None and row.port is not None else None

    def _move_rdma(self, rows: Sequence[Attachment], pod: Netns) -> None:
        devices = [row.rdma_device for row in rows if row.rdma_device]
        if self._rdma_exclusive and devices:
            with Netlink(rdma.NETLINK_RDMA) as home:
                for device in devices:
                    rdma.move(home, device, pod)

    def _roll_back(self, intents: Sequence[Attachment], pod: Netns) -> None:
        try:
            self.take_home(intents, pod)
        except Exception:
            _log.exception("roll-back failed; the DEL that follows, or the sweep, tries again")

    def _restore(self, row: Attachment, home: Netlink, inside: Netlink | None) -> None:
        if row.home is None:
            return
        link = links.find(inside, row.pci_address) if inside else None
        if inside and link:
            links.restore(inside, link, row.home, to=self.home)
        link = links.find(home, row.pci_address)
        if link is None and inside is None:
            link = self._await_return(row, home)
        if link is None:
            _log.warning("NIC %s (PCI %s) is neither in its pod nor at home", row.device, row.pci_address)
        elif HomeState(link.name, link.mac, link.mtu, link.up, row.home.vlan) != row.home:
            links.restore(home, link, row.home)
        # The last of all: as long as the NIC may be in the pod, what it sends stays in the pod's VLAN.
        if row.home.vlan is not None and row.port is not None:
            try:
                vfport.set_vlan(home, row.port, row.home.vlan)
            except (vfport.PfMissingError, NetlinkError) as error:
                if link is not None or self._exists(row):
                    raise
                # A card that died took the port along; the claim must end all the same, and its other NICs.
                _log.warning("VLAN of %s was not restored, the VF is gone: %s", row.device, error)

    def _await_return(self, row: Attachment, home: Netlink) -> Link | None:
        deadline = time.monotonic() + RETURN_SECONDS
        while self._exists(row) and time.monotonic() < deadline:
            time.sleep(0.02)
            link = links.find(home, row.pci_address)
            if link:
                return link
        return None

    def _exists(self, row: Attachment) -> bool:
        return (self._pci_devices / row.pci_address).exists()
