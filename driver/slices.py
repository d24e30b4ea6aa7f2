"""An inventory as ResourceSlices, within the API's limits, and the way back from a published device to its
place.

Equal inventories give equal slices: names, order and cuts between slices follow from the devices alone, so
that whoever publishes can compare, and a taint that comes or goes moves no device to another slice.

Limits and field meanings after resource.k8s.io/v1 of Kubernetes 1.36.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from driver.attributes import ATTRIBUTES_AND_CAPACITIES, STRING_LENGTH, semver
from driver.devices import Gpu, Inventory, Place, pci_order
from driver.filter import EVERYTHING, Filter
from driver.kube.objects import (
    CounterSet,
    Device,
    DeviceAttribute,
    DeviceTaint,
    ObjectMeta,
    OwnerReference,
    ResourcePool,
    ResourceSlice,
    ResourceSliceSpec,
)
from driver.names import (
    CONTROLLER_TAINT,
    DRIVER_NAME,
    HELD_TAINT,
    NUMA_NODE,
    PCIE_ROOT,
    PCIE_ROOT_PORT,
    PCIE_SWITCH,
    pool_name,
    qualified,
)
from driver.partitions import Family, MigMode, Offer, of_gpu, of_nic, of_silent_gpu
from driver.sharing import shareable

__all__ = [
    "ATTRIBUTES_AND_CAPACITIES",
    "DEVICES_PER_SLICE",
    "STRING_LENGTH",
    "SliceOptions",
    "build",
    "devices",
    "place_of",
    "semver",
    "slice_name",
    "withheld",
]

DEVICES_PER_SLICE: Final = 64
"""The limit for slices with taints or counters; 128 without, but then the first taint would move devices
between slices.
"""

COUNTER_SETS_PER_SLICE: Final = 8
_OBJECT_NAME_LENGTH = 253


@dataclass(frozen=True, slots=True)
class SliceOptions:
    """What goes into the slices beside the hardware.

    Attributes:
        controller_taint: keep kube-scheduler from allocating (allocation mode ``controller``).
        held: names of devices that the API may call free while a pod on the node still uses them.
        taints: more taints by device name.
        mig: GPUs in MIG mode as the instances that they have (``static``) or not at all (``off``); or every
            GPU that has placements whole and as every partition that could be made of it (``dynamic``).
        vfio: GPUs also as PCI functions for virtual machines.
        pf_and_vfs: PFs that have VFs also, beside these.
        shared: types of devices that several claims may hold, each with a part of their capacity.
        filter: which devices to publish.
    """

    controller_taint: bool = True
    held: frozenset[str] = frozenset()
    taints: Mapping[str, Sequence[DeviceTaint]] = field(default_factory=dict)
    mig: MigMode = "static"
    vfio: bool = False
    pf_and_vfs: bool = False
    shared: frozenset[str] = frozenset()
    filter: Filter = EVERYTHING


def build(
    inventory: Inventory,
    *,
    driver_name: str,
    node_name: str,
    node_uid: str,
    generation: int,
    options: SliceOptions,
) -> list[ResourceSlice]:
    """The complete pool of one node; at least one slice, so that an empty node says so. Counter sets have
    slices of their own, after those of the devices.

    A PF that has VFs is not published (but see `SliceOptions.pf_and_vfs`), nor a NIC that the node itself
    lives on.
    """
    families = list(_families(inventory, options))
    found = _published(families, driver_name, options)
    sets = _counter_sets(families, found)
    owner = OwnerReference(api_version="v1", kind="Node", name=node_name, uid=node_uid, controller=True)
    cuts = [found[n : n + DEVICES_PER_SLICE] for n in range(0, max(len(found), 1), DEVICES_PER_SLICE)]
    set_cuts = [sets[n : n + COUNTER_SETS_PER_SLICE] for n in range(0, len(sets), COUNTER_SETS_PER_SLICE)]
    pool = ResourcePool(
        name=pool_name(driver_name, node_name),
        generation=generation,
        resource_slice_count=len(cuts) + len(set_cuts),
    )

    def piece(name: str, devices: list[Device], counters: list[CounterSet]) -> ResourceSlice:
        return ResourceSlice(
            metadata=ObjectMeta(name=name, owner_references=[owner]),
            spec=ResourceSliceSpec(
                driver=driver_name, pool=pool, node_name=node_name, devices=devices, shared_counters=counters
            ),
        )

    return [
        *(piece(slice_name(driver_name, node_name, n), cut, []) for n, cut in enumerate(cuts)),
        *(
            piece(slice_name(driver_name, node_name, n, "counters-"), [], cut)
            for n, cut in enumerate(set_cuts)
        ),
    ]


def devices(inventory: Inventory, *, driver_name: str, options: SliceOptions) -> list[Device]:
    """Every published device of a node: GPUs with their parts, then NICs and VFs, each in PCI order."""
    return _published(_families(inventory, options), driver_name, options)


def withheld(inventory: Inventory, options: SliceOptions) -> dict[str, str]:
    """Devices that are not published, by name, and why."""
    offers = [offer for family in _families(inventory, options) for offer in family.offers]
    return {offer.name: why for offer in offers if (why := _why_withheld(offer, options))}


def slice_name(driver_name: str, node_name: str, number: int, what: str = "") -> str:
    """Object name of a pool's slice; it sorts by number (kube-scheduler takes slices by name)."""
    name = f"{node_name}-{driver_name}-{what}{number:03d}"
    if len(name) <= _OBJECT_NAME_LENGTH:
        return name
    digest = hashlib.sha256(node_name.encode()).hexdigest()[:16]
    return f"{digest}-{driver_name}-{what}{number:03d}"


