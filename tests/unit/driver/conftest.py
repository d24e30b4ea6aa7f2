from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from driver.mock import sysfs
from driver.mock.machine import Machine, load
from driver.mock.nvml import FakeNvml
from tests.unit.driver.machines import Namespace

# How long an example takes says more of the machine that the tests run on than of the code.
settings.register_profile("driver", deadline=None)
settings.load_profile("driver")


@pytest.fixture(scope="session")
def dgx() -> Machine:
    return load("dgx-h100")


@pytest.fixture(scope="session")
def small_dgx() -> Machine:
    """Two VFs on each PF: fewer files to render."""
    return load("dgx-h100", vfs_per_pf=2)


@pytest.fixture(scope="session")
def dgx_sysfs(dgx: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never to be changed by a test."""
    return sysfs.render(dgx, tmp_path_factory.mktemp("dgx"))


@pytest.fixture
def sysfs_root(tmp_path: Path) -> Path:
    """A small machine of two functions that a test may break: a GPU and a NIC with one VF on one switch."""
    machine = load("dgx-h100", vfs_per_pf=1)
    from msgspec.structs import replace

    return sysfs.render(replace(machine, gpus=machine.gpus[:1], nics=machine.nics[:1]), tmp_path)


@pytest.fixture
def nvml(dgx: Machine) -> Iterator[FakeNvml]:
    fake = FakeNvml(dgx, "node-a")
    fake.install()
    yield fake
    fake.uninstall()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    found = Namespace()
    yield found
    found.close()
