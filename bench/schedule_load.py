"""The pods of `bench.schedule`: made by the hundred, timed until they are bound, and cleaned away."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from bench.report import percentile
from bench.schedule_cluster import Arm, FakeCluster
from driver.kube import paths
from driver.kube.objects import ObjectMeta, ResourceClaimTemplate, Wire
from driver.kube.watch import Change, Informer
from driver.names import DRIVER_NAME, PCIE_SWITCH
from tests.controlplane import wait_for

_NAMESPACE: Final = "default"
_CREATORS: Final = 4
_BOUND_WITHIN_SECONDS: Final = 300.0
_CLEAN_WITHIN_SECONDS: Final = 120.0
_TEMPLATES: Final = f"/apis/resource.k8s.io/v1/namespaces/{_NAMESPACE}/resourceclaimtemplates"


@dataclass(frozen=True, slots=True)
class Case:
    """`pods` that want so many pairs each; at `per_second`, or all at once where that is 0."""

    name: str
    pairs: int
    pods: int
    per_second: float = 0.0

    def at(self, *, large: bool) -> Case:
        """The same for a large cluster, or for another."""
        return replace(self, pods=self.pods // 2) if large else self


CASES: Final = {
    case.name: case
    for case in (
        Case("one", pairs=1, pods=400),
        Case("paced", pairs=1, pods=50, per_second=10.0),
        Case("four", pairs=4, pods=100),
        Case("eight", pairs=8, pods=80),
    )
}
_WARM_UP: Final = Case("warm-up", pairs=1, pods=20)


@dataclass(frozen=True, slots=True)
class Round:
    """One burst: from the first creation to the last binding, and for each pod by itself, in seconds."""

    seconds: float
    pod_to_bound: tuple[float, ...]
    cpu_seconds: Mapping[str, float]

    @property
    def pods_per_second(self) -> float:
        """Bound pods."""
        return len(self.pod_to_bound) / self.seconds

    def __str__(self) -> str:
        p50, p99 = (percentile(self.pod_to_bound, percent) for percent in (50, 99))
        cpu = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.cpu_seconds.items())
        return f"{self.pods_per_second:.1f} pods/s, p50 {p50:.2f} s, p99 {p99:.2f} s (CPU s: {cpu})"


class _Spec(Wire, frozen=True, kw_only=True):
    node_name: str = ""


class _Pod(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: _Spec = _Spec()


class Load:
    """Watches the namespace's pods within a `with` block, and leaves it empty."""

    def __init__(self, cluster: FakeCluster, arm: Arm) -> None:
        self._cluster = cluster
        self._arm = arm
        self._bound: dict[str, float] = {}
        self._changed = threading.Condition()
        self._informer = Informer(
            cluster.client, paths.pods(_NAMESPACE), _Pod, on_change=self._note, name="bench"
        )

    def __enter__(self) -> Self:
        self._informer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._informer.stop()

    def warm_up(self) -> None:
        """A few pods, unmeasured: by then everybody has read the slices."""
        self.run(_WARM_UP)

    def run(self, case: Case) -> Round:
        """Create the case's pods and wait until all are bound. Raises TimeoutError where they are not."""
        api = self._cluster.cluster.api
        self._cluster.client.create(_TEMPLATES, _template(case, self._arm), ResourceClaimTemplate)
        names = [f"{case.name}-{number}" for number in range(case.pods)]
        created: dict[str, float] = {}

        def create(name: str) -> None:
            created[name] = time.monotonic()
            self._cluster.client.create(paths.pods(_NAMESPACE), _pod(name, case.name), _Pod)

        cpu = self._cluster.cpu_seconds()
        begin = time.monotonic()
        with ThreadPoolExecutor(_CREATORS) as pool:
            for number, name in enumerate(names):
                if case.per_second:
                    time.sleep(max(0.0, begin + number / case.per_second - time.monotonic()))
                pool.submit(create, name)
        self._wait_bound(names)
        spent = {name: used - cpu.get(name, 0.0) for name, used in self._cluster.cpu_seconds().items()}
        bound = [self._bound[name] for name in names]
        latencies = tuple(self._bound[name] - created[name] for name in names)
        self._clean()
        api.delete(f"{_TEMPLATES}/{case.name}")
        return Round(max(bound) - begin, latencies, spent)

    def _note(self, change: Change[_Pod]) -> None:
        pod = change.new
        if pod is not None and pod.spec.node_name and pod.metadata.name not in self._bound:
            with self._changed:
                self._bound[pod.metadata.name] = time.monotonic()
                self._changed.notify()

    def _wait_bound(self, names: list[str]) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._bound) == len(names), _BOUND_WITHIN_SECONDS):
                missing = sorted(set(names) - set(self._bound))
                raise TimeoutError(f"{len(missing)} pods are not bound, {missing[0]} is one")

    def _clean(self) -> None:
        """Away with pods and claims, so that the next burst finds every device free."""
        api = self._cluster.cluster.api
        self._cluster.client.delete(paths.pods(_NAMESPACE))
        claims = f"{paths.claims(_NAMESPACE)}?limit=1"

        def empty() -> bool:
            return not self._informer.snapshot() and not api.get(claims)["items"]

        wait_for("the namespace to be empty", empty, _CLEAN_WITHIN_SECONDS, 0.1)
        self._bound.clear()


def _pod(name: str, template: str) -> dict[str, Any]:
    container = {"name": "main", "image": "none", "resources": {"claims": [{"name": "devices"}]}}
    claims = [{"name": "devices", "resourceClaimTemplateName": template}]
    # Nobody is there to end the pod, so it may go at once.
    spec = {"containers": [container], "resourceClaims": claims, "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def _template(case: Case, arm: Arm) -> dict[str, Any]:
    """Pairs behind one PCIe switch, said so that the arm understands."""
    devices = _aligned(case.pairs) if arm.controller else _matched(case.pairs)
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": case.name},
        "spec": {"spec": {"devices": devices}},
    }


def _aligned(pairs: int) -> dict[str, Any]:
    alignment = {
        "apiVersion": f"{DRIVER_NAME}/v1beta1",
        "kind": "Alignment",
        "pairs": {"gpus": "gpu", "nics": "nic"},
        "require": "PIX",
    }
    return {
        "requests": [_request("gpu", "gpu", pairs), _request("nic", "rdma-vf", pairs)],
        "config": [{"opaque": {"driver": DRIVER_NAME, "parameters": alignment}}],
    }


def _matched(pairs: int) -> dict[str, Any]:
    numbers = range(pairs)
    return {
        "requests": [
            _request(f"{name}-{n}", kind, 1)
            for n in numbers
            for name, kind in (("gpu", "gpu"), ("nic", "rdma-vf"))
        ],
        "constraints": [
            {"requests": [f"gpu-{n}", f"nic-{n}"], "matchAttribute": f"{DRIVER_NAME}/{PCIE_SWITCH}"}
            for n in numbers
        ],
    }


def _request(name: str, kind: str, count: int) -> dict[str, Any]:
    return {"name": name, "exactly": {"deviceClassName": f"{kind}.{DRIVER_NAME}", "count": count}}
