"""Compact notation for the allocator's inputs, so that a case is a few lines.

A device is one line, ``gpu-0: type=gpu pcieRoot=r0 mem~80Gi !key:NoSchedule``: ``name=value`` is an attribute
(an integer if it looks like one, true and false are booleans, ``v1.2.3`` a version), ``name~value`` a
capacity (with its policy ``~8Gi?default=1Gi,min=1Gi,max=4Gi,step=1Gi`` or ``?values=1Gi+2Gi``), ``multi``
lets several share it, ``!key:effect`` is a taint, ``-set.counter=value`` a consumption; ``name={a,b}`` is a
list, ``@node``, ``@zone=a`` or ``@all`` where it is reached from, ``bound`` binds it to a node and
``ready-first`` gives it binding conditions. ``gpu-[0-7]: rail=#`` is eight of them, # their number. pcieRoot,
numaNode and pciBusID get Kubernetes' domain, others stay unqualified.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from driver.kube.objects import Device, DeviceClass, DeviceClassConfig, Node, ResourceClaim, ResourceSlice
from driver.names import API_VERSION, DRIVER_NAME

CONTROLLER = "!tandem-dra.io/controller:NoSchedule"
_STANDARD = {"pcieRoot", "numaNode", "pciBusID"}
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")


def expand(line: str) -> list[str]:
    found = _RANGE.search(line)
    if not found:
        return [line]
    head, tail = line[: found.start()], line[found.end() :]
    return [
        one
        for number in range(int(found[1]), int(found[2]) + 1)
        for one in expand(f"{head}{number}{tail.replace('#', str(number))}")
    ]


def device(line: str, *, managed: bool = False) -> Device:
    name, _, rest = line.partition(":")
    raw: dict[str, Any] = {"name": name.strip(), "attributes": {}, "capacity": {}, "taints": []}
    counters: dict[str, dict[str, Any]] = {}
    for word in rest.split() + ([CONTROLLER] if managed else []):
        if word.startswith("!"):
            key, _, effect = word[1:].rpartition(":")
            key, _, value = key.partition("=")
            raw["taints"].append({"key": key, "value": value, "effect": effect})
        elif word.startswith("-"):
            where, _, value = word[1:].partition("=")
            counter_set, _, counter = where.partition(".")
            counters.setdefault(counter_set, {})[counter] = {"value": value}
        elif word == "multi":
            raw["allowMultipleAllocations"] = True
        elif word == "bound":
            raw["bindsToNode"] = True
        elif word == "ready-first":
            raw["bindingConditions"], raw["bindingFailureConditions"] = ["ready"], ["failed"]
        elif word.startswith("@"):
            raw |= reached_from(word[1:])
        elif "~" in word:
            key, _, value = word.partition("~")
            raw["capacity"][key] = _capacity(value)
        else:
            key, _, value = word.partition("=")
            raw["attributes"][f"resource.kubernetes.io/{key}" if key in _STANDARD else key] = _attribute(
                value
            )
    raw["consumesCounters"] = [{"counterSet": s, "counters": c} for s, c in counters.items()]
    return msgspec.convert(raw, Device)


def _capacity(text: str) -> dict[str, object]:
    value, _, policy = text.partition("?")
    rules = dict(rule.split("=") for rule in policy.split(",") if rule)
    valid = {key: rules[key] for key in ("min", "max", "step") if key in rules}
    found: dict[str, object] = {"default": rules["default"]} if "default" in rules else {}
    found |= {"validRange": valid} if valid else {}
    found |= {"validValues": rules["values"].split("+")} if "values" in rules else {}
    return {"value": value, "requestPolicy": found} if found else {"value": value}


def reached_from(text: str) -> dict[str, object]:
    """``all``, a label as ``zone=a``, ``each`` device by itself, or a node's name."""
    if text in ("all", "each"):
        return {"allNodes": True} if text == "all" else {"perDeviceNodeSelection": True}
    key, _, value = text.partition("=")
    if not value:
        return {"nodeName": text}
    term = {"key": key, "operator": "In", "values": [value]}
    return {"nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}}


def _attribute(value: str) -> dict[str, object]:
    if value.startswith("{"):
        return {"strings": value[1:-1].split(",")}
    if re.fullmatch(r"-?\d+", value):
        return {"int": int(value)}
    if value in ("true", "false"):
        return {"bool": value == "true"}
    if re.fullmatch(r"v\d+\.\d+\.\d+.*", value):
        return {"version": value[1:]}
    return {"string": value}


def slices(
    lines: Iterable[str],
    *,
    driver: str = DRIVER_NAME,
    pool: str = "pool",
    node: str = "node",
    managed: bool = False,
    cut: int = 128,
    counters: Mapping[str, Mapping[str, str]] | None = None,
) -> list[ResourceSlice]:
    devices = [device(one, managed=managed) for line in lines for one in expand(line)]
    return of_devices(devices, counters, driver=driver, pool=pool, node=node, cut=cut)


def of_devices(
    devices: Sequence[Device],
    counters: Mapping[str, Mapping[str, str]] | None = None,
    *,
    driver: str = DRIVER_NAME,
    pool: str = "pool",
    node: str = "node",
    cut: int = 128,
) -> list[ResourceSlice]:
    parts = [devices[i : i + cut] for i in range(0, len(devices), cut)] or [[]]
    sets = [
        {"name": name, "counters": {c: {"value": v} for c, v in values.items()}}
        for name, values in (counters or {}).items()
    ]
    total = len(parts) + bool(sets)
    base = {
        "driver": driver,
        "pool": {"name": pool, "generation": 1, "resourceSliceCount": total},
        "nodeName": node,
    }
    specs: list[dict[str, Any]] = [{**base, "devices": msgspec.to_builtins(part)} for part in parts]
    if sets:
        specs.append({**base, "sharedCounters": sets})
    return [
        msgspec.convert({"metadata": {"name": f"{pool}-{i}"}, "spec": spec}, ResourceSlice)
        for i, spec in enumerate(specs)
    ]


def part(
    name: str,
    lines: Iterable[str],
    *,
    driver: str,
    pool: str,
    generation: int,
    count: int,
    counters: Mapping[str, Mapping[str, str]] | None,
    where: str,
) -> ResourceSlice:
    """One slice of a pool, of devices or of counters."""
    sets = [
        {"name": of, "counters": {c: {"value": v} for c, v in values.items()}}
        for of, values in (counters or {}).items()
    ]
    devices = [msgspec.to_builtins(device(one)) for line in lines for one in expand(line)]
    spec: dict[str, Any] = {
        "driver": driver,
        "pool": {"name": pool, "generation": generation, "resourceSliceCount": count},
        **reached_from(where),
        **({"sharedCounters": sets} if sets else {"devices": devices}),
    }
    return msgspec.convert({"metadata": {"name": name}, "spec": spec}, ResourceSlice)


def node(name: str = "node", **labels: str) -> Node:
    return msgspec.convert({"metadata": {"name": name, "labels": labels}}, Node)


def classes(**expressions: str) -> dict[str, DeviceClass]:
    """Classes by name with one selector each; always ``gpu``, ``nic`` and ``any``."""
    every = {
        "gpu": f'device.attributes["{DRIVER_NAME}"].?type.orValue("") == "gpu"',
        "nic": f'device.attributes["{DRIVER_NAME}"].?type.orValue("") in ["nic", "vf"]',
        "any": "true",
        **expressions,
    }
    return {
        name: msgspec.convert(
            {"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": text}}]}}, DeviceClass
        )
        for name, text in every.items()
    }


