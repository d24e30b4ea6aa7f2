"""MIG in the stand-in NVML: mode, profiles, placements, instances, as the C library would answer.

An instance is made only where its memory slices are free and its profile is not used up, as on hardware; each
has a UUID made from node, GPU, profile and place.
"""

# ruff: noqa: N802 (methods carry the names of the C functions)

from __future__ import annotations

import ctypes
import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pynvml

from driver.mock.machine import GpuFunction, Machine
from driver.mock.mig_products import Product, Profile, cuts, products

MIG_DEVICE_HANDLES = 0x200000
_GPU_INSTANCE_HANDLES = 0x300000
_COMPUTE_INSTANCE_HANDLES = 0x400000
_HANDLES_PER_GPU = 0x100
_MAX_INSTANCES = 7
_COMPUTE_PROFILES = {0: 1, 1: 2, 2: 3, 3: 4, 4: 7, 5: 8, 6: 6}
"""NVML_COMPUTE_INSTANCE_PROFILE_<n>_SLICE → n."""


@dataclass(slots=True)
class _Instance:
    id: int
    profile: Profile
    start: int
    compute: dict[int, int] = field(default_factory=dict)
    """Compute instances: ID → compute slices."""

    def covers(self) -> range:
        return range(self.start, self.start + self.profile.size)


