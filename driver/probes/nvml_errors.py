"""Which NVML errors say "this GPU or this driver does not have it", as against "something is wrong"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pynvml

T = TypeVar("T")
D = TypeVar("D")

_ABSENT = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_DATA,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
)


def optional(call: Callable[[], T], default: D, *also: int) -> T | D:
    """The answer, or `default` where this GPU or this driver does not have it (or answers a code in `also`).

    Raises:
        pynvml.NVMLError: any other.
    """
    try:
        return call()
    except pynvml.NVMLError as error:
        if error.value in _ABSENT or error.value in also:
            return default
        raise
