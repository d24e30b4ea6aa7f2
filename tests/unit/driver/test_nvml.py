"""The real probe and the real pynvml over the fake library."""

from __future__ import annotations

import logging
from collections.abc import Callable
from ctypes import byref
from typing import Any, TypeVar

import msgspec
import pynvml
import pytest

from driver.devices import nvlinks
from driver.mock.machine import Machine
from driver.mock.nvml import FakeNvml
from driver.probes.nvml import NvmlProbe

T = TypeVar("T")


def test_every_gpu_is_found_with_all_that_the_machine_file_says(nvml: FakeNvml, dgx: Machine) -> None:
    found = NvmlProbe().read()
    assert list(found) == [gpu.pci_address for gpu in dgx.gpus]
    gpu = found["0000:43:00.0"]
    assert gpu.uuid == nvml.gpu_uuid("0000:43:00.0")
    assert gpu.uuid.startswith("GPU-")
    assert (gpu.product_name, gpu.brand, gpu.architecture) == ("NVIDIA H100 80GB HBM3", "Nvidia", "Hopper")
    assert (gpu.compute_capability, gpu.driver_version, gpu.cuda_driver_version) == (
        "9.0",
        "580.95.05",
        "13.0",
    )
    assert (gpu.memory_bytes, gpu.minor, gpu.nvlink_domain) == (81559 << 20, 1, None)


def test_uuids_are_stable_and_differ_between_nodes_and_gpus(dgx: Machine) -> None:
    addresses = [gpu.pci_address for gpu in dgx.gpus]
    a, again, b = (FakeNvml(dgx, node) for node in ("node-a", "node-a", "node-b"))
    assert [a.gpu_uuid(x) for x in addresses] == [again.gpu_uuid(x) for x in addresses]
    assert len({fake.gpu_uuid(x) for fake in (a, b) for x in addresses}) == 16


def test_one_lost_gpu_is_its_own_problem(nvml: FakeNvml, caplog: pytest.LogCaptureFixture) -> None:
    nvml.lost.add("0000:43:00.0")
    found = NvmlProbe().read()
    assert len(found) == 7
    assert "0000:43:00.0" not in found
    assert [record.message for record in caplog.records] == ["NVML: GPU 1: GPU is lost: not published"]


def test_a_gpu_that_comes_back_is_found_again(nvml: FakeNvml) -> None:
    nvml.lost.add("0000:43:00.0")
    NvmlProbe().read()
    nvml.lost.clear()
    assert len(NvmlProbe().read()) == 8


def test_without_the_library_there_is_one_log_line_and_no_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", _no_library)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    caplog.set_level(logging.INFO)
    assert NvmlProbe().read() == {}
    assert len(caplog.records) == 1


def _no_library(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def test_a_function_that_the_fake_does_not_have_is_missing_as_in_an_old_library(nvml: FakeNvml) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError) as caught:
        pynvml.nvmlDeviceGetPowerUsage(handle)
    assert caught.value.value == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    pynvml.nvmlShutdown()


def test_the_library_answers_nothing_before_init_and_after_shutdown(nvml: FakeNvml) -> None:
    NvmlProbe().read()
    with pytest.raises(pynvml.NVMLError) as caught:
        pynvml.nvmlDeviceGetCount()
    assert caught.value.value == pynvml.NVML_ERROR_UNINITIALIZED


def test_a_gpu_is_found_by_its_pci_address_in_nvmls_own_form(nvml: FakeNvml) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByPciBusId("00000000:DF:00.0")
    assert pynvml.nvmlDeviceGetMinorNumber(handle) == 7
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlDeviceGetHandleByPciBusId("00000000:01:00.0")
    pynvml.nvmlShutdown()


def test_uninstalling_leaves_pynvml_as_it_was_loaded(nvml: FakeNvml) -> None:
    nvml.uninstall()
    assert pynvml.nvmlLib is None
    nvml.uninstall()


MIG_GPU = "0000:1b:00.0"


def with_library(function: Callable[[Any], T], index: int = 0) -> T:
    pynvml.nvmlInit()
    try:
        return function(pynvml.nvmlDeviceGetHandleByIndex(index))
    finally:
        pynvml.nvmlShutdown()


def make_instance(handle: Any, profile_id: int, start: int, size: int, compute: tuple[int, ...]) -> None:
    """A GPU instance with compute instances of these profiles (0: one slice, 2: three)."""
    place = pynvml.c_nvmlGpuInstancePlacement_t(start, size)
    instance = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(handle, profile_id, byref(place))
    for profile in compute:
        pynvml.nvmlGpuInstanceCreateComputeInstance(instance, profile)


