"""The real probe and the real pynvml over the fake library."""

from __future__ import annotations

import logging

import pynvml
import pytest

from driver.mock.machine import Machine
from driver.mock.nvml import FakeNvml
from driver.probes.nvml import NvmlProbe


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
