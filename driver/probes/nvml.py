"""What NVML knows of each GPU that sysfs does not: identity, product, versions, memory, NVLink domain.

The library is opened for each read and closed after it: a handle held open would keep the kernel modules
busy and block a driver upgrade. One GPU's error is that GPU's alone.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from ctypes import byref
from typing import Any

import pynvml

from driver.devices import Gpu, Place, pci_address

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

_ABSENT = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_DATA,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
)


class NvmlProbe:
    """Reads all GPUs that NVML sees."""

    def read(self) -> dict[str, Gpu]:
        """GPUs by PCI address, without place and rail; empty, with one log line, where NVML cannot be had."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            log.warning("NVML: %s: no GPU can be published", error)
            return {}
        try:
            return self._read_all()
        except pynvml.NVMLError as error:
            log.warning("NVML: %s: no GPU can be published", error)
            return {}
        finally:
            self._close()

    def _read_all(self) -> dict[str, Gpu]:
        driver_version = _optional(pynvml.nvmlSystemGetDriverVersion, "")
        cuda = _optional(pynvml.nvmlSystemGetCudaDriverVersion_v2, 0)
        cuda_version = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
        found: dict[str, Gpu] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                gpu = _gpu(pynvml.nvmlDeviceGetHandleByIndex(index), driver_version, cuda_version)
            except (pynvml.NVMLError, ValueError) as error:
                log.warning("NVML: GPU %d: %s: not published", index, error)
                continue
            found[gpu.pci_address] = gpu
        return found

    @staticmethod
    def _close() -> None:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            log.debug("NVML: shutdown: %s", error)


def _gpu(handle: Any, driver_version: str, cuda_version: str) -> Gpu:
    info = pynvml.nvmlDeviceGetPciInfo(handle)
    memory = _optional(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle), None)
    capability = _optional(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle), None)
    return Gpu(
        pci_address=pci_address(info.busId.decode() if isinstance(info.busId, bytes) else info.busId),
        place=Place(),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        product_name=_optional(lambda: pynvml.nvmlDeviceGetName(handle), ""),
        brand=_BRANDS.get(_optional(lambda: pynvml.nvmlDeviceGetBrand(handle), 0), ""),
        architecture=_ARCHITECTURES.get(_optional(lambda: pynvml.nvmlDeviceGetArchitecture(handle), 0), ""),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else "",
        driver_version=driver_version,
        cuda_driver_version=cuda_version,
        memory_bytes=memory.total if memory is not None else 0,
        minor=_optional(lambda: pynvml.nvmlDeviceGetMinorNumber(handle), None),
        nvlink_domain=_nvlink_domain(handle),
    )


def _nvlink_domain(handle: Any) -> str | None:
    """Cluster UUID and clique of a GPU on a multi-node NVLink fabric; None on a single machine (a UUID of
    zeros).
    """
    info = pynvml.c_nvmlGpuFabricInfoV_t()
    if _optional(lambda: pynvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info)), None) is None:
        return None
    cluster = bytes(info.clusterUuid)
    if info.state != pynvml.NVML_GPU_FABRIC_STATE_COMPLETED or info.status != 0 or not any(cluster):
        return None
    return f"{uuid.UUID(bytes=cluster)}.{info.cliqueId}"


def _optional(call: Callable[[], Any], default: Any) -> Any:
    """The answer, or `default` where this GPU or this driver does not have it; any other error is the
    caller's.
    """
    try:
        return call()
    except pynvml.NVMLError as error:
        if error.value in _ABSENT:
            return default
        raise
