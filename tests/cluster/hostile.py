"""What a hostile tenant can do with the rights of an ordinary one: attacks on the controller that all share.

Each is bounded, harmless to the API server and kube-scheduler, and needs no more than the right to create
pods and claims in one namespace. Claims are made by hand rather than from templates, so that
kube-controller-manager, whose writes are rationed, is not what is measured.
"""

from __future__ import annotations

import functools
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from driver.kube import paths
from tests.cluster.controllers import Running
from tests.controlplane import Cluster
from tests.controlplane.errors import CommandError

_GPU, _NIC = "gpu.tandem-dra.io", "rdma-vf.tandem-dra.io"
_TOO_MANY: Final = 9
"""GPUs; a node has eight."""
_DEEP: Final = 4_000
"""Levels of nested arrays in 8 KB; the API server takes 10 KiB of parameters."""
_NOWHERE: Final = {"example.com/nowhere": "true"}
_PLACEHOLDER = '"@raw@"'

Request = dict[str, Any]


def request(name: str, *selectors: str, count: int = 1, device_class: str = _GPU) -> Request:
    """A request for devices of a class."""
    return {
        "name": name,
        "exactly": {
            "deviceClassName": device_class,
            "count": count,
            "selectors": [{"cel": {"expression": expression}} for expression in selectors],
        },
    }


def config(parameters: object, driver: str = "tandem-dra.io") -> dict[str, Any]:
    """An opaque configuration."""
    return {"opaque": {"driver": driver, "parameters": parameters}}


def alignment(**fields: object) -> dict[str, Any]:
    """Parameters of kind Alignment."""
    return {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Alignment"} | fields


class Attacker:
    """Somebody with a namespace of their own, and bad intentions."""

    def __init__(self, cluster: Cluster, namespace: str, controller: Running) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.controller = controller
        self._made = 0

    def claim(self, *requests: Request, **devices: Any) -> str:
        """Creates a claim; returns its name."""
        name = self._name("claim")
        self.cluster.api.post(paths.claims(self.namespace), self._claim(name, requests, devices))
        return name

    def claim_with(self, raw: str, driver: str) -> str:
        """Creates a claim for a GPU with these bytes as parameters for a driver."""
        name = self._name("claim")
        document = self._claim(name, [request("gpu")], {"config": [config("@raw@", driver)]})
        text = json.dumps(document).replace(_PLACEHOLDER, raw)
        self.cluster.api.post(paths.claims(self.namespace), text.encode())  # kubectl would mend it
        return name

    def pod(self, *claims: str, labels: Mapping[str, str] | None = None, **spec: Any) -> str:
        """Creates a pod that waits for these claims; returns its name."""
        name = self._name("pod")
        entries = [{"name": f"c{number}", "resourceClaimName": claim} for number, claim in enumerate(claims)]
        container = {
            "name": "main",
            "image": "none",
            "resources": {"claims": [{"name": entry["name"]} for entry in entries]},
        }
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": dict(labels or {})},
            "spec": {"containers": [container], "resourceClaims": entries} | spec,
        }
        self.cluster.api.post(paths.pods(self.namespace), document)
        return name

    def asks(self, *requests: Request, **devices: Any) -> str:
        """Creates a pod with a claim of its own for these requests."""
        return self.pod(self.claim(*requests, **devices))

    def asks_nowhere(self, *requests: Request, **devices: Any) -> str:
        """The same of a pod that no node is for, so that kube-scheduler never looks at the claim."""
        return self.pod(self.claim(*requests, **devices), nodeSelector=_NOWHERE)

    def delete_pod(self, name: str) -> None:
        """Deletes a pod with grace 0, since no kubelet would end it."""
        self.cluster.api.delete(f"{paths.pod(self.namespace, name)}?gracePeriodSeconds=0")

    def leave(self) -> None:
        """Everything that was made goes."""
        self.cluster.api.delete(f"{paths.pods(self.namespace)}?gracePeriodSeconds=0")
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")

    def _claim(self, name: str, requests: Sequence[Request], devices: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name},
            "spec": {"devices": {"requests": list(requests)} | dict(devices)},
        }

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._made:04d}"


@dataclass(frozen=True, slots=True)
class Attack:
    """`begin` returns when it is under way; `end`, if there is one, stops what goes on meanwhile."""

    name: str
    begin: Callable[[Attacker], Callable[[], None] | None]


ATTACKS: list[Attack] = []


