"""An inventory as ResourceSlices, within the API's limits, and the way back from a published device to its
place.

Equal inventories give equal slices: names, order and cuts between slices follow from the devices alone, so
that whoever publishes can compare, and a taint that comes or goes moves no device to another slice.

Limits and field meanings after resource.k8s.io/v1 of Kubernetes 1.36.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from driver.devices import Gpu, Inventory, Nic, Place, Vf, pci_order
from driver.kube.objects import (
    Device,
    DeviceAttribute,
    DeviceCapacity,
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
    MULTUS_DEVICE_ID,
    MULTUS_RESOURCE_NAME,
    NUMA_NODE,
    NVLINK_DOMAIN,
    PCI_BUS_ID,
    PCIE_ROOT,
    PCIE_ROOT_PORT,
    PCIE_SWITCH,
    RAIL,
    TYPE,
    TYPE_GPU,
    TYPE_NIC,
    TYPE_VF,
    device_name,
    pool_name,
    qualified,
)

DEVICES_PER_SLICE: Final = 64
"""The limit for slices with taints; 128 without, but then the first taint would move devices between
slices.
"""

ATTRIBUTES_AND_CAPACITIES: Final = 32
STRING_LENGTH: Final = 64
_OBJECT_NAME_LENGTH = 253

_NUMBER = re.compile(r"[0-9]{1,15}")

Attributes = dict[str, DeviceAttribute]


@dataclass(frozen=True, slots=True)
class SliceOptions:
    """What goes into the slices beside the hardware.

    Attributes:
        controller_taint: keep kube-scheduler from allocating (allocation mode ``controller``).
        held: names of devices that the API may call free while a pod on the node still uses them.
        taints: more taints by device name.
    """

    controller_taint: bool = True
    held: frozenset[str] = frozenset()
    taints: Mapping[str, Sequence[DeviceTaint]] = field(default_factory=dict)


def build(
    inventory: Inventory,
    *,
    driver_name: str,
    node_name: str,
    node_uid: str,
    generation: int,
    options: SliceOptions,
) -> list[ResourceSlice]:
    """The complete pool of one node; at least one slice, so that an empty node says so.

    A PF that has VFs is not published, nor one that the node itself lives on.
    """
    found = devices(inventory, driver_name=driver_name, options=options)
    cuts = range(0, max(len(found), 1), DEVICES_PER_SLICE)
    owner = OwnerReference(api_version="v1", kind="Node", name=node_name, uid=node_uid, controller=True)
    pool = ResourcePool(
        name=pool_name(driver_name, node_name), generation=generation, resource_slice_count=len(cuts)
    )
    return [
        ResourceSlice(
            metadata=ObjectMeta(name=slice_name(driver_name, node_name, number), owner_references=[owner]),
            spec=ResourceSliceSpec(
                driver=driver_name,
                pool=pool,
                node_name=node_name,
                devices=found[start : start + DEVICES_PER_SLICE],
            ),
        )
        for number, start in enumerate(cuts)
    ]


def devices(inventory: Inventory, *, driver_name: str, options: SliceOptions) -> list[Device]:
    """Every published device of a node: GPUs, then NICs and VFs, each in PCI order."""
    found = [
        _device(driver_name, TYPE_GPU, gpu.pci_address, _gpu_attributes(gpu), _gpu_capacity(gpu), options)
        for gpu in sorted(inventory.gpus, key=lambda gpu: pci_order(gpu.pci_address))
    ]
    for nic in sorted(inventory.nics, key=lambda nic: pci_order(nic.pci_address)):
        capacity = _nic_capacity(nic)
        if nic.vfs or nic.sriov_num_vfs:
            for vf in sorted(nic.vfs, key=lambda vf: pci_order(vf.pci_address)):
                attributes = _vf_attributes(nic, vf)
                found.append(_device(driver_name, TYPE_VF, vf.pci_address, attributes, capacity, options))
        elif nic.netdev is None or not nic.netdev.uplink:
            found.append(
                _device(driver_name, TYPE_NIC, nic.pci_address, _nic_attributes(nic), capacity, options)
            )
    return found


def slice_name(driver_name: str, node_name: str, number: int) -> str:
    """Object name of a pool's slice; it sorts by number (kube-scheduler takes slices by name)."""
    name = f"{node_name}-{driver_name}-{number:03d}"
    if len(name) <= _OBJECT_NAME_LENGTH:
        return name
    digest = hashlib.sha256(node_name.encode()).hexdigest()[:16]
    return f"{digest}-{driver_name}-{number:03d}"


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


def semver(text: str) -> str | None:
    """A version as the API takes it (three numbers, no leading zeros): ``555.42.06`` → ``555.42.6``; None
    if it is none.

    More than three parts are cut off, fewer are filled up with zeros.
    """
    parts = text.strip().split(".")
    if not parts or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    numbers = [str(int(part)) for part in parts][:3]
    version = ".".join(numbers + ["0"] * (3 - len(numbers)))
    return version if len(version) <= STRING_LENGTH else None


