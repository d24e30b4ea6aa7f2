"""Events in the stand-in NVML: sets, who is registered in them, and waiting, as the C library does it."""

# ruff: noqa: N802 (methods carry the names of the C functions)

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml

from driver.mock.machine import GpuFunction, Machine

_EVENT_SET_HANDLES = 0x500000
_NOT_APPLICABLE = 0xFFFFFFFF


@dataclass(slots=True)
class _Set:
    types: dict[str, int] = field(default_factory=dict)
    """By PCI address of the GPUs that are registered."""
    pending: deque[tuple[GpuFunction, int, int, int]] = field(default_factory=deque)
    """GPU, XID, GPU instance, compute instance."""


class EventFunctions:
    """The C functions of events; `FakeNvml` adds them to its own."""

    _machine: Machine

    def __init__(self) -> None:
        self.event_types = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError
        """What the GPUs can report."""
        self.deaf = 0
        """An NVML error that waiting ends with; 0 for none."""
        self._sets: dict[int, _Set] = {}
        self._made = 0
        self._arrived = threading.Condition()

    def raise_xid(
        self,
        address: str,
        xid: int,
        *,
        gpu_instance: int | None = None,
        compute_instance: int | None = None,
    ) -> None:
        """Report an XID of the GPU at this PCI address to everybody who listens to it now."""
        gpu = next(gpu for gpu in self._machine.gpus if gpu.pci_address == address)
        instances = [
            _NOT_APPLICABLE if number is None else number for number in (gpu_instance, compute_instance)
        ]
        with self._arrived:
            for event_set in self._sets.values():
                if event_set.types.get(address, 0) & pynvml.nvmlEventTypeXidCriticalError:
                    event_set.pending.append((gpu, xid, instances[0], instances[1]))
            self._arrived.notify_all()

    def _answer(self, fill: Callable[[], int]) -> int:
        raise NotImplementedError

    def _of_handle(self, handle: Any, fill: Callable[[GpuFunction], int]) -> int:
        raise NotImplementedError

    def _gpu_handle(self, gpu: GpuFunction) -> Any:
        raise NotImplementedError

    def _forget_sets(self) -> None:
        """What the library does with sets that nobody freed when it is closed."""
        with self._arrived:
            self._sets.clear()
            self._arrived.notify_all()

    def _c_nvmlEventSetCreate(self, reference: Any) -> int:
        def fill() -> int:
            self._made += 1
            number = _EVENT_SET_HANDLES + self._made
            self._sets[number] = _Set()
            ctypes.cast(reference, ctypes.POINTER(ctypes.c_void_p))[0] = ctypes.c_void_p(number)
            return int(pynvml.NVML_SUCCESS)

        return self._answer(fill)

    def _c_nvmlEventSetFree(self, handle: Any) -> int:
        with self._arrived:
            found = self._sets.pop(_value(handle), None)
        return int(pynvml.NVML_SUCCESS if found is not None else pynvml.NVML_ERROR_INVALID_ARGUMENT)

    def _c_nvmlDeviceGetSupportedEventTypes(self, handle: Any, types: Any) -> int:
        def fill(_: GpuFunction) -> int:
            types._obj.value = self.event_types
            return int(pynvml.NVML_SUCCESS)

        return self._of_handle(handle, fill)

    def _c_nvmlDeviceRegisterEvents(self, handle: Any, types: Any, event_set: Any) -> int:
        def fill(gpu: GpuFunction) -> int:
            found = self._sets.get(_value(event_set))
            if found is None:
                return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            if types.value & ~self.event_types:
                return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
            found.types[gpu.pci_address] = found.types.get(gpu.pci_address, 0) | types.value
            return int(pynvml.NVML_SUCCESS)

        return self._of_handle(handle, fill)

    def _c_nvmlEventSetWait_v2(self, handle: Any, data: Any, milliseconds: Any) -> int:
        number = _value(handle)
        if self.deaf:
            return self.deaf
        with self._arrived:
            self._arrived.wait_for(
                lambda: number not in self._sets or self._sets[number].pending, milliseconds.value / 1000
            )
            found = self._sets.get(number)
            if found is None:
                return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            if not found.pending:
                return int(pynvml.NVML_ERROR_TIMEOUT)
            gpu, xid, gpu_instance, compute_instance = found.pending.popleft()
        target = data._obj
        target.device = ctypes.cast(self._gpu_handle(gpu), pynvml.c_nvmlDevice_t)
        target.eventType, target.eventData = pynvml.nvmlEventTypeXidCriticalError, xid
        target.gpuInstanceId, target.computeInstanceId = gpu_instance, compute_instance
        return int(pynvml.NVML_SUCCESS)


def _value(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