def _attack(begin: Callable[[Attacker], Callable[[], None] | None]) -> Callable[[Attacker], object]:
    ATTACKS.append(Attack(begin.__name__.strip("_").replace("_", " "), begin))
    return begin


# What cannot be read


_UNREADABLE_BYTES = {
    "deep parameters": '{"a":' + "[" * _DEEP + "]" * _DEEP + "}",
    "a lone surrogate": '{"a":"\\ud800"}',
}


def _unreadable(attacker: Attacker, raw: str, driver: str) -> None:
    attacker.pod(attacker.claim_with(raw, driver))


UNREADABLE: Final = [
    Attack(f"{what} for {whom}", functools.partial(_unreadable, raw=raw, driver=driver))
    for what, raw in _UNREADABLE_BYTES.items()
    for whom, driver in (("another driver", "other.example.com"), ("us", "tandem-dra.io"))
]
ATTACKS += UNREADABLE


# Selectors that cost


@_attack
def patterns_that_backtrack(attacker: Attacker) -> None:
    text = "a" * 40 + "!"
    for number in range(20):
        attacker.asks_nowhere(request("gpu", f'"{text}{number}".find("(a+)+$") == "x"', count=1))


@_attack
def indices_in_indices(attacker: Attacker) -> None:
    path = 'device.attributes["tandem-dra.io"].type'
    for _ in range(24):
        path = f"device.attributes[{path}].type"
    attacker.asks_nowhere(request("gpu", f'{path} == "x"'))


@_attack
def quantities_with_large_exponents(attacker: Attacker) -> None:
    for exponent in (999, -999, 5_000, -5_000):
        text = f'device.capacity["tandem-dra.io"].memory.isLessThan(quantity("1e{exponent}"))'
        attacker.asks_nowhere(request("gpu", text, count=_TOO_MANY))


@_attack
def loops_in_loops(attacker: Attacker) -> None:
    digits = "[" + ",".join(map(str, range(10))) + "]"
    for number in range(20):
        loops = f"{digits}.exists(a, {digits}.exists(b, {digits}.exists(c, a + b + c == {100 + number})))"
        attacker.asks_nowhere(request("gpu", loops))


# Questions that cost


@_attack
def alternatives_that_must_differ(attacker: Attacker) -> None:
    def alternatives(number: int) -> Request:
        options = [
            {
                "name": f"o{option}",
                "deviceClassName": _GPU,
                "selectors": [
                    {"cel": {"expression": f'device.attributes["tandem-dra.io"].rail < {8 + option}'}}
                ],
            }
            for option in range(8)
        ]
        return {"name": f"r{number}", "firstAvailable": options}

    for _ in range(4):
        attacker.asks(
            *map(alternatives, range(16)), constraints=[{"distinctAttribute": "tandem-dra.io/rail"}]
        )


def _gang(
    attacker: Attacker, name: str, size: int, members: int, *, unlike: bool, count: int, **spec: Any
) -> None:
    for number in range(members):
        selector = f'device.attributes["tandem-dra.io"].rail >= 0 && {number if unlike else 0} >= 0'
        claim = attacker.claim(
            request("gpu", selector, count=count),
            request("nic", device_class=_NIC),
            config=[config(alignment(pairs={"gpus": "gpu", "nics": "nic"}, gang={"size": size}))],
        )
        attacker.pod(claim, labels={"tandem-dra.io/gang": name}, **spec)


@_attack
def a_gang_of_unlike_pods(attacker: Attacker) -> None:
    _gang(attacker, "unlike", 24, 24, unlike=True, count=5)


@_attack
def gangs_that_do_not_fit(attacker: Attacker) -> None:
    for number in range(5):
        _gang(attacker, f"gang-{number}", 8, 8, unlike=False, count=7)


@_attack
def a_gang_that_never_fills(attacker: Attacker) -> None:
    _gang(attacker, "large", 10_000, 100, unlike=False, count=1, nodeSelector=_NOWHERE)


# Numbers


@_attack
def hopeless_pods_each_unlike_the_others(attacker: Attacker) -> None:
    for number in range(300):
        attacker.asks_nowhere(
            request("gpu", f'device.attributes["tandem-dra.io"].rail != {1000 + number}', count=_TOO_MANY)
        )


@_attack
def hopeless_pods_all_alike(attacker: Attacker) -> None:
    for _ in range(300):
        attacker.asks_nowhere(request("gpu", count=_TOO_MANY))


