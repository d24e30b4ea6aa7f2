"""XIDs over the true pynvml, with the stand-in library beneath it."""

from __future__ import annotations

import threading
import time

import pynvml
import pytest

from driver.mock.machine import Machine
from driver.mock.nvml import FakeNvml
from driver.probes.nvml import NvmlProbe
from driver.probes.nvml_events import GpuEvent, GpuEvents
from driver.xids import FATAL_XIDS, Remedy

GPU, OTHER = "0000:1b:00.0", "0000:43:00.0"


class Sleep:
    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def sleep() -> Sleep:
    return Sleep()


@pytest.fixture
def events(nvml: FakeNvml, sleep: Sleep) -> GpuEvents:
    found = GpuEvents(sleep)
    assert found.wait(0) == []
    return found


def test_an_xid_is_told_with_its_gpu(nvml: FakeNvml, events: GpuEvents) -> None:
    nvml.raise_xid(OTHER, 79)
    assert events.wait(5) == [GpuEvent(OTHER, nvml.gpu_uuid(OTHER), 79)]
    assert events.wait(0) == []


def test_all_that_came_meanwhile_is_told_at_once_and_in_order(nvml: FakeNvml, events: GpuEvents) -> None:
    for address, xid in ((GPU, 48), (OTHER, 31), (GPU, 95)):
        nvml.raise_xid(address, xid)
    assert [(event.pci_address, event.xid) for event in events.wait(5)] == [(GPU, 48), (OTHER, 31), (GPU, 95)]


def test_an_xid_of_a_partition_names_it(nvml: FakeNvml, events: GpuEvents) -> None:
    nvml.raise_xid(GPU, 13, gpu_instance=0, compute_instance=3)
    assert events.wait(5) == [GpuEvent(GPU, nvml.gpu_uuid(GPU), 13, gpu_instance=0, compute_instance=3)]


def test_a_wait_ends_with_the_event_not_with_its_time(nvml: FakeNvml, events: GpuEvents) -> None:
    threading.Timer(0.005, nvml.raise_xid, (GPU, 79)).start()
    start = time.monotonic()
    assert [event.xid for event in events.wait(60)] == [79]
    assert time.monotonic() - start < 30


def test_the_probe_that_opens_and_closes_nvml_meanwhile_takes_nothing_away(
    nvml: FakeNvml, events: GpuEvents
) -> None:
    NvmlProbe().read()
    nvml.raise_xid(GPU, 79)
    assert [event.xid for event in events.wait(5)] == [79]


def test_closing_lets_go_of_the_library_and_a_wait_begins_anew(nvml: FakeNvml, events: GpuEvents) -> None:
    events.close()
    events.close()
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlDeviceGetCount()
    assert events.wait(0) == []
    nvml.raise_xid(GPU, 79)
    assert [event.xid for event in events.wait(5)] == [79]


def test_one_lost_gpu_does_not_keep_us_from_hearing_of_the_others(
    nvml: FakeNvml, sleep: Sleep, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.lost.add(OTHER)
    events = GpuEvents(sleep)
    events.wait(0)
    nvml.raise_xid(GPU, 79)
    assert [event.xid for event in events.wait(5)] == [79]
    assert [r.message for r in caplog.records] == [
        "NVML events: GPU 1: GPU is lost: nothing is heard of its errors"
    ]


def test_gpus_that_report_no_xids_are_one_log_line_each(
    nvml: FakeNvml, dgx: Machine, sleep: Sleep, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.event_types = pynvml.nvmlEventTypeDoubleBitEccError
    events = GpuEvents(sleep)
    events.wait(0)
    events.close()
    events.wait(0)
    assert [GPU in r.message for r in caplog.records].count(True) == 1
    assert len(caplog.records) == len(dgx.gpus)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN])
def test_a_wait_that_fails_is_one_log_line_takes_its_time_and_the_next_begins_anew(
    nvml: FakeNvml, events: GpuEvents, sleep: Sleep, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    nvml.deaf = code
    assert events.wait(7) == []
    assert events.wait(7) == []
    assert sleep.slept == [7, 7]
    assert len(caplog.records) == 1
    nvml.deaf = 0
    events.wait(0)
    nvml.raise_xid(GPU, 79)
    assert [event.xid for event in events.wait(5)] == [79]


def test_without_the_library_a_wait_takes_its_time_and_says_so_once(
    nvml: FakeNvml, sleep: Sleep, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    events = GpuEvents(sleep)
    assert [events.wait(3), events.wait(3)] == [[], []]
    assert sleep.slept == [3, 3]
    assert len(caplog.records) == 1


def test_what_a_program_did_itself_is_not_fatal_and_a_lost_gpu_is() -> None:
    assert FATAL_XIDS.keys() & {13, 31, 43, 45, 63, 68, 94, 154} == set()
    assert FATAL_XIDS[79].remedy is Remedy.RESTART_MACHINE
    assert FATAL_XIDS[95].remedy is Remedy.RESET_GPU
