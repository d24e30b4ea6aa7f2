"""The machine as the tests want it: virtual functions made, and display devices that read as NVIDIA's GPUs.

QEMU has no NVIDIA device. So three files of each display device's sysfs folder are covered by others (bind
mounts); the folder, its place in the tree and everything else stay the kernel's.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from driver.devices import Gpu, Place, pci_order
from driver.probes.net import NetdevProbe
from tests.vm.topology import MAC

DEVICES: Final = Path("/sys/bus/pci/devices")
VFS: Final = {"nic0": 7, "nic4": 2}
"""How many virtual functions the tests' NICs have; the others have none."""

_STAND_IN = {"vendor": "0x10de\n", "class": "0x030200\n", "device": "0x2330\n"}
_BOCHS_DISPLAY = "0x1234"
_MS_BIND = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class StandInGpus:
    """What NVML would say of the stand-ins."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses

    def read(self) -> dict[str, Gpu]:
        return {
            address: Gpu(address, Place(), uuid=f"GPU-{name}", product_name="stand-in")
            for name, address in self._addresses.items()
            if name.startswith("gpu")
        }


def set_up() -> dict[str, str]:
    """Make it so; returns the PCI address of each device by its name in the topology."""
    found = {**_gpus(), **_nics()}
    for name, number in VFS.items():
        (DEVICES / found[name] / "sriov_numvfs").write_text(str(number))
    wanted = len(MAC) + sum(VFS.values())
    deadline = time.monotonic() + 10
    while len(NetdevProbe().read()) < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(NetdevProbe().read())} of {wanted} interfaces after 10 s")
        time.sleep(0.05)
    return found


def _nics() -> dict[str, str]:
    names = {mac: name for name, mac in MAC.items()}
    return {
        names[netdev.mac]: address for address, netdev in NetdevProbe().read().items() if netdev.mac in names
    }


def _gpus() -> dict[str, str]:
    displays = [d for d in DEVICES.iterdir() if (d / "vendor").read_text().strip() == _BOCHS_DISPLAY]
    displays.sort(key=lambda device: pci_order(device.name))
    for device in displays:
        for name, text in _STAND_IN.items():
            _cover(device / name, text)
    return {f"gpu{number}": device.name for number, device in enumerate(displays)}


def _cover(path: Path, text: str) -> None:
    source = Path("/run/stand-in") / path.parent.name / path.name
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    if _libc.mount(bytes(source), bytes(path), None, _MS_BIND, None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {path}: {os.strerror(number)}")
