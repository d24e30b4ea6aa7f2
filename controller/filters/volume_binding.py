"""Can the pod run on the node, as far as its volumes are concerned?

The same answers as kube-scheduler's plugins VolumeRestrictions (ReadWriteOncePod), VolumeBinding and
VolumeZone give in Kubernetes 1.36 (pkg/scheduler/framework/plugins/volume*,
component-helpers/storage/volume): first about the pod alone, as in their PreFilter, then about each node.
Left out are the limits of a CSI driver on a node or in a zone, volumes that are written into the pod itself,
and what in-tree volumes become under CSI migration; those show when the pod does not bind. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

import msgspec

from controller import fit
from controller.allocator.quantity import parse
from controller.labels import EVERYTHING, Selector, selector
from driver.kube.meta import NodeSelector
from driver.kube.neighbours import LabelSelector
from driver.kube.objects import Node, ObjectMeta, Pod
from driver.kube.storage import PersistentVolume, PersistentVolumeClaim, StorageClass

Labels = Mapping[str, str]

WAIT_FOR_FIRST_CONSUMER: Final = "WaitForFirstConsumer"
AVAILABLE: Final = "Available"
BIND_COMPLETED: Final = "pv.kubernetes.io/bind-completed"
SELECTED_NODE: Final = "volume.kubernetes.io/selected-node"
BETA_CLASS: Final = "volume.beta.kubernetes.io/storage-class"
_NO_PROVISIONER: Final = "kubernetes.io/no-provisioner"
_ONE_POD: Final = "ReadWriteOncePod"
_GA_LABELS: Final = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
}


@dataclass(frozen=True, slots=True)
class NamedClaim:
    """A PersistentVolumeClaim that a pod names. `made_for_pod`: by kube-controller-manager, of a generic
    ephemeral volume.
    """

    name: str
    made_for_pod: bool = False


def claims_named(pod: Pod) -> Iterator[NamedClaim]:
    """Those that the pod's volumes name, in their order."""
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            yield NamedClaim(volume.persistent_volume_claim.claim_name)
        elif volume.ephemeral is not None:
            yield NamedClaim(f"{pod.metadata.name}-{volume.name}", made_for_pod=True)


def class_of(item: PersistentVolume | PersistentVolumeClaim) -> str:
    """The name of its StorageClass; empty where it has none."""
    return item.metadata.annotations.get(BETA_CLASS) or item.spec.storage_class_name or ""


@dataclass(frozen=True, slots=True)
class Unbound:
    """A claim that is bound once its pod has a node.

    Attributes:
        claim: the claim.
        storage_class: its class.
        reserved: volumes that say that they are this claim's.
        free: volumes of the class that no claim has yet, by nodes.
    """

    claim: PersistentVolumeClaim
    storage_class: StorageClass
    reserved: tuple[PersistentVolume, ...] = ()
    free: FreeVolumes | None = None


@dataclass(frozen=True, slots=True)
class PodVolumes:
    """What is to be asked of each node. `in_use`: a claim that one pod only may use, and another does."""

    bound: tuple[tuple[str, PersistentVolume], ...] = ()
    unbound: tuple[Unbound, ...] = ()
    in_use: str = ""


class FreeVolumes:
    """Volumes of one class that no claim has, found by the labels of nodes that can reach them."""

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str], dict[str, PersistentVolume]] = {}
        self._others: dict[str, PersistentVolume] = {}

    def put(self, volume: PersistentVolume) -> None:
        """The volume is free."""
        for place in self._places(volume):
            place[volume.metadata.name] = volume

    def drop(self, volume: PersistentVolume) -> None:
        """It is not any more."""
        for place in self._places(volume):
            place.pop(volume.metadata.name, None)
        for label in _anchor(volume):
            if not self._by_label.get(label):
                self._by_label.pop(label, None)

    def near(self, labels: Labels) -> Iterator[PersistentVolume]:
        """Those that a node with these labels may reach, and perhaps some more."""
        yield from self._others.values()
        for label in labels.items():
            yield from self._by_label.get(label, {}).values()

    def _places(self, volume: PersistentVolume) -> list[dict[str, PersistentVolume]]:
        labels = _anchor(volume)
        return [self._by_label.setdefault(label, {}) for label in labels] if labels else [self._others]


