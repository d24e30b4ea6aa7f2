"""The whole plugin as a process: no hardware, no kubelet, a small API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import msgspec
import pytest

from driver.kube import paths
from driver.mock.machine import load
from driver.mock.mig_products import Cut
from kubeletplugin.healthz import ask
from kubeletplugin.proto import dra_v1_pb2, dra_v1_pb2_grpc
from tests.unit.driver.machines import needs_root
from tests.unit.kubeletplugin.api import SLICES, FakeApi, serve
from tests.unit.kubeletplugin.world import NODE, claim

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "%s"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
users: [{name: u, user: {token: t}}]
"""

OVERLAY = """
apiVersion: tandem-dra.io/v1beta1
kind: Topology
switches:
- devices: ["0000:1b:00.0", "0000:1c:00.0"]
"""


@contextmanager
def plugin(root: Path, server: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    (root / "sys/bus/pci/devices").mkdir(parents=True, exist_ok=True)
    (root / "dev").mkdir(exist_ok=True)
    (root / "kubeconfig").write_text(KUBECONFIG % server)
    options = {
        "node-name": NODE,
        "kubeconfig": "kubeconfig",
        "sysfs": "sys",
        "dev-root": "dev",
        "plugins-dir": "plugins",
        "registry-dir": "registry",
        "pods-dir": "pods",
        "state-dir": "state",
        "cdi-dir": "cdi",
        "run-dir": "run",
        "cni-shim": "",
    }
    argv = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "kubelet-plugin", *argv, *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(true: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() or path.is_socket()}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeApi, str]]:
    with serve() as (api, client):
        api.put(paths.node(NODE), {"metadata": {"name": NODE}})
        yield api, client._host


def test_it_publishes_answers_and_leaves_no_socket_at_sigterm(
    tmp_path: Path, served: tuple[FakeApi, str]
) -> None:
    api, server = served
    with plugin(tmp_path, server) as process:
        until(lambda: api.under(SLICES) and (tmp_path / "registry/tandem-dra.io-reg.sock").exists(), process)
        health = tmp_path / "plugins/tandem-dra.io/health.sock"
        until(lambda: ask(health, "healthz") == "ok", process)
        assert ask(health, "readyz") == "the kubelet has not registered the driver"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert names(tmp_path / "registry") | names(tmp_path / "plugins") | names(tmp_path / "run") == {
        "node.lock"
    }
    assert api.under(SLICES)


def test_a_killed_ones_sockets_are_replaced_by_the_next(tmp_path: Path, served: tuple[FakeApi, str]) -> None:
    _, server = served
    health = tmp_path / "plugins/tandem-dra.io/health-{}.sock"
    for uid in ("first", "second"):
        path = Path(str(health).format(uid))
        with plugin(tmp_path, server, f"--pod-uid={uid}") as process:
            until(lambda path=path: ask(path, "healthz") == "ok", process)  # type: ignore[misc]
            process.kill()
            process.wait()
    left = names(tmp_path / "registry") | names(tmp_path / "plugins")
    assert not any("first" in name for name in left)


def test_two_instances_serve_at_once_and_one_publishes(tmp_path: Path, served: tuple[FakeApi, str]) -> None:
    api, server = served
    folder = tmp_path / "plugins/tandem-dra.io"
    with plugin(tmp_path, server, "--pod-uid=old") as old, plugin(tmp_path, server, "--pod-uid=new") as new:
        for uid, process in (("old", old), ("new", new)):
            path = folder / f"health-{uid}.sock"
            until(lambda path=path: ask(path, "healthz") == "ok", process)  # type: ignore[misc]
        until(lambda: api.under(SLICES), old)
        old.send_signal(signal.SIGTERM)
        assert old.wait(30) == 0
        (slice_,) = api.under(SLICES)
        api.remove(f"{SLICES}/{slice_['metadata']['name']}")
        until(lambda: api.under(SLICES), new)  # the other one took over


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    with plugin(tmp_path, "http://127.0.0.1:1", "--driver-name=NO") as process:
        _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert error.startswith("tandem kubelet-plugin: --driver-name: 'NO' is no DNS subdomain")


