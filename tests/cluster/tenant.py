"""What a user of the cluster does in a namespace: templates, pods, and looks into them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.controlplane import BUSYBOX, Cluster, wait_for
from tests.controlplane.errors import CommandError, WaitTimeoutError

_UNTIL_TOLD_TO_END = "trap exit TERM; sleep 86400 & wait"
_UNTIL_KILLED = "trap '' TERM; while :; do sleep 86400; done"


def rail(number: int) -> str:
    """A selector: devices of that rail."""
    return f'device.attributes["tandem-dra.io"].rail == {number}'


def at(pci_address: str) -> str:
    """A selector: one device."""
    return f'device.attributes["resource.kubernetes.io"].pciBusID == "{pci_address}"'


def template(
    name: str, *, gpus: int = 1, nics: int = 1, gpu: str = "true", nic: str = "true", **alignment: Any
) -> dict[str, Any]:
    """A claim template of requests `gpu` and `nic` with those counts and CEL selectors, in PIX pairs unless
    `alignment` says otherwise.
    """

    def request(name: str, class_name: str, count: int, selector: str) -> dict[str, Any]:
        selectors = [{"cel": {"expression": selector}}]
        return {
            "name": name,
            "exactly": {"deviceClassName": class_name, "count": count, "selectors": selectors},
        }

    parameters = {
        "apiVersion": "tandem-dra.io/v1beta1",
        "kind": "Alignment",
        "pairs": {"gpus": "gpu", "nics": "nic"},
        "require": "PIX",
    } | alignment
    devices = {
        "requests": [
            request("gpu", "gpu.tandem-dra.io", gpus, gpu),
            request("nic", "rdma-vf.tandem-dra.io", nics, nic),
        ],
        "config": [{"opaque": {"driver": "tandem-dra.io", "parameters": parameters}}],
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": devices}},
    }


def claim(name: str, **asked: Any) -> dict[str, Any]:
    """A claim of its own, which several pods may use; the rest as of `template`."""
    made = template(name, **asked)
    return made | {"kind": "ResourceClaim", "spec": made["spec"]["spec"]}


def pod(
    name: str, *, node: str = "", template: str = "", claim: str = "", stubborn: bool = False
) -> dict[str, Any]:
    """A pod that runs until it is told to end (a stubborn one: until it is killed, 2 s later), with all
    devices of a claim of that template, or of that claim, or with none.

    In the node's process table its shell has the argument ``pod:<name>``.
    """
    script = _UNTIL_KILLED if stubborn else _UNTIL_TOLD_TO_END
    container: dict[str, Any] = {
        "name": "main",
        "image": BUSYBOX,
        "command": ["sh", "-c", script, f"pod:{name}"],
    }
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 2}
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    if template or claim:
        source = {"resourceClaimTemplateName": template} if template else {"resourceClaimName": claim}
        spec["resourceClaims"] = [{"name": "devices", **source}]
        container["resources"] = {"claims": [{"name": "devices"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Tenant:
    """Somebody with a namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """Its name."""
        return self._namespace

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints."""
        return self._cluster.kubectl("--namespace", self._namespace, *arguments, stdin=stdin)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Creates objects."""
        text = "\n---\n".join(json.dumps(document) for document in documents)
        self._cluster.kubectl("--namespace", self._namespace, "apply", "--filename=-", stdin=text)

    def pod(self, name: str) -> Any:
        """The pod as the API has it."""
        return self._cluster.api.get(f"/api/v1/namespaces/{self._namespace}/pods/{name}")

    def uid(self, name: str) -> str:
        """The pod's."""
        return str(self.pod(name)["metadata"]["uid"])

    def runs(self, name: str) -> bool:
        """Has its container started, and not ended?"""
        statuses = self.pod(name)["status"].get("containerStatuses", [])
        return bool(statuses) and all("running" in status["state"] for status in statuses)

    def wait_running(self, *names: str, timeout_seconds: float = 60) -> None:
        """Returns when all do."""
        try:
            wait_for(f"{', '.join(names)} to run", lambda: all(map(self.runs, names)), timeout_seconds)
        except WaitTimeoutError as error:
            raise AssertionError(f"{error}; {[self.messages(name) for name in names]}") from error

    def shell(self, name: str, script: str) -> str:
        """What a script in the pod prints."""
        return self.kubectl("exec", name, "--", "sh", "-c", script)

    def interfaces(self, name: str) -> dict[str, str]:
        """IPv4 address (CIDR) by interface, as the pod sees them, without lo."""
        lines = [line.split() for line in self.shell(name, "ip -o -4 address").splitlines()]
        return {fields[1]: fields[3] for fields in lines if fields[1] != "lo"}

    def ping(self, name: str, address: str, interface: str = "") -> bool:
        """Does the address answer the pod?"""
        over = f"-I {interface}" if interface else ""
        try:
            self.shell(name, f"ping -c 1 -W 3 {over} {address}")
        except CommandError:
            return False
        return True

    def claim(self, name: str) -> Any:
        """The one claim of a pod; None before it is made."""
        statuses = self.pod(name)["status"].get("resourceClaimStatuses")
        if not statuses:
            return None
        path = f"/apis/resource.k8s.io/v1/namespaces/{self._namespace}/resourceclaims"
        return self._cluster.api.get(f"{path}/{statuses[0]['resourceClaimName']}")

    def is_allocated(self, name: str) -> bool:
        """Has the pod's claim devices?"""
        return "allocation" in ((self.claim(name) or {}).get("status") or {})

    def claim_of(self, name: str) -> Any:
        """The one claim of a pod, once it is allocated."""
        wait_for(f"the claim of {name} to be allocated", lambda: self.is_allocated(name))
        return self.claim(name)

    def placement(self, name: str) -> Any:
        """What the controller decided for the pod: its pairs and interfaces."""
        entries = self.claim_of(name)["status"]["allocation"]["devices"]["config"]
        (mine,) = [entry for entry in entries if entry["source"] == "FromClass"]
        return mine["opaque"]["parameters"]

    def messages(self, name: str) -> list[str]:
        """Of the pod's Events."""
        selector = f"--field-selector=involvedObject.kind=Pod,involvedObject.name={name}"
        found = json.loads(self.kubectl("get", "events", selector, "--output=json"))
        return [event["message"] for event in found["items"]]

    def wait_message(self, name: str, part: str, timeout_seconds: float = 60) -> str:
        """The first message of the pod's Events with that part."""
        return wait_for(
            f"an Event of {name} with {part!r}",
            lambda: next((message for message in self.messages(name) if part in message), None),
            timeout_seconds,
        )

    def delete(self, *names: str) -> None:
        """Deletes pods; returns when they have ended and are gone."""
        self.kubectl("delete", "pods", *names, "--wait=true")

    def force_delete(self, name: str) -> None:
        """Deletes a pod with grace 0: it is gone from the API while it may still run."""
        self.kubectl("delete", "pod", name, "--force", "--grace-period=0")


def rails_of(claim: Any) -> frozenset[int]:
    """Of the claim's NICs."""
    for entry in claim["status"]["allocation"]["devices"]["config"]:
        if entry["source"] == "FromClass":
            return frozenset(i["rail"] for i in entry["opaque"]["parameters"]["interfaces"])
    raise AssertionError("no Placement")
