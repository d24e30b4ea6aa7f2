"""What the components are told."""

from __future__ import annotations

import json
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.controlplane import config
from tests.controlplane.addresses import Addresses
from tests.controlplane.build import Programs
from tests.controlplane.config import Options
from tests.controlplane.images import PAUSE
from tests.controlplane.pki import Certificate

ADDRESSES = Addresses(IPv4Network("10.89.0.0/16"))
CERTIFICATE = Certificate(Path("/pki/x.crt"), Path("/pki/x.key"))


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    for name in ("kube-apiserver", "kube-scheduler", "kubelet"):
        (tmp_path / name).touch()
    return Programs((tmp_path,))


def _api_server(programs: Programs, options: Options) -> list[str]:
    return config.api_server(
        programs, ADDRESSES, Path("/pki/ca.crt"), Path("/pki/sa.key"), CERTIFICATE, CERTIFICATE, options
    )


def test_without_options_no_feature_gate_is_touched(programs: Programs) -> None:
    flags = _api_server(programs, Options())
    assert not [flag for flag in flags if flag.startswith(("--feature-gates", "--runtime-config"))]


def test_feature_gates_reach_control_plane_and_kubelet(programs: Programs) -> None:
    options = Options(feature_gates={"DRADeviceTaints": False, "Beta": True})
    assert "--feature-gates=Beta=true,DRADeviceTaints=false" in _api_server(programs, options)
    assert "--feature-gates=Beta=true,DRADeviceTaints=false" in config.scheduler(programs, Path("k"), options)
    kubelet = json.loads(config.kubelet_configuration("tandem-1a2b/node-0", options))
    assert kubelet["featureGates"] == {"DRADeviceTaints": False, "Beta": True}


def test_given_arguments_come_last_and_only_to_their_component(programs: Programs) -> None:
    options = Options(arguments={"kube-scheduler": ["--v=5"]})
    assert config.scheduler(programs, Path("k"), options)[-1] == "--v=5"
    assert "--v=5" not in _api_server(programs, options)


def test_the_api_server_authorizes_nodes_as_nodes(programs: Programs) -> None:
    flags = _api_server(programs, Options())
    assert "--authorization-mode=Node,RBAC" in flags
    assert "--enable-admission-plugins=NodeRestriction" in flags
    assert "--advertise-address=10.89.0.1" in flags


def test_kubelet_fields_may_be_replaced() -> None:
    changed = json.loads(config.kubelet_configuration("c", Options(kubelet={"maxPods": 5})))
    assert changed["maxPods"] == 5
    assert changed["cgroupRoot"] == "/c"


def test_containerd_runs_our_runc_with_our_pause_image() -> None:
    parsed = tomllib.loads(config.containerd_configuration(Path("/programs/runc")))
    plugins = parsed["plugins"]
    runtime = plugins["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["runc"]
    assert runtime["options"] == {"BinaryName": "/programs/runc", "SystemdCgroup": False}
    assert plugins["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == PAUSE


def test_the_pod_network_gives_out_the_nodes_own_range() -> None:
    network = json.loads(config.pod_network("default", ADDRESSES.pods_of(3)))
    assert network["name"] == "default"
    assert network["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.89.67.0/24"}]]
