"""Pairs as `tandem plan` shows them: a DGX H100's slices, with GPU 0 held, and a pod for a GPU and a VF."""

from __future__ import annotations

import json
from pathlib import Path
from xml.dom import minidom

import pytest

from cli.main import main

DATA = Path(__file__).parents[2] / "data" / "plan" / "pairs"


@pytest.mark.parametrize("name", ["one-claim-without-alignment", "two-claims"])
def test_a_gpu_and_a_vf_that_nobody_paired_are_on_one_switch(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(DATA / f"{name}.yaml")
    assert main(["plan", "-f", file, "-o", "json"]) == 0
    (pod,) = json.loads(capsys.readouterr().out)["pods"]
    pairs = [pair for claim in pod["claims"] for pair in claim["pairs"]]
    assert pairs == [{"gpu": "gpu-0000-43-00-0", "nic": "vf-0000-40-00-1", "tier": "PIX", "rail": 1}]
    assert main(["plan", "-f", file]) == 0
    table = capsys.readouterr().out
    assert "gpu-0000-43-00-0 + vf-0000-40-00-1   PIX" in table
    assert table.count("vf-0000-40-00-1") == 1
    assert main(["plan", "-f", file, "-o", "svg"]) == 0
    assert "PIX: at most one PCIe switch between" in minidom.parseString(capsys.readouterr().out).toxml()


def test_an_alignment_with_swapped_sides_waits_and_says_what_is_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "-f", str(DATA / "alignment-sides-swapped.yaml"), "-o", "json"]) == 3
    (pod,) = json.loads(capsys.readouterr().out)["pods"]
    assert pod["node"] is None
    assert pod["reason"] == (
        '0/1 nodes: 1 × config 0: pairs.gpus is "nic", which yields NICs (vf) and no GPU; '
        "right is pairs: {gpus: gpu, nics: nic}"
    )


def test_a_config_of_a_driver_that_is_nearly_ours_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = (DATA / "alignment-sides-swapped.yaml").read_text()
    head, ours, tail = swapped.rpartition("driver: tandem-dra.io")
    file = tmp_path / "misspelt.yaml"
    file.write_text(f"{head}{ours.replace('-', '.')}{tail}")
    note = (
        'config 0: opaque.driver is "tandem.dra.io", its parameters are of tandem-dra.io; '
        'nothing here reads it; right is "tandem-dra.io"'
    )
    assert main(["plan", "-f", str(file), "-o", "json"]) == 0
    (pod,) = json.loads(capsys.readouterr().out)["pods"]
    assert [claim["notes"] for claim in pod["claims"]] == [[note]]
    assert main(["plan", "-f", str(file)]) == 0
    assert f"note claim c: {note[:60]}" in capsys.readouterr().out
