"""What NVML knows of each GPU that sysfs does not: identity, product, versions, memory, NVLink, MIG.

The library is opened for each read and closed after it: a handle held open would keep the kernel modules
busy and block a driver upgrade. One GPU's error is that GPU's alone. What cannot change while a GPU is on
the bus is asked once.
"""

from __future__ import annotations

import logging
import uuid
from ctypes import byref, c_uint
from dataclasses import replace
from typing import Any

import pynvml

from driver.devices import Gpu, Place, pci_address
from driver.probes import nvml_mig
from driver.probes.nvml_errors import optional

log = logging.getLogger(__name__)

_ARCHITECTURES = {
    pynvml.NVML_DEVICE_ARCH_KEPLER: "Kepler",
    pynvml.NVML_DEVICE_ARCH_MAXWELL: "Maxwell",
    pynvml.NVML_DEVICE_ARCH_PASCAL: "Pascal",
    pynvml.NVML_DEVICE_ARCH_VOLTA: "Volta",
    pynvml.NVML_DEVICE_ARCH_TURING: "Turing",
    pynvml.NVML_DEVICE_ARCH_AMPERE: "Ampere",
    pynvml.NVML_DEVICE_ARCH_ADA: "Ada Lovelace",
    pynvml.NVML_DEVICE_ARCH_HOPPER: "Hopper",
    pynvml.NVML_DEVICE_ARCH_BLACKWELL: "Blackwell",
    pynvml.NVML_DEVICE_ARCH_RUBIN: "Rubin",
}
_BRANDS = {
    pynvml.NVML_BRAND_QUADRO: "Quadro",
    pynvml.NVML_BRAND_TESLA: "Tesla",
    pynvml.NVML_BRAND_GEFORCE: "GeForce",
    pynvml.NVML_BRAND_TITAN: "Titan",
    pynvml.NVML_BRAND_QUADRO_RTX: "QuadroRTX",
    pynvml.NVML_BRAND_NVIDIA_RTX: "NvidiaRTX",
    pynvml.NVML_BRAND_NVIDIA: "Nvidia",
}
ARCHITECTURE_CODES = {name: code for code, name in _ARCHITECTURES.items()}
BRAND_CODES = {name: code for code, name in _BRANDS.items()}
_ADDRESSING_MODES = {
    pynvml.NVML_DEVICE_ADDRESSING_MODE_NONE: "None",
    pynvml.NVML_DEVICE_ADDRESSING_MODE_HMM: "HMM",
    pynvml.NVML_DEVICE_ADDRESSING_MODE_ATS: "ATS",
}


class NvmlProbe:
    """Reads all GPUs that NVML sees."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, bool | None], Gpu] = {}
        self._said: dict[str, str] = {}

    def read(self) -> dict[str, Gpu]:
        """GPUs by PCI address, without place and rail; empty, with one log line, where NVML cannot be had."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._say("", f"{error}: no GPU can be published")
            return {}
        try:
            found = self._read_all()
        except pynvml.NVMLError as error:
            self._say("", f"{error}: no GPU can be published")
            return {}
        finally:
            self._close()
        self._said.pop("", None)
        return found

    def _read_all(self) -> dict[str, Gpu]:
        driver_version = optional(pynvml.nvmlSystemGetDriverVersion, "")
        cuda = optional(pynvml.nvmlSystemGetCudaDriverVersion_v2, 0)
        cuda_version = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
        found: dict[str, Gpu] = {}
        known: dict[tuple[str, str, str, bool | None], Gpu] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            who = f"GPU {index}"
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                info = pynvml.nvmlDeviceGetPciInfo(handle)
                address = pci_address(info.busId.decode() if isinstance(info.busId, bytes) else info.busId)
                mig = nvml_mig.enabled(handle)
                key = (address, pynvml.nvmlDeviceGetUUID(handle), driver_version, mig)
                gpu = self._known.get(key)
                if gpu is None:
                    gpu = _gpu(handle, address, key[1])
                    gpu = replace(
                        gpu,
                        driver_version=driver_version,
                        cuda_driver_version=cuda_version,
                        mig_enabled=mig,
                        mig_profiles=nvml_mig.profiles(handle) if mig is not None else (),
                    )
                known[key] = gpu
                found[address] = replace(gpu, mig_instances=nvml_mig.instances(handle)) if mig else gpu
            except (pynvml.NVMLError, ValueError, UnicodeDecodeError) as error:
                self._say(who, f"{who}: {error}: not published")
                continue
            self._said.pop(who, None)
        self._known = known
        return found

    def _say(self, who: str, what: str) -> None:
        """Log a problem once, and again when it has been away."""
        if self._said.get(who) != what:
            self._said[who] = what
            log.warning("NVML: %s", what)

    @staticmethod
    def _close() -> None:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            log.debug("NVML: shutdown: %s", error)


def _gpu(handle: Any, address: str, gpu_uuid: str) -> Gpu:
    memory = optional(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle), None)
    capability = optional(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle), None)
    peers, switch_links = _nvlinks(handle)
    return Gpu(
        pci_address=address,
        place=Place(),
        uuid=gpu_uuid,
        product_name=optional(lambda: pynvml.nvmlDeviceGetName(handle), ""),
        brand=_BRANDS.get(optional(lambda: pynvml.nvmlDeviceGetBrand(handle), 0), ""),
        architecture=_ARCHITECTURES.get(optional(lambda: pynvml.nvmlDeviceGetArchitecture(handle), 0), ""),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else "",
        memory_bytes=memory.total if memory is not None else 0,
        minor=optional(lambda: pynvml.nvmlDeviceGetMinorNumber(handle), None),
        nvlink_domain=_nvlink_domain(handle),
        nvlink_peers=peers,
        nvlink_switch_links=switch_links,
        module_id=_module_id(handle),
        addressing_mode=_ADDRESSING_MODES.get(
            optional(lambda: pynvml.nvmlDeviceGetAddressingMode(handle), -1), ""
        ),
    )


def _module_id(handle: Any) -> int | None:
    number = c_uint()
    code = optional(lambda: pynvml.nvmlDeviceGetModuleId(handle, byref(number)), -1)
    return number.value if code == pynvml.NVML_SUCCESS else None


def _nvlink_domain(handle: Any) -> str | None:
    """Cluster UUID and clique of a GPU on a multi-node NVLink fabric; None on a single machine (a UUID of
    zeros).
    """
    info = pynvml.c_nvmlGpuFabricInfoV_t()
    if optional(lambda: pynvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info)), None) is None:
        return None
    cluster = bytes(info.clusterUuid)
    if info.state != pynvml.NVML_GPU_FABRIC_STATE_COMPLETED or info.status != 0 or not any(cluster):
        return None
    return f"{uuid.UUID(bytes=cluster)}.{info.cliqueId}"


def _nvlinks(handle: Any) -> tuple[tuple[tuple[str, int], ...], int]:
    """Active links to each GPU by PCI address, and to switches. Links are numbered without gaps."""
    peers: dict[str, int] = {}
    switch_links = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            if not pynvml.nvmlDeviceGetNvLinkState(handle, link):
                continue
            kind = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link)
            if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                switch_links += 1
            elif kind == pynvml.NVML_NVLINK_DEVICE_TYPE_GPU:
                remote = pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId
                address = pci_address(remote.decode() if isinstance(remote, bytes) else remote)
                peers[address] = peers.get(address, 0) + 1
        except (pynvml.NVMLError, ValueError):  # past the last link, or a GPU without any
            break
    return tuple(sorted(peers.items())), switch_links
