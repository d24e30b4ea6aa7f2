"""What a document has another shape than, as faults: values of another type, and fields that do not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from controller.validation.fault import Fault, Faults
from driver.kube.core import Container, NodeSpec, PodSpec
from driver.kube.meta import ObjectMeta
from driver.kube.resource import Device

_MSGSPEC_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")
_RIGHT: Final = {
    "str": "text",
    "int": "a whole number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_PYTHON: Final = {"str": str, "int": int, "bool": bool, "array": list, "object": dict, "null": type(None)}
_BESIDE: Final[Mapping[type, str]] = {
    ObjectMeta: "selfLink deletionGracePeriodSeconds managedFields",
    Device: "nodeAllocatableResourceMappings",  # of a feature that is off by default
    NodeSpec: "podCIDR podCIDRs providerID configSource externalID",
    PodSpec: "activeDeadlineSeconds automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks"
    " ephemeralContainers hostAliases hostIPC hostPID hostUsers hostname hostnameOverride imagePullSecrets os"
    " preemptionPolicy priorityClassName readinessGates restartPolicy runtimeClassName securityContext"
    " serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain"
    " terminationGracePeriodSeconds workloadRef",
    Container: "args command env envFrom image imagePullPolicy lifecycle livenessProbe readinessProbe"
    " resizePolicy restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath"
    " terminationMessagePolicy tty volumeDevices volumeMounts workingDir",
}
"""Fields that there are in Kubernetes 1.36 beside those that placement looks at."""


@cache
def info(type_: type[Any]) -> inspect.Type:
    """What msgspec knows of a type."""
    return inspect.type_info(type_)


@cache
def _fields(struct: Any) -> tuple[Mapping[str, inspect.Type | None], frozenset[str]]:
    """Those that placement looks at, with the types of what has fields within, and those beside them."""
    of = info(struct)
    fields = of.fields if isinstance(of, inspect.StructType) else ()
    known = {field.encode_name: field.type if _has_fields(field.type) else None for field in fields}
    return known, frozenset(_BESIDE.get(struct, "").split())


def _has_fields(type_: inspect.Type) -> bool:
    match type_:
        case inspect.StructType():
            return True
        case inspect.UnionType():
            return any(map(_has_fields, type_.types))
        case inspect.ListType():
            return _has_fields(type_.item_type)
        case inspect.DictType():
            return _has_fields(type_.value_type)
    return False


def misfit(error: msgspec.ValidationError, document: object) -> Fault:
    """msgspec's ``Expected `int`, got `str` - at `$.spec.count` `` with the value that stands there in the
    decoded document.
    """
    text = str(error)
    found = _MSGSPEC_PATH.search(text)
    path = found[1] if found else ""
    detail = _MSGSPEC_PATH.sub("", text)
    steps = re.findall(r"\[(\.\.\.|\d+)\]|([^.\[\]]+)", path)
    found_at = list(_look_up(document, [a or b for a, b in steps])) or [(path, None)]
    missing = re.search(r"missing required field `(\w+)`", detail)
    if missing:
        lacking = [at for at, value in found_at if isinstance(value, dict) and missing[1] not in value]
        return Fault(f"{lacking[0] if lacking else path}.{missing[1]}".lstrip("."), None, "there")
    expected = re.search(r"Expected `([^`]+)`", detail)
    names = expected[1].split(" | ") if expected else []
    right = " or ".join(_RIGHT.get(name, name) for name in names if name != "null") or detail
    wrong = [pair for pair in found_at if type(pair[1]) not in [_PYTHON.get(name) for name in names]]
    at, value = (wrong or found_at)[0]
    return Fault(at or "the document", "null" if value is None else value, right)


def unknown_fields(value: object, type_: inspect.Type, path: str, *, misspelt: bool = False) -> Faults:
    """Fields that the type does not have; with `misspelt` only those that look like one that it has, since
    newer versions of Kubernetes know more of them.
    """
    if isinstance(type_, inspect.UnionType):
        for one in filter(_has_fields, type_.types):
            yield from unknown_fields(value, one, path, misspelt=misspelt)
    elif isinstance(type_, inspect.StructType) and isinstance(value, dict):
        known, beside = _fields(type_.cls)
        for name, inner in value.items():
            if name in known:
                within = known[name]
                if within is not None:
                    yield from unknown_fields(inner, within, f"{path}.{name}".lstrip("."), misspelt=misspelt)
            elif name not in beside:
                near = get_close_matches(name, [*known, *beside], n=1, cutoff=0.8 if misspelt else 0.6)
                if near or not misspelt:
                    right = near[0] if near else f"one of the fields {', '.join(known)}"
                    yield Fault(f"{path}.{name}".lstrip("."), inner, right)
    elif isinstance(type_, inspect.ListType) and isinstance(value, list):
        for index, inner in enumerate(value):
            yield from unknown_fields(inner, type_.item_type, f"{path}[{index}]", misspelt=misspelt)
    elif isinstance(type_, inspect.DictType) and isinstance(value, dict):
        for name, inner in value.items():
            yield from unknown_fields(inner, type_.value_type, f"{path}[{name}]", misspelt=misspelt)


def _look_up(value: Any, steps: Sequence[str], at: str = "") -> Iterator[tuple[str, object]]:
    """What stands at a path, and the path; an ellipsis is every key of a map, which msgspec does not name."""
    if not steps:
        yield at, value
    elif isinstance(value, dict):
        for key in value if steps[0] == "..." else [steps[0]]:
            step = f"[{key}]" if steps[0] == "..." else f".{key}"
            yield from _look_up(value.get(key), steps[1:], f"{at}{step}".lstrip("."))
    elif isinstance(value, list) and steps[0].isdigit() and int(steps[0]) < len(value):
        yield from _look_up(value[int(steps[0])], steps[1:], f"{at}[{steps[0]}]")
