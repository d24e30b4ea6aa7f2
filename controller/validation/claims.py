"""What the API server asks of claims, their templates and device classes (resource.k8s.io/v1), and what our
driver asks of its own opaque configuration.

Too many results, a class that is not there or an expression that does not compile are not here: the first
two the API server takes, and all three are answers about one claim.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from typing import Final

import msgspec

from controller.allocator.cel_program import MAX_LENGTH, Compiler, too_complex
from controller.validation import syntax
from controller.validation.fault import Fault, Faults
from driver.config import Attachment, decode_user
from driver.errors import ConfigError
from driver.kube.objects import (
    DeviceClassSpec,
    DeviceConstraint,
    DeviceRequest,
    DeviceSelector,
    DeviceSubRequest,
    DeviceToleration,
    ExactDeviceRequest,
    OpaqueConfig,
    ResourceClaimSpec,
)

_LISTS: Final = 32
"""Requests, constraints, configs, selectors: at most so many."""
_KEPT: Final = 1_000
"""Expressions of which it is kept whether they are too complex."""
_SUBREQUESTS: Final = 8
_PARAMETER_BYTES: Final = 10_240
_QUOTA: Final = "requests."
_EFFECTS: Final = ("", "None", "NoSchedule", "NoExecute")


def claim_spec(field: str, spec: ResourceClaimSpec, driver_name: str) -> Faults:
    """Faults of ``spec`` of a claim, or ``spec.spec`` of a template."""
    devices, at = spec.devices, f"{field}.devices"
    requests = devices.requests or []
    yield from syntax.at_most(f"{at}.requests", len(requests), _LISTS)
    yield from syntax.unique(f"{at}.requests", [request.name for request in requests], ".name")
    for index, request in enumerate(requests):
        yield from _request(f"{at}.requests[{index}]", request)
    names = [request.name for request in requests]
    names += [f"{request.name}/{sub.name}" for request in requests for sub in request.first_available]
    yield from syntax.at_most(f"{at}.constraints", len(devices.constraints), _LISTS)
    for index, constraint in enumerate(devices.constraints):
        yield from _constraint(f"{at}.constraints[{index}]", constraint, names)
    yield from syntax.at_most(f"{at}.config", len(devices.config), _LISTS)
    for index, config in enumerate(devices.config):
        where = f"{at}.config[{index}]"
        yield from _named(f"{where}.requests", config.requests, names)
        yield from _opaque(f"{where}.opaque", config.opaque, driver_name, names)


def class_spec(field: str, spec: DeviceClassSpec, driver_name: str) -> Faults:
    """Faults of ``spec`` of a DeviceClass."""
    yield from _selectors(f"{field}.selectors", spec.selectors)
    yield from syntax.at_most(f"{field}.config", len(spec.config), _LISTS)
    for index, config in enumerate(spec.config):
        yield from _opaque(f"{field}.config[{index}].opaque", config.opaque, driver_name, None)
    if spec.extended_resource_name is not None:
        yield from _extended(f"{field}.extendedResourceName", spec.extended_resource_name)


def _extended(field: str, name: str) -> Faults:
    """The name of an extended resource: with a domain that is not Kubernetes', also when a quota names it."""
    native = "/" not in name or "kubernetes.io/" in name or name.startswith(_QUOTA)
    if native or not syntax.is_key(f"{_QUOTA}{name}"):
        yield Fault(field, name, "domain/name, the domain not Kubernetes' own")


def _request(field: str, request: DeviceRequest) -> Faults:
    yield from syntax.label(f"{field}.name", request.name)
    if (request.exactly is not None) == bool(request.first_available):
        value = "both" if request.exactly is not None else None
        yield Fault(f"{field}.exactly", value, "either exactly or firstAvailable")
    if request.exactly is not None:
        yield from _wanted(f"{field}.exactly", request.exactly)
    subs = request.first_available
    yield from syntax.at_most(f"{field}.firstAvailable", len(subs), _SUBREQUESTS)
    yield from syntax.unique(f"{field}.firstAvailable", [sub.name for sub in subs], ".name")
    for index, sub in enumerate(subs):
        yield from syntax.label(f"{field}.firstAvailable[{index}].name", sub.name)
        yield from _wanted(f"{field}.firstAvailable[{index}]", sub)


def _wanted(field: str, wanted: ExactDeviceRequest | DeviceSubRequest) -> Faults:
    if not wanted.device_class_name:
        yield Fault(f"{field}.deviceClassName", None, "the name of a DeviceClass")
    else:
        yield from syntax.subdomain(f"{field}.deviceClassName", wanted.device_class_name)
    yield from _selectors(f"{field}.selectors", wanted.selectors)
    yield from syntax.one_of(f"{field}.allocationMode", wanted.allocation_mode, ("ExactCount", "All"))
    if wanted.allocation_mode == "ExactCount" and wanted.count < 1:
        yield Fault(f"{field}.count", wanted.count, "1 or more")
    for index, toleration in enumerate(wanted.tolerations):
        yield from _toleration(f"{field}.tolerations[{index}]", toleration)
    if wanted.capacity is not None:
        yield from syntax.amounts(f"{field}.capacity.requests", wanted.capacity.requests, least_zero=False)


