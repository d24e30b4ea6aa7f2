"""Which writes make the API's slices of this node what they must be. Pure: observed and desired in,
writes out.

All slices of a pool carry one generation and their number, and kube-scheduler goes by the newest
generation once that is complete. So a change makes a new generation of every slice, obsolete ones go
first, and what somebody deleted comes back in the generation it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from driver.kube.objects import Device, DeviceTaint, ResourceSlice


@dataclass(frozen=True, slots=True)
class Create:
    """Make a slice that is not there."""

    slice: ResourceSlice


@dataclass(frozen=True, slots=True)
class Update:
    """Overwrite a slice; `metadata.resourceVersion` is that of the one observed."""

    slice: ResourceSlice


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a slice that the pool has no more."""

    slice: ResourceSlice


_OBJECT_NAME_LENGTH: Final = 253

Write = Create | Update | Delete


def writes(
    observed: Mapping[str, ResourceSlice], desired: Sequence[ResourceSlice], newest_generation: int
) -> list[Write]:
    """The writes, in order; none where all is as it must be.

    Args:
        observed: the node's slices of our driver by object name.
        desired: the complete pool; its generation is ignored.
        newest_generation: highest that we ever wrote; a pool that vanished must not come back older.
    """
    wanted = {slice_.metadata.name: slice_ for slice_ in desired}
    extra = [slice_ for name, slice_ in observed.items() if name not in wanted]
    generations = {slice_.spec.pool.generation for slice_ in observed.values()}
    newest = max(generations | {newest_generation})
    intact = (
        not extra
        and len(generations) <= 1
        and all(_same(observed[name], wanted[name], newest) for name in observed)
    )
    generation = max(newest, 1) if intact else newest + 1
    steps: list[Write] = [Delete(slice_) for slice_ in extra]
    for name, slice_ in wanted.items():
        there = observed.get(name)
        if there is None:
            steps.append(Create(_with(slice_, generation)))
        elif not intact:
            steps.append(Update(_over(there, _with(slice_, generation))))
    return steps


def under_other_names(desired: Sequence[ResourceSlice], names: Mapping[str, str]) -> list[ResourceSlice]:
    """The slices under the object names that `names` has in place of theirs."""
    replace = msgspec.structs.replace
    return [
        replace(item, metadata=replace(item.metadata, name=names.get(item.metadata.name, item.metadata.name)))
        for item in desired
    ]


def other_name(name: str, salt: str) -> str:
    """An object name that sorts like `name` and that nobody can guess who does not know the salt."""
    return f"{name[: _OBJECT_NAME_LENGTH - len(salt) - 1].rstrip('.-')}-{salt}"


def lost_taints(sent: ResourceSlice, stored: ResourceSlice) -> bool:
    """Did the API server drop taints (feature gate DRADeviceTaints off)?"""
    return any(d.taints for d in sent.spec.devices) and not any(d.taints for d in stored.spec.devices)


def without_taints(slice_: ResourceSlice) -> ResourceSlice:
    """As it is stored where taints are dropped."""
    replace = msgspec.structs.replace
    devices = [replace(device, taints=[]) for device in slice_.spec.devices]
    return replace(slice_, spec=replace(slice_.spec, devices=devices))


def _same(there: ResourceSlice, wanted: ResourceSlice, generation: int) -> bool:
    return _bare(_with(wanted, generation)) == _bare(there) and (
        wanted.metadata.owner_references == there.metadata.owner_references
    )


def _bare(slice_: ResourceSlice) -> object:
    """The spec but for what the server fills in."""
    devices = [_timeless(device) for device in slice_.spec.devices]
    return msgspec.structs.replace(slice_.spec, devices=devices)


def _timeless(device: Device) -> Device:
    if not device.taints:
        return device
    taints = [msgspec.structs.replace(taint, time_added=None) for taint in device.taints]
    return msgspec.structs.replace(device, taints=taints)


def _with(slice_: ResourceSlice, generation: int) -> ResourceSlice:
    replace = msgspec.structs.replace
    pool = replace(slice_.spec.pool, generation=generation)
    return replace(slice_, spec=replace(slice_.spec, pool=pool))


def _over(there: ResourceSlice, wanted: ResourceSlice) -> ResourceSlice:
    """`wanted` as an update of `there`: its version, and the time at which each taint was added."""
    replace = msgspec.structs.replace
    times = {
        (device.name, taint.key, taint.value, taint.effect): taint.time_added
        for device in there.spec.devices
        for taint in device.taints
    }

    def dated(device: Device) -> Device:
        taints: list[DeviceTaint] = [
            replace(taint, time_added=times.get((device.name, taint.key, taint.value, taint.effect)))
            for taint in device.taints
        ]
        return replace(device, taints=taints)

    metadata = replace(
        wanted.metadata,
        uid=there.metadata.uid,
        resource_version=there.metadata.resource_version,
    )
    return replace(
        wanted, metadata=metadata, spec=replace(wanted.spec, devices=[dated(d) for d in wanted.spec.devices])
    )
