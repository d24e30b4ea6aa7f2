from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.dom import minidom

import pytest

from cli.main import main
from cli.topology import run
from driver.mock import sysfs
from driver.mock.machine import known, load

AWS_P4D = """<system version="1"><cpu numaid="0"><pci busid="ffff:ff:01.0" class="0x060400">
<pci busid="0000:10:1c.0" class="0x030200"/><pci busid="0000:10:1d.0" class="0x030200"/>
<pci busid="0000:10:1b.0" class="0x020000"/></pci></cpu></system>
"""


def test_the_command_lists_the_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "--list"]) == 0
    assert capsys.readouterr().out.split() == known()


def test_an_overlay_file_corrects_a_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = tmp_path / "topo.xml"
    overlay.write_text(AWS_P4D, encoding="utf-8")
    assert run(["--machine", "aws-p4d", "--overlay", str(overlay), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row[0] for row in found["tiers"]] == ["PIX", "PIX", "NODE", "NODE", *["SYS"] * 4]


def test_an_overlay_of_another_machine_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "topo.xml"
    overlay.write_text(AWS_P4D, encoding="utf-8")
    assert run(["--machine", "dgx-h100", "--overlay", str(overlay)]) == 1
    assert "topo.xml:2: 0000:10:1c.0 is no GPU or NIC of this machine" in capsys.readouterr().err


def test_an_unknown_machine_is_an_error_that_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--machine", "dgx-h9000"]) == 1
    assert "hgx-b200" in capsys.readouterr().err


def test_a_sysfs_tree_of_another_host_shows_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = sysfs.render(load("hgx-b200"), tmp_path)
    assert run(["--sysfs", str(root), "-o", "json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert run(["--machine", "hgx-b200", "-o", "json"]) == 0
    machine = json.loads(capsys.readouterr().out)
    assert tree.pop("machine") == "HGX B200"
    assert machine.pop("machine") == "hgx-b200"
    assert tree == machine


def test_the_table_shows_matrix_places_and_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--machine", "hgx-h100-reversed"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    gpu0 = ["GPU0", "X", *["NV18"] * 7, *["SYS"] * 5, *["NODE"] * 3, "PIX", "0"]
    assert gpu0 in lines
    assert ["GPU0", "NIC8", "mlx5_8", "PIX", "0"] in lines
    assert "8 PIX" in out
    assert "0000:ab:00.0" in _table_of("hgx-h100-6nic", capsys)  # :ab: is no emoji here


def _table_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["--machine", name]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", known())
def test_the_picture_is_well_formed_and_has_every_device_and_pair(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--machine", name, "-o", "svg"]) == 0
    text = capsys.readouterr().out
    picture = minidom.parseString(text)
    assert picture.documentElement is not None
    machine = load(name)
    chips = [g for g in picture.getElementsByTagName("g") if g.getAttribute("class").startswith("on-")]
    assert len(chips) == len(machine.gpus) + len(machine.nics)
    width = float(picture.documentElement.getAttribute("width"))
    for rect in picture.getElementsByTagName("rect"):
        left = float(rect.getAttribute("x") or 0)
        assert left >= 0
        assert left + float(rect.getAttribute("width")) <= width
    assert "prefers-color-scheme: dark" in text


def test_text_in_the_picture_is_escaped() -> None:
    from cli.topology_svg import html
    from cli.topology_view import view
    from driver.devices import Inventory

    assert "<script>" not in html(view(Inventory("<script>alert(1)</script>")))


def test_it_loads_neither_kubernetes_nor_grpc_nor_netlink() -> None:
    program = (
        "import sys; from cli.main import main; main(['topology', '--machine', 'dgx-h100', '-o', 'json'])\n"
        "print([m for m in ('kubernetes', 'grpc', 'pyroute2') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
