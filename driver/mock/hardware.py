"""A mock machine as one thing to install, mend and remove; above it everything is the production code."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from driver.mock import dev, sysfs
from driver.mock.machine import Machine, load
from driver.mock.netdev import MockNetdevs, ports
from driver.mock.nvml import FakeNvml


@dataclass(frozen=True, slots=True)
class MockRoots:
    """Where the real probes and CDI look instead of /sys and /dev."""

    sysfs: Path
    dev: Path


class MockHardware:
    """One mock machine on one node: files below ``<state_dir>/mock``, interfaces in the current network
    namespace.

    Every call may be repeated and may be stopped at any point; the next call makes good what is missing.

    Attributes:
        nvml: the NVML answers; its `lost` set makes GPUs fall off the bus.
    """

    def __init__(
        self, machine: Machine | str, state_dir: Path, node_name: str, *, vfs_per_pf: int | None = None
    ) -> None:
        """`machine` is a `Machine` or a name for `driver.mock.machine.load`, which takes `vfs_per_pf`."""
        self.machine = load(machine, vfs_per_pf=vfs_per_pf) if isinstance(machine, str) else machine
        self.nvml = FakeNvml(self.machine, node_name)
        self._directory = state_dir / "mock"
        self._netdevs = MockNetdevs(ports(self.machine, node_name))

    def install(self, attached: Set[str] = frozenset()) -> MockRoots:
        """Render files, NVML answers and interfaces; `attached` are PCI addresses of VFs that pods hold now.

        Raises:
            PermanentError: the kernel refuses a device node or an interface.
            OSError: the state directory cannot be written.
        """
        self.nvml.install()
        roots = MockRoots(
            sysfs=sysfs.render(self.machine, self._directory),
            dev=dev.render(self.machine, self._directory / "dev"),
        )
        self._netdevs.ensure(attached)
        return roots

    def mend(self, attached: Set[str] = frozenset()) -> list[str]:
        """Make anew the VFs that died with their pods; returns their PCI addresses.

        Raises:
            PermanentError: the kernel refuses.
        """
        return self._netdevs.ensure(attached)

    def remove(self) -> None:
        """Take everything away again.

        Raises:
            PermanentError: the kernel refuses.
        """
        self._netdevs.remove()
        self.nvml.uninstall()
        sysfs.remove(self._directory)
        dev.remove(self._directory / "dev")
