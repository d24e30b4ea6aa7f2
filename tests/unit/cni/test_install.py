from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni.install import ChainError, NoNetworkError, default_network, install, uninstall

SOCKET, RECORDS = Path("/run/tandem/cni.sock"), Path("/run/tandem/pods")


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    conf = tmp_path / "net.d"
    conf.mkdir()
    return conf


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    shim = tmp_path / "shim"
    shim.write_bytes(b"\x7fELF")
    return shim


def network(conf: Path, file: str, name: str, **more: object) -> Path:
    path = conf / file
    path.write_text(json.dumps({"cniVersion": "1.1.0", "name": name, "plugins": [{"type": "ptp"}]} | more))
    return path


def test_install_joins_the_first_network_and_edits_no_file(tmp_path: Path, conf: Path, shim: Path) -> None:
    first = network(conf, "10-a.conflist", "kindnet")
    network(conf, "20-b.conflist", "other")
    (conf / "00-readme.txt").touch()
    before = first.read_bytes()

    report = install(tmp_path / "bin", conf, shim, SOCKET, RECORDS)

    assert (report.network, report.conflist) == ("kindnet", first)
    binary = tmp_path / "bin" / "tandem"
    assert binary.read_bytes() == b"\x7fELF"
    assert binary.stat().st_mode & 0o777 == 0o755
    assert report.drop_in is not None
    assert json.loads(report.drop_in.read_text()) == {
        "type": "tandem",
        "socket": "/run/tandem/cni.sock",
        "podRecords": "/run/tandem/pods",
    }
    assert report.changed == (binary, report.drop_in)
    assert first.read_bytes() == before
    assert sorted(path.name for path in conf.iterdir()) == [
        "00-readme.txt",
        "10-a.conflist",
        "20-b.conflist",
        "kindnet",
    ]


def test_install_again_changes_nothing(tmp_path: Path, conf: Path, shim: Path) -> None:
    network(conf, "10-a.conflist", "kindnet")
    install(tmp_path / "bin", conf, shim, SOCKET, RECORDS)
    before = {path: path.stat().st_mtime_ns for path in [conf, *conf.rglob("*")]}
    assert install(tmp_path / "bin", conf, shim, SOCKET, RECORDS).changed == ()
    assert {path: path.stat().st_mtime_ns for path in [conf, *conf.rglob("*")]} == before


def test_install_follows_when_the_default_network_changes(tmp_path: Path, conf: Path, shim: Path) -> None:
    network(conf, "20-b.conflist", "old")
    install(tmp_path / "bin", conf, shim, SOCKET, RECORDS)
    network(conf, "10-a.conflist", "new")
    install(tmp_path / "bin", conf, shim, SOCKET, RECORDS)
    assert [path.parent.name for path in conf.glob("*/50-tandem.conf")] == ["new"]
    assert not (conf / "old").exists()


def test_a_new_shim_replaces_the_old_one(tmp_path: Path, conf: Path, shim: Path) -> None:
    network(conf, "10-a.conflist", "kindnet")
    install(tmp_path / "bin", conf, shim, SOCKET, RECORDS)
    shim.write_bytes(b"\x7fELF2")
    report = install(tmp_path / "bin", conf, shim, SOCKET, RECORDS)
    assert report.changed == (tmp_path / "bin" / "tandem",)


def test_uninstall_leaves_the_host_as_it_was(tmp_path: Path, conf: Path, shim: Path) -> None:
    network(conf, "10-a.conflist", "kindnet")
    (conf / "kindnet").mkdir()
    (conf / "kindnet" / "90-another.conf").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    install(tmp_path / "bin", conf, shim, SOCKET, RECORDS)
    assert len(uninstall(tmp_path / "bin", conf).changed) == 2
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "bin"])
    assert uninstall(tmp_path / "bin", conf).changed == ()


@pytest.mark.parametrize("closed", [True, "true"])
def test_a_network_closed_to_drop_ins_is_an_error(conf: Path, closed: object) -> None:
    network(conf, "10-a.conflist", "kindnet", loadOnlyInlinedPlugins=closed)
    with pytest.raises(ChainError, match="loadOnlyInlinedPlugins"):
        default_network(conf)


def test_a_single_plugin_configuration_takes_no_drop_ins(conf: Path) -> None:
    network(conf, "10-a.conflist", "kindnet")
    (conf / "05-b.conf").write_text('{"type": "ptp", "name": "b"}')
    with pytest.raises(ChainError, match="single-plugin"):
        default_network(conf)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"name": ""}', '{"name": "a/b"}', '{"name": ".."}', '{"name": 5}']
)
def test_a_network_whose_name_is_no_folder_is_an_error(conf: Path, content: str) -> None:
    (conf / "10-a.conflist").write_text(content)
    with pytest.raises(ChainError, match=r"10-a\.conflist"):
        default_network(conf)


def test_no_network_yet_is_worth_another_try(tmp_path: Path, conf: Path) -> None:
    with pytest.raises(NoNetworkError):
        default_network(conf)
    with pytest.raises(NoNetworkError):
        default_network(tmp_path / "no-such")
