"""Says when the machine is to be read again, so that the slices follow the hardware within a second.

Most events say nothing new: each NIC that goes into a pod and comes home makes some, and those are our own
acts. Reading everything for each would slow down pods' starts for nothing, so an event counts only where it
contradicts the inventory, and those that do are waited out until they are quiet. What no event tells (a GPU
that stops to answer) is left to the slow poll.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from driver.devices import Inventory, Netdev
from kubeletplugin import hardware_events
from kubeletplugin.hardware_events import FileEvents, LinkEvent

log = logging.getLogger(__name__)

QUIET_SECONDS: Final = 0.1
LIMIT_SECONDS: Final = 0.5
_CAPABILITIES: Final = "nvidia-caps"
"""Below /dev: a node for each GPU and compute instance of MIG."""


class Debounce:
    """Many events in a row are one; times are of any one clock, in seconds.

    Args:
        quiet_seconds: so long after the last event it is due,
        limit_seconds: but at the latest so long after the first.
    """

    def __init__(self, quiet_seconds: float, limit_seconds: float) -> None:
        self._quiet = quiet_seconds
        self._limit = limit_seconds
        self._first: float | None = None
        self._last = 0.0

    def note(self, now: float) -> None:
        """An event."""
        self._first = now if self._first is None else self._first
        self._last = now

    def left(self, now: float) -> float | None:
        """Seconds until it is due, 0 if it is; None where nothing happened."""
        if self._first is None:
            return None
        return max(0.0, min(self._last + self._quiet, self._first + self._limit) - now)

    def clear(self) -> None:
        """Begin anew."""
        self._first = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the inventory says of a function's interface. A VF's carrier means nothing: its PF's counts."""

    is_vf: bool
    home: bool
    carrier: bool = False
    in_use: bool = False


def known_of(inventory: Inventory) -> dict[str, Known]:
    """By PCI address, what events are held against."""
    found: dict[str, Known] = {}
    for nic in inventory.nics:
        found[nic.pci_address] = _known(nic.netdev, is_vf=False)
        found |= {vf.pci_address: _known(vf.netdev, is_vf=True) for vf in nic.vfs}
    return found


def _known(netdev: Netdev | None, *, is_vf: bool) -> Known:
    if netdev is None:
        return Known(is_vf, home=False)
    return Known(is_vf, home=True, carrier=netdev.carrier, in_use=netdev.uplink)


def is_news(event: LinkEvent, known: Mapping[str, Known], away: Callable[[], Set[str]]) -> bool:
    """Does an event contradict the inventory?

    Args:
        away: PCI addresses of the NICs that are in pods, or on their way, by our doing.
    """
    there = known.get(event.pci_address)
    if there is None:
        return event.present
    if not event.present:
        return there.home and event.pci_address not in away()
    if event.enslaved and not there.in_use:
        return True
    if there.is_vf:
        return False
    return not there.home or event.carrier != there.carrier


class HardwareWatcher:
    """Waits for events on a thread of its own, from `start` to `stop`.

    Where the kernel gives no events, that is one log line, and the poll has to do.

    Args:
        sysfs, dev_root: where files come and go with devices.
        away: as for `is_news`; asked on the watcher's thread.
        on_news: called, on the watcher's thread, once for all that happened at about the same time.
    """

    def __init__(
        self,
        *,
        sysfs: Path,
        dev_root: Path,
        away: Callable[[], Set[str]],
        on_news: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pci_devices = sysfs / "bus/pci/devices"
        self._dev_root = dev_root
        self._away = away
        self._on_news = on_news
        self._clock = clock
        self._debounce = Debounce(QUIET_SECONDS, LIMIT_SECONDS)
        self._known: Mapping[str, Known] = {}
        self._reading = 0
        self._ended = False
        self._close = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._close.callback(self._selector.close)
        self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._close.callback(os.close, self._end)
        self._selector.register(self._end, selectors.EVENT_READ, lambda: False)
        self._thread = threading.Thread(target=self._run, name="hardware", daemon=True)

    def start(self) -> None:
        """Watch the calling thread's network namespace; from now on nothing is missed."""
        self._open("links", self._open_links)
        self._open("PCI functions", self._open_uevents)
        self._open("device files", self._open_files)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        if self._thread.ident is not None:
            self._ended = True
            os.eventfd_write(self._end, 1)
            self._thread.join(timeout=5.0)
        self._close.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """While the machine is read, which takes a while, nobody can say what an event contradicts."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def expect(self, inventory: Inventory) -> None:
        """What the machine has as far as is known."""
        self._known = known_of(inventory)

    # ---- inside

    def _open(self, what: str, opener: Callable[[], None]) -> None:
        try:
            opener()
        except OSError as error:
            log.warning("no events of %s (%s): changes are seen by the next poll", what, error)

    def _open_links(self) -> None:
        source = self._close.enter_context(hardware_events.open_links())

        def read() -> bool:
            datagrams, lost = hardware_events.drain(source)
            away: list[Set[str]] = []

            def ask() -> Set[str]:
                if not away:
                    away.append(self._away())
                return away[0]

            events = [event for data in datagrams for event in hardware_events.link_events(data)]
            return lost or any(self._counts(event, ask) for event in events)

        self._selector.register(source, selectors.EVENT_READ, read)

    def _counts(self, event: LinkEvent, away: Callable[[], Set[str]]) -> bool:
        if self._reading:
            return event.present or event.pci_address not in away()
        return is_news(event, self._known, away)

    def _open_uevents(self) -> None:
        source = self._close.enter_context(hardware_events.open_uevents())

        def read() -> bool:
            datagrams, lost = hardware_events.drain(source)
            return lost or any(map(hardware_events.is_pci, datagrams))

        self._selector.register(source, selectors.EVENT_READ, read)

    def _open_files(self) -> None:
        capabilities = self._dev_root / _CAPABILITIES
        files = self._close.enter_context(
            contextlib.closing(FileEvents([self._pci_devices, self._dev_root, capabilities]))
        )

        def read() -> bool:
            paths = files.read()
            if capabilities in paths:
                files.add(capabilities)
            return any(path.parent != self._dev_root or path.name.startswith("nvidia") for path in paths)

        self._selector.register(files, selectors.EVENT_READ, read)

    def _run(self) -> None:
        while True:
            ready = self._selector.select(self._debounce.left(self._clock()))
            if self._ended:
                return
            try:
                for key, _ in ready:
                    if key.data():
                        self._debounce.note(self._clock())
            except Exception:
                log.exception("events: the machine is read again instead")
                self._debounce.note(self._clock())
            if self._debounce.left(self._clock()) == 0:
                self._debounce.clear()
                self._on_news()
