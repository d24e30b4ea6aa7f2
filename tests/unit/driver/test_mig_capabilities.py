"""Character devices of MIG instances: the mock's files, read by the probe, and broken files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from driver.devices import Gpu, Place
from driver.errors import ConfigError
from driver.mig import MigInstance
from driver.mock import dev, proc
from driver.mock.machine import Machine, parse
from driver.mock.mig_products import Cut
from driver.mock.nvml import FakeNvml
from driver.mock.source import read
from driver.probes.mig_capabilities import CAPABILITIES, MigCapabilityProbe
from tests.unit.driver.machines import needs_root

CUTS = (Cut("3g.40gb", 0), Cut("1g.10gb", 4))
GOOD = "DeviceFileMinor: 21\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
MINORS = {"gpu1/mig/gi1/access", "gpu1/mig/gi1/ci0/access", "gpu1/mig/gi2/access", "gpu1/mig/gi2/ci0/access"}


@pytest.fixture
def cut_dgx(small_dgx: Machine) -> Machine:
    """Its second GPU is in MIG mode and has two instances."""
    gpus = small_dgx.gpus
    return replace(small_dgx, gpus=(gpus[0], replace(gpus[1], mig=CUTS), *gpus[2:]))


@pytest.fixture
def library(cut_dgx: Machine) -> Iterator[FakeNvml]:
    fake = FakeNvml(cut_dgx, "node-a")
    fake.install()
    pynvml.nvmlInit()
    yield fake
    fake.uninstall()


def gpu(*instances: MigInstance, minor: int | None = 0) -> Gpu:
    return Gpu("0000:1b:00.0", Place(), minor=minor, mig_enabled=True, mig_instances=instances)


def instance(number: int, compute: int = 0) -> MigInstance:
    return MigInstance(f"MIG-{number}", 19, number, compute, number, 1)


def plant(root: Path, files: dict[str, str | bytes]) -> Path:
    for path, text in files.items():
        file = root / CAPABILITIES / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def test_an_instance_has_the_minors_of_its_gpu_instance_and_its_compute_instance(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "gpu0/mig/gi7/access": GOOD,
        "gpu0/mig/gi7/ci2/access": GOOD.replace("21", "24"),
        "gpu1/mig/gi7/access": GOOD.replace("21", "156"),
    }
    (found,) = MigCapabilityProbe(plant(tmp_path, files)).complete(gpu(instance(7, 2))).mig_instances
    assert (found.gpu_instance_minor, found.compute_instance_minor) == (21, 24)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("", "has no line DeviceFileMinor"),
        ("DeviceFileMinor:\nDeviceFileMode: 292\n", "has no line DeviceFileMinor"),
        ("DeviceFileMinor: -1\n", "has no line DeviceFileMinor"),
        ("DeviceFileMinor: 21 22\n", "has no line DeviceFileMinor"),
        ("NotDeviceFileMinor: 21\n", "has no line DeviceFileMinor"),
        ("DeviceFileMinor: 99999999999999999999\n", "has no line DeviceFileMinor"),
        (b"\xff\xfe", "is no text"),
        (None, "is missing"),
    ],
)
def test_a_broken_file_is_one_log_line_and_its_instance_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str | bytes | None, said: str
) -> None:
    files: dict[str, str | bytes] = dict.fromkeys(
        ("gpu0/mig/gi1/ci0/access", "gpu0/mig/gi2/access", "gpu0/mig/gi2/ci0/access"), GOOD
    )
    if broken is not None:
        files["gpu0/mig/gi1/access"] = broken
    probe = MigCapabilityProbe(plant(tmp_path, files))
    for _ in range(2):
        one, other = probe.complete(gpu(instance(1), instance(2))).mig_instances
        assert (one.gpu_instance_minor, one.compute_instance_minor) == (None, 21)
        assert (other.gpu_instance_minor, other.compute_instance_minor) == (21, 21)
    (record,) = caplog.records
    assert said in record.message
    assert str(tmp_path / CAPABILITIES / "gpu0/mig/gi1/access") in record.message


def test_a_directory_in_a_files_place_is_no_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / CAPABILITIES / "gpu0/mig/gi1/access").mkdir(parents=True)
    (found,) = MigCapabilityProbe(tmp_path).complete(gpu(instance(1))).mig_instances
    assert found == instance(1)
    assert len(caplog.records) == 2


@given(st.binary(max_size=80))
def test_whatever_a_file_says_there_is_a_number_or_none(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    root = plant(tmp_path_factory.mktemp("proc"), {"gpu0/mig/gi1/access": raw})
    (found,) = MigCapabilityProbe(root).complete(gpu(instance(1))).mig_instances
    assert found.gpu_instance_minor is None or found.gpu_instance_minor >= 0


def test_nothing_is_read_for_a_gpu_without_instances_or_without_a_minor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probe = MigCapabilityProbe(tmp_path)
    assert probe.complete(gpu()) == gpu()
    assert probe.complete(gpu(instance(1), minor=None)) == gpu(instance(1), minor=None)
    assert not caplog.records


def test_a_machine_file_can_cut_a_gpu_and_the_probes_find_its_instances(cut_dgx: Machine) -> None:
    whole, cut = read(cut_dgx).gpus[:2]
    assert (whole.mig_enabled, whole.mig_instances) == (False, ())
    assert cut.mig_enabled
    # 3 + 135 for each GPU + 9 for each GPU instance: /proc/driver/nvidia-caps/mig-minors.
    assert [
        (i.start, i.size, i.gpu_instance_minor, i.compute_instance_minor, i.compute_slices)
        for i in cut.mig_instances
    ] == [(0, 4, 147, 148, 0), (4, 1, 156, 157, 0)]


@pytest.mark.parametrize(
    ("mig", "message"),
    [
        ("[{profile: 5g.50gb, start: 0}]", "no profile '5g.50gb'"),
        ("[{profile: 3g.40gb, start: 1}]", r"begins at 1; possible are \(0, 4\)"),
        ("[{profile: 3g.40gb, start: 0}, {profile: 1g.10gb, start: 3}]", "1g.10gb at 3 overlaps"),
        ("[{profile: 1g.10gb+me, start: 0}, {profile: 1g.10gb+me, start: 1}]", "more than 1 times"),
    ],
)
def test_a_cut_that_hardware_would_refuse_is_refused_with_its_field(mig: str, message: str) -> None:
    text = resources.files("driver.machines").joinpath("dgx-h100.yaml").read_text()
    assert text.count("  minor: 1\n") == 1
    with pytest.raises(ConfigError, match=message) as error:
        parse(text.replace("  minor: 1\n", f"  minor: 1\n  mig: {mig}\n"), source="m.yaml")
    assert "gpus[1].mig" in str(error.value)


def test_the_mocks_files_follow_its_instances(tmp_path: Path, library: FakeNvml) -> None:
    root = tmp_path / "proc"

    def files() -> set[str]:
        proc.render(proc.capabilities(library), root)
        top = root / CAPABILITIES
        return {str(file.relative_to(top)) for file in top.rglob("*") if file.is_file()}

    assert files() == MINORS
    parent = pynvml.nvmlDeviceGetHandleByIndex(1)
    first = pynvml.nvmlDeviceGetGpuInstanceById(parent, 1)
    third = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(
        parent, 19, pynvml.c_nvmlGpuInstancePlacement_t(5, 1)
    )
    assert files() == MINORS  # a GPU instance without compute instance is no MIG device
    pynvml.nvmlGpuInstanceCreateComputeInstance(third, 0)
    assert files() == MINORS | {"gpu1/mig/gi3/access", "gpu1/mig/gi3/ci0/access"}
    assert pynvml.nvmlGpuInstanceGetInfo(first).id == 1
    assert proc.render({}, root) == root
    assert list((root / CAPABILITIES).rglob("access")) == []


@needs_root
def test_capability_nodes_are_made_and_those_of_dead_instances_go(tmp_path: Path) -> None:
    dev.render_capabilities(set(), tmp_path)
    assert not (tmp_path / "nvidia-caps").exists()
    dev.render_capabilities({21, 22}, tmp_path)
    inode = (tmp_path / "nvidia-caps/nvidia-cap22").stat().st_ino
    dev.render_capabilities({22, 30}, tmp_path)
    nodes = {node.name: node.stat() for node in (tmp_path / "nvidia-caps").iterdir()}
    assert nodes.keys() == {"nvidia-cap22", "nvidia-cap30"}
    assert nodes["nvidia-cap22"].st_ino == inode
    assert all(stat.S_ISCHR(node.st_mode) and node.st_rdev == os.makedev(1, 3) for node in nodes.values())
