"""Random questions of fit: where may a pod go, beside pods that have their nodes?

Each question has a few kinds of rules only, or every node would be closed for many reasons at once and a
wrong answer about one would not show. Valid objects, as the API server would hand them out.
"""

from __future__ import annotations

import random
from typing import Any

Json = dict[str, Any]

_RULES = ("affinity", "anti", "spread", "spread", "ports", "resources", "nodes")
_KEYS = ("zone", "rack", "kubernetes.io/hostname")
_APPS = ("a", "b", "c")


def question(seed: int, number: int) -> Json:
    """The question of this number: `namespaces`, `nodes`, `pods` and the `pod` that looks for a node."""
    draw = random.Random(f"{seed}/{number}")
    rules = {draw.choice(_RULES), draw.choice(_RULES)}
    if "spread" in rules and draw.random() < 0.5:
        rules = {"spread", "nodes"}  # the policies say which nodes count
    namespaces = [
        {
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/metadata.name": name, **_some(draw, {"team": "x"})},
            }
        }
        for name in ("one", "two", "three")
    ]
    nodes = [_node(draw, f"n{index}", rules) for index in range(draw.randint(1, 7))]
    pods = [{**_pod(draw, f"p{index}", rules, placed=True)} for index in range(draw.choice((0, 2, 5, 14)))]
    for pod in pods:
        pod["spec"]["nodeName"] = draw.choice(nodes)["metadata"]["name"]
        if draw.random() < 0.15:
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "namespaces": namespaces,
        "nodes": nodes,
        "pods": pods,
        "pod": _pod(draw, "new", rules, placed=False),
    }


def _node(draw: random.Random, name: str, rules: set[str]) -> Json:
    labels = {"kubernetes.io/hostname": name}
    for key, values in (("zone", "uvw"), ("rack", "12345")):
        if draw.random() < 0.85:
            labels[key] = draw.choice(values)
    spec: Json = {}
    if "nodes" in rules or draw.random() < 0.1:
        labels |= {"disk": draw.choice(("ssd", "hdd")), "gen": draw.choice("123")}
        if draw.random() < 0.4:
            spec["taints"] = [
                {
                    "key": "team",
                    "value": draw.choice("xy"),
                    "effect": draw.choice(("NoSchedule", "NoExecute", "PreferNoSchedule")),
                }
            ]
        if draw.random() < 0.15:
            spec["unschedulable"] = True
    allocatable = {"cpu": draw.choice(("1", "2", "3500m")), "memory": "4Gi", "pods": "110"}
    if "resources" in rules:
        allocatable |= {"pods": draw.choice("2345"), "x.io/y": draw.choice("023")}
    else:
        allocatable["cpu"] = "64"
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": allocatable},
    }


