"""What preparing a claim means on this node: which character devices, variables and interfaces each
device brings.

Pure: the claim's results and the node's facts in, a Plan out. The plan is what the ledger remembers, and
CDI files, pod records and attachments follow from it alone, so that they can be made again without
asking anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from driver.devices import Inventory, Nic, RdmaDevice, Vf
from driver.errors import ConfigError, RetryableError
from driver.names import TYPE_NIC, TYPE_VF, device_name
from driver.placement import PlacedInterface, PlacedPair
from kubeletplugin import gpus
from kubeletplugin.attach.store import Attachment, VfPort
from kubeletplugin.claims import AllocatedClaim, ClaimedDevice, ClaimError, Consumer


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A character device: `path` in the container, `host_path` on the node."""

    path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """One result, made concrete.

    Attributes:
        request: main request name.
        exclusive: no other claim may be prepared with it (False under admin access).
        cdi_name: name of its CDI device, stable over repeated prepares.
        env: variables that it brings by itself.
        nodes: character devices that it brings.
        rdma_device: ``mlx5_3``, empty where it has none.
        traffic_class: which RDMA traffic of it shall have, None where nobody says.
        pairs: the controller's pairs that it belongs to.
        parent: the device that it is a part of, which nobody else may have; empty for a whole one.
    """

    request: str
    pool: str
    device: str
    share_id: str | None
    exclusive: bool
    cdi_name: str
    env: tuple[tuple[str, str], ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    rdma_device: str = ""
    traffic_class: int | None = None
    pairs: tuple[PlacedPair, ...] = ()
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a prepared claim is; `attachments` has one row for each NIC, in result order."""

    uid: str
    namespace: str
    name: str
    devices: tuple[PlannedDevice, ...]
    attachments: tuple[Attachment, ...]
    consumers: tuple[Consumer, ...]
    joinable: bool

    @property
    def title(self) -> str:
        """``namespace/name``, for messages."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the planner needs of the node.

    Attributes:
        dev_root: folder under which the host's character devices are, ``/dev`` but for a mock.
        dev_nodes: their names below it, for example ``nvidia0``, ``infiniband/uverbs3``.
    """

    inventory: Inventory
    dev_root: str
    dev_nodes: frozenset[str]


class DeviceMissingError(RetryableError):
    """An allocated device, or a part of it, is not on the node now; attribute `device` is its name."""

    def __init__(self, claim: str, device: str, what: str) -> None:
        super().__init__(f"claim {claim}: device {device} {what}")
        self.device = device


def plan(claim: AllocatedClaim, facts: NodeFacts, taken_interfaces: Iterable[str] = ()) -> Plan:
    """Make a claim concrete. `taken_interfaces` are names that other claims of its pods use.

    Raises:
        DeviceMissingError: a device, its character device or its interface is not there.
        ClaimError: the controller's decision does not fit the results, or a device is none that we prepare.
    """
    title = f"{claim.namespace}/{claim.name}"
    known = gpus.by_name(facts.inventory)
    functions = _functions(facts.inventory)
    interfaces = _interfaces(claim, title, functions, taken_interfaces)
    devices: list[PlannedDevice] = []
    attachments: list[Attachment] = []
    for result in claim.devices:
        pairs = claim.placement.pairs if claim.placement else ()
        mine = tuple(pair for pair in pairs if result.device in (pair.gpu, pair.nic))
        if reason := gpus.never_prepared(result.device):
            raise ClaimError(title, f"device {result.device} {reason}")
        if result.device in known:
            devices.append(_gpu(title, result, known[result.device], facts, mine))
        elif result.device in functions:
            function = functions[result.device]
            wanted = interfaces[result.device]
            devices.append(_nic(title, result, function, facts, mine, wanted.traffic_class))
            attachments.append(
                Attachment(
                    claim_uid=claim.uid,
                    claim=title,
                    device=result.device,
                    pci_address=function.pci_address,
                    interface=wanted.interface,
                    addresses=wanted.addresses,
                    mtu=wanted.mtu,
                    routes=tuple((route.to, route.via) for route in wanted.routes),
                    vlan=wanted.vlan,
                    port=_port(title, result.device, facts.inventory, wanted),
                    rdma_device=function.rdma.name if function.rdma else None,
                )
            )
        else:
            raise DeviceMissingError(title, result.device, gpus.absence(result.device))
    return Plan(
        uid=claim.uid,
        namespace=claim.namespace,
        name=claim.name,
        devices=tuple(devices),
        attachments=tuple(attachments),
        consumers=claim.consumers,
        joinable=claim.joinable,
    )


def variable(device: str) -> str:
    """The variable that tells a container of a device: ``TANDEM_GPU_0000_1B_00_0``.

    One for each device, since of a variable that several bring only the last value is seen.
    """
    return f"TANDEM_{device.upper().replace('-', '_')}"


def _functions(inventory: Inventory) -> Mapping[str, Nic | Vf]:
    found: dict[str, Nic | Vf] = {}
    for nic in inventory.nics:
        found[device_name(TYPE_NIC, nic.pci_address)] = nic
        found.update({device_name(TYPE_VF, vf.pci_address): vf for vf in nic.vfs})
    return found


def _gpu(
    title: str,
    result: ClaimedDevice,
    gpu: gpus.GpuDevice,
    facts: NodeFacts,
    pairs: tuple[PlacedPair, ...],
) -> PlannedDevice:
    """The nodes of a GPU or MIG instance, and its UUID in a variable.

    CDI alone decides which GPUs a container sees. ``NVIDIA_VISIBLE_DEVICES=void`` tells a NVIDIA runtime
    that also serves the node not to add GPUs by the image's variable (``all`` in CUDA images).
    """
    if gpu.problem:
        raise DeviceMissingError(title, result.device, gpu.problem)
    _require(title, result, gpu.nodes, facts)
    names = [*gpu.nodes, *(name for name in gpus.SHARED_NODES if name in facts.dev_nodes)]
    return _planned(
        result,
        cdi_name=result.device,
        env=(("NVIDIA_VISIBLE_DEVICES", "void"), (variable(result.device), gpu.uuid)),
        nodes=_nodes(names, facts),
        pairs=pairs,
        parent=gpu.parent,
    )


def _nic(
    title: str,
    result: ClaimedDevice,
    function: Nic | Vf,
    facts: NodeFacts,
    pairs: tuple[PlacedPair, ...],
    traffic_class: int | None,
) -> PlannedDevice:
    """The function's RDMA nodes. Its CDI name is its PCI address, which Multus 4.2 takes for the ID."""
    rdma: RdmaDevice | None = function.rdma
    names = rdma.char_devices if rdma else ()
    _require(title, result, names, facts)
    return _planned(
        result,
        cdi_name=function.pci_address,
        env=((variable(result.device), rdma.name if rdma else function.pci_address),),
        nodes=_nodes(names, facts),
        rdma_device=rdma.name if rdma else "",
        traffic_class=traffic_class,
        pairs=pairs,
    )


def _planned(
    result: ClaimedDevice,
    *,
    cdi_name: str,
    env: tuple[tuple[str, str], ...],
    nodes: tuple[DeviceNode, ...],
    pairs: tuple[PlacedPair, ...],
    rdma_device: str = "",
    traffic_class: int | None = None,
    parent: str = "",
) -> PlannedDevice:
    return PlannedDevice(
        request=result.request,
        pool=result.pool,
        device=result.device,
        share_id=result.share_id,
        exclusive=not result.admin_access and result.share_id is None,
        cdi_name=cdi_name,
        env=env,
        nodes=nodes,
        rdma_device=rdma_device,
        traffic_class=traffic_class,
        pairs=pairs,
        parent=parent,
    )


def _port(title: str, device: str, inventory: Inventory, wanted: PlacedInterface) -> VfPort | None:
    """Where the VF is plugged in, if it is to be in a VLAN; None if not.

    Raises:
        ClaimError: it is no VF, or its PF cannot tag for it.
    """
    if wanted.vlan is None:
        return None
    for pf in inventory.nics:
        for vf in pf.vfs:
            if device_name(TYPE_VF, vf.pci_address) == device:
                if pf.link_type != "ethernet" or pf.eswitch_mode == "switchdev":
                    mode = pf.link_type if pf.link_type != "ethernet" else "in switchdev mode"
                    raise _untagged(title, device, wanted, f"PF {pf.pci_address} is {mode}")
                return VfPort(pf.pci_address, vf.index)
    raise _untagged(title, device, wanted, "only VFs can be")


def _untagged(title: str, device: str, wanted: PlacedInterface, why: str) -> ClaimError:
    network = f"FabricNetwork {wanted.network} has"
    return ClaimError(title, f"{network} VLAN {wanted.vlan}, and {device} cannot be put into it: {why}")


def _require(title: str, result: ClaimedDevice, names: Iterable[str], facts: NodeFacts) -> None:
    for name in names:
        if name not in facts.dev_nodes:
            raise DeviceMissingError(title, result.device, f"has no character device {facts.dev_root}/{name}")


def _nodes(names: Iterable[str], facts: NodeFacts) -> tuple[DeviceNode, ...]:
    return tuple(DeviceNode(f"/dev/{name}", f"{facts.dev_root}/{name}") for name in names)


def _interfaces(
    claim: AllocatedClaim, title: str, functions: Mapping[str, Nic | Vf], taken: Iterable[str]
) -> Mapping[str, PlacedInterface]:
    """How each NIC is to look in the pod: as the controller decided, else ``net1``, ``net2``… in order."""
    nics = [result.device for result in claim.devices if result.device in functions]
    if claim.placement is not None:
        placed = {interface.device: interface for interface in claim.placement.interfaces}
        absent = [device for device in nics if device not in placed]
        if absent:
            error = ConfigError(f"names no interface for {', '.join(absent)}", path="interfaces")
            raise ClaimError(title, f"the controller's Placement: {error}")
        return placed
    used = set(taken)
    free = (name for name in (f"net{number}" for number in range(1, 1000)) if name not in used)
    return {device: PlacedInterface(device=device, interface=next(free)) for device in nics}
