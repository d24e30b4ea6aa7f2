"""What the controller keeps of what the API server lists: each thing once, and nothing that it never reads.

A cluster may have 5,000 nodes with 72 devices each and 150,000 pods, and all of them are kept for as long as
the controller lives. But devices of a product differ in little, pods of a workload in their names, claims of
a template in nothing. So equal parts are one object, found by their bytes; and a pod that has no claims is
kept as far as other pods' placement depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec

from controller.filters.volume_binding import BETA_CLASS, BIND_COMPLETED, SELECTED_NODE
from controller.unreadable import read_holdings
from driver.kube.core import EphemeralSource
from driver.kube.decoding import Decoder
from driver.kube.meta import Wire
from driver.kube.objects import (
    AllocationResult,
    CounterSet,
    Device,
    Node,
    NodeSelector,
    ObjectMeta,
    Pod,
    ResourceClaim,
    ResourcePool,
    ResourceSlice,
    ResourceSliceSpec,
)
from driver.kube.storage import PersistentVolume, PersistentVolumeClaim
from driver.names import POD_CLAIM_NAME

T = TypeVar("T")

_KEPT: Final = 20_000
_KEPT_BYTES: Final = 64 * 2**20
"""Different values of one kind, and the length of all as JSON; then it begins anew, which costs memory but is
never wrong.
"""

_CLAIM_ANNOTATIONS: Final = (POD_CLAIM_NAME,)
_VOLUME_ANNOTATIONS: Final = (BIND_COMPLETED, SELECTED_NODE, BETA_CLASS)

_MADE: Final = EphemeralSource()
"""Once kube-controller-manager has seen the pod, the template is in the claim."""

_TIME_ADDED: Final = re.compile(rb',"timeAdded":"[^"\\]*"')
"""Of a taint, the only text of a device that is called so; when it was added is nothing to us."""


class Once:
    """Equal values as one object. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}
        self._bytes = 0

    def by(self, content: bytes, make: Callable[[], T]) -> T:
        """What `make` made the first time for this content."""
        known: T | None = self._known.get(content)
        if known is None:
            if len(self._known) >= _KEPT or self._bytes + len(content) > _KEPT_BYTES:
                self._known.clear()
                self._bytes = 0
            self._bytes += len(content)
            known = self._known[content] = make()
        return known

    def of(self, value: T) -> T:
        """The first of its type that was equal to this one: many an empty thing is written the same."""
        return self.by(
            b"%d %s" % (id(type(value)), msgspec.json.encode(value, order="sorted")), lambda: value
        )


class _Spec(Wire, frozen=True, kw_only=True):
    driver: str
    pool: ResourcePool
    node_name: str | None = None
    node_selector: NodeSelector | None = None
    all_nodes: bool = False
    per_device_node_selection: bool = False
    devices: list[msgspec.Raw] = msgspec.field(default_factory=list)
    shared_counters: list[CounterSet] = msgspec.field(default_factory=list)


