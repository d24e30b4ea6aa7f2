"""A mock machine as one thing to install, mend and remove; above it everything is the production code."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from driver.mock import dev, proc, sysfs
from driver.mock.machine import Machine, load
from driver.mock.netdev import MockNetdevs, ports
from driver.mock.nvml import FakeNvml


@dataclass(frozen=True, slots=True)
class MockRoots:
    """Where the real probes and CDI look instead of /sys, /dev and /proc."""

    sysfs: Path
    dev: Path
    proc: Path


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
            proc=self._directory / "proc",
        )
        self._render_mig()
        self._netdevs.ensure(attached)
        return roots

    def mend(self, attached: Set[str] = frozenset()) -> list[str]:
        """Make anew the VFs that died with their pods, and return their PCI addresses; files of MIG instances
        follow what NVML has.

        Raises:
            PermanentError: the kernel refuses.
            OSError: the state directory cannot be written.
        """
        self._render_mig()
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
        proc.remove(self._directory / "proc")

    def _render_mig(self) -> None:
        minors = proc.capabilities(self.nvml)
        proc.render(minors, self._directory / "proc")
        dev.render_capabilities(set(minors.values()), self._directory / "dev")
