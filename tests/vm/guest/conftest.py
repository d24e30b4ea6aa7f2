from __future__ import annotations

import pytest

from driver.devices import Inventory
from driver.inventory import HostProbe
from tests.vm.guest import stage


@pytest.fixture(scope="session")
def machine() -> dict[str, str]:
    """PCI addresses by the names of the topology; VFs are made, display devices read as GPUs."""
    return stage.set_up()


@pytest.fixture
def probe(machine: dict[str, str]) -> HostProbe:
    return HostProbe(gpus=stage.StandInGpus(machine))


@pytest.fixture
def inventory(probe: HostProbe) -> Inventory:
    return probe.read()
