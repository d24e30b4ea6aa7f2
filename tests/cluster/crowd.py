"""Many users' pods on nodes where nothing runs them: made, looked at and removed by the dozen.

A test of who gets which devices needs no kubelet, only pods that wait and pods that are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from driver.kube import paths
from tests.controlplane import Cluster, wait_for
from tests.controlplane.api import ApiError

_TEMPLATES = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaimtemplates"
_ACCOUNT = "/api/v1/namespaces/{}/serviceaccounts/default"


class Crowd:
    """The pods of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._api = cluster.api
        self.namespace = namespace
        self._made = 0
        self._offered: dict[str, Mapping[str, Any]] = {}
        account = _ACCOUNT.format(namespace)  # without it there are no pods
        wait_for("the namespace's account", lambda: self._api.get(account), 120, retry=(ApiError,))

    def offer(self, *templates: Mapping[str, Any]) -> None:
        """Creates claim templates."""
        for template in templates:
            self._api.post(_TEMPLATES.format(self.namespace), template)
            self._offered[template["metadata"]["name"]] = template["spec"]["spec"]

    def add(
        self,
        count: int,
        *templates: str,
        by_name: str = "",
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> list[str]:
        """Pods with a claim of each template; returns their names, which sort by age.

        `by_name`: a template after which one more claim of each pod is made here, to go when the pod goes.
        (Of pods with two templates kube-controller-manager 1.36 gets some stuck: when it has not heard yet of
        one of the claims it made, it tells the pod of that one only, then of the other only, and so on.)
        """
        names = [f"pod-{self._made + index:04d}" for index in range(count)]
        self._made += count
        entries = [{"name": name, "resourceClaimTemplateName": name} for name in templates]
        container = {
            "name": "main",
            "image": "none",
            "resources": {"claims": [{"name": n} for n in templates]},
        }
        for name in names:
            claim = f"{name}-{by_name}"
            named = [{"name": by_name, "resourceClaimName": claim}] if by_name else []
            document = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": dict(labels or {})},
                "spec": {"containers": [container], "resourceClaims": entries + named} | spec,
            }
            pod = self._api.post(paths.pods(self.namespace), document)
            if by_name:
                self._api.post(paths.claims(self.namespace), self._claim(claim, by_name, pod))
        return names

    def _claim(self, name: str, template: str, pod: Mapping[str, Any]) -> dict[str, Any]:
        owner = {"apiVersion": "v1", "kind": "Pod", "controller": True}
        owner |= {key: pod["metadata"][key] for key in ("name", "uid")}
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": self._offered[template],
        }

    def succeed(self, names: Iterable[str]) -> None:
        """What the kubelet says of pods that have done their work."""
        for name in names:
            path = f"{paths.pod(self.namespace, name)}/status"
            done = {"status": {"phase": "Succeeded"}}
            self._api.request("PATCH", path, done, "application/merge-patch+json")

    def lift_gates(self, name: str) -> None:
        """The pod may be scheduled from now on."""
        opened = {"spec": {"schedulingGates": None}}
        path = paths.pod(self.namespace, name)
        self._api.request("PATCH", path, opened, "application/merge-patch+json")

    def pods(self) -> dict[str, Any]:
        """By name."""
        return {pod["metadata"]["name"]: pod for pod in self._api.get(paths.pods(self.namespace))["items"]}

    def claims(self) -> list[Any]:
        """All claims."""
        return list(self._api.get(paths.claims(self.namespace))["items"])

    def bound(self) -> dict[str, str]:
        """Node by pod, for those that have one."""
        nodes = {name: pod["spec"].get("nodeName", "") for name, pod in self.pods().items()}
        return {name: node for name, node in nodes.items() if node}

    def wait_bound(self, timeout_seconds: float = 60) -> dict[str, str]:
        """Node by pod, once every pod has one."""

        def probe() -> dict[str, str]:
            pods = self.pods()
            nodes = {name: pod["spec"].get("nodeName", "") for name, pod in pods.items()}
            assert all(nodes.values()), f"{sum(map(bool, nodes.values()))} of {len(nodes)} are bound"
            return nodes

        return wait_for("every pod to be bound", probe, timeout_seconds, 0.2, (AssertionError,))

    def wait_whole(self, timeout_seconds: float = 60) -> dict[str, list[Any]]:
        """Claims by pod, once every pod is bound and has all it asked for."""

        def probe() -> dict[str, list[Any]]:
            pods = self.pods()
            used = {name for pod in pods.values() for name in _claims_of(pod)}
            claims: dict[str, list[Any]] = {name: [] for name in pods}
            for claim in self.claims():
                if claim["metadata"]["name"] not in used:
                    continue  # kube-controller-manager made it from a stale view, after an outage
                reserved = claim.get("status", {}).get("reservedFor", [])
                assert "allocation" in claim.get("status", {}), f"{claim['metadata']['name']} has no devices"
                assert [user["name"] for user in reserved] == [
                    claim["metadata"]["ownerReferences"][0]["name"]
                ]
                claims[reserved[0]["name"]].append(claim)
            for name, pod in pods.items():
                assert len(claims[name]) == len(pod["spec"]["resourceClaims"]), f"{name} lacks a claim"
            return claims

        self.wait_bound(timeout_seconds)
        return wait_for("every claim to be reserved", probe, 20, 0.2)

    def remove(self, names: Iterable[str]) -> None:
        """Deletes pods with grace 0, since no kubelet would end them."""
        for name in names:
            try:
                self._api.delete(f"{paths.pod(self.namespace, name)}?gracePeriodSeconds=0")
            except ApiError as error:
                if error.status != 404:
                    raise

    def leave(self) -> None:
        """All go; returns when no claim is left."""
        self.remove(self.pods())
        wait_for("the claims to go", lambda: not self.claims(), 120)  # others back off after an outage

    def describe(self) -> str:
        """What is there, a line for each pod and claim."""
        lines = [
            f"pod {n}: node {p['spec'].get('nodeName') or '-'}, claims {_claims_of(p)}"
            for n, p in self.pods().items()
        ]
        for claim in self.claims():
            status, metadata = claim.get("status", {}), claim["metadata"]
            allocation = status.get("allocation", {})
            devices = [f"{r['pool']}/{r['device']}" for r in allocation.get("devices", {}).get("results", [])]
            users = [user["name"] for user in status.get("reservedFor", [])]
            lines.append(
                f"claim {metadata['name']} @{metadata['resourceVersion']}: finalizers "
                f"{metadata.get('finalizers', [])}, devices {devices}, reserved for {users}"
            )
        return "\n".join(lines)


def _claims_of(pod: Mapping[str, Any]) -> list[str]:
    """Names of the pod's claims, as far as it was told of those that were made from templates."""
    entries = [*pod["spec"].get("resourceClaims", ()), *pod["status"].get("resourceClaimStatuses", ())]
    return [entry["resourceClaimName"] for entry in entries if "resourceClaimName" in entry]


@contextmanager
def explained(*sources: Callable[[], str]) -> Iterator[None]:
    """Adds what these say to a failure of the block."""
    try:
        yield
    except Exception as error:
        for source in sources:
            error.add_note(source())
        raise
