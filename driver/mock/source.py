"""A machine file as an inventory, read back by the real probes: to show a product, not to run one.

No interface is made and nothing stays: sysfs is rendered into a directory that goes away, NVML answers for
one read, and what netlink would say comes from the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from driver.devices import Inventory, Netdev
from driver.inventory import HostProbe
from driver.mock import proc, sysfs
from driver.mock.machine import Machine
from driver.mock.nvml import FakeNvml
from driver.overlay import Overlay

_MEMORY = Path("/dev/shm")  # noqa: S108  (files in memory; the directory below has a random name)


class FileNetdevs:
    """The interfaces that a machine file names, as if they were there."""

    def __init__(self, machine: Machine) -> None:
        named = {nic.pci_address: nic.interface for nic in machine.nics if nic.interface}
        for nic in machine.nics:
            named |= {vf.pci_address: vf.interface for vf in machine.vfs_of(nic)}
        self._found = {
            address: Netdev(name, index, mtu=machine.nic_model.mtu, carrier=True)
            for index, (address, name) in enumerate(named.items(), 2)
        }

    def read(self) -> Mapping[str, Netdev]:
        """Interfaces by PCI address."""
        return self._found


def read(machine: Machine, overlay: Overlay | None = None) -> Inventory:
    """What the probes find on that machine.

    Raises:
        ConfigError: the overlay contradicts the machine.
    """
    nvml = FakeNvml(machine, "node")
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        root = sysfs.render(machine, Path(directory))
        files = proc.render(proc.capabilities(nvml), Path(directory) / "proc")
        nvml.install()
        try:
            return HostProbe(
                root, proc=files, netdevs=FileNetdevs(machine), overlay=overlay, strict=True
            ).read()
        finally:
            nvml.uninstall()
