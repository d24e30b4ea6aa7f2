"""The watcher over the kernel's own events, in a network namespace of its own."""

from __future__ import annotations

import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.devices import Inventory, Netdev, Nic, Place, Vf
from kubeletplugin import hardware_events
from kubeletplugin.hardware_events import FileEvents, LinkEvent
from kubeletplugin.watcher import LIMIT_SECONDS, QUIET_SECONDS, HardwareWatcher, is_news, known_of
from tests.unit.driver.machines import Namespace, needs_root

PF, VF = "0000:1a:00.0", "0000:1a:00.1"
PF_NAME, VF_NAME = "pci-0000-1a-00-0", "pci-0000-1a-00-1"
PATIENCE_SECONDS = 20
"""How long a machine that does much else may take."""

pytestmark = needs_root


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A PF (one end of a veth pair, both up) with one VF (a macvlan)."""
    made = Namespace()
    made.run(
        lambda: ip(
            "link add port type veth peer name wire",
            f"link property add dev port altname {PF_NAME}",
            "link set port up",
            "link set wire up",
            "link add link port name port-v0 type macvlan mode bridge",
            f"link property add dev port-v0 altname {VF_NAME}",
        )
    )
    yield made
    made.close()


def known() -> Inventory:
    place = Place()
    vf = Vf(VF, 0, place, netdev=Netdev("vf", 4))
    return Inventory("test", nics=(Nic(PF, "pf", place, netdev=Netdev("pf", 3, carrier=True), vfs=(vf,)),))


def events_of(namespace: Namespace, *lines: str, until: LinkEvent | None = None) -> list[LinkEvent]:
    """What the kernel says of some changes; it tells what became of a carrier when it gets to it, so such an
    event is waited for.
    """

    def watch() -> list[LinkEvent]:
        found: list[LinkEvent] = []
        with hardware_events.open_links() as source:
            ip(*lines)
            while True:
                datagrams, lost = hardware_events.drain(source)
                assert not lost
                found += [event for data in datagrams for event in hardware_events.link_events(data)]
                if until is None or until in found:
                    return found
                assert select.select([source], [], [], PATIENCE_SECONDS)[0], found

    return namespace.run(watch)


def test_the_end_of_a_link_is_seen_at_either_end(namespace: Namespace) -> None:
    for end in ("port", "wire"):
        events_of(namespace, f"link set {end} down", until=LinkEvent(PF, True, carrier=False))
        events_of(namespace, f"link set {end} up", until=LinkEvent(PF, True, carrier=True))


def test_interfaces_that_are_no_functions_are_not_spoken_of(namespace: Namespace) -> None:
    assert (
        events_of(namespace, "link add other type veth peer name end", "link set other up", "link del other")
        == []
    )


def test_the_leaving_and_coming_of_a_claimed_vf_is_no_news(namespace: Namespace) -> None:
    gone = events_of(namespace, "link set port-v0 down", "link del port-v0")
    assert LinkEvent(VF, False) in gone
    back = events_of(
        namespace,
        "link add link port name port-v0 type macvlan mode bridge",
        f"link property add dev port-v0 altname {VF_NAME}",
        "link set port-v0 up",
    )
    inventory = known_of(known())
    assert not any(is_news(event, inventory, lambda: {VF}) for event in [*gone, *back])
    assert any(is_news(event, inventory, frozenset) for event in gone)


class Watched:
    """A running watcher and how often it had news. Its clock goes on only while the test waits."""

    def __init__(self, namespace: Namespace, root: Path) -> None:
        self.count = 0
        self._now = 0.0
        self._seen = threading.Semaphore(0)
        self.watcher = HardwareWatcher(
            sysfs=root / "sys",
            dev_root=root,
            away=frozenset,
            on_news=self._news,
            clock=lambda: self._now,
        )
        self.watcher.expect(known())
        namespace.run(self.watcher.start)

    def _news(self) -> None:
        self.count += 1
        self._seen.release()

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._seen.acquire(timeout=QUIET_SECONDS):
            assert time.monotonic() < end
            self._now += LIMIT_SECONDS


@pytest.fixture
def watched(namespace: Namespace, tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    made = Watched(namespace, tmp_path)
    yield made
    made.watcher.stop()


def test_64_vfs_made_at_once_are_one_piece_of_news(namespace: Namespace, watched: Watched) -> None:
    lines = [
        line
        for n in range(64)
        for line in (
            f"link add link port name new{n} type macvlan mode bridge",
            f"link property add dev new{n} altname pci-0000-1a-{n // 8 + 1:02x}-{n % 8}",
            f"link set new{n} up",  # an alternative name alone makes no event of what is down
        )
    ]
    namespace.run(lambda: ip(*lines))
    watched.wait()
    assert watched.count == 1


def test_a_link_that_was_away_for_a_moment_is_read_once(namespace: Namespace, watched: Watched) -> None:
    # One after the other: the kernel tells nothing of a carrier that is back before it could.
    events_of(namespace, "link set wire down", until=LinkEvent(PF, True, carrier=False))
    events_of(namespace, "link set wire up", until=LinkEvent(PF, True, carrier=True))
    watched.wait()
    assert watched.count == 1


def test_entries_of_a_rendered_bus_and_device_nodes_are_news_and_other_nodes_are_not(
    watched: Watched, tmp_path: Path
) -> None:
    (tmp_path / "sda").touch()
    (tmp_path / "sys/bus/pci/devices/0000:1a:00.2").touch()
    watched.wait()
    (tmp_path / "nvidia-caps").mkdir()
    watched.wait()
    (tmp_path / "nvidia-caps/nvidia-cap30").touch()
    watched.wait()
    assert watched.count == 3


def test_file_events_name_what_came_and_went_and_pass_over_what_is_not_there(tmp_path: Path) -> None:
    files = FileEvents([tmp_path, tmp_path / "nothing"])
    try:
        assert files.read() == []
        (tmp_path / "a").touch()
        (tmp_path / "a").unlink()
        assert files.read() == [tmp_path / "a"] * 2
    finally:
        files.close()