def place_of(device: Device, driver_domain: str = DRIVER_NAME) -> Place:
    """The place that a published device says it has; what it does not say is None.

    `driver_domain` is the name of the driver that published it: unqualified attributes belong to that
    domain, and ours (`pcieSwitch`, `pcieRootPort`) count only as such or where they are qualified with our
    domain.
    """

    def attribute(name: str) -> DeviceAttribute | None:
        found = device.attributes.get(qualified(name))
        if found is None and driver_domain == DRIVER_NAME:
            found = device.attributes.get(name)
        return found

    switch, port = attribute(PCIE_SWITCH), attribute(PCIE_ROOT_PORT)
    root, numa = attribute(PCIE_ROOT), attribute(NUMA_NODE)
    return Place(
        pcie_switch=switch.string if switch else None,
        pcie_root_port=port.string if port else None,
        pcie_root=root.string if root else None,
        numa_node=numa.int_ if numa else None,
    )


def _families(inventory: Inventory, options: SliceOptions) -> Iterator[Family]:
    gpus: list[tuple[Gpu, bool]] = [(gpu, True) for gpu in inventory.gpus]
    gpus += [(gpu, False) for gpu in inventory.silent_gpus]
    for gpu, answers in sorted(gpus, key=lambda entry: pci_order(entry[0].pci_address)):
        if answers:
            yield of_gpu(gpu, mig=options.mig, vfio=options.vfio)
        else:
            yield of_silent_gpu(gpu, vfio=options.vfio)
    for nic in sorted(inventory.nics, key=lambda nic: pci_order(nic.pci_address)):
        yield of_nic(nic, both=options.pf_and_vfs)


def _published(families: Iterable[Family], driver_name: str, options: SliceOptions) -> list[Device]:
    return [
        _device(driver_name, offer, options)
        for family in families
        for offer in family.offers
        if not _why_withheld(offer, options)
    ]


def _why_withheld(offer: Offer, options: SliceOptions) -> str:
    return offer.withheld or options.filter.withholds(offer.name, offer.attributes)


def _counter_sets(families: Sequence[Family], published: Sequence[Device]) -> list[CounterSet]:
    """Those that a published device draws on."""
    used = {consumed.counter_set for device in published for consumed in device.consumes_counters}
    return [f.counters for f in families if f.counters is not None and f.counters.name in used]


def _device(driver_name: str, offer: Offer, options: SliceOptions) -> Device:
    name, attributes, capacity = offer.name, offer.attributes, offer.capacity
    taints = []
    if options.controller_taint:
        taints.append(DeviceTaint(key=CONTROLLER_TAINT, effect="NoSchedule"))
    if name in options.held:
        taints.append(DeviceTaint(key=HELD_TAINT, effect="None"))
    taints += options.taints.get(name, ())
    shared = None
    if offer.kind in options.shared and not offer.consumes:
        shared = shareable(offer.kind, capacity)
    if shared is not None:
        capacity = shared
    if driver_name != DRIVER_NAME:
        # Unqualified names would belong to that driver's domain; claims and classes speak of ours.
        attributes = {qualified(key): value for key, value in attributes.items()}
        capacity = {qualified(key): value for key, value in capacity.items()}
    return Device(
        name=name,
        attributes=attributes,
        capacity=capacity,
        consumes_counters=list(offer.consumes),
        taints=taints,
        allow_multiple_allocations=shared is not None,
    )
