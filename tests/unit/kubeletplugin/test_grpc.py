"""The kubelet's calls over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from kubeletplugin import service
from kubeletplugin.health import HealthServer, SelfProbe, ended_threads
from kubeletplugin.healthz import OK, ask
from kubeletplugin.proto import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    dra_v1beta1_pb2,
    dra_v1beta1_pb2_grpc,
    pluginregistration_pb2,
    pluginregistration_pb2_grpc,
)
from kubeletplugin.registration import Registration
from tests.unit.kubeletplugin.world import DRIVER, GPUS, POOL, VFS, World


@dataclass
class Served:
    dra: Path
    registry: Path
    registration: Registration
    channel: grpc.Channel


@pytest.fixture
def served(world: World, tmp_path: Path) -> Iterator[Served]:
    dra, registry = tmp_path / "dra.sock", tmp_path / "reg.sock"
    registration = Registration(DRIVER, dra, service.VERSIONS)
    with ThreadPoolExecutor(4) as workers, ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        service.add_to(server, world.preparer, workers)
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(registration, server)
        server.add_insecure_port(f"unix:{dra}")
        server.add_insecure_port(f"unix:{registry}")
        server.start()
        # Kubelets have sent various authorities over the years.
        options = [("grpc.default_authority", "what/ever")]
        with grpc.insecure_channel(f"unix:{dra}", options=options) as channel:
            yield Served(dra, registry, registration, channel)
        server.stop(grace=None).wait()


VERSIONS: list[tuple[Any, Any]] = [
    (dra_v1_pb2, dra_v1_pb2_grpc),
    (dra_v1beta1_pb2, dra_v1beta1_pb2_grpc),
]


@pytest.mark.parametrize(("messages", "stubs"), VERSIONS)
def test_every_claim_of_a_call_gets_its_own_answer(
    world: World, served: Served, messages: Any, stubs: Any
) -> None:
    good = world.allocate("good", GPUS[0], VFS[0])
    refs = [messages.Claim(namespace="ns", name=name, uid=f"uid-{name}") for name in ("good", "bad")]
    stub = stubs.DRAPluginStub(served.channel)
    answer = stub.NodePrepareResources(messages.NodePrepareResourcesRequest(claims=refs)).claims
    assert set(answer) == {"uid-good", "uid-bad"}
    assert "claim ns/bad: is not there any more" in answer["uid-bad"].error
    gpu, nic = answer["uid-good"].devices
    assert (list(gpu.request_names), gpu.pool_name, gpu.device_name) == (["gpu"], POOL, GPUS[0])
    assert list(nic.cdi_device_ids) == [f"{DRIVER}/claim-{good.uid}=0000:1a:00.1"]
    done = stub.NodeUnprepareResources(messages.NodeUnprepareResourcesRequest(claims=refs)).claims
    assert {uid: response.error for uid, response in done.items()} == {"uid-good": "", "uid-bad": ""}
    assert world.ledger.claims() == []


def test_a_share_is_named_in_v1(world: World, served: Served) -> None:
    world.allocate("c", GPUS[0])
    (obj,) = (obj for path, obj in world.api.objects.items() if path.endswith("/c"))
    obj["status"]["allocation"]["devices"]["results"][0]["shareID"] = "8c7d"
    ref = dra_v1_pb2.Claim(namespace="ns", name="c", uid="uid-c")
    stub = dra_v1_pb2_grpc.DRAPluginStub(served.channel)
    answer = stub.NodePrepareResources(dra_v1_pb2.NodePrepareResourcesRequest(claims=[ref]))
    assert answer.claims["uid-c"].devices[0].share_id == "8c7d"


def test_a_nic_that_stays_away_is_an_error_of_its_claim(world: World, served: Served) -> None:
    world.preparer.prepare(world.allocate("c", VFS[0]))
    world.engine.stuck = True
    ref = dra_v1_pb2.Claim(namespace="ns", name="c", uid="uid-c")
    stub = dra_v1_pb2_grpc.DRAPluginStub(served.channel)
    answer = stub.NodeUnprepareResources(dra_v1_pb2.NodeUnprepareResourcesRequest(claims=[ref]))
    assert "does not come home" in answer.claims["uid-c"].error


def test_the_kubelet_learns_who_we_are_and_says_what_became_of_it(served: Served) -> None:
    stub = pluginregistration_pb2_grpc.RegistrationStub(served.channel)
    info = stub.GetInfo(pluginregistration_pb2.InfoRequest())
    assert (info.type, info.name, info.endpoint) == ("DRAPlugin", DRIVER, str(served.dra))
    assert list(info.supported_versions) == ["v1.DRAPlugin", "v1beta1.DRAPlugin"]
    for registered in (True, False):
        stub.NotifyRegistrationStatus(
            pluginregistration_pb2.RegistrationStatus(plugin_registered=registered, error="why")
        )
        assert served.registration.registered.is_set() is registered


def test_a_thread_that_has_ended_is_named() -> None:
    thread = threading.Thread(target=lambda: None, name="one that ended")
    thread.start()
    thread.join()
    assert ended_threads([threading.current_thread().name]) == ""
    assert (
        ended_threads([threading.current_thread().name, thread.name]) == "threads have ended: one that ended"
    )


def test_health_calls_the_sockets_themselves(served: Served, tmp_path: Path) -> None:
    probe, missing = SelfProbe(served.dra, served.registry), ["no slices"]
    health = HealthServer(tmp_path / "health.sock", probe.check, lambda: missing[0])
    health.start()
    assert ask(tmp_path / "health.sock", "healthz") == OK
    assert ask(tmp_path / "health.sock", "readyz") == "no slices"
    missing[0] = ""
    assert ask(tmp_path / "health.sock", "readyz") == OK
    served.registry.unlink()
    assert f"{served.registry} is not there" in ask(tmp_path / "health.sock", "healthz")
    probe.close()
    health.stop()
    assert "No such file" in ask(tmp_path / "health.sock", "healthz")


def test_a_socket_that_nobody_serves_is_unhealthy(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    probe = SelfProbe(tmp_path / "a", tmp_path / "b")
    assert "does not answer" in probe.check()
    probe.close()
