"""What the cluster tests share: one real two-node Kubernetes per session, and a namespace per test."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pytest

from tests.cluster.tandem import Tandem, installed
from tests.cluster.tenant import Tenant
from tests.controlplane import RUNNING_CLUSTER, Cluster, state


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is in this folder, and skips it where no cluster can be."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("cluster")
            if sys.platform != "linux" or os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="a cluster needs root on Linux"))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes, Ready; the session's own, or the running one that $TANDEM_CLUSTER names."""
    if running := os.environ.get(RUNNING_CLUSTER):
        with closing(Cluster.attach(Path(running))) as attached:
            yield attached
        return
    with Cluster.start(nodes=2) as made:
        yield made
        if request.session.testsfailed:
            kept = state.keep_logs(made.directory)
            sys.stderr.write(f"\nthe cluster's logs are in {kept}\n")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """An empty namespace, removed with all in it after the test."""
    name = f"test-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    cluster.kubectl("--namespace", name, "delete", "pods", "--all", "--grace-period=1", "--wait=true")


class Kubectl(Protocol):
    """`kubectl --namespace …`: what it prints."""

    def __call__(self, *arguments: str, stdin: str | None = None) -> str: ...


@pytest.fixture
def kubectl(cluster: Cluster, namespace: str) -> Kubectl:
    """kubectl in the test's namespace."""

    def call(*arguments: str, stdin: str | None = None) -> str:
        return cluster.kubectl("--namespace", namespace, *arguments, stdin=stdin)

    return call


@pytest.fixture(scope="module")
def installation(cluster: Cluster) -> Iterator[Tandem]:
    """Tandem on the session's cluster for one module's time."""
    with installed(cluster) as made:
        yield made


@pytest.fixture
def tandem(installation: Tandem) -> Iterator[Tandem]:
    """Tandem, running on every node; after the test, when its pods are gone, nothing may be left of them."""
    installation.start()
    yield installation
    installation.wait_clean()


@pytest.fixture
def tenant(tandem: Tandem, cluster: Cluster, namespace: str) -> Iterator[Tenant]:
    """A user with an empty namespace on a cluster with Tandem."""
    yield Tenant(cluster, namespace)
    tandem.start()  # what the test has stopped is needed for the end of its pods
