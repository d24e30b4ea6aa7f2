"""Devices that several claims may hold at once, each with a part of one capacity (consumable capacity,
KEP-5075): a GPU by `memory`, a NIC by `bandwidth`.

A claim that asks for no amount gets the whole device: sharing is for those who say so. Devices with counters
stay whole.
"""

from __future__ import annotations

from typing import Final

from driver.attributes import Capacity, quantity, value_of
from driver.kube.objects import CapacityRange, CapacityRequestPolicy, DeviceCapacity

SHARED_CAPACITY: Final = {"gpu": "memory", "mig": "memory", "nic": "bandwidth", "vf": "bandwidth"}
"""Type of device and what its claims share."""

_STEPS: Final = {"memory": (1 << 30, 1024), "bandwidth": (10**9, 1000)}
"""1Gi, 1G; and the quantity's base."""


def shareable(kind: str, capacity: Capacity) -> Capacity | None:
    """The capacity with a request policy; None if the device has nothing to share, or too little."""
    name = SHARED_CAPACITY.get(kind, "")
    if name not in capacity:
        return None
    step, base = _STEPS[name]
    amount = value_of(capacity[name].value)
    most = amount // step * step
    if not most:
        return None
    policy = CapacityRequestPolicy(
        default=quantity(most, base),
        valid_range=CapacityRange(
            min=quantity(step, base), max=quantity(most, base), step=quantity(step, base)
        ),
    )
    return {**capacity, name: DeviceCapacity(value=capacity[name].value, request_policy=policy)}
