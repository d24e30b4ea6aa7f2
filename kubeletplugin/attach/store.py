"""What the attach engine remembers, and what it asks of the ledger that remembers it.

A sandbox may be made, re-made and removed with no Prepare in between, and the process may be killed between
any two lines, so each step's intent is durable before the kernel is touched. This module is the seam: values
and a protocol, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from driver.errors import PermanentError, RetryableError

State = Literal["prepared", "attaching", "attached", "detaching"]
"""prepared: at home; attached: in the pod; attaching, detaching: an intent is written, it may be anywhere."""


@dataclass(frozen=True, slots=True)
class VfPort:
    """Where a VF is plugged in: its PF's PCI address, and its number there."""

    pf_address: str
    index: int


@dataclass(frozen=True, slots=True)
class Vlan:
    """As a PF tags what a VF sends; ID 0 is no tag. `priority` is 802.1p's."""

    id: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class HomeState:
    """The netdev as it was in the node's network namespace.

    MTU in bytes; `up` is its IFF_UP flag; `vlan` that of its port at the PF, None where we do not change it.
    """

    name: str
    mac: str
    mtu: int
    up: bool = False
    vlan: Vlan | None = None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One incarnation of a pod's network namespace.

    Attributes:
        pod_uid: the pod's UID.
        pod: ``namespace/name``, for messages.
        container_id: CNI_CONTAINERID (the sandbox's ID at the container runtime).
        netns_path: CNI_NETNS as it was given at ADD.
        netns_inode: inode of that namespace; tells a namespace from a later one at the same path.
    """

    pod_uid: str
    pod: str
    container_id: str
    netns_path: str
    netns_inode: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """One NIC of a prepared claim. (claim_uid, device) is its key.

    Attributes:
        claim_uid: UID of the ResourceClaim.
        claim: ``namespace/name`` of the claim, for messages.
        device: device name in our pool, for example ``vf-0000-1a-00-1``.
        pci_address: finds the netdev wherever it is.
        interface: name that it gets in the pod.
        addresses: in CIDR form, the prefix is the on-link subnet.
        mtu: bytes, None leaves it as it is.
        routes: destination (a network) and router.
        vlan: ID that its port shall tag with, None leaves the port as it is; then `port` is set.
        rdma_device: ``mlx5_3``, None without RDMA.
        sandbox: where it is, or is on its way to or from; None when prepared.
        home: None when prepared.
        state: see `State`.
    """

    claim_uid: str
    claim: str
    device: str
    pci_address: str
    interface: str
    addresses: tuple[str, ...] = ()
    mtu: int | None = None
    routes: tuple[tuple[str, str], ...] = ()
    vlan: int | None = None
    port: VfPort | None = None
    rdma_device: str | None = None
    sandbox: Sandbox | None = None
    home: HomeState | None = None
    state: State = "prepared"

    @property
    def key(self) -> tuple[str, str]:
        """(claim UID, device name)."""
        return self.claim_uid, self.device


class AttachmentTakenError(RetryableError):
    """Another pod on this node has the attachment.

    Attributes:
        holder: the attachment as it stands, with the sandbox that has it.
    """

    def __init__(self, holder: Attachment) -> None:
        pod = holder.sandbox.pod if holder.sandbox else "another pod"
        super().__init__(f"device {holder.device} of claim {holder.claim} is in pod {pod}")
        self.holder = holder


class AttachmentGoneError(PermanentError):
    """The claim was unprepared meanwhile; attributes `claim_uid` and `device` name the row."""

    def __init__(self, claim_uid: str, device: str) -> None:
        super().__init__(f"device {device} of claim {claim_uid} is no longer prepared")
        self.claim_uid = claim_uid
        self.device = device


class AttachmentStore(Protocol):
    """The node's durable memory of attachments; the ledger implements it. Any thread may call any method.

    A method that writes is one transaction over all rows that it is given. When it returns, the write
    survives the end of this process; it need not survive a power loss, which undoes all attachments as well.
    So no fsync is needed on the way of ADD and DEL.
    """

    def for_pod(self, pod_uid: str) -> list[Attachment]:
        """All attachments of the claims reserved for the pod, by claim, then result order, other pods' too.

        Called for every pod on the node, claims or not: one indexed read.
        """
        ...

    def by_container(self, container_id: str) -> list[Attachment]:
        """Those whose sandbox has this container ID, whatever their state."""
        ...

    def by_claim(self, claim_uid: str) -> list[Attachment]:
        """Those of one claim, whatever their state."""
        ...

    def unsettled(self) -> list[Attachment]:
        """All that are not `prepared`: in a pod, or on the way."""
        ...

    def joinable(self, pod_uid: str) -> bool:
        """Is a claim with NICs prepared that is not known to be this pod's, but could be?

        A pod that joins a prepared claim gets no Prepare, so that the ledger may not know of it.
        """
        ...

    def begin_attach(self, intents: Sequence[Attachment]) -> None:
        """Write the intents (state `attaching`, sandbox and home set) before the kernel is touched.

        Raises:
            AttachmentTakenError: a row's sandbox is set, and not to the same container ID.
            AttachmentGoneError: a row is not there any more.
        """
        ...

    def finish_attach(self, attachments: Sequence[Attachment]) -> None:
        """`attaching` → `attached`. Raises AttachmentGoneError where a row is gone."""
        ...

    def begin_detach(self, attachments: Sequence[Attachment]) -> None:
        """→ `detaching`; sandbox and home stay. A row that is gone is no error."""
        ...

    def finish_detach(self, attachments: Sequence[Attachment]) -> None:
        """→ `prepared`; sandbox and home are forgotten. A row that is gone is no error.

        A row whose sandbox has another container ID than the given attachment is left alone: the pod's next
        sandbox has it already.
        """
        ...
