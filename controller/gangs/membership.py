"""Which gang a pod belongs to, and what its claims say of it.

A gang is named by what outlives its pods: a label, a PodGroup, or the controller that makes them. So a pod
that takes a lost one's place is a member of the same gang. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from driver.config import Alignment, decode_user
from driver.errors import ConfigError
from driver.gang import Gang
from driver.kube.objects import DeviceClass, Pod, ResourceClaim

GANG_LABEL: Final = "tandem-dra.io/gang"
_JOBSET_NAME: Final = "jobset.sigs.k8s.io/jobset-name"
_JOBSET_UID: Final = "jobset.sigs.k8s.io/jobset-uid"
_LWS_NAME: Final = "leaderworkerset.sigs.k8s.io/name"
_LWS_GROUP: Final = "leaderworkerset.sigs.k8s.io/group-key"


@dataclass(frozen=True, slots=True, order=True)
class GangId:
    """Names a gang: in which namespace, what kind of thing makes it one, and which.

    Attributes:
        uid: of that thing, where a new one of the same name is another gang; empty else.
    """

    namespace: str
    kind: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class GangConflict(Exception):  # noqa: N818  # the users' mistake, told to them
    """Claims or members say different things of one gang, or there is nothing that makes the pod a member."""


def gang_id(pod: Pod) -> GangId | None:
    """The gang that the pod would be a member of: by its label, else its PodGroup, else who made it."""
    meta = pod.metadata
    labels, namespace = meta.labels, meta.namespace
    if name := labels.get(GANG_LABEL):
        return GangId(namespace, "gang", name)
    if pod.spec.scheduling_group is not None and (name := pod.spec.scheduling_group.pod_group_name):
        return GangId(namespace, "PodGroup", name)
    if key := labels.get(_LWS_GROUP):  # one group of the set, leader and workers, is one gang
        return GangId(namespace, "LeaderWorkerSet", labels.get(_LWS_NAME, ""), key)
    if name := labels.get(_JOBSET_NAME):
        return GangId(namespace, "JobSet", name, labels.get(_JOBSET_UID, ""))
    owner = next((owner for owner in meta.owner_references if owner.controller), None)
    return GangId(namespace, owner.kind, owner.name, owner.uid) if owner is not None else None


def gang_asked(
    claims: Iterable[ResourceClaim], classes: Mapping[str, DeviceClass], driver_name: str
) -> tuple[Gang | None, frozenset[str]]:
    """What the pod's claims say of its gang (None: it is in none), and the UIDs of those that say it.

    The claim's own word counts before that of its classes.

    Raises:
        GangConflict: they say different things.
    """
    first: tuple[Gang, str] | None = None
    uids: set[str] = set()
    for claim in claims:
        for gang in _own(claim, driver_name) or _of_classes(claim, classes, driver_name):
            if first is not None and gang != first[0]:
                raise GangConflict(differ("claim", first[1], first[0], claim.metadata.name, gang))
            first = first or (gang, claim.metadata.name)
            uids.add(claim.metadata.uid)
    return (first[0] if first else None), frozenset(uids)


def sized(gang: Gang, least: int | None, group: GangId) -> Gang:
    """The gang with the size that its PodGroup (`least`, None: it says none) gives it, where it has none.

    Raises:
        GangConflict: neither says it, or both do, differently.
    """
    if gang.size is None and least is None:
        raise GangConflict(f"no gang.size is given, and {group} gives none")
    if gang.size is not None and least is not None and gang.size != least:
        raise GangConflict(f"gang.size is {gang.size}, but minCount of {group} is {least}")
    return replace(gang, size=gang.size or least)


def differ(kind: str, first: str, one: Gang, second: str, other: Gang) -> str:
    """The first thing that two say differently of their gang."""
    fields = (
        ("size", one.size, other.size),
        ("rails", _rails(one), _rails(other)),
        ("within", one.within or "(nothing)", other.within or "(nothing)"),
        ("timeoutSeconds", one.timeout_seconds, other.timeout_seconds),
    )
    name, mine, theirs = next(field for field in fields if field[1] != field[2])
    return (
        f"gang.{name} is {mine} in {kind} {first} and {theirs} in {kind} {second}; right is the same in all"
    )


def _rails(gang: Gang) -> str:
    return "same" if gang.same_rails else "any"


def _own(claim: ResourceClaim, driver_name: str) -> list[Gang]:
    return [
        gang
        for config in claim.spec.devices.config
        if config.opaque is not None and config.opaque.driver == driver_name
        for gang in _decoded(bytes(config.opaque.parameters))
    ]


def _of_classes(claim: ResourceClaim, classes: Mapping[str, DeviceClass], driver_name: str) -> Iterator[Gang]:
    names = {
        wanted.device_class_name for request in claim.spec.devices.requests for wanted in request.alternatives
    }
    for name in sorted(names & classes.keys()):
        for config in classes[name].spec.config:
            if config.opaque is not None and config.opaque.driver == driver_name:
                yield from _decoded(bytes(config.opaque.parameters))


@lru_cache(maxsize=1024)
def _decoded(parameters: bytes) -> tuple[Gang, ...]:
    """None or one; what is wrong with the document is the allocator's to say."""
    try:
        asked = decode_user(parameters)
    except ConfigError:
        return ()
    return (asked.gang,) if isinstance(asked, Alignment) and asked.gang is not None else ()