class _Slice(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: _Spec


class SliceReader:
    """ResourceSlices, of which equal devices, attributes and capacities are one object."""

    def __init__(self) -> None:
        self._decoder = Decoder(_Slice)
        self._device = msgspec.json.Decoder(Device)
        self._devices = Once()
        self._parts = Once()

    def __call__(self, raw: msgspec.Raw) -> ResourceSlice:
        """Decode one."""
        item = self._decoder.decode(raw)
        spec = {name: getattr(item.spec, name) for name in _Spec.__struct_fields__ if name != "devices"}
        devices = [self._read(_TIME_ADDED.sub(b"", bytes(device))) for device in item.spec.devices]
        return ResourceSlice(metadata=_slim(item.metadata), spec=ResourceSliceSpec(**spec, devices=devices))

    def _read(self, content: bytes) -> Device:
        return self._devices.by(content, lambda: self._with_shared_parts(self._device.decode(content)))

    def _with_shared_parts(self, device: Device) -> Device:
        return msgspec.structs.replace(
            device,
            attributes={name: self._parts.of(value) for name, value in device.attributes.items()},
            capacity=self._parts.of(device.capacity),
            consumes_counters=self._parts.of(device.consumes_counters),
            taints=self._parts.of(device.taints),
        )


class PodReader:
    """Pods, of which equal specs are one object but for the node's name."""

    def __init__(self) -> None:
        self._decoder = Decoder(Pod)
        self._parts = Once()

    def __call__(self, raw: msgspec.Raw) -> Pod:
        """Decode one. Without claims no more is kept of it than a neighbour matters."""
        pod = self._decoder.decode(raw)
        spec = self._parts.of(msgspec.structs.replace(pod.spec, node_name="", volumes=[]))
        volumes = [
            msgspec.structs.replace(volume, ephemeral=volume.ephemeral and _MADE)
            for volume in pod.spec.volumes
            if volume.persistent_volume_claim or volume.ephemeral
        ]
        if pod.spec.node_name or volumes:
            spec = msgspec.structs.replace(spec, node_name=pod.spec.node_name, volumes=volumes)
        status = self._parts.of(msgspec.structs.replace(pod.status, conditions=_verdict(pod)))
        labels = self._parts.of(pod.metadata.labels)
        metadata = msgspec.structs.replace(pod.metadata, labels=labels, annotations={})
        if not pod.spec.resource_claims:
            metadata = msgspec.structs.replace(metadata, owner_references=[])
        return Pod(metadata=metadata, spec=spec, status=status)


class ClaimReader:
    """ResourceClaims, of which equal specs are one object.

    Args:
        driver_name: what other drivers are told in an allocation, what drivers say of devices, and
            annotations of others are not kept; None: everything is.
    """

    def __init__(self, driver_name: str | None = None) -> None:
        self._driver_name = driver_name
        self._decoder = Decoder(ResourceClaim)
        self._specs = Once()

    def __call__(self, raw: msgspec.Raw) -> ResourceClaim:
        """Decode one; where that fails, an UnreadableClaim."""
        try:
            claim = self._decoder.decode(raw)
        except msgspec.MsgspecError as error:
            return read_holdings(raw, error)
        metadata, status = claim.metadata, claim.status
        if self._driver_name is not None:
            allocation = _without_others(status.allocation, self._driver_name)
            status = msgspec.structs.replace(status, allocation=allocation, devices=[])
            annotations = _kept(metadata, _CLAIM_ANNOTATIONS)
            metadata = msgspec.structs.replace(metadata, annotations=annotations)
        return ResourceClaim(metadata=metadata, spec=self._specs.of(claim.spec), status=status)


class VolumeClaimReader:
    """PersistentVolumeClaims, with those of their annotations that say how far they are bound."""

    def __init__(self) -> None:
        self._decoder = Decoder(PersistentVolumeClaim)
        self._specs = Once()

    def __call__(self, raw: msgspec.Raw) -> PersistentVolumeClaim:
        """Decode one."""
        claim = self._decoder.decode(raw)
        metadata = _with_annotations(claim.metadata, labels={})
        spec = claim.spec
        if not spec.volume_name:
            spec = self._specs.of(spec)
        return PersistentVolumeClaim(metadata=metadata, spec=spec, status=claim.status)


class VolumeReader:
    """PersistentVolumes, of which equal node affinities are one object."""

    def __init__(self) -> None:
        self._decoder = Decoder(PersistentVolume)
        self._parts = Once()

    def __call__(self, raw: msgspec.Raw) -> PersistentVolume:
        """Decode one."""
        volume = self._decoder.decode(raw)
        metadata = _with_annotations(volume.metadata, labels=self._parts.of(volume.metadata.labels))
        spec = msgspec.structs.replace(volume.spec, node_affinity=self._parts.of(volume.spec.node_affinity))
        return PersistentVolume(metadata=metadata, spec=spec, status=volume.status)


class NodeReader:
    """Nodes, without what their heartbeats say."""

    def __init__(self) -> None:
        self._decoder = Decoder(Node)

    def __call__(self, raw: msgspec.Raw) -> Node:
        """Decode one."""
        node = self._decoder.decode(raw)
        return msgspec.structs.replace(
            node,
            metadata=msgspec.structs.replace(node.metadata, annotations={}),
            status=msgspec.structs.replace(node.status, conditions=[]),
        )


def _without_others(allocation: AllocationResult | None, driver_name: str) -> AllocationResult | None:
    """The allocation without parameters of other drivers, which may be long and are nothing to us."""
    if allocation is None:
        return None
    config = [
        entry for entry in allocation.devices.config if entry.opaque and entry.opaque.driver == driver_name
    ]
    return msgspec.structs.replace(
        allocation, devices=msgspec.structs.replace(allocation.devices, config=config)
    )


def _verdict(pod: Pod) -> list[dict[str, Any]]:
    """What kube-scheduler said of a pod that has no node, without the time; its words where claims wait."""
    conditions = [] if pod.spec.node_name else pod.status.conditions
    kept = ("type", "reason", "message") if pod.spec.resource_claims else ("type", "reason")
    return [
        {name: said[name] for name in kept if name in said}
        for said in conditions
        if said.get("type") == "PodScheduled"
    ]


def _with_annotations(metadata: ObjectMeta, labels: dict[str, str]) -> ObjectMeta:
    """Without what says nothing of where a volume is."""
    annotations = _kept(metadata, _VOLUME_ANNOTATIONS)
    return msgspec.structs.replace(metadata, annotations=annotations, labels=labels, finalizers=[])


def _kept(metadata: ObjectMeta, names: Iterable[str]) -> dict[str, str]:
    """Those annotations that are read."""
    return {name: metadata.annotations[name] for name in names if name in metadata.annotations}


def _slim(metadata: ObjectMeta) -> ObjectMeta:
    return ObjectMeta(name=metadata.name, uid=metadata.uid, resource_version=metadata.resource_version)
