"""What is wrong with devices, said in the slices. Pure: values in, values out.

A NIC without link is offered with a taint. A device that is gone is not offered; but while a claim has it,
it stays, just as it was, with a taint: kube-scheduler and the controller go on counting what it draws on, and
whoever looks at the claim finds its device. Both taints are NoSchedule: a pod that runs is not evicted, since
the link or the device may come back, and it may have work to save; a DeviceTaintRule with NoExecute does that
where it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import TypeVar

import msgspec

from driver.devices import Inventory, Nic
from driver.kube.objects import Device, DeviceTaint, ResourceSlice
from driver.names import (
    CONTROLLER_TAINT,
    LINK_DOWN_TAINT,
    TYPE_NIC,
    TYPE_VF,
    UNHEALTHY_TAINT,
    device_name,
)
from driver.slices import COUNTER_SETS_PER_SLICE, DEVICES_PER_SLICE

T = TypeVar("T")
_replace = msgspec.structs.replace


def link_taints(inventory: Inventory) -> dict[str, tuple[DeviceTaint, ...]]:
    """Taints by device name of the NICs without link.

    VFs have the link of their PF, whose interface is up where VFs are used. A PF without VFs is offered
    itself, and its interface says nothing as long as nobody has set it up. InfiniBand goes by its port, since
    it works without any interface.
    """
    down = (DeviceTaint(key=LINK_DOWN_TAINT, effect="NoSchedule"),)
    found: dict[str, tuple[DeviceTaint, ...]] = {}
    for nic in inventory.nics:
        if _is_down(nic):
            found[device_name(TYPE_NIC, nic.pci_address)] = down
            found |= {device_name(TYPE_VF, vf.pci_address): down for vf in nic.vfs}
    return found


def _is_down(nic: Nic) -> bool:
    if nic.link_type == "infiniband":
        port = nic.rdma
        return port is not None and port.link_layer != "" and port.rate_bits_per_second == 0
    return bool(nic.vfs) and nic.netdev is not None and not nic.netdev.carrier


def lost_devices(
    desired: Sequence[ResourceSlice], before: Sequence[ResourceSlice], in_use: Set[str]
) -> frozenset[str]:
    """Names of devices that claims have and slices had, but that are not there any more."""
    offered = {device.name for slice_ in desired for device in slice_.spec.devices}
    had = {device.name for slice_ in before for device in slice_.spec.devices}
    return frozenset((in_use & had) - offered)


def with_lost(
    desired: Sequence[ResourceSlice],
    before: Sequence[ResourceSlice],
    lost: Set[str],
    name_of: Callable[[int, str], str],
) -> list[ResourceSlice]:
    """`desired` with the lost devices as they stand in `before`, tainted, and the counters they draw on.

    Args:
        before: slices that have the devices; of two that have one, the first counts.
        name_of: object name from number and kind (empty, or ``counters-``) of a slice.
    """
    if not lost:
        return list(desired)
    devices = [device for slice_ in desired for device in slice_.spec.devices]
    sets = [counters for slice_ in desired for counters in slice_.spec.shared_counters]
    known = {c.name: c for slice_ in reversed(before) for c in slice_.spec.shared_counters}
    had = {d.name: d for slice_ in reversed(before) for d in slice_.spec.devices if d.name in lost}
    for name in sorted(had):
        there = {counters.name for counters in sets}
        missing = {consumed.counter_set for consumed in had[name].consumes_counters} - there
        if missing <= known.keys():  # a set that nobody knows would make the whole pool invalid
            sets += [known[name_of_set] for name_of_set in sorted(missing)]
            devices.append(_tainted(had[name]))
    pieces = [
        *(
            (name_of(number, ""), cut, [])
            for number, cut in enumerate(_cuts(devices, DEVICES_PER_SLICE) or [[]])
        ),
        *(
            (name_of(number, "counters-"), [], cut)
            for number, cut in enumerate(_cuts(sets, COUNTER_SETS_PER_SLICE))
        ),
    ]
    metadata, spec = desired[0].metadata, desired[0].spec
    pool = _replace(spec.pool, resource_slice_count=len(pieces))
    return [
        ResourceSlice(
            metadata=_replace(metadata, name=name),
            spec=_replace(spec, pool=pool, devices=part, shared_counters=counters),
        )
        for name, part, counters in pieces
    ]


def _tainted(device: Device) -> Device:
    """Other taints than ours to keep kube-scheduler away speak of a device that is there."""
    taints = [_replace(taint, time_added=None) for taint in device.taints if taint.key == CONTROLLER_TAINT]
    return _replace(device, taints=[*taints, DeviceTaint(key=UNHEALTHY_TAINT, effect="NoSchedule")])


def _cuts(values: list[T], size: int) -> list[list[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
