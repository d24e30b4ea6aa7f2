"""Every name that crosses a boundary (API, node file system, network), in one place.

Attribute names are given twice where it matters: unqualified as they stand in a slice of our own driver (an
unqualified name belongs to the driver's domain), and qualified as `matchAttribute` and other drivers say it.
"""

from __future__ import annotations

import re
from typing import Final

_PCI_ALTNAME = re.compile(r"pci-([0-9a-f]{4,8})-([0-9a-f]{2})-([0-9a-f]{2})-([0-7])")

DRIVER_NAME: Final = "tandem-dra.io"
"""Default driver name, and the domain of our attributes whatever the driver is called."""

REPRESENTOR_PORT: Final = re.compile(r"(?P<other>c\d+)?(?:p\d+)?pf\d+(?:vf(?P<vf>\d+)|sf\d+)?")
"""Physical port name of a port of a NIC's own switch that stands for a PF, VF or SF (the kernel's
devlink-port.rst); `other` is set for one of another host's. The port to the wire is ``p0``.
"""

API_VERSION: Final = "tandem-dra.io/v1beta1"
"""apiVersion of our opaque configurations."""

CONTROLLER_TAINT: Final = "tandem-dra.io/controller"
"""Taint key (effect NoSchedule) on devices that the controller allocates, so that kube-scheduler does not."""

HELD_TAINT: Final = "tandem-dra.io/held"
"""Taint key (effect None) on devices that the API calls free but a pod on the node still uses."""

LINK_DOWN_TAINT: Final = "tandem-dra.io/link-down"
"""Taint key (effect NoSchedule) on NICs whose port has no link."""

UNHEALTHY_TAINT: Final = "tandem-dra.io/unhealthy"
"""Taint key (effect NoSchedule) on devices that are gone while a claim still has them."""

OVERLAY_LABEL: Final = "tandem-dra.io/overlay"
"""Node label that names the node's topology overlay, where there are several."""

POD_CLAIM_NAME: Final = "resource.kubernetes.io/pod-claim-name"
"""Annotation of a claim that was made from a template: what its pod calls it."""

CLAIM_FINALIZER: Final = "resource.kubernetes.io/delete-protection"
"""Makes kube-controller-manager deallocate and unprotect a claim after use."""

# Attributes of ours, unqualified.
TYPE: Final = "type"
PCIE_SWITCH: Final = "pcieSwitch"
PCIE_ROOT_PORT: Final = "pcieRootPort"
RAIL: Final = "rail"
NVLINK_DOMAIN: Final = "nvlinkDomain"

# Attributes of others' domains.
PCIE_ROOT: Final = "resource.kubernetes.io/pcieRoot"
PCI_BUS_ID: Final = "resource.kubernetes.io/pciBusID"
NUMA_NODE: Final = "resource.kubernetes.io/numaNode"
MULTUS_DEVICE_ID: Final = "k8s.cni.cncf.io/deviceID"
MULTUS_RESOURCE_NAME: Final = "k8s.cni.cncf.io/resourceName"

TYPE_GPU: Final = "gpu"
TYPE_NIC: Final = "nic"
TYPE_VF: Final = "vf"
TYPE_MIG: Final = "mig"
TYPE_VFIO: Final = "vfio"


def qualified(name: str, domain: str = DRIVER_NAME) -> str:
    """``pcieSwitch`` → ``tandem-dra.io/pcieSwitch``; a qualified name stays as it is."""
    return name if "/" in name else f"{domain}/{name}"


def is_representor(port_name: str) -> bool:
    """Does an interface with this physical port name stand for another function than its parent?"""
    return REPRESENTOR_PORT.fullmatch(port_name) is not None


def pool_name(driver_name: str, node_name: str) -> str:
    """The one pool of a node. Not the bare node name: two drivers' pools of one name confuse
    kube-scheduler's counter cache (1.36).
    """
    return f"{driver_name}/{node_name}"


def device_name(kind: str, pci_address: str) -> str:
    """A DNS label that always means the same slot: ``gpu`` + ``0000:1b:00.0`` → ``gpu-0000-1b-00-0``."""
    return f"{kind}-{pci_address.lower().replace(':', '-').replace('.', '-')}"


def pci_altname(pci_address: str) -> str:
    """Alternative interface name by which a netdev without a PCI parent (a mock's) is found:
    ``pci-0000-1a-00-1``.
    """
    return device_name("pci", pci_address)


def address_of_altname(altname: str) -> str | None:
    """The reverse of `pci_altname`; None for a name of another make."""
    match = _PCI_ALTNAME.fullmatch(altname)
    return f"{match[1]}:{match[2]}:{match[3]}.{match[4]}" if match else None