def _anchor(volume: PersistentVolume) -> list[tuple[str, str]]:
    """Labels of which a node must have one to reach the volume; empty where there is no such condition."""
    required = _required(volume)
    if required is None or len(required.node_selector_terms) != 1:
        return []
    needs = [need for need in required.node_selector_terms[0].match_expressions if need.operator == "In"]
    least = min(needs, key=lambda need: len(need.values), default=None)
    return [(least.key, value) for value in least.values] if least is not None else []


def why_waits(pod: Pod, named: NamedClaim, claim: PersistentVolumeClaim | None, binding_mode: str) -> str:
    """Why no node is looked for yet; empty where one may be.

    Args:
        pod: it names the claim.
        named: so.
        claim: None where there is none.
        binding_mode: of the claim's StorageClass; empty where there is none.
    """
    name = f"PersistentVolumeClaim {named.name}"
    if claim is None:
        return f"there is no {name}{' yet' if named.made_for_pod else ''}"
    if claim.status.phase == "Lost":
        return f"{name} is bound to PersistentVolume {claim.spec.volume_name}, which does not exist"
    if claim.metadata.deletion_timestamp:
        return f"{name} is being deleted"
    owners = claim.metadata.owner_references
    if named.made_for_pod and not any(o.controller and o.uid == pod.metadata.uid for o in owners):
        return f"{name} was not made for the pod"
    if is_bound(claim):
        return ""
    if claim.spec.volume_name or binding_mode != WAIT_FOR_FIRST_CONSUMER:
        return f"{name} is not bound yet (its volume does not wait for the pod)"
    return ""


def is_bound(claim: PersistentVolumeClaim) -> bool:
    """The claim and its volume are each other's."""
    return bool(claim.spec.volume_name) and BIND_COMPLETED in claim.metadata.annotations


def is_for_one_pod(claim: PersistentVolumeClaim) -> bool:
    """One pod in the cluster may use it at a time."""
    return _ONE_POD in claim.spec.access_modes


def _not_counted(conditions: int) -> None:
    pass


def why_not(volumes: PodVolumes, node: Node, looked: Callable[[int], None] = _not_counted) -> str | None:
    """The first reason why the pod cannot have its volumes on the node, or None if it can. `looked` is called
    with how many terms and volumes were looked at.
    """
    labels = node.metadata.labels
    if volumes.in_use:
        return f"PersistentVolumeClaim {volumes.in_use} is ReadWriteOncePod, and another pod uses it"
    for name, volume in volumes.bound:
        looked(_terms(volume))
        if not _reaches(volume, labels):
            return f"the node affinity of {_named(volume, name)} does not match"
    reason = _unbindable(volumes.unbound, node, looked)
    if reason is not None:
        return reason
    for name, volume in volumes.bound:
        if not _in_zone(volume, labels):
            return f"{_named(volume, name)} is in another zone or region"
    return None


def _named(volume: PersistentVolume, claim: str) -> str:
    return f"PersistentVolume {volume.metadata.name} (PersistentVolumeClaim {claim})"


