"""A published bandwidth stays while the link is down."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.devices import Netdev, RdmaDevice
from driver.inventory import HostProbe
from driver.mock.nvml import FakeNvml
from driver.probes.rates import RatedSpeeds, fastest, supported_speed
from driver.probes.rdma import RdmaProbe
from driver.probes.sysfs import SysfsReader
from tests.unit.driver.test_fuzz import NoNetdevs

NIC = "0000:18:00.0"
UP = RdmaDevice("mlx5_0", rate_bits_per_second=400_000_000_000)
DOWN = RdmaDevice("mlx5_0")


def rated(sysfs: Path, modes: dict[str, int] | None = None) -> tuple[RatedSpeeds, list[str]]:
    asked: list[str] = []

    def supported(interface: str) -> int:
        asked.append(interface)
        return (modes or {}).get(interface, 0)

    return RatedSpeeds(SysfsReader(sysfs), supported), asked


def test_a_port_that_was_up_keeps_its_speed_when_it_goes_down(tmp_path: Path) -> None:
    speeds, asked = rated(tmp_path)
    assert speeds.read(NIC, UP, None) == 400_000_000_000
    assert speeds.read(NIC, DOWN, Netdev("a", 2)) == 400_000_000_000
    assert speeds.read(NIC, None, None) == 400_000_000_000
    assert asked == []


def test_a_port_that_was_never_up_says_what_it_supports_and_is_asked_once(tmp_path: Path) -> None:
    speeds, asked = rated(tmp_path, {"a": 200_000})
    assert speeds.read(NIC, DOWN, Netdev("a", 2)) == 200_000_000_000
    assert speeds.read(NIC, DOWN, Netdev("a", 2)) == 200_000_000_000
    assert asked == ["a"]


def test_a_port_that_trains_slower_keeps_its_speed(tmp_path: Path) -> None:
    speeds, _ = rated(tmp_path)
    speeds.read(NIC, UP, None)
    slower = RdmaDevice("mlx5_0", rate_bits_per_second=100_000_000_000)
    assert speeds.read(NIC, slower, None) == 400_000_000_000


def test_a_port_that_nobody_knows_has_no_speed(tmp_path: Path) -> None:
    speeds, _ = rated(tmp_path)
    assert speeds.read(NIC, None, Netdev("a", 2)) == 0


def test_the_rate_of_a_port_that_is_down_is_none(sysfs_root: Path) -> None:
    port = sysfs_root / "class/infiniband/mlx5_0/ports/1"
    (port / "state").write_text("1: DOWN\n")
    (port / "rate").write_text("2.5 Gb/sec (1X SDR)\n")
    assert RdmaProbe(sysfs_root).read()[NIC].rate_bits_per_second == 0


def test_a_link_that_goes_down_changes_no_nic(sysfs_root: Path, nvml: FakeNvml) -> None:
    probe = HostProbe(sysfs_root, netdevs=NoNetdevs())
    before = probe.read().nics[0].speed_bits_per_second
    port = sysfs_root / "class/infiniband/mlx5_0/ports/1"
    (port / "state").write_text("1: DOWN\n")
    (port / "rate").write_text("10 Gb/sec (4X SDR)\n")
    (sysfs_root / "bus/pci/devices" / NIC / "net/enp24s0np0/speed").write_text("-1\n")
    assert probe.read().nics[0].speed_bits_per_second == before == 400_000_000_000


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        (["10000baseT/Full", "400000baseKR8/Full", "100000baseLR4_ER4/Full"], 400_000),
        (["Autoneg", "FIBRE", "FEC_RS"], 0),
        ([], 0),
    ],
)
def test_the_fastest_of_some_link_modes(modes: list[str], expected: int) -> None:
    assert fastest(modes) == expected


def test_an_interface_without_link_modes_or_without_existence_has_no_supported_speed() -> None:
    assert supported_speed("lo") == 0
    assert supported_speed("does-not-exist") == 0


def test_a_representors_speed_is_not_the_ports(tmp_path: Path) -> None:
    for name, port, speed in (("a-rep", "pf0vf0", "10000"), ("own", "p0", "-1")):
        directory = tmp_path / "bus/pci/devices" / NIC / "net" / name
        directory.mkdir(parents=True)
        (directory / "phys_port_name").write_text(f"{port}\n")
        (directory / "speed").write_text(f"{speed}\n")
    speeds, _ = rated(tmp_path)
    assert speeds.read(NIC, None, None) == 0
