from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from driver.devices import Inventory
from driver.errors import ConfigError
from kubeletplugin.machine import Machine, at_home, find_overlay
from tests.unit.kubeletplugin.world import Listing, inventory


def poorer(found: Inventory) -> Inventory:
    """The first VF as it looks while it is in a pod, with its RDMA device."""
    nic = found.nics[0]
    away = replace(nic.vfs[0], netdev=None, rdma=None)
    return replace(found, nics=(replace(nic, vfs=(away, *nic.vfs[1:])), *found.nics[1:]))


def test_a_nic_in_a_pod_keeps_its_rdma_device() -> None:
    whole = inventory()
    address = whole.nics[0].vfs[0].pci_address
    seen = at_home(poorer(whole), whole, {address: "mlx5_1"})
    assert seen.nics[0].vfs[0].rdma == whole.nics[0].vfs[0].rdma


def test_after_a_restart_at_least_its_name_is_known() -> None:
    address = inventory().nics[0].vfs[0].pci_address
    seen = at_home(poorer(inventory()), Inventory(machine=""), {address: "mlx5_1"})
    rdma = seen.nics[0].vfs[0].rdma
    assert rdma is not None
    assert rdma.name == "mlx5_1"


def test_a_pf_in_a_pod_is_published_as_it_was() -> None:
    whole = replace(inventory(), nics=tuple(replace(nic, vfs=()) for nic in inventory().nics))
    gone = replace(whole, nics=(replace(whole.nics[0], name="0000:1a:00.0"), whole.nics[1]))
    assert at_home(gone, whole, {"0000:1a:00.0": None}) == whole


def test_what_is_at_home_and_lost_its_rdma_device_has_lost_it() -> None:
    whole = inventory()
    assert at_home(poorer(whole), whole, {"0000:2a:00.1": "mlx5_3"}).nics[0].vfs[0].rdma is None


def test_facts_are_read_when_asked_fresh_and_mended_first(tmp_path: Path) -> None:
    for name in ("infiniband", "nvidia-caps"):
        (tmp_path / name).mkdir()
    for name in ("nvidia0", "sda", "infiniband/uverbs1", "nvidia-caps/nvidia-cap21"):
        (tmp_path / name).touch()
    mended: list[frozenset[str]] = []
    probe = Listing()
    machine = Machine(probe, tmp_path, lambda: {"0000:1a:00.1": None}, mended.append)
    assert machine.facts().dev_nodes == {
        "nvidia0",
        "infiniband/uverbs1",
        "nvidia-caps/nvidia-cap21",
    }
    probe.found = Inventory(machine="other")
    assert machine.facts().inventory.machine == "test"
    assert machine.facts(fresh=True).inventory.machine == "other"
    assert mended == [frozenset({"0000:1a:00.1"})] * 2


def test_the_label_of_a_node_names_its_overlay(tmp_path: Path) -> None:
    (tmp_path / "azure.xml").touch()
    assert find_overlay(tmp_path, {"tandem-dra.io/overlay": "azure"}) == tmp_path / "azure.xml"
    assert find_overlay(tmp_path, {"other": "azure"}) is None


def test_a_label_without_its_file_or_with_two_is_refused(tmp_path: Path) -> None:
    labels = {"tandem-dra.io/overlay": "azure"}
    with pytest.raises(ConfigError, match=r"there is no azure.xml or azure.yaml or azure.yml"):
        find_overlay(tmp_path, labels)
    for name in ("azure.xml", "azure.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="there is more than one"):
        find_overlay(tmp_path, labels)
