"""MIG through NVML: whether a GPU has the mode, which partitions can be made of it, which there are.

Handles and structures are pynvml's; the caller has opened the library.
"""

from __future__ import annotations

import math
from ctypes import byref, c_uint
from typing import Any

import pynvml

from driver.mig import MigInstance, MigProfile
from driver.probes.nvml_errors import optional

_SUFFIX = {
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1: "+me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_3_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX: "+gfx",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME: "-me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME: "-me",
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME: "+me.all",
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME: "+me.all",
}


def enabled(handle: Any) -> bool | None:
    """Is MIG mode on now; None where the GPU has no such mode."""
    mode = optional(lambda: pynvml.nvmlDeviceGetMigMode(handle), None)
    return None if mode is None else mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def profiles(handle: Any) -> tuple[MigProfile, ...]:
    """Every profile that the GPU offers, with its placements (which NVML tells only while MIG mode is on)."""
    found = []
    for index in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        info = _profile_info(handle, index)
        if info is None:
            continue
        found.append(
            MigProfile(
                name=_name(info, index),
                id=info.id,
                memory_bytes=info.memorySizeMB << 20,
                multiprocessors=info.multiprocessorCount,
                copy_engines=info.copyEngineCount,
                decoders=info.decoderCount,
                encoders=info.encoderCount,
                jpeg_engines=info.jpegCount,
                ofa_engines=info.ofaCount,
                placements=_placements(handle, info.id),
            )
        )
    return tuple(sorted(found, key=lambda profile: (profile.memory_bytes, profile.name)))


def instances(handle: Any) -> tuple[MigInstance, ...]:
    """The MIG devices of a GPU. One that is destroyed while we look is not there."""
    found = []
    for index in range(optional(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle), 0)):
        instance = optional(
            lambda index=index: _instance(handle, index),  # type: ignore[misc]
            None,
            pynvml.NVML_ERROR_NOT_FOUND,
            pynvml.NVML_ERROR_INVALID_ARGUMENT,
        )
        if instance is not None:
            found.append(instance)
    return tuple(sorted(found, key=lambda i: (i.start, i.gpu_instance, i.compute_instance)))


def _instance(handle: Any, index: int) -> MigInstance:
    device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
    number = pynvml.nvmlDeviceGetGpuInstanceId(device)
    info = pynvml.nvmlGpuInstanceGetInfo(pynvml.nvmlDeviceGetGpuInstanceById(handle, number))
    attributes = pynvml.nvmlDeviceGetAttributes_v2(device)
    partial = attributes.computeInstanceSliceCount < attributes.gpuInstanceSliceCount
    return MigInstance(
        uuid=pynvml.nvmlDeviceGetUUID(device),
        profile=info.profileId,
        gpu_instance=number,
        compute_instance=pynvml.nvmlDeviceGetComputeInstanceId(device),
        start=info.placement.start,
        size=info.placement.size,
        compute_slices=attributes.computeInstanceSliceCount if partial else 0,
    )


def _profile_info(handle: Any, index: int) -> Any:
    """Version 2 has the profile's name; older drivers know version 1 only. None if the GPU has it not."""
    also = pynvml.NVML_ERROR_INVALID_ARGUMENT  # an index that this driver does not know
    for version in (2, 1):
        info = optional(
            lambda version=version: pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, index, version),  # type: ignore[misc]
            None,
            also,
        )
        if info is not None:
            return info
    return None


def _name(info: Any, index: int) -> str:
    name = getattr(info, "name", "")
    text = (name.decode(errors="replace") if isinstance(name, bytes) else name).removeprefix("MIG ").strip()
    return text or f"{info.sliceCount}g.{math.ceil(info.memorySizeMB / 1024)}gb{_SUFFIX.get(index, '')}"


def _placements(handle: Any, profile_id: int) -> tuple[tuple[int, int], ...]:
    ask = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements
    count = c_uint(0)
    if optional(lambda: ask(handle, profile_id, None, byref(count)), None) is None or not count.value:
        return ()
    room = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    if optional(lambda: ask(handle, profile_id, room, byref(count)), None) is None:
        return ()
    return tuple(sorted((p.start, p.size) for p in room[: count.value]))
