from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from driver.kube import paths
from kubeletplugin.attach.store import HomeState, Sandbox
from kubeletplugin.status import StatusWriter
from tests.unit.kubeletplugin.world import DRIVER, GPUS, VFS, World, config, placement


@pytest.fixture
def writer(world: World) -> Iterator[StatusWriter]:
    made = StatusWriter(world.client, world.ledger, DRIVER, backoff_first_seconds=0.01)
    made.start()
    yield made
    made.stop()


def written(world: World, name: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 30
    while True:
        found: list[dict[str, Any]] = world.api.objects[paths.claim("ns", name)]["status"].get("devices", [])
        if found:
            return found
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


def test_each_device_is_ready_and_says_its_pair_and_interface(world: World, writer: StatusWriter) -> None:
    pair = {"gpu": GPUS[0], "nic": VFS[0], "tier": "PIX", "rail": 2}
    word = placement((VFS[0], "net1", ["10.0.2.1/24"]), pairs=[pair])
    ref = world.allocate("c", GPUS[0], VFS[0], configs=[config(word)])
    world.preparer.prepare(ref)
    sandbox = Sandbox("uid-pod-1", "ns/pod-1", "k", "", 1)
    home = HomeState("eth1", "02:00:00:00:00:01", 1500)
    rows = [replace(row, sandbox=sandbox, home=home) for row in world.ledger.by_claim(ref.uid)]
    world.ledger.begin_attach(rows)
    world.ledger.finish_attach(rows)
    writer.changed(ref.uid)
    gpu, nic = written(world, "c")
    assert gpu["data"] == {"pair": pair}
    assert nic["data"] == {"pair": pair, "rdmaDevice": "mlx5_1"}
    assert [entry["conditions"][0]["status"] for entry in (gpu, nic)] == ["True", "True"]
    assert nic["networkData"] == {
        "interfaceName": "net1",
        "ips": ["10.0.2.1/24"],
        "hardwareAddress": "02:00:00:00:00:01",
    }
    assert "networkData" not in gpu


def test_a_server_that_is_away_is_asked_again(world: World, writer: StatusWriter) -> None:
    ref = world.allocate("c", GPUS[0])
    world.preparer.prepare(ref)
    world.api.refuse = [503, 429]
    writer.changed(ref.uid)
    assert written(world, "c")
    assert world.api.refuse == []


def test_a_claim_that_is_gone_or_refused_stops_nothing(world: World, writer: StatusWriter) -> None:
    refs = {name: world.allocate(name, device) for name, device in zip("ab", GPUS, strict=True)}
    for ref in refs.values():
        world.preparer.prepare(ref)
    world.api.remove(paths.claim("ns", "a"))
    writer.changed(refs["a"].uid)
    writer.changed("never prepared")
    writer.changed(refs["b"].uid)
    assert written(world, "b")
