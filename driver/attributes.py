"""What a published device says of itself: attributes for claims to select on, and capacity, in the API's
value types.

`driver.attribute_table` documents each name; limits after resource.k8s.io/v1 of Kubernetes 1.36.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from driver.devices import Gpu, Nic, PcieLink, Place, Vf
from driver.kube.objects import DeviceAttribute, DeviceCapacity
from driver.mig import MigInstance, MigProfile
from driver.names import (
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
    TYPE_MIG,
    TYPE_NIC,
    TYPE_VF,
    TYPE_VFIO,
    qualified,
)

ATTRIBUTES_AND_CAPACITIES: Final = 32
STRING_LENGTH: Final = 64

_SUFFIXES: Final = {1024: ("", "Ki", "Mi", "Gi", "Ti", "Pi"), 1000: ("", "k", "M", "G", "T", "P")}
_NUMBER = re.compile(r"[0-9]{1,15}")

Attributes = dict[str, DeviceAttribute]
Capacity = dict[str, DeviceCapacity]
Optional = Mapping[str, DeviceAttribute | None]


def of_gpu(gpu: Gpu) -> Attributes:
    """A whole GPU's."""
    return _present(
        {TYPE: _string(TYPE_GPU), "uuid": _string(gpu.uuid), **_link(gpu.pcie), **_gpu_facts(gpu)}
    )


def of_vfio(gpu: Gpu) -> Attributes:
    """A GPU's that is handed over as a PCI function (to a virtual machine). What needs NVIDIA's driver is
    left out, since it would come and go with that driver.
    """
    return _present(
        {
            TYPE: _string(TYPE_VFIO),
            "iommuGroup": _int(gpu.iommu_group),
            **_where(gpu.pci_address, gpu.place, gpu.rail),
        }
    )


def of_partition(gpu: Gpu, profile: MigProfile, start: int, size: int) -> Attributes:
    """Those of a partition that is made when a claim is prepared."""
    return _present(
        {
            TYPE: _string(TYPE_MIG),
            "profile": _string(profile.name),
            "parentUUID": _string(gpu.uuid),
            "memorySliceStart": _int(start),
            "memorySlices": _int(size),
            **_gpu_facts(gpu),
        }
    )


def of_instance(gpu: Gpu, instance: MigInstance, profile: MigProfile | None, name: str) -> Attributes:
    """Those of a partition that is there. `name` is its profile's, with its compute slices if not all."""
    known = profile or MigProfile(name, instance.profile, 0)
    return {
        **of_partition(gpu, known, instance.start, instance.size),
        **_present({"profile": _string(name), "uuid": _string(instance.uuid)}),
    }


def of_nic(nic: Nic) -> Attributes:
    """A PF's."""
    return _present(
        {
            TYPE: _string(TYPE_NIC),
            "pf": _string(nic.pci_address),
            # an interface's name goes with it to the pod
            "pfName": _string(nic.rdma.name if nic.rdma else None),
            "linkType": _string(nic.link_type),
            "vendor": _string(nic.vendor),
            "rdma": DeviceAttribute(bool_=nic.rdma is not None),
            "rdmaDevice": _string(nic.rdma.name if nic.rdma else None),
            MULTUS_DEVICE_ID: _string(nic.pci_address),
            "eswitchMode": _string(nic.eswitch_mode),
            **_link(nic.pcie),
            MULTUS_RESOURCE_NAME: _string(qualified(TYPE_NIC)),
            **_where(nic.pci_address, nic.place, nic.rail),
        }
    )


def of_vf(nic: Nic, vf: Vf) -> Attributes:
    """A VF's."""
    return _present(
        {
            **of_nic(nic),
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


def gpu_capacity(gpu: Gpu) -> Capacity:
    """`memory` in bytes."""
    return {"memory": DeviceCapacity(value=quantity(gpu.memory_bytes, 1024))} if gpu.memory_bytes else {}


def profile_capacity(profile: MigProfile) -> Capacity:
    """Memory and engines of a partition."""
    engines = {
        "multiprocessors": profile.multiprocessors,
        "copyEngines": profile.copy_engines,
        "decoders": profile.decoders,
        "encoders": profile.encoders,
        "jpegEngines": profile.jpeg_engines,
        "ofaEngines": profile.ofa_engines,
    }
    capacity = {name: DeviceCapacity(value=str(count)) for name, count in engines.items()}
    return {"memory": DeviceCapacity(value=quantity(profile.memory_bytes, 1024)), **capacity}


def nic_capacity(nic: Nic) -> Capacity:
    """`bandwidth` in bits per second; a VF's is its PF's, which it may use whole."""
    if not nic.speed_bits_per_second:
        return {}
    return {"bandwidth": DeviceCapacity(value=quantity(nic.speed_bits_per_second, 1000))}


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


def quantity(value: int, base: int) -> str:
    """A Kubernetes quantity in its canonical form: the largest suffix that leaves a whole number."""
    suffixes = _SUFFIXES[base]
    index = 0
    while value and value % base == 0 and index + 1 < len(suffixes):
        value //= base
        index += 1
    return f"{value}{suffixes[index]}"


def value_of(text: str) -> int:
    """The number that `quantity` wrote."""
    for base, suffixes in _SUFFIXES.items():
        for power, suffix in enumerate(suffixes):
            if suffix and text.endswith(suffix):
                return int(text.removesuffix(suffix)) * int(base**power)
    return int(text)


def text_of(attribute: DeviceAttribute) -> str:
    """A single value as text: ``true``, ``7``, ``gpu``, ``9.0.0``."""
    if attribute.bool_ is not None:
        return "true" if attribute.bool_ else "false"
    if attribute.int_ is not None:
        return str(attribute.int_)
    return attribute.string or attribute.version or ""


def _gpu_facts(gpu: Gpu) -> Optional:
    return {
        "productName": _string(gpu.product_name),
        "brand": _string(gpu.brand),
        "architecture": _string(gpu.architecture),
        "cudaComputeCapability": _version(gpu.compute_capability),
        "driverVersion": _version(gpu.driver_version),
        "cudaDriverVersion": _version(gpu.cuda_driver_version),
        "addressingMode": _string(gpu.addressing_mode),
        "moduleID": _int(gpu.module_id),
        NVLINK_DOMAIN: _string(gpu.nvlink_domain),
        **_where(gpu.pci_address, gpu.place, gpu.rail),
    }


def _link(pcie: PcieLink) -> Optional:
    """What the link can do; what it does now comes and goes with the load."""
    return {
        "pcieMaxLinkSpeed": _int(pcie.max_speed or None),
        "pcieMaxLinkWidth": _int(pcie.max_width or None),
    }


def _where(pci_address: str, place: Place, rail: int | None) -> Optional:
    return {
        PCI_BUS_ID: _string(pci_address),
        PCIE_SWITCH: _string(place.pcie_switch),
        PCIE_ROOT_PORT: _string(place.pcie_root_port),
        PCIE_ROOT: _string(place.pcie_root),
        NUMA_NODE: _int(place.numa_node),
        RAIL: _int(rail),
    }


def _string(text: str | None) -> DeviceAttribute | None:
    if not text:
        return None
    cut = text.encode()[:STRING_LENGTH].decode(errors="ignore")
    return DeviceAttribute(string=cut)


def _int(number: int | None) -> DeviceAttribute | None:
    return DeviceAttribute(int_=number) if number is not None else None


def _version(text: str) -> DeviceAttribute | None:
    version = semver(text)
    return DeviceAttribute(version=version) if version is not None else None


def _present(attributes: Optional) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}
