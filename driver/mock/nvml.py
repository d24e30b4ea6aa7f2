"""An NVML library that answers from a machine file, beneath pynvml's function look-up.

pynvml finds each C function by name in the shared library that it loaded; here it finds Python callables
that fill in the same ctypes arguments and return the same codes. So the real probe and the real pynvml run,
buffers and structures included. A function that is not here is one that the library does not have.
"""

# ruff: noqa: N802 (methods carry the names of the C functions)

from __future__ import annotations

import ctypes
import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import pynvml

from driver.devices import pci_address
from driver.mock.machine import GpuFunction, Machine
from driver.mock.nvml_events import EventFunctions
from driver.mock.nvml_mig import MIG_DEVICE_HANDLES, MigFunctions
from driver.probes.nvml import ARCHITECTURE_CODES, BRAND_CODES

_FIRST_HANDLE = 0x1000


class _CFunction:
    """A callable on which pynvml may set `restype`, as on a function of a loaded library."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.restype: Any = ctypes.c_int

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


class FakeNvml(MigFunctions, EventFunctions):
    """The library of one machine on one node.

    GPUs listed in `lost` (PCI addresses) answer as fallen off the bus; `raise_xid` makes one report an error.
    UUIDs follow from node name and PCI address.
    """

    def __init__(self, machine: Machine, node_name: str) -> None:
        MigFunctions.__init__(self, machine)
        EventFunctions.__init__(self)
        self.lost: set[str] = set()
        self._node_name = node_name
        self._open = 0
        self._functions = {
            name.removeprefix("_c_"): _CFunction(getattr(self, name))
            for name in dir(type(self))
            if name.startswith("_c_")
        }

    def __getattr__(self, name: str) -> _CFunction:
        functions: dict[str, _CFunction] = self.__dict__.get("_functions", {})
        if name not in functions:
            raise AttributeError(name)
        return functions[name]

    def install(self) -> None:
        """Take the place of the shared library in pynvml, for this process."""
        with pynvml.libLoadLock:
            pynvml.nvmlLib = self
            pynvml._nvmlGetFunctionPointer_cache.clear()

    def uninstall(self) -> None:
        """Leave pynvml as if it had loaded nothing."""
        with pynvml.libLoadLock:
            if pynvml.nvmlLib is self:
                pynvml.nvmlLib = None
                pynvml._nvmlGetFunctionPointer_cache.clear()

    def gpu_uuid(self, address: str) -> str:
        """The UUID that the GPU at this PCI address has."""
        digest = hashlib.sha256(f"{self._node_name}/{address}".encode()).digest()
        return f"GPU-{uuid.UUID(bytes=digest[:16], version=4)}"

    # C functions, by the names that pynvml looks up. Outputs are byref() objects or buffers.

    def _c_nvmlInitWithFlags(self, _flags: int) -> int:
        self._open += 1
        return int(pynvml.NVML_SUCCESS)

    def _c_nvmlShutdown(self) -> int:
        if not self._open:
            return int(pynvml.NVML_ERROR_UNINITIALIZED)
        self._open -= 1
        if not self._open:
            self._forget_sets()
        return int(pynvml.NVML_SUCCESS)

    def _c_nvmlErrorString(self, code: int) -> bytes:
        return f"NVML error {code}".encode()

    def _c_nvmlSystemGetDriverVersion(self, buffer: Any, size: Any) -> int:
        return self._answer(lambda: _fill(buffer, size, self._machine.nvml.driver_version))

    def _c_nvmlSystemGetCudaDriverVersion_v2(self, version: Any) -> int:
        major, minor = self._machine.nvml.cuda_version.split(".")
        return self._answer(lambda: _set(version, int(major) * 1000 + int(minor) * 10))

    def _c_nvmlDeviceGetCount_v2(self, count: Any) -> int:
        return self._answer(lambda: _set(count, len(self._machine.gpus)))

    def _c_nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        if index.value >= len(self._machine.gpus):
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._of_gpu(self._machine.gpus[index.value], lambda _: _set_handle(handle, index.value))

    def _c_nvmlDeviceGetHandleByPciBusId_v2(self, bus_id: Any, handle: Any) -> int:
        try:
            wanted = pci_address(bus_id.value.decode())
        except ValueError:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        addresses = [gpu.pci_address for gpu in self._machine.gpus]
        if wanted not in addresses:
            return int(pynvml.NVML_ERROR_NOT_FOUND)
        index = addresses.index(wanted)
        return self._of_gpu(self._machine.gpus[index], lambda _: _set_handle(handle, index))

    def _c_nvmlDeviceGetPciInfo_v3(self, handle: Any, info: Any) -> int:
        def fill(gpu: GpuFunction) -> int:
            domain, bus, rest = gpu.pci_address.split(":")
            target, model = info._obj, self._machine.gpu_model
            target.busIdLegacy = gpu.pci_address.upper().encode()
            target.busId = f"{int(domain, 16):08X}:{bus}:{rest}".upper().encode()
            target.domain, target.bus = int(domain, 16), int(bus, 16)
            target.device = int(rest.split(".")[0], 16)
            target.pciDeviceId = int(model.device + model.vendor, 16)
            return int(pynvml.NVML_SUCCESS)

        return self._of_handle(handle, fill)

    def _c_nvmlDeviceGetUUID(self, handle: Any, buffer: Any, size: Any) -> int:
        if (ctypes.cast(handle, ctypes.c_void_p).value or 0) >= MIG_DEVICE_HANDLES:
            return self._of_mig_device(
                handle, lambda gpu, i, c: _fill(buffer, size, self.mig_uuid(gpu.pci_address, i, c))
            )
        return self._of_handle(handle, lambda gpu: _fill(buffer, size, self.gpu_uuid(gpu.pci_address)))

    def _c_nvmlDeviceGetName(self, handle: Any, buffer: Any, size: Any) -> int:
        return self._of_handle(handle, lambda _: _fill(buffer, size, self._machine.gpu_model.product_name))

    def _c_nvmlDeviceGetBrand(self, handle: Any, brand: Any) -> int:
        code = BRAND_CODES.get(self._machine.gpu_model.brand, pynvml.NVML_BRAND_UNKNOWN)
        return self._of_handle(handle, lambda _: _set(brand, code))

    def _c_nvmlDeviceGetArchitecture(self, handle: Any, architecture: Any) -> int:
        code = ARCHITECTURE_CODES.get(self._machine.gpu_model.architecture, pynvml.NVML_DEVICE_ARCH_UNKNOWN)
        return self._of_handle(handle, lambda _: _set(architecture, code))

    def _c_nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        first, second = self._machine.gpu_model.compute_capability.split(".")
        return self._of_handle(handle, lambda _: _set(major, int(first)) or _set(minor, int(second)))

    def _c_nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        def fill(_: GpuFunction) -> int:
            memory._obj.total = memory._obj.free = self._machine.gpu_model.memory_mib << 20
            memory._obj.used = 0
            return int(pynvml.NVML_SUCCESS)

        return self._of_handle(handle, fill)

    def _c_nvmlDeviceGetMinorNumber(self, handle: Any, minor: Any) -> int:
        return self._of_handle(handle, lambda gpu: _set(minor, gpu.minor))

    def _c_nvmlDeviceGetNvLinkState(self, handle: Any, link: int, active: Any) -> int:
        return self._of_link(handle, link, lambda: _set(active, 1))

    def _c_nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: Any, link: int, kind: Any) -> int:
        return self._of_link(handle, link, lambda: _set(kind, pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH))

    def _of_link(self, handle: Any, link: int, fill: Callable[[], int]) -> int:
        links = self._machine.gpu_model.nvlinks if len(self._machine.gpus) > 1 else 0
        if link >= links:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT if links else pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self._of_handle(handle, lambda _: fill())

    def _c_nvmlDeviceGetModuleId(self, handle: Any, number: Any) -> int:
        return self._of_handle(handle, lambda gpu: _set(number, self._machine.gpus.index(gpu) + 1))

    def _answer(self, fill: Callable[[], int]) -> int:
        return fill() if self._open else int(pynvml.NVML_ERROR_UNINITIALIZED)

    def _of_handle(self, handle: Any, fill: Callable[[GpuFunction], int]) -> int:
        index = (ctypes.cast(handle, ctypes.c_void_p).value or 0) - _FIRST_HANDLE
        if not 0 <= index < len(self._machine.gpus):
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._of_gpu(self._machine.gpus[index], fill)

    def _gpu_handle(self, gpu: GpuFunction) -> Any:
        return ctypes.c_void_p(_FIRST_HANDLE + self._machine.gpus.index(gpu))

    def _of_gpu(self, gpu: GpuFunction, fill: Callable[[GpuFunction], int]) -> int:
        if not self._open:
            return int(pynvml.NVML_ERROR_UNINITIALIZED)
        if gpu.pci_address in self.lost:
            return int(pynvml.NVML_ERROR_GPU_IS_LOST)
        return fill(gpu)


def _set(reference: Any, value: int) -> int:
    """Write through a byref() argument."""
    reference._obj.value = value
    return int(pynvml.NVML_SUCCESS)


def _set_handle(reference: Any, index: int) -> int:
    pointer = ctypes.cast(reference, ctypes.POINTER(ctypes.c_void_p))
    pointer[0] = ctypes.c_void_p(_FIRST_HANDLE + index)
    return int(pynvml.NVML_SUCCESS)


def _fill(buffer: Any, size: Any, text: str) -> int:
    """Write a string into a caller's buffer of `size` bytes, end mark included."""
    raw = text.encode()
    if len(raw) >= size.value:
        return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    buffer.value = raw
    return int(pynvml.NVML_SUCCESS)
