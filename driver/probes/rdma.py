"""RDMA devices and their character devices, from sysfs.

``class/infiniband/<name>/device`` links to the PCI function; ``class/infiniband_verbs/uverbs*`` and
``class/infiniband_mad/umad*`` name their RDMA device in ``ibdev``
(Documentation/ABI/stable/sysfs-class-infiniband). ``issm*`` is left out on purpose: whoever opens it
becomes a subnet manager.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from driver.devices import Gid, RdmaDevice
from driver.probes.sysfs import SysfsReader

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) Gb/sec")
_CONNECTION_MANAGER = "rdma_cm"
_FIRST_GIDS = 16
"""The table's default entries come first; looking through hundreds of empty ones finds nothing."""
_GID = re.compile(r"[0-9a-f]{4}(?::[0-9a-f]{4}){7}")
_PROTOCOLS = {"IB/RoCE v1": "IB", "RoCE v2": "RoCE v2"}

_Known = tuple[tuple[int, int], tuple[str, ...], str, RdmaDevice]
"""Identity of a directory entry, character devices, PCI address, and the device that all these gave."""


class RdmaProbe:
    """Reads the RDMA devices below a sysfs root."""

    def __init__(self, sysfs: Path) -> None:
        self._sysfs = SysfsReader(sysfs)
        self._vfs: dict[str, _Known] = {}
        self._ibdevs: dict[str, tuple[tuple[int, int] | None, str | None]] = {}

    def read(self) -> dict[str, RdmaDevice]:
        """RDMA devices by PCI address; soft RDMA (no PCI function) is left out.

        Character devices are names under /dev: ``infiniband/uverbs0``, ``infiniband/umad0``, and
        ``infiniband/rdma_cm``, which all share.
        """
        reader = self._sysfs
        char_devices = self._char_devices()
        shared = (
            (f"infiniband/{_CONNECTION_MANAGER}",)
            if _CONNECTION_MANAGER in reader.names("class/misc")
            else ()
        )
        found: dict[str, RdmaDevice] = {}
        vfs: dict[str, _Known] = {}
        for name in reader.names("class/infiniband"):
            directory = f"{reader.root}/class/infiniband/{name}"
            nodes = (*char_devices.get(name, ()), *shared)
            # A VF's facts stay as long as its entry is the same one; only a PF's rate is of interest.
            entry, known = reader.identity(directory), self._vfs.get(name)
            if known is not None and known[:2] == (entry, nodes):
                vfs[name] = known
                found[known[2]] = known[3]
                continue
            address = reader.pci_link(f"{directory}/device")
            if address is None:
                continue
            found[address] = self._device(name, directory, nodes)
            if reader.link_name(f"{directory}/device/physfn") is None:
                found[address] = replace(found[address], gids=self._gids(directory))
            elif entry is not None:
                vfs[name] = (entry, nodes, address, found[address])
        self._vfs = vfs
        return found

    def _device(self, name: str, directory: str, char_devices: tuple[str, ...]) -> RdmaDevice:
        reader, port = self._sysfs, f"{directory}/ports/1"
        state = reader.text(f"{port}/state", optional=True)
        return RdmaDevice(
            name=name,
            link_layer=reader.text(f"{port}/link_layer") or "",
            char_devices=char_devices,
            rate_bits_per_second=self._rate(f"{port}/rate") if state is None or "ACTIVE" in state else 0,
            node_guid=reader.text(f"{directory}/node_guid", optional=True) or "",
        )

    def _gids(self, directory: str) -> tuple[Gid, ...]:
        """The first usable GID of each port."""
        reader, found = self._sysfs, []
        for name in reader.names(f"class/infiniband/{directory.rpartition('/')[2]}/ports"):
            if name.isdecimal() and name.isascii():
                gid = self._first_gid(f"{directory}/ports/{name}", int(name))
                if gid is not None:
                    found.append(gid)
        return tuple(sorted(found, key=lambda gid: gid.port))

    def _first_gid(self, directory: str, port: int) -> Gid | None:
        reader = self._sysfs
        infiniband = reader.text(f"{directory}/link_layer", optional=True) == "InfiniBand"
        for index in range(_FIRST_GIDS):
            path = f"{directory}/gids/{index}"
            value = reader.text(path, optional=True)
            if value is None:
                return None
            if _GID.fullmatch(value) is None:
                reader.complain(path, f"says {value[:40]!r}, which is no GID")
                continue
            if not value.strip("0:"):
                continue
            # an entry of an interface that is elsewhere says no type
            kind = reader.text(f"{directory}/gid_attrs/types/{index}", optional=True)
            protocol = _PROTOCOLS.get(kind or "")
            if protocol == ("IB" if infiniband else "RoCE v2"):
                return Gid(port, index, value, protocol)
        return None

    def _char_devices(self) -> dict[str, tuple[str, ...]]:
        by_device: defaultdict[str, list[str]] = defaultdict(list)
        ibdevs: dict[str, tuple[tuple[int, int] | None, str | None]] = {}
        for kind, prefix in (("infiniband_verbs", "uverbs"), ("infiniband_mad", "umad")):
            for name in self._sysfs.names(f"class/{kind}"):
                if not name.startswith(prefix):
                    continue  # abi_version, issm*
                path = f"{self._sysfs.root}/class/{kind}/{name}"
                entry, known = self._sysfs.identity(path), self._ibdevs.get(path)
                device = known[1] if known and known[0] == entry else self._sysfs.text(f"{path}/ibdev")
                if device:
                    ibdevs[path] = entry, device
                    by_device[device].append(f"infiniband/{name}")
        self._ibdevs = ibdevs
        return {device: tuple(names) for device, names in by_device.items()}

    def _rate(self, path: str) -> int:
        """Bits per second from a text such as ``400 Gb/sec (4X NDR)``; 0 if unknown."""
        text = self._sysfs.text(path, optional=True)
        match = _RATE.match(text) if text else None
        return round(float(match[1]) * 1e9) if match else 0
