"""The node's facts, kept: read again now and then, and when somebody needs them fresh.

A NIC that is in a pod looks poorer from outside (its interface, and with exclusive RDMA namespaces its
RDMA device, are not in the node's namespace), but it is published and planned as what it is at home.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from driver.devices import Inventory, Nic, RdmaDevice, Vf
from driver.inventory import Probe
from kubeletplugin.planner import NodeFacts

Away = Mapping[str, str | None]
"""RDMA device names, by PCI address, of the NICs that are in pods or on their way."""


class Machine:
    """Reads through a probe; any thread may ask.

    Args:
        dev_root: where the host's character devices are.
        away: which NICs are not at home now.
        mend: called before each read with the PCI addresses of those (a mock makes VFs anew that died in
        a pod).
    """

    def __init__(
        self,
        probe: Probe,
        dev_root: Path,
        away: Callable[[], Away],
        mend: Callable[[frozenset[str]], object] = lambda _: None,
    ) -> None:
        self._probe = probe
        self._dev_root = dev_root
        self._away = away
        self._mend = mend
        self._lock = threading.Lock()
        self._facts: NodeFacts | None = None

    def facts(self, *, fresh: bool = False) -> NodeFacts:
        """As last read, or read now.

        Raises:
            ProbeError: a source cannot be read at all.
        """
        facts = self._facts
        return self.read() if facts is None or fresh else facts

    def read(self) -> NodeFacts:
        """Read now."""
        with self._lock:
            away = self._away()
            self._mend(frozenset(away))
            before = self._facts.inventory if self._facts is not None else Inventory(machine="")
            self._facts = NodeFacts(
                inventory=at_home(self._probe.read(), before, away),
                dev_root=str(self._dev_root),
                dev_nodes=_dev_nodes(self._dev_root),
            )
            return self._facts


def at_home(now: Inventory, before: Inventory, away: Away) -> Inventory:
    """`now`, with NICs that are away as they were in `before`, or at least with their RDMA device's name."""
    if not away:
        return now
    known: dict[str, Nic | Vf] = {}
    for nic in before.nics:
        known[nic.pci_address] = nic
        known.update({vf.pci_address: vf for vf in nic.vfs})

    def rdma(function: Nic | Vf) -> RdmaDevice | None:
        name = away.get(function.pci_address)
        if function.rdma is not None or name is None:
            return function.rdma
        old = known.get(function.pci_address)
        return old.rdma if old is not None and old.rdma is not None else RdmaDevice(name=name)

    def whole(nic: Nic) -> Nic:
        vfs = tuple(replace(vf, rdma=rdma(vf)) for vf in nic.vfs)
        old = known.get(nic.pci_address)
        if nic.pci_address in away and isinstance(old, Nic):
            return replace(old, vfs=vfs)
        return replace(nic, rdma=rdma(nic), vfs=vfs)

    return replace(now, nics=tuple(whole(nic) for nic in now.nics))


def _dev_nodes(dev_root: Path) -> frozenset[str]:
    """Names of what can be handed to a container, below /dev."""
    names = {entry.name for entry in os.scandir(dev_root) if entry.name.startswith("nvidia")}
    infiniband = dev_root / "infiniband"
    if infiniband.is_dir():
        names |= {f"infiniband/{entry.name}" for entry in os.scandir(infiniband)}
    return frozenset(names)