def request(text: str) -> dict[str, Any]:
    """``gpu: gpu x4 mem~2Gi if <CEL>``: name, class, count (or ``all``), capacity, selector; ``admin``
    access; ``+key:effect`` or ``+key=value:effect`` a toleration; ``a | b``: subrequests s0, s1.
    """
    name, _, rest = text.partition(":")
    options = [_exact(part) for part in rest.split(" | ")]
    if len(options) == 1:
        return {"name": name.strip(), "exactly": options[0]}
    return {
        "name": name.strip(),
        "firstAvailable": [{"name": f"s{i}", **option} for i, option in enumerate(options)],
    }


def _exact(text: str) -> dict[str, Any]:
    what, _, expression = text.partition(" if ")
    words = what.split()
    answer: dict[str, Any] = {"deviceClassName": words[0]}
    for word in words[1:]:
        if word == "all":
            answer["allocationMode"] = "All"
        elif word == "admin":
            answer["adminAccess"] = True
        elif "~" in word:
            key, _, amount = word.partition("~")
            answer.setdefault("capacity", {"requests": {}})["requests"][key] = amount
        elif word.startswith("x"):
            answer["count"] = int(word[1:])
        elif word.startswith("+"):
            key, _, effect = word[1:].partition(":")
            key, equal, value = key.partition("=")
            rule = {"operator": "Equal", "value": value} if equal else {"operator": "Exists"}
            answer.setdefault("tolerations", []).append({"key": key, **rule, "effect": effect})
    if expression:
        answer["selectors"] = [{"cel": {"expression": expression}}]
    return answer


def opaque(text: str) -> dict[str, Any]:
    """``gpu, nic: hello`` is another driver's configuration of these requests; without names, of all."""
    requests, _, word = text.rpartition(":")
    config = {"opaque": {"driver": "d.io", "parameters": {"say": word.strip()}}}
    return {"requests": [name.strip() for name in requests.split(",")], **config} if requests else config


def class_config(config: str | Mapping[str, Any]) -> DeviceClassConfig:
    """Another driver's word, or the fields of an Alignment."""
    raw = opaque(config) if isinstance(config, str) else alignment(**config)
    return msgspec.json.decode(msgspec.json.encode(raw), type=DeviceClassConfig)


def alignment(gpus: str = "gpu", nics: str = "nic", **more: Any) -> dict[str, Any]:
    parameters = {
        "apiVersion": API_VERSION,
        "kind": "Alignment",
        "pairs": {"gpus": gpus, "nics": nics},
        **more,
    }
    return {"opaque": {"driver": DRIVER_NAME, "parameters": parameters}}


def claim(
    requests: Sequence[str],
    *,
    name: str = "claim",
    match: Mapping[str, Sequence[str]] | Sequence[tuple[str, Sequence[str]]] = (),
    distinct: Sequence[tuple[str, Sequence[str]]] = (),
    config: Sequence[Mapping[str, Any]] = (),
) -> ResourceClaim:
    pairs = list(match.items()) if isinstance(match, Mapping) else list(match)
    constraints: list[dict[str, Any]] = [{"matchAttribute": a, "requests": list(r)} for a, r in pairs]
    constraints += [{"distinctAttribute": a, "requests": list(r)} for a, r in distinct]
    spec = {"requests": [request(r) for r in requests], "constraints": constraints, "config": list(config)}
    raw = {"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"devices": spec}}
    return msgspec.json.decode(msgspec.json.encode(raw), type=ResourceClaim)
