"""Each machine, rendered and read back by the real probes, against its matrix in tests/data/machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.topology import run
from driver.mock.machine import known, load

DATA = Path(__file__).parents[2] / "data" / "machines"


def topology(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "-o", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def matrix(rows: list[str]) -> list[list[str]]:
    return [row.split() for row in rows]


def test_every_machine_has_its_expected_matrix() -> None:
    assert sorted(path.stem for path in DATA.glob("*.json")) == known()
    assert len(known()) >= 14


@pytest.mark.parametrize("name", known())
def test_a_machine_shows_its_published_matrix(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    found = topology(capsys, "--machine", name)
    assert found.keys() == {"machine", "gpus", "nics", "tiers", "pairs"}
    assert found["machine"] == name
    assert [gpu["name"] for gpu in found["gpus"]] == [f"GPU{n}" for n in range(len(found["gpus"]))]
    assert [nic["name"] for nic in found["nics"]] == [f"NIC{n}" for n in range(len(found["nics"]))]
    assert [nic["rdmaDevice"] for nic in found["nics"]] == expected["rdmaDevices"]
    assert found["tiers"] == matrix(expected["tiers"])
    assert [gpu["numaNode"] for gpu in found["gpus"]] == expected["gpuNumaNodes"]
    if expected["gpus"] is not None:
        assert [gpu["pciBusID"] for gpu in found["gpus"]] == expected["gpus"]
    if "nicNumaNodes" in expected:
        assert [nic["numaNode"] for nic in found["nics"]] == expected["nicNumaNodes"]
    rdma = {nic["name"]: nic["rdmaDevice"] for nic in found["nics"]}
    assert [f"{p['gpu']} {rdma[p['nic']]} {p['tier']}" for p in found["pairs"]] == expected["pairs"]
    assert [gpu["rail"] for gpu in found["gpus"]] == expected["gpuRails"]


@pytest.mark.parametrize("name", known())
def test_pairs_say_the_tier_of_the_matrix_and_a_rail_that_both_are_on(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = topology(capsys, "--machine", name)
    gpus = {gpu["name"]: (row, gpu) for row, gpu in enumerate(found["gpus"])}
    nics = {nic["name"]: (column, nic) for column, nic in enumerate(found["nics"])}
    for pair in found["pairs"]:
        (row, gpu), (column, nic) = gpus[pair["gpu"]], nics[pair["nic"]]
        assert found["tiers"][row][column] == pair["tier"]
        assert pair["rail"] == gpu["rail"] == nic["rail"]


@pytest.mark.parametrize("name", [name for name in known() if load(name).overlay])
def test_without_its_overlay_a_machine_shows_the_bare_tree(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    found = topology(capsys, "--machine", name, "--no-overlay")
    assert found["tiers"] == matrix(expected["bareTiers"])


@pytest.mark.parametrize("name", [name for name in known() if not load(name).overlay])
def test_a_machine_without_an_overlay_is_the_same_without_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert topology(capsys, "--machine", name, "--no-overlay") == topology(capsys, "--machine", name)
