"""Trees as no kernel makes them: files missing or garbled, directories instead of files, links that loop.

Whatever is wrong costs log lines that name the path, once each, and never the whole inventory.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from driver.devices import Netdev
from driver.inventory import HostProbe
from driver.mock import sysfs
from driver.mock.machine import load
from driver.mock.nvml import FakeNvml
from driver.probes.net import netdevs
from driver.probes.rtnetlink import decode_link
from driver.slices import SliceOptions
from tests.unit.driver.test_partitions import pool, within_limits


class NoNetdevs:
    def read(self) -> Mapping[str, Netdev]:
        return {}


def damage(root: Path, chance: random.Random, share: float, only: tuple[str, ...] = ("",)) -> None:
    """Spoil a share of all files and links, or of those below the root whose path has one of some parts."""
    root = root.resolve()
    files = [Path(d) / f for d, dirs, names in os.walk(root) for f in (*names, *dirs)]
    files = [path for path in files if path.is_symlink() or path.is_file()]
    files = [path for path in files if any(part in str(path.relative_to(root)) for part in only)]
    for path in chance.sample(files, int(len(files) * share)):
        if not path.parent.exists():
            continue
        kind = chance.choice(["remove", "empty", "binary", "number", "directory", "loop", "self", "parent"])
        path.unlink()
        if kind == "empty":
            path.write_bytes(b"")
        elif kind == "binary":
            path.write_bytes(chance.randbytes(64))
        elif kind == "number":
            path.write_text(chance.choice(["-1", "99999999999999999999", "0x", "1e9", "NaN", "٣"]))
        elif kind == "directory":
            path.mkdir()
        elif kind == "loop":
            other = path.with_name(f"{path.name}-loop")
            other.symlink_to(path.name)
            path.symlink_to(other.name)
        elif kind == "self":
            path.symlink_to(path.name)
        elif kind == "parent":
            path.symlink_to("..")


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("seed", range(30))
def test_any_damage_is_survived_and_each_problem_said_once_with_its_path(
    sysfs_root: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    damage(sysfs_root, chance, chance.choice([0.1, 0.3, 0.7]))
    probe = HostProbe(sysfs_root, netdevs=NoNetdevs())
    caplog.set_level(logging.WARNING)
    first = probe.read()
    said = [record.getMessage() for record in caplog.records]
    assert probe.read() == first
    assert [record.getMessage() for record in caplog.records] == said
    assert len(set(said)) == len(said)
    for line in said:
        assert str(sysfs_root) in line or line.startswith("GPU 0000:"), line
    options = SliceOptions(mig="dynamic", vfio=True, pf_and_vfs=True)
    within_limits(pool(first, options))


LESSER = ("link_speed", "link_width", "gids", "types", "node_guid")


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("seed", range(10))
def test_damage_to_what_only_describes_a_device_costs_no_device(sysfs_root: Path, seed: int) -> None:
    whole = HostProbe(sysfs_root, netdevs=NoNetdevs()).read()
    damage(sysfs_root, random.Random(seed), 0.7, only=LESSER)
    found = HostProbe(sysfs_root, netdevs=NoNetdevs()).read()
    assert [gpu.pci_address for gpu in found.gpus] == [gpu.pci_address for gpu in whole.gpus]
    assert [(nic.pci_address, nic.name, len(nic.vfs)) for nic in found.nics] == [
        (nic.pci_address, nic.name, len(nic.vfs)) for nic in whole.nics
    ]
    within_limits(pool(found, SliceOptions()))


@pytest.mark.parametrize("seed", range(200))
def test_a_garbled_link_message_is_no_more_than_a_link_without_facts(seed: int) -> None:
    chance = random.Random(seed)
    numbers = [3, 18, 36, 38, 52, 56, 57]
    body = b"".join(
        struct.pack("=HH", chance.choice([0, 3, 8, 9, 40, 0xFFFF]), chance.choice(numbers))
        + chance.randbytes(8)
        for _ in range(chance.randrange(6))
    )
    facts = decode_link(struct.pack("=BxHiII", 0, 1, 7, 0, 0) + body[: chance.randrange(len(body) + 1)])
    assert facts["index"] == 7
    netdevs([facts], set())


@pytest.mark.usefixtures("nvml")
def test_a_damaged_function_does_not_hide_the_others(tmp_path: Path) -> None:
    machine = load("dgx-h100", vfs_per_pf=1)
    root = sysfs.render(replace(machine, gpus=machine.gpus[:2], nics=machine.nics[:2]), tmp_path)
    broken = root / "bus/pci/devices" / machine.nics[0].pci_address
    shutil.rmtree(broken.resolve())
    broken.unlink()
    broken.symlink_to(broken.name)
    found = HostProbe(root, netdevs=NoNetdevs()).read()
    assert len(found.gpus) == 2
    assert [nic.pci_address for nic in found.nics] == [machine.nics[1].pci_address]


def test_what_the_probe_remembers_is_forgotten_when_another_device_takes_the_slot(
    sysfs_root: Path, nvml: FakeNvml
) -> None:
    probe = HostProbe(sysfs_root, netdevs=NoNetdevs())
    assert probe.read().nics[0].device_id == "1021"
    link = sysfs_root / "bus/pci/devices/0000:18:00.0"
    target = link.readlink()
    (link / "device").write_text("0xa2dc\n")
    link.unlink()
    assert probe.read().nics == ()
    (link.parent / "0000:18:00.0").symlink_to(target)
    assert probe.read().nics[0].device_id == "a2dc"


def test_vfs_that_are_made_and_removed_are_seen_by_the_same_probe(sysfs_root: Path, nvml: FakeNvml) -> None:
    probe = HostProbe(sysfs_root, netdevs=NoNetdevs())
    assert len(probe.read().nics[0].vfs) == 1
    pf = sysfs_root / "bus/pci/devices/0000:18:00.0"
    target = (pf / "virtfn0").readlink()
    (pf / "virtfn0").unlink()
    (pf / "sriov_numvfs").write_text("0\n")
    nic = probe.read().nics[0]
    assert (nic.vfs, nic.sriov_num_vfs) == ((), 0)
    (pf / "virtfn0").symlink_to(target)
    assert len(probe.read().nics[0].vfs) == 1


def test_a_gpu_without_its_driver_is_silent_and_says_which_driver_it_has(
    sysfs_root: Path, nvml: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.lost.add("0000:1b:00.0")
    driver = sysfs_root / "bus/pci/devices/0000:1b:00.0/driver"
    driver.unlink()
    driver.symlink_to("../../../../../../bus/pci/drivers/vfio-pci")
    found = HostProbe(sysfs_root, netdevs=NoNetdevs()).read()
    assert found.gpus == ()
    (gpu,) = found.silent_gpus
    assert (gpu.pci_address, gpu.kernel_driver, gpu.place.numa_node) == ("0000:1b:00.0", "vfio-pci", 0)
    assert any("driver: vfio-pci" in record.getMessage() for record in caplog.records)
