from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.kube.client import KubeClient
from tests.unit.kubeletplugin.api import FakeApi, serve
from tests.unit.kubeletplugin.world import World


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[FakeApi, KubeClient]]:
    with serve() as both:
        yield both


@pytest.fixture
def api(server: tuple[FakeApi, KubeClient]) -> FakeApi:
    """Empty again for each test."""
    fresh, kept = FakeApi(), server[0]
    kept.objects, kept.requests, kept.refuse = fresh.objects, fresh.requests, fresh.refuse
    kept.before, kept.keep_taints = fresh.before, fresh.keep_taints
    return kept


@pytest.fixture
def client(server: tuple[FakeApi, KubeClient]) -> KubeClient:
    return server[1]


@pytest.fixture
def world(tmp_path: Path, api: FakeApi, client: KubeClient) -> Iterator[World]:
    made = World(tmp_path, api, client)
    yield made
    made.close()
