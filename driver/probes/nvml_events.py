"""XIDs as NVML reports them: what goes wrong on a GPU while somebody uses it.

An event is delivered only to those who listen when it happens, so here, unlike in `driver.probes.nvml`, the
library stays open, from the first `wait` to `close`.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pynvml

from driver.devices import pci_address
from driver.probes.nvml_errors import optional

log = logging.getLogger(__name__)

_NOT_APPLICABLE: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """One XID (`driver.xids` knows the fatal ones) of the GPU at `pci_address`.

    `gpu_instance` and `compute_instance` are the IDs of the MIG partition that it hit; None where it is of
    the whole GPU, or the driver does not say.
    """

    pci_address: str
    uuid: str
    xid: int
    gpu_instance: int | None = None
    compute_instance: int | None = None


class GpuEvents:
    """Listens to all GPUs of the node. For one thread; only `close` may come from another, between waits."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Opens nothing. `sleep` spends the time of a wait where there is nothing to listen to."""
        self._sleep = sleep
        self._is_open = False
        self._set: Any = None
        self._gpus: dict[int, tuple[str, str]] = {}
        self._said: set[str] = set()

    def wait(self, timeout_seconds: float) -> list[GpuEvent]:
        """The events that have come, as soon as there is one; empty after `timeout_seconds` without.

        Where NVML cannot be had, or fails, that is one log line, and the next call begins anew; what happens
        between is lost. GPUs that came since the first call are listened to only after a `close`.
        """
        if not self._open():
            self._sleep(timeout_seconds)
            return []
        found: list[GpuEvent] = []
        milliseconds = max(0, round(timeout_seconds * 1000))
        try:
            while (data := self._next(milliseconds)) is not None:
                milliseconds = 0  # the others that have come meanwhile
                event = self._event(data)
                if event is not None:
                    found.append(event)
        except pynvml.NVMLError as error:
            self._say(f"{error}: begins to listen to GPUs anew")
            self.close()
            if not found:
                self._sleep(timeout_seconds)
        return found

    def close(self) -> None:
        """Listen no more; the next `wait` begins anew with the GPUs that there are then."""
        if not self._is_open:
            return
        try:
            if self._set is not None:
                pynvml.nvmlEventSetFree(self._set)
        except pynvml.NVMLError as error:
            log.debug("NVML events: %s", error)
        finally:
            self._is_open, self._set, self._gpus = False, None, {}
            optional(pynvml.nvmlShutdown, None, pynvml.NVML_ERROR_UNINITIALIZED)

    def _open(self) -> bool:
        if self._is_open:
            return True
        try:
            pynvml.nvmlInit()
            self._is_open = True
            self._set = pynvml.nvmlEventSetCreate()
            for index in range(pynvml.nvmlDeviceGetCount()):
                self._register(index)
        except pynvml.NVMLError as error:
            self._say(f"{error}: nothing is heard of GPUs' errors")
            self.close()
        return self._is_open

    def _register(self, index: int) -> None:
        """One GPU's problem is its own."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            bus_id = pynvml.nvmlDeviceGetPciInfo(handle).busId
            address = pci_address(bus_id.decode() if isinstance(bus_id, bytes) else bus_id)
            supported = optional(lambda: pynvml.nvmlDeviceGetSupportedEventTypes(handle), 0)
            if not supported & pynvml.nvmlEventTypeXidCriticalError:
                self._say(f"GPU {address} reports no XIDs")
                return
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._set)
            self._gpus[_number(handle)] = address, pynvml.nvmlDeviceGetUUID(handle)
        except (pynvml.NVMLError, ValueError, UnicodeDecodeError) as error:
            self._say(f"GPU {index}: {error}: nothing is heard of its errors")

    def _next(self, milliseconds: int) -> Any | None:
        try:
            return pynvml.nvmlEventSetWait_v2(self._set, milliseconds)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_TIMEOUT:
                return None
            raise

    def _event(self, data: Any) -> GpuEvent | None:
        if data.eventType != pynvml.nvmlEventTypeXidCriticalError:
            return None
        gpu = self._gpus.get(_number(data.device))
        if gpu is None:
            self._say(f"XID {data.eventData} of a GPU that is not known")
            return None
        return GpuEvent(
            *gpu,
            xid=data.eventData,
            gpu_instance=_instance(data.gpuInstanceId),
            compute_instance=_instance(data.computeInstanceId),
        )

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("NVML events: %s", what)


def _number(handle: Any) -> int:
    """A handle is a pointer that is the same each time while the library is open."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _instance(number: int) -> int | None:
    return None if number == _NOT_APPLICABLE else number