def test_an_overlay_that_contradicts_the_machine_stops_the_start_with_its_line(
    tmp_path: Path, served: tuple[FakeApi, str]
) -> None:
    api, server = served
    (tmp_path / "topology.yaml").write_text(OVERLAY)
    api.put(paths.node(NODE), {"metadata": {"name": NODE, "labels": {"tandem-dra.io/overlay": "topology"}}})
    for argument in ("--overlay=topology.yaml", "--overlay-dir=."):
        with plugin(tmp_path, server, argument) as process:
            _, error = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "tandem kubelet-plugin: topology.yaml:5: 0000:1b:00.0 is no GPU or NIC" in error
        assert "Traceback" not in error
    assert not api.under(SLICES)
    assert names(tmp_path / "registry") | names(tmp_path / "run") == set()


@needs_root
def test_a_published_mig_instance_is_prepared_with_exactly_its_nodes(
    tmp_path: Path, served: tuple[FakeApi, str]
) -> None:
    """On a simulated machine without NICs, which needs no interfaces; its second GPU is cut."""
    api, server = served
    dgx = load("dgx-h100")
    cut = msgspec.structs.replace(dgx.gpus[1], mig=(Cut("3g.40gb", 0), Cut("1g.10gb", 4)))
    machine = msgspec.structs.replace(dgx, gpus=(dgx.gpus[0], cut), nics=())
    (tmp_path / "machine.yaml").write_bytes(msgspec.json.encode(machine))
    part, whole = "mig-0000-43-00-0-1g-10gb-4", "gpu-0000-43-00-0"
    dev = tmp_path / "state/mock/dev"
    with plugin(tmp_path, server, "--mock-machine=machine.yaml", f"--state-dir={tmp_path}/state") as process:
        until(lambda: api.under(SLICES) and (tmp_path / "registry/tandem-dra.io-reg.sock").exists(), process)
        devices = {
            device["name"]: device["attributes"]
            for slice_ in api.under(SLICES)
            for device in slice_["spec"].get("devices", [])
        }
        assert devices.keys() == {"gpu-0000-1b-00-0", "mig-0000-43-00-0-3g-40gb-0", part}
        for device in (part, whole):
            api.put(paths.claim("ns", device), claim(device, [device]))
        refs = [dra_v1_pb2.Claim(namespace="ns", name=n, uid=f"uid-{n}") for n in (part, whole)]
        with grpc.insecure_channel(f"unix:{tmp_path}/plugins/tandem-dra.io/dra.sock") as channel:
            stub = dra_v1_pb2_grpc.DRAPluginStub(channel)
            answer = stub.NodePrepareResources(dra_v1_pb2.NodePrepareResourcesRequest(claims=refs)).claims
        assert "is in MIG mode" in answer[f"uid-{whole}"].error
        assert [device.device_name for device in answer[f"uid-{part}"].devices] == [part]
        (file,) = (tmp_path / "cdi").iterdir()
        (edits,) = (device["containerEdits"] for device in json.loads(file.read_text())["devices"])
    # Minors of the GPU instance 2 and its compute instance: 3 + 135 + 9 × 2, and one more.
    names = ("nvidia1", "nvidia-caps/nvidia-cap156", "nvidia-caps/nvidia-cap157", "nvidiactl", "nvidia-uvm")
    assert edits["deviceNodes"] == [{"path": f"/dev/{n}", "hostPath": f"{dev}/{n}"} for n in names]
    assert all((dev / name).is_char_device() for name in names)
    uuid = devices[part]["uuid"]["string"]
    assert uuid.startswith("MIG-")
    assert f"TANDEM_MIG_0000_43_00_0_1G_10GB_4={uuid}" in edits["env"]
