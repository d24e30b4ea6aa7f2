from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeletplugin.attach.engine import AttachEngine
from tests.unit.attach.bench import Bench
from tests.unit.attach.machine import Machine
from tests.unit.attach.memory import MemoryStore


@pytest.fixture
def machine() -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    machine = Machine()
    yield machine
    machine.end()


@pytest.fixture
def bench(machine: Machine, tmp_path: Path) -> Bench:
    store = MemoryStore()

    def look_up(namespace: str, name: str, uid: str) -> None:
        store.log.append(f"look_up {namespace}/{name} {uid}")

    return Bench(machine, store, AttachEngine(store, look_up, tmp_path / "attach.lock"))
