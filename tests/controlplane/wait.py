"""Waiting for a real cluster: ask often, give up at a deadline, and say what was seen last."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tests.controlplane.errors import WaitTimeoutError

T = TypeVar("T")


def wait_for(
    what: str,
    probe: Callable[[], T | None],
    timeout_seconds: float = 60,
    interval_seconds: float = 0.1,
    retry: tuple[type[Exception], ...] = (AssertionError, OSError),
) -> T:
    """Calls `probe` until it gives a true value and returns that.

    Exceptions of the types in `retry` mean "not yet"; so a probe may simply assert what it waits for.
    Raises WaitTimeoutError with the last value or exception.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            value = probe()
            last = "" if value is None else repr(value)
        except retry as error:
            value, last = None, f"{type(error).__name__}: {error}"
        if value:
            return value
        if time.monotonic() >= deadline:
            raise WaitTimeoutError(what, timeout_seconds, last)
        time.sleep(interval_seconds)
