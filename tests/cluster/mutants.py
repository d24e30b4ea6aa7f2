"""Objects that are nearly right: examples of the kinds that placement looks at, and their faults."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]
_Place = tuple[Any, Any]

_TOLERATION: Final = {"key": "example.com/old", "operator": "Equal", "value": "yes", "effect": "NoExecute"}
_SELECTOR: Final = {"cel": {"expression": 'device.driver == "other.example.com"'}}
_OPAQUE: Final = {"opaque": {"driver": "other.example.com", "parameters": {"kind": "Any"}}}
_METADATA: Final = {
    "labels": {"app": "x", "example.com/team": ""},
    "annotations": {"example.com/note": "Any"},
}
_NODES: Final = {
    "nodeSelectorTerms": [
        {
            "matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a", "b"]},
                {"key": "size", "operator": "Gt", "values": ["3"]},
                {"key": "example.com/gpu", "operator": "Exists"},
            ],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}],
        }
    ]
}


def _wanted(**more: Any) -> Json:
    return {
        "deviceClassName": "gpu.example.com",
        "selectors": [_SELECTOR],
        "allocationMode": "ExactCount",
        "count": 2,
        "tolerations": [{**_TOLERATION, "tolerationSeconds": 30}, {"operator": "Exists"}],
        "capacity": {"requests": {"memory": "10Gi", "example.com/bandwidth": "5"}},
        **more,
    }


def _claim_spec() -> Json:
    requests = [
        {"name": "gpu", "exactly": _wanted(adminAccess=False)},
        {"name": "all", "exactly": {"deviceClassName": "nic", "allocationMode": "All"}},
        {"name": "nic", "firstAvailable": [_wanted(name="big"), {"name": "small", "deviceClassName": "nic"}]},
    ]
    constraints = [
        {"requests": ["gpu", "nic"], "matchAttribute": "example.com/numa"},
        {"requests": ["nic/big", "gpu"], "distinctAttribute": "example.com/rail"},
        {"matchAttribute": "resource.kubernetes.io/pcieRoot"},
    ]
    config = [{"requests": ["gpu", "nic/small"], **_OPAQUE}, _OPAQUE]
    return {"devices": {"requests": requests, "constraints": constraints, "config": config}}


def _device(name: str, **more: Any) -> Json:
    attributes = {
        "model": {"string": "H100"},
        "example.com/numa": {"int": 1},
        "healthy": {"bool": True},
        "driverVersion": {"version": "1.2.3-rc.1+build"},
    }
    capacity: Json = {"memory": {"value": "80Gi"}, "example.com/lanes": {"value": "16"}}
    return {"name": name, "attributes": attributes, "capacity": capacity, **more}


def _shared_device() -> Json:
    capacity = {
        "bandwidth": {
            "value": "100",
            "requestPolicy": {"default": "10", "validRange": {"min": "5", "max": "50", "step": "5"}},
        },
        "slots": {"value": "8", "requestPolicy": {"default": "1", "validValues": ["1", "2", "4"]}},
    }
    return {"name": "nic-0", "allowMultipleAllocations": True, "capacity": capacity}


def _slice(name: str, **spec: Any) -> Json:
    pool = {"name": "example.com/node-a", "generation": 3, "resourceSliceCount": 2}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name, **_METADATA},
        "spec": {"driver": "other.example.com", "pool": pool, **spec},
    }


def examples() -> dict[str, Json]:
    """Right ones, by a title of their own; each has every field that its kind knows, in one form at least."""
    taints = [{"key": "example.com/old", "value": "yes", "effect": "NoSchedule"}]
    uses = [{"counterSet": "gpu-0", "counters": {"memory": {"value": "10Gi"}, "slices": {"value": "1"}}}]
    counters = [
        {"name": "gpu-0", "counters": {"memory": {"value": "80Gi"}, "slices": {"value": "7"}}},
        {"name": "gpu-1", "counters": {"memory": {"value": "80Gi"}}},
    ]
    claim = {"apiVersion": "resource.k8s.io/v1", "metadata": {"name": "example", **_METADATA}}
    return {
        "claim": {**claim, "kind": "ResourceClaim", "spec": _claim_spec()},
        "template": {
            **claim,
            "kind": "ResourceClaimTemplate",
            "spec": {"metadata": {"labels": {"app": "x"}}, "spec": _claim_spec()},
        },
        "class": {
            **claim,
            "kind": "DeviceClass",
            "spec": {
                "selectors": [_SELECTOR, _SELECTOR],
                "config": [_OPAQUE],
                "extendedResourceName": "example.com/gpu",
            },
        },
        "slice of a node": _slice(
            "of-a-node",
            nodeName="node-a",
            devices=[_device("gpu-0", taints=taints, consumesCounters=uses), _shared_device()],
        ),
        "slice of some nodes": _slice("of-nodes", nodeSelector=_NODES, devices=[_device("gpu-0")]),
        "slice of counters": _slice("of-counters", allNodes=True, sharedCounters=counters),
        "slice by device": _slice(
            "by-device",
            perDeviceNodeSelection=True,
            devices=[
                _device("a", nodeName="node-a"),
                _device("b", nodeSelector=_NODES),
                _device("c", allNodes=True),
            ],
        ),
    }


def looser_examples() -> dict[str, Json]:
    """Right ones of kinds that have many fields more."""
    selector = {
        "matchLabels": {"app": "x"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}],
    }
    term = {"labelSelector": selector, "topologyKey": "zone"}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    amounts = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi", "cpu": "2"}}
    main = {
        "name": "main",
        "image": "none",
        "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
        "resources": {**amounts, "claims": [{"name": "made", "request": "gpu"}]},
    }
    sidecar = {"name": "sidecar", "image": "none", "restartPolicy": "Always"}
    spread = {
        "maxSkew": 1,
        "minDomains": 2,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector,
        "nodeAffinityPolicy": "Honor",
        "nodeTaintsPolicy": "Ignore",
    }
    pod = {
        "containers": [main],
        "initContainers": [
            {**sidecar, "ports": main["ports"], "resources": {"requests": {"cpu": "500m"}}},
            {"name": "before", "image": "none", "ports": main["ports"]},
        ],
        "resourceClaims": [
            {"name": "made", "resourceClaimTemplateName": "template"},
            {"name": "there", "resourceClaimName": "claim"},
        ],
        "nodeSelector": {"a": "b"},
        "schedulingGates": [{"name": "example.com/gate"}],
        "tolerations": [_TOLERATION, {"operator": "Exists"}, {**_TOLERATION, "tolerationSeconds": 5}],
        "affinity": {
            "nodeAffinity": {required: _NODES},
            "podAffinity": {required: [{**term, "namespaces": ["default"]}]},
            "podAntiAffinity": {required: [{**term, "namespaceSelector": selector}]},
        },
        "topologySpreadConstraints": [spread],
    }
    node = {"unschedulable": True, "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}
    return {
        "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **_METADATA}, "spec": pod},
        "node": {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "some-node", **_METADATA},
            "spec": node,
            "status": {"allocatable": {"cpu": "4", "memory": "1Gi"}},
        },
    }


_VALUES: Final[tuple[Any, ...]] = (
    None,
    "",
    "x",
    "X",
    "-x",
    "a_b",
    "a/b",
    "a.b/c",
    "A.b/c",
    "a.b/c-d",
    "x" * 32,
    "x" * 33,
    "x" * 63,
    "x" * 64,
    "x" * 65,
    "x." * 126 + "x",
    "x." * 127 + "x",
    "1.2",
    "1.2.3",
    "01.2.3",
    "All",
    "Exists",
    "In",
    "Gt",
    "None",
    "NoExecute",
    "gpu",
    "nic/big",
    "nic/none",
    "gpu/big",
    0,
    -1,
    1,
    2,
    33,
    1.5,
    2**40,
    "0",
    "-1",
    "7",
    "1e3",
    "10Gi",
    "1.5",
    "1K",
    "0.0000000001",
    "+1",
    "1Ei",
    " 1",
    True,
    False,
    [],
    {},
    ["x"],
    [None],
    {"x": "y"},
    {"x": None},
)
_KEYS: Final = (
    "Name",
    "extra",
    "count",
    "value",
    "int",
    "string",
    "nodeName",
    "allNodes",
    "X",
    "a/b",
    "a.b/c",
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """An object with one change, and where it is."""

    title: str
    object: Json


def mutants(examples: Mapping[str, Json], seed: int, count: int) -> Iterator[Mutant]:
    """Examples with one change each, two at times; the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        title, original = chance.choice(list(examples.items()))
        changed = copy.deepcopy(original)
        for _ in range(chance.choice((1, 1, 1, 2))):
            title = f"{title}: {_change(chance, changed)}"
        yield Mutant(title, changed)