def _device(
    driver_name: str,
    kind: str,
    pci_address: str,
    attributes: Attributes,
    capacity: dict[str, DeviceCapacity],
    options: SliceOptions,
) -> Device:
    name = device_name(kind, pci_address)
    taints = []
    if options.controller_taint:
        taints.append(DeviceTaint(key=CONTROLLER_TAINT, effect="NoSchedule"))
    if name in options.held:
        taints.append(DeviceTaint(key=HELD_TAINT, effect="None"))
    taints += options.taints.get(name, ())
    if driver_name != DRIVER_NAME:
        # Unqualified names would belong to that driver's domain; claims and classes speak of ours.
        attributes = {qualified(key): value for key, value in attributes.items()}
        capacity = {qualified(key): value for key, value in capacity.items()}
    return Device(name=name, attributes=attributes, capacity=capacity, taints=taints)


def _gpu_attributes(gpu: Gpu) -> Attributes:
    return _present(
        {
            TYPE: _string(TYPE_GPU),
            "uuid": _string(gpu.uuid),
            "productName": _string(gpu.product_name),
            "brand": _string(gpu.brand),
            "architecture": _string(gpu.architecture),
            "cudaComputeCapability": _version(gpu.compute_capability),
            "driverVersion": _version(gpu.driver_version),
            "cudaDriverVersion": _version(gpu.cuda_driver_version),
            NVLINK_DOMAIN: _string(gpu.nvlink_domain),
            **_where(gpu.pci_address, gpu.place, gpu.rail),
        }
    )


def _nic_attributes(nic: Nic) -> Attributes:
    return _present(
        {
            TYPE: _string(TYPE_NIC),
            "pf": _string(nic.pci_address),
            "pfName": _string(
                nic.rdma.name if nic.rdma else None
            ),  # an interface's name goes with it to the pod
            "linkType": _string(nic.link_type),
            "vendor": _string(nic.vendor),
            "rdma": DeviceAttribute(bool_=nic.rdma is not None),
            "rdmaDevice": _string(nic.rdma.name if nic.rdma else None),
            MULTUS_DEVICE_ID: _string(nic.pci_address),
            MULTUS_RESOURCE_NAME: _string(qualified(TYPE_NIC)),
            **_where(nic.pci_address, nic.place, nic.rail),
        }
    )


def _vf_attributes(nic: Nic, vf: Vf) -> Attributes:
    return _present(
        {
            **_nic_attributes(nic),
            TYPE: _string(TYPE_VF),
            "pfName": _string(nic.name),
            "vfIndex": DeviceAttribute(int_=vf.index),
            "rdma": DeviceAttribute(bool_=vf.rdma is not None),
            "rdmaDevice": _string(vf.rdma.name if vf.rdma else None),
            MULTUS_DEVICE_ID: _string(vf.pci_address),
            MULTUS_RESOURCE_NAME: _string(qualified(TYPE_VF)),
            **_where(vf.pci_address, vf.place, vf.rail),
        }
    )


def _where(pci_address: str, place: Place, rail: int | None) -> dict[str, DeviceAttribute | None]:
    return {
        PCI_BUS_ID: _string(pci_address),
        PCIE_SWITCH: _string(place.pcie_switch),
        PCIE_ROOT_PORT: _string(place.pcie_root_port),
        PCIE_ROOT: _string(place.pcie_root),
        NUMA_NODE: _int(place.numa_node),
        RAIL: _int(rail),
    }


def _gpu_capacity(gpu: Gpu) -> dict[str, DeviceCapacity]:
    return {"memory": DeviceCapacity(value=_quantity(gpu.memory_bytes, 1024))} if gpu.memory_bytes else {}


def _nic_capacity(nic: Nic) -> dict[str, DeviceCapacity]:
    """`bandwidth` in bits per second; a VF's is its PF's, which it may use whole."""
    if not nic.speed_bits_per_second:
        return {}
    return {"bandwidth": DeviceCapacity(value=_quantity(nic.speed_bits_per_second, 1000))}


def _quantity(value: int, base: int) -> str:
    """A Kubernetes quantity in its canonical form: the largest suffix that leaves a whole number."""
    suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi"] if base == 1024 else ["", "k", "M", "G", "T", "P"]
    index = 0
    while value and value % base == 0 and index + 1 < len(suffixes):
        value //= base
        index += 1
    return f"{value}{suffixes[index]}"


def _string(text: str | None) -> DeviceAttribute | None:
    if not text:
        return None
    return DeviceAttribute(string=text.encode()[:STRING_LENGTH].decode(errors="ignore"))


def _int(number: int | None) -> DeviceAttribute | None:
    return DeviceAttribute(int_=number) if number is not None else None


def _version(text: str) -> DeviceAttribute | None:
    version = semver(text)
    return DeviceAttribute(version=version) if version is not None else None


def _present(attributes: Mapping[str, DeviceAttribute | None]) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}