@_attack
def pods_with_many_large_claims(attacker: Attacker) -> None:
    for _ in range(20):
        claims = [attacker.claim(*(request(f"r{n}", count=1) for n in range(32))) for _ in range(8)]
        attacker.pod(*claims)


@_attack
def claims_that_nobody_uses_and_pods_without_claims(attacker: Attacker) -> None:
    for _ in range(300):
        attacker.claim(request("gpu"))
        attacker.pod("not-there")


@_attack
def pods_that_come_and_go(attacker: Attacker) -> None:
    for _ in range(100):
        attacker.delete_pod(attacker.asks(request("gpu", count=_TOO_MANY)))


@_attack
def a_claim_that_is_edited_all_the_time(attacker: Attacker) -> None:
    claim = attacker.claim(request("gpu", count=_TOO_MANY))
    attacker.pod(claim)
    path = paths.claim(attacker.namespace, claim)
    for number in range(300):
        note = {"metadata": {"annotations": {"resource.kubernetes.io/pod-claim-name": f"n{number}"}}}
        attacker.cluster.api.request("PATCH", path, note, "application/merge-patch+json")


@_attack
def rules_about_everybody(attacker: Attacker) -> None:
    terms = [
        {
            "topologyKey": "kubernetes.io/hostname",
            "namespaceSelector": {},
            "labelSelector": {"matchExpressions": [{"key": f"k{n}", "operator": "Exists"}]},
        }
        for n in range(50)
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    for _ in range(40):
        attacker.pod(
            attacker.claim(request("gpu", count=_TOO_MANY)),
            affinity={"podAntiAffinity": required, "podAffinity": required},
        )


# Lies


@_attack
def alignments_that_make_no_sense(attacker: Attacker) -> None:
    swapped, twice = {"gpus": "nic", "nics": "gpu"}, {"gpus": "gpu", "nics": "nic"}
    requests = (request("gpu"), request("nic", device_class=_NIC))
    attacker.asks(*requests, config=[config(alignment(pairs=swapped))])
    attacker.asks(*requests, config=[config(alignment(pairs=twice, require="PIX"))] * 2)
    attacker.asks(*requests, config=[config(alignment(pairs=twice, prefer=["PIX"] * 500))])
    for number in range(32):
        attacker.asks(*requests, config=[config({"kind": "x" * 9_000}, "tandem-dra.io")] * (number % 4 + 1))


@_attack
def tolerations_by_an_older_version(attacker: Attacker) -> None:
    tolerations = [{"operator": "Exists"}]
    flat = {"name": "gpu", "deviceClassName": _GPU, "tolerations": tolerations}
    exact = {"name": "gpu", "exactly": {"deviceClassName": _GPU, "tolerations": tolerations}}
    group = attacker.cluster.api.get("/apis/resource.k8s.io")
    versions = [entry["version"] for entry in group["versions"]]
    assert "v1beta1" in versions
    for version in versions:
        document = {
            "apiVersion": f"resource.k8s.io/{version}",
            "kind": "ResourceClaim",
            "metadata": {"name": f"tolerant-{version}"},
            "spec": {"devices": {"requests": [flat if version == "v1beta1" else exact]}},
        }
        with pytest.raises(CommandError, match="may not tolerate the device taint"):
            attacker.cluster.kubectl(
                "--namespace", attacker.namespace, "create", "--filename=-", stdin=json.dumps(document)
            )


@_attack
def claims_for_devices_of_a_driver_that_is_not_there(attacker: Attacker) -> None:
    stranger = 'device.driver == "stranger.example.com"'
    for number in range(50):
        attacker.pod(
            attacker.claim(request("gpu")), attacker.claim(request("x", f"{stranger} && {number} >= 0"))
        )


# The status port


@_attack
def half_open_requests(attacker: Attacker) -> Callable[[], None]:
    """Any pod can reach the port."""
    held: list[socket.socket] = []
    for number in range(500):
        connection = socket.create_connection(("127.0.0.1", attacker.controller.port), timeout=5)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: " if number % 2 else b"")
        held.append(connection)

    def end() -> None:
        for connection in held:
            connection.close()

    return end


@contextmanager
def under(attack: Attack, attacker: Attacker) -> Iterator[float]:
    """The attack goes on for the time of the block. Yields the seconds that it took to begin."""
    started = time.monotonic()
    end = attack.begin(attacker)
    try:
        yield time.monotonic() - started
    finally:
        if end is not None:
            end()
        attacker.leave()


(HOPELESS,) = (attack for attack in ATTACKS if attack.name.startswith("hopeless pods each"))
