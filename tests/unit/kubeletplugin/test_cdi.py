from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kubeletplugin.cdi import CdiFiles, device_id, rdma_environment, spec
from kubeletplugin.planner import DeviceNode, Plan, PlannedDevice

DRIVER = "tandem-dra.io"
UID = "0b9c9e6e-1111-2222-3333-444455556666"


def gpu(host: str = "/dev/nvidia0") -> PlannedDevice:
    env = (("NVIDIA_VISIBLE_DEVICES", "void"),)
    return PlannedDevice("gpu", "p", "gpu-1", None, True, "gpu-1", env, (DeviceNode("/dev/nvidia0", host),))


def nic(name: str = "0000:1a:00.1", rdma: str = "mlx5_1") -> PlannedDevice:
    return PlannedDevice("nic", "p", f"vf-{name}", None, True, name, (("X", "y"),), (), rdma)


def made(*devices: PlannedDevice, uid: str = UID) -> Plan:
    return Plan(uid, "ns", "c", devices, (), (), False)


def test_the_identifier_is_of_the_form_that_runtimes_parse() -> None:
    assert device_id(DRIVER, UID, nic()) == f"tandem-dra.io/claim-{UID}=0000:1a:00.1"
    kind, name = device_id(DRIVER, UID, nic()).split("=")
    assert re.fullmatch(r"[A-Za-z0-9.]([-A-Za-z0-9_.]*[A-Za-z0-9])?/[A-Za-z][-A-Za-z0-9_]*[A-Za-z0-9]", kind)
    assert re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9_.:]*[A-Za-z0-9]", name)


def test_the_lowest_version_is_asked_for_that_serves() -> None:
    assert spec(DRIVER, made(gpu()), [])["cdiVersion"] == "0.3.0"
    assert spec(DRIVER, made(gpu("/mock/nvidia0")), [])["cdiVersion"] == "0.5.0"
    assert spec(DRIVER, made(nic()), [])["cdiVersion"] == "0.5.0"


def test_a_gpus_device_says_nothing_of_nics() -> None:
    plain, network = spec(DRIVER, made(gpu(), nic()), [gpu(), nic(), nic("0000:1a:00.2", "mlx5_2")])[
        "devices"
    ]
    assert plain["containerEdits"] == {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidia0"}],
    }
    assert "NCCL_IB_HCA==mlx5_1:1,mlx5_2:1" in network["containerEdits"]["env"]
    assert "UCX_NET_DEVICES=mlx5_1:1,mlx5_2:1" in network["containerEdits"]["env"]


def test_the_host_path_is_written_where_it_differs() -> None:
    (device,) = spec(DRIVER, made(gpu("/mock/nvidia0")), [])["devices"]
    assert device["containerEdits"]["deviceNodes"] == [{"path": "/dev/nvidia0", "hostPath": "/mock/nvidia0"}]


def test_without_rdma_nothing_is_said_of_it() -> None:
    assert rdma_environment([gpu(), nic(rdma="")]) == {}


def test_a_traffic_class_is_told_where_all_nics_have_the_same() -> None:
    lossless, plain = replace(nic(), traffic_class=106), nic("0000:1a:00.2", "mlx5_2")
    other = replace(plain, traffic_class=104)
    assert rdma_environment([gpu(), lossless])["NCCL_IB_TC"] == "106"
    assert rdma_environment([lossless])["UCX_IB_TRAFFIC_CLASS"] == "106"
    for mixed in ([lossless, plain], [lossless, other], [plain]):
        assert not {"NCCL_IB_TC", "UCX_IB_TRAFFIC_CLASS"} & rdma_environment(mixed).keys()


@given(st.lists(st.from_regex(r"mlx5_[0-9]{1,3}", fullmatch=True), min_size=1, unique=True))
def test_nccl_compares_whole_names(names: list[str]) -> None:
    value = rdma_environment([nic(name, name) for name in names])["NCCL_IB_HCA"]
    assert value.startswith("=")
    assert value[1:].split(",") == [f"{name}:1" for name in names]


def test_a_file_is_replaced_whole_and_removed(tmp_path: Path) -> None:
    files = CdiFiles(tmp_path / "cdi", DRIVER)
    files.write(made(gpu()), [])
    files.write(made(gpu(), nic()), [nic()])
    (file,) = (tmp_path / "cdi").iterdir()
    assert file.name == f"tandem-dra.io-claim-{UID}.json"
    assert len(json.loads(file.read_text())["devices"]) == 2
    files.remove(UID)
    files.remove(UID)
    assert list((tmp_path / "cdi").iterdir()) == []


def test_pruning_takes_our_strays_alone(tmp_path: Path) -> None:
    files = CdiFiles(tmp_path, DRIVER)
    files.prune([])
    files.write(made(gpu()), [])
    files.write(made(gpu(), uid="over"), [])
    (tmp_path / ".tandem-dra.io-claim-x.json.123").touch()
    (tmp_path / "nvidia.com-gpu.json").touch()
    files.prune([UID])
    assert {f.name for f in tmp_path.iterdir()} == {f"tandem-dra.io-claim-{UID}.json", "nvidia.com-gpu.json"}