def test_a_gpu_in_mig_mode_tells_its_profiles_and_placements(nvml: FakeNvml) -> None:
    with_library(lambda gpu: pynvml.nvmlDeviceSetMigMode(gpu, pynvml.NVML_DEVICE_MIG_ENABLE))
    found = NvmlProbe().read()
    gpu = found[MIG_GPU]
    assert gpu.mig_enabled
    assert found["0000:43:00.0"].mig_enabled is False
    placements = {profile.name: profile.placements for profile in gpu.mig_profiles}
    assert placements == {
        "1g.10gb": tuple((n, 1) for n in range(7)),
        "1g.10gb+me": tuple((n, 1) for n in range(7)),
        "1g.20gb": ((0, 2), (2, 2), (4, 2), (6, 2)),
        "2g.20gb": ((0, 2), (2, 2), (4, 2)),
        "3g.40gb": ((0, 4), (4, 4)),
        "4g.40gb": ((0, 4),),
        "7g.80gb": ((0, 8),),
    }
    whole = gpu.mig_profiles[-1]
    assert (whole.multiprocessors, whole.copy_engines, whole.decoders, whole.ofa_engines) == (132, 8, 7, 1)


def test_a_gpu_out_of_mig_mode_tells_its_profiles_without_placements(nvml: FakeNvml) -> None:
    profiles = NvmlProbe().read()[MIG_GPU].mig_profiles
    assert len(profiles) == 7
    assert {profile.placements for profile in profiles} == {()}


def test_instances_are_found_with_their_place_and_identity(nvml: FakeNvml) -> None:
    def set_up(gpu: Any) -> None:
        pynvml.nvmlDeviceSetMigMode(gpu, pynvml.NVML_DEVICE_MIG_ENABLE)
        make_instance(gpu, 9, 4, 4, (0, 1))
        make_instance(gpu, 19, 2, 1, (0,))

    with_library(set_up)
    probe = NvmlProbe()
    found = probe.read()[MIG_GPU].mig_instances
    assert [(i.profile, i.start, i.size, i.compute_instance, i.compute_slices) for i in found] == [
        (19, 2, 1, 0, 0),
        (9, 4, 4, 0, 1),
        (9, 4, 4, 1, 2),
    ]
    assert len({i.uuid for i in found}) == 3
    assert all(i.uuid.startswith("MIG-") for i in found)
    assert probe.read()[MIG_GPU].mig_instances == found


def test_the_fake_refuses_overlapping_instances_as_hardware_does(nvml: FakeNvml) -> None:
    def set_up(gpu: Any) -> None:
        pynvml.nvmlDeviceSetMigMode(gpu, pynvml.NVML_DEVICE_MIG_ENABLE)
        make_instance(gpu, 9, 0, 4, ())
        with pytest.raises(pynvml.NVMLError) as caught:
            make_instance(gpu, 19, 3, 1, ())
        assert caught.value.value == pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES

    with_library(set_up)


def test_an_old_library_without_profile_names_gives_the_same_names(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [profile.name for profile in NvmlProbe().read()[MIG_GPU].mig_profiles]
    version_2 = nvml._functions.pop("nvmlDeviceGetGpuInstanceProfileInfoV")

    class Versioned:
        """Version 1's structure, filled from what version 2 says."""

        restype: Any = None

        def __call__(self, handle: Any, index: int, info: Any) -> int:
            newer = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
            code = version_2(handle, index, byref(newer))
            for name, _ in pynvml.c_nvmlGpuInstanceProfileInfo_t._fields_:
                setattr(info._obj, name, getattr(newer, name))
            return int(code)

    nvml._functions["nvmlDeviceGetGpuInstanceProfileInfo"] = Versioned()  # type: ignore[assignment]
    pynvml._nvmlGetFunctionPointer_cache.clear()
    assert [profile.name for profile in NvmlProbe().read()[MIG_GPU].mig_profiles] == names


def test_nvlink_is_counted_between_gpus_on_one_switch_fabric(dgx: Machine) -> None:
    model = msgspec.structs.replace(dgx.gpu_model, nvlinks=18)
    fake = FakeNvml(msgspec.structs.replace(dgx, gpu_model=model), "node-a")
    fake.install()
    try:
        gpus = list(NvmlProbe().read().values())
    finally:
        fake.uninstall()
    assert gpus[0].nvlink_switch_links == 18
    assert nvlinks(gpus[0], gpus[7]) == 18
    assert [gpu.module_id for gpu in gpus] == list(range(1, 9))
