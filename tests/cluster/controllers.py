"""Controllers as processes of their own, with the rights of their manifest and logs in files.

They are forked from a server that has imported the controller once: a real process that a test may kill, for
a tenth of the time that a fresh interpreter takes.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from controller.main import main
from tests.cluster.accounts import kubeconfig_of
from tests.controlplane import Cluster, wait_for
from tests.controlplane.errors import tail

ROOT = Path(__file__).parents[2]
SYSTEM = "tandem-system"
TIMES = ("--lease-seconds=4", "--renew-seconds=3", "--retry-seconds=0.5")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["__main__", __name__, "kubernetes.config", "kubernetes.client.rest"])


def prepare(cluster: Cluster, directory: Path) -> Path:
    """What controllers need in the cluster: namespace, roles, classes. Returns the kubeconfig of their
    service account, so that its roles are tried too.
    """
    base = ROOT / "deploy/base"
    cluster.kubectl("create", "namespace", SYSTEM)
    cluster.kubectl("apply", f"--filename={base}/fabricnetworks.yaml")
    cluster.kubectl("apply", f"--namespace={SYSTEM}", f"--filename={base}/controller-rbac.yaml")
    cluster.kubectl("apply", f"--kustomize={ROOT}/deviceclasses")
    path = directory / "controller.kubeconfig"
    path.write_text(kubeconfig_of(cluster, SYSTEM, "tandem-controller"))
    return path


class Running:
    """One controller process. It is started at once; ask `wait_synced` before it is needed."""

    def __init__(self, kubeconfig: Path, log: Path, *arguments: str) -> None:
        self.log = log
        self.log.touch()
        command = [f"--kubeconfig={kubeconfig}", f"--namespace={SYSTEM}", "--fabric-cidr=10.200.0.0/16"]
        command += ["--http-port=0", *TIMES, *arguments]
        self.process = _FORKS.Process(target=_serve, args=(command, log), daemon=True)
        self.process.start()

    @cached_property
    def port(self) -> int:
        """Of its status."""
        found = wait_for("the status port", lambda: re.search(r"status on port (\d+)", self.text()), 30, 0.02)
        return int(found[1])

    @property
    def alive(self) -> bool:
        """Has it not ended?"""
        return self.process.is_alive()

    def wait_synced(self) -> None:
        """Returns when it has seen the cluster."""
        wait_for(f"{self.log.name} to be synced", lambda: self.status("readyz") == "ok\n", 30, 0.02)

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text()

    def describe(self) -> str:
        """Whether it lives, and the end of its log."""
        return f"{self.log.name}, alive {self.alive}:\n{tail(self.text(), 20)}"

    def status(self, path: str) -> str:
        """What its HTTP port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """A figure of its own, now."""
        return read_metric(self.status("metrics"), name)

    def leads(self) -> bool:
        """Does it decide?"""
        return self.metric("leading") == 1

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signals it and waits for its end; the exit status, negative after a signal."""
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, number)
        self.process.join(20)
        assert self.process.exitcode is not None, f"it goes on: {self.describe()}"
        return self.process.exitcode


def read_metric(text: str, name: str) -> float:
    """A figure in what /metrics answers."""
    found = re.search(rf"^tandem_controller_{name} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


@contextmanager
def running(kubeconfig: Path, log: Path, *arguments: str) -> Iterator[Running]:
    """A controller for the time of the block; synced when that begins."""
    controller = Running(kubeconfig, log, *arguments)
    try:
        controller.wait_synced()
        yield controller
    finally:
        if controller.alive:
            controller.stop()
        sys.stdout.write(controller.text())


def _serve(arguments: list[str], log: Path) -> None:
    """In the new process."""
    with log.open("ab", buffering=0) as out:
        os.dup2(out.fileno(), 2)
    sys.exit(main(arguments))