def _change(chance: random.Random, item: Json) -> str:
    places = [*_places(item["metadata"], "metadata"), *_places(item.get("spec"), "spec")]
    places += [("spec", (item, "spec"))] if "spec" in item else []
    where, (holder, key) = chance.choice(places)
    kind = chance.choice(("value", "value", "value", "gone", "twice", "many", "key", "more"))
    if kind == "gone":
        del holder[key]
    elif kind in ("twice", "many") and isinstance(holder, list):
        times = 1 if kind == "twice" else chance.choice((4, 8, 16, 31, 32, 64, 128))
        holder.extend(_renamed(holder[key], n if chance.random() < 0.7 else 0) for n in range(times))
        kind = f"{times} more"
    elif kind == "key" and isinstance(holder, dict):
        name = chance.choice((*_KEYS, *(v for v in _VALUES if isinstance(v, str))))
        holder[name] = holder.pop(key)
        kind = f"called {name[:40]}"
    elif kind == "more" and isinstance(holder, dict):
        name = chance.choice(_KEYS)
        holder[name] = value = chance.choice(_VALUES)
        kind = f"{name}={str(value)[:40]!r} beside it"
    else:
        holder[key] = value = copy.deepcopy(chance.choice(_VALUES))
        kind = f"is {str(value)[:40]!r}"
    return f"{where} {kind}"


def _renamed(value: Any, number: int) -> Any:
    """A copy; with another name, unless the number is 0."""
    made = copy.deepcopy(value)
    if number and isinstance(made, dict) and "name" in made:
        made["name"] = f"{made['name']}-{number}"
    elif number and isinstance(made, dict) and "key" in made:
        made["key"] = f"{made['key']}-{number}"
    return made


def _places(value: Any, path: str) -> Iterator[tuple[str, _Place]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("expression", "parameters"):
                yield f"{path}.{key}", (value, key)
                yield from _places(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield f"{path}[{index}]", (value, index)
            yield from _places(inner, f"{path}[{index}]")