def _pod(draw: random.Random, name: str, rules: set[str], *, placed: bool) -> Json:
    labels = {"app": draw.choice(_APPS), **_some(draw, {"tier": draw.choice("fg")})}
    spec: Json = {"containers": [_container(draw, rules)]}
    affinity: Json = {}
    if "affinity" in rules and not placed:
        affinity["podAffinity"] = _required(draw)
    if "anti" in rules and (draw.random() < 0.4 if placed else draw.random() < 0.6):
        affinity["podAntiAffinity"] = _required(draw)
    if "nodes" in rules and not placed:
        spec |= _some(draw, {"nodeSelector": {"disk": "ssd"}})
        spec |= _some(draw, {"tolerations": [_toleration(draw)]})
        if draw.random() < 0.5:
            need = draw.choice(
                (
                    {"key": "gen", "operator": "Gt", "values": ["1"]},
                    {"key": "zone", "operator": "NotIn", "values": ["u"]},
                    {"key": "rack", "operator": "Exists"},
                )
            )
            terms = {"nodeSelectorTerms": [{"matchExpressions": [need]}]}
            affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    if affinity:
        spec["affinity"] = affinity
    if "spread" in rules and not placed:
        spec["topologySpreadConstraints"] = [_spread(draw) for _ in range(draw.choice((1, 1, 2)))]
    if "resources" in rules and draw.random() < 0.4:
        sidecar = {"restartPolicy": "Always"} if draw.random() < 0.5 else {}
        spec["initContainers"] = [{"name": "init", **_resources(draw), **sidecar}]
    if "resources" in rules and draw.random() < 0.2:
        spec["overhead"] = {"cpu": "250m"}
    if "resources" in rules and draw.random() < 0.25:
        spec["resources"] = {"requests": {"cpu": draw.choice(("1", "2500m"))}}
    namespace = draw.choice(("one", "one", "two", "three"))
    return {"metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels}, "spec": spec}


def _container(draw: random.Random, rules: set[str]) -> Json:
    container: Json = {"name": "main"}
    if "resources" in rules:
        container |= _resources(draw)
    if "ports" in rules and draw.random() < 0.7:
        port = {
            "containerPort": 80,
            "hostPort": draw.choice((80, 443)),
            "protocol": draw.choice(("TCP", "UDP")),
        }
        container["ports"] = [
            {**port, **_some(draw, {"hostIP": draw.choice(("10.0.0.1", "10.0.0.2", "0.0.0.0"))})}
        ]
    return container


def _resources(draw: random.Random) -> Json:
    requests = {"cpu": draw.choice(("0", "300m", "1", "1500m"))}
    return {"resources": {"requests": {**requests, **_some(draw, {"x.io/y": draw.choice("012")})}}}


def _toleration(draw: random.Random) -> Json:
    if draw.random() < 0.2:
        return {"operator": "Exists"}
    return {
        "key": "team",
        "operator": "Equal",
        "value": draw.choice("xy"),
        **_some(draw, {"effect": "NoSchedule"}),
    }


def _selector(draw: random.Random) -> Json:
    choice = draw.random()
    if choice < 0.05:
        return {}
    if choice < 0.1:
        return {"labelSelector": {}}
    if choice < 0.6:
        return {"labelSelector": {"matchLabels": {"app": draw.choice(_APPS)}}}
    need = draw.choice(
        (
            {"key": "app", "operator": "In", "values": ["a", "b"]},
            {"key": "app", "operator": "NotIn", "values": ["a"]},
            {"key": "tier", "operator": "Exists"},
            {"key": "tier", "operator": "DoesNotExist"},
            {"key": "tier", "operator": "NotIn", "values": ["f"]},
        )
    )
    return {"labelSelector": {"matchExpressions": [need]}}


def _required(draw: random.Random) -> Json:
    terms = []
    for _ in range(draw.choice((1, 1, 2))):
        term = {"topologyKey": draw.choice(_KEYS), **_selector(draw)}
        term |= _some(draw, {"namespaces": draw.sample(("one", "two", "three"), 2)}, 0.3)
        if draw.random() < 0.4:
            term["namespaceSelector"] = draw.choice(
                (
                    {},
                    {"matchLabels": {"team": "x"}},
                    {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]},
                )
            )
        terms.append(term)
    return {"requiredDuringSchedulingIgnoredDuringExecution": terms}


def _spread(draw: random.Random) -> Json:
    constraint = {
        "maxSkew": draw.choice((1, 1, 2)),
        "topologyKey": draw.choice(_KEYS),
        "whenUnsatisfiable": "DoNotSchedule" if draw.random() < 0.9 else "ScheduleAnyway",
        **_selector(draw),
        **_some(draw, {"minDomains": draw.choice((2, 3, 4))}, 0.3),
        **_some(draw, {"nodeAffinityPolicy": draw.choice(("Honor", "Ignore"))}),
        **_some(draw, {"nodeTaintsPolicy": draw.choice(("Honor", "Ignore"))}),
    }
    if "labelSelector" in constraint and draw.random() < 0.3:
        constraint["matchLabelKeys"] = ["tier"]
    return constraint


def _some(draw: random.Random, fields: Json, chance: float = 0.5) -> Json:
    return fields if draw.random() < chance else {}