class MigFunctions:
    """The C functions of MIG; `FakeNvml` adds them to its own."""

    _node_name: str

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.mig_mode: set[str] = {gpu.pci_address for gpu in machine.gpus if gpu.mig}
        """PCI addresses of the GPUs that have MIG mode on."""
        self._instances: dict[str, dict[int, _Instance]] = {
            gpu.pci_address: {
                number: _Instance(number, profile, start, {0: profile.slices})
                for number, (profile, start) in enumerate(cuts(machine.gpu_model.product_name, gpu.mig), 1)
            }
            for gpu in machine.gpus
        }

    def _of_handle(self, handle: Any, fill: Callable[[GpuFunction], int]) -> int:
        raise NotImplementedError

    def _product(self) -> Product | None:
        return products().get(self._machine.gpu_model.product_name)

    def _of_mig_gpu(self, handle: Any, fill: Callable[[GpuFunction, Product], int]) -> int:
        product = self._product()
        if product is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self._of_handle(handle, lambda gpu: fill(gpu, product))

    def mig_devices(self, address: str) -> list[tuple[_Instance, int]]:
        """GPU instance and compute instance ID of each MIG device of a GPU, in NVML's order."""
        return [
            (i, c) for _, i in sorted(self._instances.get(address, {}).items()) for c in sorted(i.compute)
        ]

    def mig_numbers(self) -> list[tuple[int, int, int]]:
        """GPU's minor, GPU instance and compute instance of all MIG devices."""
        gpus = self._machine.gpus
        return [(gpu.minor, i.id, c) for gpu in gpus for i, c in self.mig_devices(gpu.pci_address)]

    def mig_uuid(self, address: str, instance: _Instance, compute: int) -> str:
        """UUID of a MIG device."""
        text = f"{self._node_name}/{address}/{instance.profile.name}/{instance.start}/{compute}"
        return f"MIG-{uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4)}"

    def _c_nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int:
        def fill(gpu: GpuFunction, _: Product) -> int:
            current._obj.value = pending._obj.value = int(gpu.pci_address in self.mig_mode)
            return int(pynvml.NVML_SUCCESS)

        return self._of_mig_gpu(handle, fill)

    def _c_nvmlDeviceSetMigMode(self, handle: Any, mode: int, status: Any) -> int:
        def fill(gpu: GpuFunction, _: Product) -> int:
            if self._instances.get(gpu.pci_address):
                return int(pynvml.NVML_ERROR_IN_USE)
            (self.mig_mode.add if mode else self.mig_mode.discard)(gpu.pci_address)
            status._obj.value = pynvml.NVML_SUCCESS
            return int(pynvml.NVML_SUCCESS)

        return self._of_mig_gpu(handle, fill)

    def _c_nvmlDeviceGetGpuInstanceProfileInfoV(self, handle: Any, index: int, info: Any) -> int:
        def fill(_: GpuFunction, product: Product) -> int:
            profile = next((p for p in product.profiles if p.profile == index), None)
            if profile is None:
                return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
            target = info._obj
            if target.version != pynvml.nvmlGpuInstanceProfileInfo_v2:
                return int(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
            target.id, target.sliceCount, target.instanceCount = profile.id, profile.slices, profile.instances
            target.multiprocessorCount, target.copyEngineCount = profile.sm, profile.ce
            target.decoderCount, target.encoderCount = profile.dec, 0
            target.jpegCount, target.ofaCount = profile.jpeg, profile.ofa
            target.memorySizeMB, target.name = profile.memory_mib, f"MIG {profile.name}".encode()
            return int(pynvml.NVML_SUCCESS)

        return self._of_mig_gpu(handle, fill)

    def _c_nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        self, handle: Any, profile_id: int, placements: Any, count: Any
    ) -> int:
        def fill(gpu: GpuFunction, product: Product) -> int:
            profile = next((p for p in product.profiles if p.id == profile_id), None)
            if profile is None or gpu.pci_address not in self.mig_mode:
                return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
            if placements is not None:
                if count._obj.value < len(profile.starts):
                    return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
                for place, start in zip(placements, profile.starts, strict=False):
                    place.start, place.size = start, profile.size
            count._obj.value = len(profile.starts)
            return int(pynvml.NVML_SUCCESS)

        return self._of_mig_gpu(handle, fill)

    def _c_nvmlDeviceCreateGpuInstanceWithPlacement(
        self, handle: Any, profile_id: int, placement: Any, instance: Any
    ) -> int:
        def fill(gpu: GpuFunction, product: Product) -> int:
            profile = next((p for p in product.profiles if p.id == profile_id), None)
            if profile is None or gpu.pci_address not in self.mig_mode:
                return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
            start = getattr(placement, "_obj", placement).start
            there = self._instances.setdefault(gpu.pci_address, {})
            wanted = _Instance(next(n for n in range(1, 128) if n not in there), profile, start)
            taken = {piece for other in there.values() for piece in other.covers()}
            of_profile = sum(other.profile == profile for other in there.values())
            if start not in profile.starts:
                return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            if not taken.isdisjoint(wanted.covers()) or of_profile >= profile.instances:
                return int(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
            there[wanted.id] = wanted
            return self._point(instance, _GPU_INSTANCE_HANDLES, gpu, wanted.id)

        return self._of_mig_gpu(handle, fill)

    def _c_nvmlDeviceGetGpuInstanceById(self, handle: Any, number: int, instance: Any) -> int:
        def fill(gpu: GpuFunction, _: Product) -> int:
            if number not in self._instances.get(gpu.pci_address, {}):
                return int(pynvml.NVML_ERROR_NOT_FOUND)
            return self._point(instance, _GPU_INSTANCE_HANDLES, gpu, number)

        return self._of_mig_gpu(handle, fill)

    def _c_nvmlGpuInstanceGetInfo(self, handle: Any, info: Any) -> int:
        found = self._gpu_instance(handle)
        if found is None:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        _, instance = found
        target = info._obj
        target.id, target.profileId = instance.id, instance.profile.id
        target.placement.start, target.placement.size = instance.start, instance.profile.size
        return int(pynvml.NVML_SUCCESS)

    def _c_nvmlGpuInstanceDestroy(self, handle: Any) -> int:
        found = self._gpu_instance(handle)
        if found is None:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        gpu, instance = found
        if instance.compute:
            return int(pynvml.NVML_ERROR_IN_USE)
        del self._instances[gpu.pci_address][instance.id]
        return int(pynvml.NVML_SUCCESS)

    def _c_nvmlGpuInstanceGetComputeInstanceProfileInfoV(
        self, handle: Any, profile: int, _engines: int, info: Any
    ) -> int:
        found, slices = self._gpu_instance(handle), _COMPUTE_PROFILES.get(profile)
        if found is None or slices is None or slices > found[1].profile.slices:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        info._obj.id, info._obj.sliceCount = profile, slices
        return int(pynvml.NVML_SUCCESS)

    def _c_nvmlGpuInstanceCreateComputeInstance(self, handle: Any, profile_id: int, compute: Any) -> int:
        found, slices = self._gpu_instance(handle), _COMPUTE_PROFILES.get(profile_id)
        if found is None or slices is None:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        gpu, instance = found
        if sum(instance.compute.values()) + slices > instance.profile.slices:
            return int(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
        number = next(n for n in range(16) if n not in instance.compute)
        instance.compute[number] = slices
        return self._point(compute, _COMPUTE_INSTANCE_HANDLES, gpu, instance.id * 16 + number)

    def _c_nvmlComputeInstanceDestroy(self, handle: Any) -> int:
        for gpu, number in self._resolve(handle, _COMPUTE_INSTANCE_HANDLES, 0x1000):
            instance = self._instances.get(gpu.pci_address, {}).get(number // 16)
            if instance is not None and number % 16 in instance.compute:
                del instance.compute[number % 16]
                return int(pynvml.NVML_SUCCESS)
        return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)

    def _c_nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        def fill(_: GpuFunction, _product: Product) -> int:
            count._obj.value = _MAX_INSTANCES
            return int(pynvml.NVML_SUCCESS)

        return self._of_mig_gpu(handle, fill)

    def _c_nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, device: Any) -> int:
        def fill(gpu: GpuFunction, _: Product) -> int:
            if index.value >= len(self.mig_devices(gpu.pci_address)):
                return int(pynvml.NVML_ERROR_NOT_FOUND)
            return self._point(device, MIG_DEVICE_HANDLES, gpu, index.value)

        return self._of_mig_gpu(handle, fill)

    def _c_nvmlDeviceGetGpuInstanceId(self, handle: Any, number: Any) -> int:
        return self._of_mig_device(handle, lambda _, i, c: _set(number, i.id))

    def _c_nvmlDeviceGetComputeInstanceId(self, handle: Any, number: Any) -> int:
        return self._of_mig_device(handle, lambda _, i, c: _set(number, c))

    def _c_nvmlDeviceGetAttributes_v2(self, handle: Any, attributes: Any) -> int:
        def fill(_: GpuFunction, instance: _Instance, compute: int) -> int:
            target = attributes._obj
            target.gpuInstanceSliceCount = instance.profile.slices
            target.computeInstanceSliceCount = instance.compute[compute]
            target.memorySizeMB = instance.profile.memory_mib
            return int(pynvml.NVML_SUCCESS)

        return self._of_mig_device(handle, fill)

    def _of_mig_device(self, handle: Any, fill: Callable[[GpuFunction, _Instance, int], int]) -> int:
        for gpu, index in self._resolve(handle, MIG_DEVICE_HANDLES, _HANDLES_PER_GPU):
            devices = self.mig_devices(gpu.pci_address)
            if index < len(devices):
                instance, compute = devices[index]
                return self._of_handle(
                    self._gpu_handle(gpu),
                    lambda gpu, instance=instance, compute=compute: fill(gpu, instance, compute),  # type: ignore[misc]
                )
        return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)

    def _gpu_handle(self, gpu: GpuFunction) -> Any:
        raise NotImplementedError

    def _gpu_instance(self, handle: Any) -> tuple[GpuFunction, _Instance] | None:
        for gpu, number in self._resolve(handle, _GPU_INSTANCE_HANDLES, _HANDLES_PER_GPU):
            instance = self._instances.get(gpu.pci_address, {}).get(number)
            if instance is not None:
                return gpu, instance
        return None

    def _point(self, reference: Any, base: int, gpu: GpuFunction, number: int) -> int:
        width = 0x1000 if base == _COMPUTE_INSTANCE_HANDLES else _HANDLES_PER_GPU
        pointer = ctypes.cast(reference, ctypes.POINTER(ctypes.c_void_p))
        pointer[0] = ctypes.c_void_p(base + self._machine.gpus.index(gpu) * width + number)
        return int(pynvml.NVML_SUCCESS)

    def _resolve(self, handle: Any, base: int, width: int) -> Iterator[tuple[GpuFunction, int]]:
        value = (ctypes.cast(handle, ctypes.c_void_p).value or 0) - base
        if 0 <= value < len(self._machine.gpus) * width:
            yield self._machine.gpus[value // width], value % width


def _set(reference: Any, value: int) -> int:
    reference._obj.value = value
    return int(pynvml.NVML_SUCCESS)