def _selectors(field: str, selectors: Sequence[DeviceSelector]) -> Faults:
    yield from syntax.at_most(field, len(selectors), _LISTS)
    for index, selector in enumerate(selectors):
        at = f"{field}[{index}].cel"
        if selector.cel is None:
            yield Fault(at, None, "a CEL selector")
        elif not selector.cel.expression:
            yield Fault(f"{at}.expression", None, "a CEL expression")
        elif len(selector.cel.expression.encode()) > MAX_LENGTH:
            right = f"an expression of {MAX_LENGTH} bytes at most"
            yield Fault(f"{at}.expression", selector.cel.expression, right)
        elif says := _too_complex(selector.cel.expression):
            yield Fault(f"{at}.expression", selector.cel.expression, "", says)


@cache
def _compiler() -> Compiler:
    return Compiler()


@lru_cache(_KEPT)
def _too_complex(expression: str) -> str:
    return too_complex(_compiler().compile(expression))


def _toleration(field: str, toleration: DeviceToleration) -> Faults:
    if toleration.key:
        yield from syntax.key(f"{field}.key", toleration.key)
    yield from syntax.one_of(f"{field}.operator", toleration.operator, ("", "Equal", "Exists"))
    if toleration.operator != "Exists":
        yield from syntax.label_value(f"{field}.value", toleration.value)
    elif toleration.value:
        yield Fault(f"{field}.value", toleration.value, "nothing where operator is Exists")
    yield from syntax.one_of(f"{field}.effect", toleration.effect, _EFFECTS)


def _constraint(field: str, constraint: DeviceConstraint, names: Sequence[str]) -> Faults:
    yield from _named(f"{field}.requests", constraint.requests, names)
    attributes = {
        "matchAttribute": constraint.match_attribute,
        "distinctAttribute": constraint.distinct_attribute,
    }
    there = {name: value for name, value in attributes.items() if value is not None}
    if len(there) != 1:
        value = " and ".join(there) or None
        yield Fault(f"{field}.matchAttribute", value, "either matchAttribute or distinctAttribute")
    for name, attribute in there.items():
        yield from syntax.qualified(f"{field}.{name}", attribute, domain_needed=True)


def _named(field: str, requests: Sequence[str], names: Collection[str]) -> Faults:
    yield from syntax.at_most(field, len(requests), _LISTS)
    yield from syntax.unique(field, requests)
    for index, name in enumerate(requests):
        if name not in names:
            yield Fault(f"{field}[{index}]", name, _a_request(names))


def _a_request(names: Collection[str]) -> str:
    return f"a request of this claim ({', '.join(names)})" if names else "left out: there are no requests"


def _opaque(
    field: str, opaque: OpaqueConfig | None, driver_name: str, names: Collection[str] | None
) -> Faults:
    """`names` are the claim's requests; None in a class, which knows none."""
    if opaque is None:
        yield Fault(field, None, "a driver and its parameters")
        return
    yield from syntax.driver(f"{field}.driver", opaque.driver)
    parameters = bytes(opaque.parameters)
    if len(parameters) > _PARAMETER_BYTES:
        yield Fault(f"{field}.parameters", f"{len(parameters)} bytes", f"{_PARAMETER_BYTES} bytes at most")
    try:
        document = msgspec.json.decode(parameters)
    except (msgspec.DecodeError, RecursionError):  # the API server takes more than we can decode
        if opaque.driver == driver_name:
            yield from _undecodable(f"{field}.parameters", parameters)
        return
    if not isinstance(document, dict):
        yield Fault(f"{field}.parameters", document, "an object")
    elif opaque.driver == driver_name:
        try:
            asked = decode_user(document)
        except ConfigError as error:
            yield _told(f"{field}.parameters", document, error)
            return
        if names is None:
            return
        if isinstance(asked, Attachment):
            if asked.enforce:
                yield Fault(f"{field}.parameters.enforce", True, "left out: only a DeviceClass may say it")
            return
        pairs = asked.pairs
        for side, name in (("gpus", pairs.gpus), ("nics", pairs.nics)) if pairs else ():
            if name not in names:
                yield Fault(f"{field}.parameters.pairs.{side}", name, _a_request(names))


def _undecodable(field: str, parameters: bytes) -> Faults:
    try:
        decode_user(parameters)
    except ConfigError as error:
        yield Fault(field, parameters.decode(errors="replace"), "", str(error))


def standing_at(document: object, path: str) -> object:
    """What stands at a path such as ``pairs.gpus`` or ``prefer[1]``, as far as there is such a path."""
    for step in path.replace("[", ".").replace("]", "").split("."):
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdigit() and int(step) < len(document):
            document = document[int(step)]
    return document


def _told(field: str, document: dict[str, object], error: ConfigError) -> Fault:
    """The decoder's message, which begins with the path, as a fault."""
    says = str(error).removeprefix(f"{error.path}: ")
    path, value = error.path, standing_at(document, error.path)
    unknown = re.search(r"unknown field `([^`]+)`", says)
    if unknown:
        path = f"{path}.{unknown[1]}".lstrip(".")
        return Fault(f"{field}.{path}", standing_at(document, path), "no such field: it is unknown here")
    return Fault(f"{field}.{path}".rstrip("."), value, "", says)