def _unbindable(unbound: Sequence[Unbound], node: Node, looked: Callable[[int], None]) -> str | None:
    """The first claim that can neither be bound nor provisioned."""
    labels = node.metadata.labels
    to_find: list[Unbound] = []
    to_provision: list[Unbound] = []
    for one in unbound:
        selected = one.claim.metadata.annotations.get(SELECTED_NODE)
        if selected is None:
            to_find.append(one)
        elif selected == node.metadata.name:
            to_provision.append(one)
        else:
            return f"PersistentVolumeClaim {one.claim.metadata.name} is being provisioned for node {selected}"
    chosen: set[str] = set()
    for one in sorted(to_find, key=lambda one: _storage(one.claim.spec.resources.requests)):
        found = _find(one, labels, chosen, looked)
        if found is None:
            to_provision.append(one)
        else:
            chosen.add(found.metadata.name)
    for one in to_provision:
        name = f"PersistentVolumeClaim {one.claim.metadata.name}"
        if one.storage_class.provisioner in ("", _NO_PROVISIONER):
            return f"no PersistentVolume for {name} can be used there"
        if not _allowed(one.storage_class, labels):
            return f"StorageClass {one.storage_class.metadata.name} of {name} makes no volumes there"
    return None


def _find(
    unbound: Unbound, labels: Labels, chosen: set[str], looked: Callable[[int], None]
) -> PersistentVolume | None:
    """The smallest volume that does; one that says it is this claim's comes first, and is the only one
    then.
    """
    claim = unbound.claim
    for volume in unbound.reserved:
        if volume.metadata.name not in chosen and _does(volume, claim):
            return volume if _reaches(volume, labels) else None
    wanted = _selector(claim.spec.selector)
    free = list(unbound.free.near(labels)) if unbound.free is not None else []
    looked(1 + len(free))
    doing = [
        volume
        for volume in free
        if volume.metadata.name not in chosen
        and wanted.matches(volume.metadata.labels)
        and set(claim.spec.access_modes) <= set(volume.spec.access_modes)
        and _does(volume, claim)
        and _reaches(volume, labels)
    ]
    return min(doing, key=lambda v: (_storage(v.spec.capacity), v.metadata.name), default=None)


def _does(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """By size, mode and attributes."""
    have, want = volume.spec, claim.spec
    return (
        _storage(have.capacity) >= _storage(want.resources.requests)
        and (have.volume_mode or "Filesystem") == (want.volume_mode or "Filesystem")
        and (have.volume_attributes_class_name or "") == (want.volume_attributes_class_name or "")
        and not volume.metadata.deletion_timestamp
    )


def _terms(volume: PersistentVolume) -> int:
    required = _required(volume)
    return 1 + (len(required.node_selector_terms) if required is not None else 0)


def _reaches(volume: PersistentVolume, labels: Labels) -> bool:
    required = _required(volume)
    # Kubernetes shows the selector the node's labels, and not its name.
    return required is None or fit.selects(required, Node(metadata=ObjectMeta(labels=dict(labels))))


def _required(volume: PersistentVolume) -> NodeSelector | None:
    affinity = volume.spec.node_affinity
    return affinity.required if affinity is not None else None


def _in_zone(volume: PersistentVolume, labels: Labels) -> bool:
    """Of old volumes, which say it in labels; a node that says nothing of zones is in all."""
    if not any(key in labels for key in _GA_LABELS):
        return True
    for key, of_late in _GA_LABELS.items():
        zones = [zone.strip() for zone in volume.metadata.labels.get(key, "").split("__")]
        if all(zones) and labels.get(key, labels.get(of_late)) not in zones:
            return False
    return True


def _allowed(storage_class: StorageClass, labels: Labels) -> bool:
    terms = storage_class.allowed_topologies
    return not terms or any(
        term.match_label_expressions
        and all(labels.get(need.key) in need.values for need in term.match_label_expressions)
        for term in terms
    )


def _selector(wire: LabelSelector | None) -> Selector:
    return selector(msgspec.to_builtins(wire)) if wire is not None else EVERYTHING


def _storage(amounts: Mapping[str, str]) -> Fraction:
    return _amount(amounts.get("storage", "0"))


@lru_cache(maxsize=4096)
def _amount(quantity: str) -> Fraction:
    try:
        return Fraction(parse(quantity))
    except ValueError:
        return Fraction(0)
