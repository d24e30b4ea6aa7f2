"""Every attribute and capacity that a device can have, as one table: the documentation is made from it, and a
filter knows from it which names there are.

``python -m driver.attribute_table > docs/attributes.md``
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from driver.names import (
    DRIVER_NAME,
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
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One attribute or capacity. `devices` are the types that have it."""

    name: str
    value: str
    devices: str
    meaning: str
    example: str
    source: str


_ALL = "all"
_GPU = "gpu mig"
_NIC = "nic vf"

ATTRIBUTES: Final = (
    Entry(TYPE, "string", _ALL, "What it is: gpu, mig (a part of one), vfio (a GPU for a VM), vf, nic (a PF)",
          "gpu", "the kind of device"),
    Entry(PCIE_SWITCH, "string", _ALL, "Leaf PCIe switch; equal means PIX", "0000:16:00.0",
          "sysfs path, overlay"),
    Entry(PCIE_ROOT_PORT, "string", _ALL, "PCIe root port; equal means PXB or nearer", "0000:15:01.0",
          "sysfs path, overlay"),
    Entry(PCIE_ROOT, "string", _ALL, "PCIe root complex; equal means PHB or nearer", "pci0000:15",
          "sysfs path, overlay"),
    Entry(NUMA_NODE, "int", _ALL, "NUMA node; equal means NODE or nearer", "0", "sysfs numa_node, overlay"),
    Entry(PCI_BUS_ID, "string", _ALL, "PCI address (a partition has its GPU's)", "0000:1b:00.0", "sysfs"),
    Entry("pcieMaxLinkSpeed", "int", "gpu nic vf",
          "The fastest that its PCIe link can be, in MT/s a lane (a VF has its PF's): 32000 is Gen5", "32000",
          "sysfs max_link_speed"),
    Entry("pcieMaxLinkWidth", "int", "gpu nic vf", "The most lanes that its PCIe link can have", "16",
          "sysfs max_link_width"),
    Entry(RAIL, "int", _ALL, "Rail: the number of the GPU–NIC pair it belongs to", "3",
          "overlay, else the order of the pairs"),
    Entry("uuid", "string", "gpu mig", "NVML's identity (a partition has one only while it exists)",
          "GPU-5f1e…", "NVML"),
    Entry("productName", "string", _GPU, "Product", "NVIDIA H100 80GB HBM3", "NVML"),
    Entry("brand", "string", _GPU, "Brand", "Nvidia", "NVML"),
    Entry("architecture", "string", _GPU, "Architecture", "Hopper", "NVML"),
    Entry("cudaComputeCapability", "version", _GPU, "CUDA compute capability", "9.0.0", "NVML"),
    Entry("driverVersion", "version", _GPU, "Version of NVIDIA's kernel driver", "580.95.5", "NVML"),
    Entry("cudaDriverVersion", "version", _GPU, "Newest CUDA that this driver serves", "13.0.0", "NVML"),
    Entry("addressingMode", "string", _GPU, "Memory shared with the CPU: HMM, ATS or None", "ATS", "NVML"),
    Entry("moduleID", "int", _GPU, "Number of its place on the baseboard", "1", "NVML"),
    Entry(NVLINK_DOMAIN, "string", _GPU, "Cluster UUID and clique on a multi-node NVLink fabric",
          "c0ffee00-….7", "NVML fabric information"),
    Entry("profile", "string", "mig", "MIG profile", "1g.10gb", "NVML"),
    Entry("parentUUID", "string", "mig", "The GPU that it is a part of", "GPU-5f1e…", "NVML"),
    Entry("memorySliceStart", "int", "mig", "First memory slice", "4", "NVML"),
    Entry("memorySlices", "int", "mig", "Number of memory slices", "1", "NVML"),
    Entry("iommuGroup", "int", "vfio", "IOMMU group", "42", "sysfs iommu_group"),
    Entry("pf", "string", _NIC, "PCI address of the physical function", "0000:18:00.0", "sysfs physfn"),
    Entry("pfName", "string", _NIC, "Name of the PF: its RDMA device, else its interface", "mlx5_0", "sysfs"),
    Entry("vfIndex", "int", "vf", "Index below its PF", "7", "sysfs virtfn*"),
    Entry("linkType", "string", _NIC, "ethernet or infiniband", "ethernet", "PCI class, sysfs link_layer"),
    Entry("eswitchMode", "string", _NIC, "Mode of the PF's embedded switch: legacy or switchdev", "legacy",
          "devlink"),
    Entry("vendor", "string", _NIC, "PCI vendor of the PF", "15b3", "sysfs"),
    Entry("rdma", "bool", _NIC, "Has an RDMA device", "true", "sysfs"),
    Entry("rdmaDevice", "string", _NIC, "Name of its RDMA device", "mlx5_12", "sysfs"),
    Entry(MULTUS_DEVICE_ID, "string", _NIC, "PCI address, for Multus", "0000:18:00.1", "sysfs"),
    Entry(MULTUS_RESOURCE_NAME, "string", _NIC, "Resource name, for Multus", f"{DRIVER_NAME}/vf",
          "the kind of device"),
)  # fmt: skip

CAPACITIES: Final = (
    Entry("memory", "quantity", _GPU, "Memory in bytes", "79Gi", "NVML"),
    Entry("multiprocessors", "quantity", "mig", "Streaming multiprocessors", "16", "NVML"),
    Entry("copyEngines", "quantity", "mig", "Copy engines", "1", "NVML"),
    Entry("decoders", "quantity", "mig", "Video decoders", "1", "NVML"),
    Entry("encoders", "quantity", "mig", "Video encoders", "0", "NVML"),
    Entry("jpegEngines", "quantity", "mig", "JPEG engines", "1", "NVML"),
    Entry("ofaEngines", "quantity", "mig", "Optical flow engines", "0", "NVML"),
    Entry("bandwidth", "quantity", _NIC, "The port's rated speed in bits per second; a VF may use it whole",
          "400G", "sysfs rate of an active port, ethtool link modes"),
)  # fmt: skip


def render() -> str:
    """The page, in Markdown."""
    lines = [
        "# Attributes",
        "",
        f"What a device published by `{DRIVER_NAME}` says of itself. A name without a domain is in the",
        f'domain `{DRIVER_NAME}`: in CEL `device.attributes["{DRIVER_NAME}"].rail`, in `matchAttribute`',
        f"`{DRIVER_NAME}/rail`. An attribute that is not known is left out. Attributes and capacities of",
        "a device do not change while its link is down or it is in a pod.",
        "",
        "Made by `python -m driver.attribute_table`.",
        "",
        *_table(ATTRIBUTES),
        "",
        "## Capacity",
        "",
        *_table(CAPACITIES),
    ]
    return "\n".join(lines) + "\n"


def _table(entries: tuple[Entry, ...]) -> list[str]:
    rows = [
        f"| `{e.name}` | {e.value} | {e.devices} | {e.meaning} | `{e.example}` | {e.source} |"
        for e in entries
    ]
    return ["| name | type | devices | meaning | example | source |", "|---|---|---|---|---|---|", *rows]


if __name__ == "__main__":
    sys.stdout.write(render())
