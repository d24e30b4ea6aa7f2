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
from typing import Final

from driver.devices import Inventory, Nic, RdmaDevice, Vf
from driver.errors import ConfigError
from driver.inventory import Probe
from driver.names import OVERLAY_LABEL
from kubeletplugin.planner import NodeFacts

OVERLAY_SUFFIXES: Final = (".xml", ".yaml", ".yml")

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


def find_overlay(directory: Path, labels: Mapping[str, str]) -> Path | None:
    """The overlay file of a node: ``<name>.xml``, ``.yaml`` or ``.yml`` in the folder, by the name that its
    label gives; None without the label.

    Raises:
        ConfigError: there is no such file, or more than one.
    """
    name = labels.get(OVERLAY_LABEL, "")
    if not name:
        return None
    found = [path for suffix in OVERLAY_SUFFIXES if (path := directory / f"{name}{suffix}").is_file()]
    if len(found) != 1:
        names = " or ".join(f"{name}{suffix}" for suffix in OVERLAY_SUFFIXES)
        problem = "there is more than one of" if found else "there is no"
        raise ConfigError(
            f"{problem} {names}, which the node's label {OVERLAY_LABEL} asks for", path=str(directory)
        )
    return found[0]


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
    entries = os.scandir(dev_root)
    names = {entry.name for entry in entries if entry.name.startswith("nvidia") and not entry.is_dir()}
    for folder in ("infiniband", "nvidia-caps"):
        if (dev_root / folder).is_dir():
            names |= {f"{folder}/{entry.name}" for entry in os.scandir(dev_root / folder)}
    return frozenset(names)
