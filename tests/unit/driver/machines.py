"""Rendered machines for the driver's tests, and a private network namespace to run in."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from driver.devices import Gpu, Netdev, Nic, PcieLink, Place, RdmaDevice, Vf

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


def can_make_namespaces() -> bool:
    return os.geteuid() == 0


needs_root = pytest.mark.skipif(
    not can_make_namespaces(),
    reason="NOT RUN: makes network interfaces in a namespace of its own, needs root",
)


class Namespace:
    """A network namespace that lives as long as its thread; `run` runs a function in it."""

    def __init__(self) -> None:
        self._jobs: list[Callable[[], None]] = []
        self._ready = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._done = False
        self.path = ""
        self._thread.start()
        self.run(self._enter)

    def run(self, function: Callable[[], T]) -> T:
        finished = threading.Event()
        result: list[T] = []
        failure: list[BaseException] = []

        def job() -> None:
            try:
                result.append(function())
            except BaseException as error:
                failure.append(error)
            finally:
                finished.set()

        with self._ready:
            self._jobs.append(job)
            self._ready.notify()
        assert finished.wait(30)
        if failure:
            raise failure[0]
        return result[0]

    def close(self) -> None:
        with self._ready:
            self._done = True
            self._ready.notify()
        self._thread.join(10)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
        self.path = f"/proc/self/task/{threading.get_native_id()}/ns/net"

    def _serve(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._jobs or self._done)
                if not self._jobs:
                    return
                job = self._jobs.pop(0)
            job()


def a_gpu(bus: int, *, domain: int = 0, place: Place | None = None, rail: int | None = None) -> Gpu:
    return Gpu(
        pci_address=f"{domain:04x}:{bus:02x}:00.0",
        place=place or Place("0000:16:00.0", "0000:15:01.0", "pci0000:15", 0),
        rail=rail,
        uuid=f"GPU-{bus:032x}",
        product_name="NVIDIA H100 80GB HBM3",
        brand="Nvidia",
        architecture="Hopper",
        compute_capability="9.0",
        driver_version="555.42.06",
        cuda_driver_version="12.5",
        memory_bytes=80 << 30,
        minor=bus,
        nvlink_domain="c0ffee00-0000-0000-0000-000000000001.7",
        pcie=PcieLink(32000, 16),
    )


def a_nic(bus: int, *, vfs: int = 0, place: Place | None = None, netdev: Netdev | None = None) -> Nic:
    place = place or Place("0000:16:00.0", "0000:15:01.0", "pci0000:15", 0)
    return Nic(
        pci_address=f"0000:{bus:02x}:00.0",
        name=f"mlx5_{bus}",
        place=place,
        rail=3,
        vendor="15b3",
        device_id="1021",
        speed_bits_per_second=400_000_000_000,
        sriov_total_vfs=255,
        sriov_num_vfs=vfs,
        pcie=PcieLink(32000, 16),
        eswitch_mode="legacy",
        netdev=netdev,
        rdma=RdmaDevice(f"mlx5_{bus}", "Ethernet"),
        vfs=tuple(
            Vf(
                pci_address=f"0000:{bus:02x}:{(index + 1) >> 3:02x}.{(index + 1) & 7}",
                index=index,
                place=place,
                rail=3,
                rdma=RdmaDevice(f"mlx5_{bus * 1000 + index}", "Ethernet"),
            )
            for index in range(vfs)
        ),
    )
