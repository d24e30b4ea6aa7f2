"""The speed that a port is good for, which stays while its link is down.

What a device publishes must not change under a claim that holds it. The active rate is known only while the
link is up (else sysfs says -1, or a rate that is none); the fastest that was seen is kept, and a port that
was never seen up says what link modes it supports.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping

from driver.devices import Netdev, RdmaDevice
from driver.names import is_representor
from driver.probes.sysfs import SysfsReader

log = logging.getLogger(__name__)

_MODE = re.compile(r"(\d+)base.*")


class RatedSpeeds:
    """Remembers the rated speed of each port. `supported` asks for an interface's fastest mode (Mb/s)."""

    def __init__(self, sysfs: SysfsReader, supported: Callable[[str], int] | None = None) -> None:
        self._sysfs = sysfs
        self._supported = supported or supported_speed
        self._rated: dict[str, int] = {}
        self._asked: set[str] = set()

    def read(self, address: str, device: RdmaDevice | None, netdev: Netdev | None) -> int:
        """Bits per second of the port of the PF at a PCI address; 0 if nobody ever said."""
        active = (device.rate_bits_per_second if device else 0) or self._ethernet(address)
        rated = max(self._rated.get(address, 0), active)
        if not rated and netdev is not None and address not in self._asked:
            self._asked.add(address)
            rated = self._supported(netdev.name) * 1_000_000
        self._rated[address] = rated
        return rated

    def _ethernet(self, address: str) -> int:
        """As ethtool would say: sysfs gives Mb/s, -1 without link."""
        directory = f"bus/pci/devices/{address}/net"
        for name in self._sysfs.names(directory):
            port = self._sysfs.text(self._sysfs.root / directory / name / "phys_port_name", optional=True)
            if port and is_representor(port):
                continue  # a port of the switch inside, whose speed is not the wire's
            speed = self._sysfs.integer(self._sysfs.root / directory / name / "speed", optional=True)
            if speed is not None and speed > 0:
                return speed * 1_000_000
        return 0


def fastest(modes: list[str]) -> int:
    """Mb/s of the fastest of some link modes in ethtool's names (``100000baseKR4/Full``); 0 if none."""
    return max((int(match[1]) for mode in modes if (match := _MODE.fullmatch(mode))), default=0)


def supported_speed(interface: str) -> int:
    """The fastest link mode that an interface's port supports, by ethtool's netlink; 0 if it does not say."""
    try:
        from pyroute2.ethtool import Ethtool  # only on a node with a link that was never up

        ethtool = Ethtool()
        try:
            found: Mapping[str, object] = ethtool.get_link_mode(interface)._asdict()
        finally:
            ethtool.close()
    except Exception as error:  # the library's own, and bare OSErrors; the speed is then unknown, no more
        log.debug("ethtool: %s: %s", interface, error)
        return 0
    modes = found.get("supported_modes")
    return fastest([str(mode) for mode in modes]) if isinstance(modes, list) else 0
