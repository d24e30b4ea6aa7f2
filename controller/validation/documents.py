"""A JSON document as one of the objects that placement looks at, or the first fault that the API server would
find in it.

Decoding is as the API server's with strict field validation: a field that the resource.k8s.io kinds do not
have is a fault there, since a misspelt selector would otherwise be a wrong answer. Nodes and pods have more
fields than are looked at here, so theirs are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, TypeVar

import msgspec

from controller.validation import syntax
from controller.validation.claims import claim_spec, class_spec
from controller.validation.fault import Fault, Faults
from controller.validation.go_json import as_read
from controller.validation.networks import network_faults
from controller.validation.pods import node_faults, pod_faults
from controller.validation.shape import info, misfit, unknown_fields
from controller.validation.slices import presence, slice_spec
from driver.errors import InvalidObjectError
from driver.kube.decoding import Decoder
from driver.kube.fabric import FabricNetwork, Namespace
from driver.kube.objects import (
    DeviceClass,
    DeviceSubRequest,
    ExactDeviceRequest,
    Node,
    Pod,
    ResourceClaim,
    ResourceClaimSpec,
    ResourceClaimTemplate,
    ResourceSlice,
    Wire,
)
from driver.kube.storage import PersistentVolume, PersistentVolumeClaim, StorageClass, StorageObject
from driver.names import API_VERSION

KubeObject = (
    StorageObject
    | Node
    | Pod
    | ResourceClaim
    | ResourceClaimTemplate
    | ResourceSlice
    | DeviceClass
    | FabricNetwork
    | Namespace
)

_DRA: Final = ("resource.k8s.io/v1", "resource.k8s.io/v1beta2")  # the two have the same shape
_KINDS: Final[Mapping[str, tuple[tuple[str, ...], type[KubeObject]]]] = {
    "Node": (("v1",), Node),
    "Pod": (("v1",), Pod),
    "ResourceClaim": (_DRA, ResourceClaim),
    "ResourceClaimTemplate": (_DRA, ResourceClaimTemplate),
    "ResourceSlice": (_DRA, ResourceSlice),
    "DeviceClass": (_DRA, DeviceClass),
    "FabricNetwork": ((API_VERSION,), FabricNetwork),
    "Namespace": (("v1",), Namespace),
    "PersistentVolumeClaim": (("v1",), PersistentVolumeClaim),
    "PersistentVolume": (("v1",), PersistentVolume),
    "StorageClass": (("storage.k8s.io/v1",), StorageClass),
}
_STRICT: Final = ("ResourceClaim", "ResourceClaimTemplate", "DeviceClass", "ResourceSlice", "FabricNetwork")
_NAMESPACED: Final = ("Pod", "ResourceClaim", "ResourceClaimTemplate", "PersistentVolumeClaim")
_OTHER_KINDS_OF_DRA: Final = ("DeviceTaintRule", "ResourcePoolStatusRequest")
_HEADERS: Final = ("apiVersion", "kind", "status")


_W = TypeVar("_W", ExactDeviceRequest, DeviceSubRequest)


class _Names(Wire, frozen=True, kw_only=True):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None


class _Header(Wire, frozen=True, kw_only=True):
    api_version: str | None = None
    kind: str | None = None
    metadata: _Names | None = None


class _List(msgspec.Struct):
    kind: str = ""
    items: list[msgspec.Raw] | None = None


_HEADER, _LIST = Decoder(_Header), Decoder(_List)


@cache
def _decoder(type_: type[KubeObject]) -> Decoder[KubeObject]:
    return Decoder(type_)


def items_of(document: bytes) -> list[bytes] | None:
    """The documents in a List (of any kind that ends so); None if it is none."""
    try:
        found = _LIST.decode(document)
    except msgspec.ValidationError:
        return None
    if not found.kind.endswith("List"):
        return None
    return [bytes(item) for item in found.items or []]


def decode(document: bytes, driver_name: str, default_kind: str = "") -> KubeObject | None:
    """The object; None where it is of a kind that placement does not look at.

    Args:
        document: JSON.
        driver_name: whose opaque configuration is checked.
        default_kind: of an item in a typed list, where kind and apiVersion may be left out.

    Raises:
        InvalidObjectError: with the first fault.
    """
    try:
        header = _HEADER.decode(document)
    except msgspec.ValidationError as error:
        raise _invalid("the document", misfit(error, _HEADER.tree(document))) from error
    kind, names = header.kind or default_kind, header.metadata or _Names()
    name = names.name or names.generate_name or ""
    namespace = (names.namespace or "default") if kind in _NAMESPACED else ""
    subject = f"{kind or 'an object without a kind'} {namespace}{'/' if namespace else ''}{name}".strip()
    version = header.api_version or ""
    if kind not in _KINDS:
        if not kind or (version in _DRA and kind not in _OTHER_KINDS_OF_DRA):
            raise _invalid(subject, Fault("kind", kind or None, f"one of {', '.join(_KINDS)}"))
        return None
    versions, type_ = _KINDS[kind]
    if version not in versions and (version or not default_kind):
        raise _invalid(subject, Fault("apiVersion", version or None, versions[0]))
    try:
        read = _read(document, kind, type_, driver_name)
        if isinstance(read, Fault):
            as_api_server = as_read(_decoder(type_).tree(document), info(type_))
            read = _read(msgspec.json.encode(as_api_server), kind, type_, driver_name)
    except msgspec.DecodeError as error:
        raise InvalidObjectError(f"cannot be read: {error}", object=subject) from error
    if isinstance(read, Fault):
        raise _invalid(subject, read)
    return read


def _read(document: bytes, kind: str, type_: type[KubeObject], driver_name: str) -> KubeObject | Fault:
    """The object, or the first fault."""
    try:
        decoded = _with_defaults(_decoder(type_).decode(document))
    except msgspec.ValidationError as error:
        return misfit(error, _decoder(type_).tree(document))
    return next(_faults(decoded, kind, document, driver_name), decoded)


def _faults(decoded: KubeObject, kind: str, document: bytes, driver_name: str) -> Faults:
    meta = decoded.metadata
    if not meta.name and not meta.generate_name:
        yield Fault("metadata.name", None, "a name")
    elif meta.name:
        yield from syntax.subdomain("metadata.name", meta.name)
    if kind in _NAMESPACED and meta.namespace:
        yield from syntax.label("metadata.namespace", meta.namespace)
    yield from syntax.labels("metadata.labels", meta.labels)
    for key in meta.annotations:
        yield from syntax.key(f"metadata.annotations[{key}]", key.lower())
    raw = _decoder(type(decoded)).tree(document)
    # Of what the status says more than is looked at here, it may.
    judged = {name: value for name, value in raw.items() if name not in _HEADERS}
    yield from unknown_fields(judged, info(type(decoded)), "", misspelt=kind not in _STRICT)
    match decoded:
        case ResourceClaim():
            yield from _counts_beside_all(raw, "")
            yield from claim_spec("spec", decoded.spec, driver_name)
        case ResourceClaimTemplate():
            yield from _counts_beside_all(raw, "")
            yield from syntax.labels("spec.metadata.labels", decoded.spec.metadata.labels)
            yield from claim_spec("spec.spec", decoded.spec.spec, driver_name)
        case DeviceClass():
            yield from class_spec("spec", decoded.spec, driver_name)
        case ResourceSlice():
            yield from presence("spec", raw["spec"])
            yield from slice_spec("spec", decoded.spec)
        case Pod():
            yield from pod_faults(decoded)
        case Node():
            yield from node_faults(decoded)
        case FabricNetwork():
            yield from network_faults(decoded, raw)


def _counts_beside_all(value: object, path: str) -> Faults:
    """A count beside ``allocationMode: All``, which only the raw document shows."""
    if isinstance(value, dict):
        if value.get("allocationMode") == "All" and value.get("count"):
            yield Fault(f"{path}.count".lstrip("."), value["count"], "nothing where allocationMode is All")
        for name, inner in value.items():
            if name != "opaque":
                yield from _counts_beside_all(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _counts_beside_all(inner, f"{path}[{index}]")


def _with_defaults(decoded: KubeObject) -> KubeObject:
    """The namespace, counts and modes that were left out or empty, as the API server sets them."""
    if isinstance(decoded, ResourceClaim):
        decoded = msgspec.structs.replace(decoded, spec=_defaulted(decoded.spec))
    elif isinstance(decoded, ResourceClaimTemplate):
        spec = msgspec.structs.replace(decoded.spec, spec=_defaulted(decoded.spec.spec))
        decoded = msgspec.structs.replace(decoded, spec=spec)
    namespaced = Pod | ResourceClaim | ResourceClaimTemplate | PersistentVolumeClaim
    if isinstance(decoded, namespaced) and not decoded.metadata.namespace:
        metadata = msgspec.structs.replace(decoded.metadata, namespace="default")
        return msgspec.structs.replace(decoded, metadata=metadata)
    return decoded


def _defaulted(spec: ResourceClaimSpec) -> ResourceClaimSpec:
    replace = msgspec.structs.replace
    requests = [
        replace(
            request,
            exactly=_counted(request.exactly) if request.exactly is not None else None,
            first_available=[_counted(sub) for sub in request.first_available],
        )
        for request in spec.devices.requests or []
    ]
    return replace(spec, devices=replace(spec.devices, requests=requests))


def _counted(wanted: _W) -> _W:
    mode = wanted.allocation_mode or "ExactCount"
    return msgspec.structs.replace(
        wanted, allocation_mode=mode, count=wanted.count or 1 if mode == "ExactCount" else wanted.count
    )


def _invalid(subject: str, fault: Fault) -> InvalidObjectError:
    return InvalidObjectError(str(fault), object=subject, field=fault.field, value=fault.value)
