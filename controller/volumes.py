"""PersistentVolumes and their claims as the placement sees them, and which waiting pods a change concerns.

Updated change by change. What a pod's volumes require of a node is found by the names in the pod, and free
volumes by the labels of the nodes that reach them; so of thousands of local volumes, only a node's own are
looked at for it. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from controller.claimants import Key
from controller.filters import volume_binding
from controller.filters.volume_binding import AVAILABLE, FreeVolumes, PodVolumes, Unbound, class_of
from driver.kube.objects import Node, ObjectMeta, OwnerReference, Pod
from driver.kube.storage import PersistentVolume, PersistentVolumeClaim, StorageClass, StorageObject


@dataclass(slots=True)
class Volumes:
    """All that is there, by name.

    Attributes:
        known: whether pods are held against it: files may say nothing of volumes.
        version: grows when what is said of a pod's volumes may change.
    """

    known: bool = True
    version: int = field(default=0, compare=False)
    claims: dict[Key, PersistentVolumeClaim] = field(default_factory=dict)
    volumes: dict[str, PersistentVolume] = field(default_factory=dict)
    classes: dict[str, StorageClass] = field(default_factory=dict)
    _free: dict[str, FreeVolumes] = field(default_factory=dict)
    _reserved: dict[Key, dict[str, PersistentVolume]] = field(default_factory=dict)
    _waiting: dict[Key, set[Key]] = field(default_factory=dict)
    _users: dict[Key, set[str]] = field(default_factory=dict)

    # Questions

    def why_waits(self, pod: Pod) -> str:
        """Why no node is to be looked for yet; empty where one may be."""
        if not self.known:
            return ""
        for named in volume_binding.claims_named(pod):
            claim = self.claims.get((pod.metadata.namespace, named.name))
            storage_class = self.classes.get(class_of(claim)) if claim is not None else None
            mode = storage_class.volume_binding_mode if storage_class is not None else ""
            why = volume_binding.why_waits(pod, named, claim, mode)
            if why:
                return why
            volume = claim.spec.volume_name if claim is not None else ""
            if volume and volume not in self.volumes:
                return (
                    f"there is no PersistentVolume {volume}, which PersistentVolumeClaim {named.name} names"
                )
        return ""

    def of(self, pod: Pod) -> PodVolumes | None:
        """What the pod's volumes ask of a node; None where that is nothing."""
        if not self.known or not pod.spec.volumes:
            return None
        bound: list[tuple[str, PersistentVolume]] = []
        unbound: list[Unbound] = []
        in_use = ""
        for named in volume_binding.claims_named(pod):
            key = pod.metadata.namespace, named.name
            claim = self.claims.get(key)
            if claim is None:
                continue
            volume = self.volumes.get(claim.spec.volume_name)
            storage_class = self.classes.get(class_of(claim))
            if volume_binding.is_bound(claim) and volume is not None:
                bound.append((named.name, volume))
            elif storage_class is not None:
                unbound.append(self._unbound(key, claim, storage_class))
            one_pod = not named.made_for_pod and volume_binding.is_for_one_pod(claim)
            if one_pod and self._users.get(key, set()) - {pod.metadata.uid}:
                in_use = in_use or named.name
        if not bound and not unbound and not in_use:
            return None
        return PodVolumes(tuple(bound), tuple(unbound), in_use)

    def why_not(self, pod: Pod, node: Node) -> str | None:
        """Why the pod cannot have its volumes on the node, or None if it can."""
        asked = self.of(pod)
        return volume_binding.why_not(asked, node) if asked is not None else None

    # Changes

    def put_pod(self, pod: Pod) -> None:
        """The pod is there."""
        for key in self._keys(pod):
            if pod.spec.node_name:
                self._users.setdefault(key, set()).add(pod.metadata.uid)
            elif pod.spec.resource_claims:
                self._waiting.setdefault(key, set()).add((pod.metadata.namespace, pod.metadata.name))

    def drop_pod(self, pod: Pod) -> set[Key]:
        """The pod is not there any more, or is another now: the pods that wait for what it used."""
        concerned: set[Key] = set()
        for key in self._keys(pod):
            if pod.spec.node_name:
                _discard(self._users, key, pod.metadata.uid)
                concerned |= self._waiting.get(key, set())
            else:
                _discard(self._waiting, key, (pod.metadata.namespace, pod.metadata.name))
        return concerned

    def apply(self, old: StorageObject | None, new: StorageObject | None) -> set[Key]:
        """One of the three kinds changed: the waiting pods that this may concern."""
        self.version += 1
        match new or old:
            case PersistentVolumeClaim() as claim:
                return self._apply_claim(claim, there=new is not None)
            case PersistentVolume():
                before, after = (one if isinstance(one, PersistentVolume) else None for one in (old, new))
                return self._apply_volume(before, after)
            case StorageClass() as storage_class:
                return self._apply_class(storage_class, there=new is not None)
        return set()

    def _apply_claim(self, claim: PersistentVolumeClaim, *, there: bool) -> set[Key]:
        key = claim.metadata.namespace, claim.metadata.name
        if there:
            self.claims[key] = claim
        else:
            self.claims.pop(key, None)
        return set(self._waiting.get(key, ()))

    def _apply_volume(self, old: PersistentVolume | None, new: PersistentVolume | None) -> set[Key]:
        if old is not None:
            self.volumes.pop(old.metadata.name, None)
            self._index(old, there=False)
        if new is not None:
            self.volumes[new.metadata.name] = new
            self._index(new, there=True)
        names = {item.metadata.name for item in (old, new) if item is not None}
        classes = {class_of(item) for item in (old, new) if item is not None}
        return self._concerned(
            claim
            for claim in self._awaited()
            if claim.spec.volume_name in names or class_of(claim) in classes
        )

    def _apply_class(self, storage_class: StorageClass, *, there: bool) -> set[Key]:
        name = storage_class.metadata.name
        if there:
            self.classes[name] = storage_class
        else:
            self.classes.pop(name, None)
        return self._concerned(claim for claim in self._awaited() if class_of(claim) == name)

    # Beneath

    def _unbound(self, key: Key, claim: PersistentVolumeClaim, storage_class: StorageClass) -> Unbound:
        reserved = tuple(
            volume
            for volume in self._reserved.get(key, {}).values()
            if volume.spec.claim_ref is not None and volume.spec.claim_ref.uid in ("", claim.metadata.uid)
        )
        return Unbound(claim, storage_class, reserved, self._free.get(storage_class.metadata.name))

    def _index(self, volume: PersistentVolume, *, there: bool) -> None:
        claim = volume.spec.claim_ref
        if claim is not None:
            reserved = self._reserved.setdefault((claim.namespace, claim.name), {})
            if there:
                reserved[volume.metadata.name] = volume
            else:
                reserved.pop(volume.metadata.name, None)
            if not reserved:
                del self._reserved[claim.namespace, claim.name]
        elif volume.status.phase == AVAILABLE:
            free = self._free.setdefault(class_of(volume), FreeVolumes())
            if there:
                free.put(volume)
            else:
                free.drop(volume)

    def _awaited(self) -> Iterable[PersistentVolumeClaim]:
        """Claims that waiting pods name."""
        return (claim for key in self._waiting if (claim := self.claims.get(key)) is not None)

    def _concerned(self, claims: Iterable[PersistentVolumeClaim]) -> set[Key]:
        return {
            pod for claim in claims for pod in self._waiting[claim.metadata.namespace, claim.metadata.name]
        }

    def _keys(self, pod: Pod) -> list[Key]:
        return [(pod.metadata.namespace, named.name) for named in volume_binding.claims_named(pod)]


def to_be_made(pod: Pod) -> Iterator[PersistentVolumeClaim]:
    """The claims that kube-controller-manager makes for the pod's generic ephemeral volumes."""
    owner = OwnerReference(
        api_version="v1", kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid, controller=True
    )
    for volume in pod.spec.volumes:
        template = volume.ephemeral.volume_claim_template if volume.ephemeral is not None else None
        if template is not None:
            metadata = ObjectMeta(
                name=f"{pod.metadata.name}-{volume.name}",
                namespace=pod.metadata.namespace,
                labels=template.metadata.labels,
                annotations=template.metadata.annotations,
                owner_references=[owner],
            )
            yield PersistentVolumeClaim(metadata=metadata, spec=template.spec)


def _discard(index: dict[Key, set[str]] | dict[Key, set[Key]], key: Key, item: str | Key) -> None:
    known = index.get(key)
    if known is not None:
        known.discard(item)
        if not known:
            del index[key]
