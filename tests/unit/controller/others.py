"""Other drivers: their devices, their claims, and pods that need them beside ours."""

from __future__ import annotations

from typing import Any

import msgspec

from driver.kube.objects import AllocationResult, ResourceClaim, ResourceSlice
from tests.unit.allocator import world
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import (
    a_claim,
    a_pod,
    a_request,
)

OTHER, THIRD = "other.example.com", "third.example.com"


def theirs_on(
    node: str, devices: int = 1, *, driver: str = OTHER, words: str = "type=x"
) -> list[ResourceSlice]:
    return world.slices([f"x-[0-{devices - 1}]: {words}"], driver=driver, pool=f"{driver}-{node}", node=node)


def their_claim(
    name: str, count: int = 1, *selectors: str, driver: str = OTHER, **more: Any
) -> ResourceClaim:
    return a_claim(name, requests=[a_request("x", driver, count, *selectors)], **more)


def taken(node: str, *devices: str, driver: str = OTHER) -> AllocationResult:
    """As kube-scheduler allocates another driver's devices."""
    results = [
        {"request": "x", "driver": driver, "pool": f"{driver}-{node}", "device": device} for device in devices
    ]
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return msgspec.convert(
        {"devices": {"results": results}, "nodeSelector": {"nodeSelectorTerms": [term]}}, AllocationResult
    )


def publish(cluster: ModelCluster, *slices: ResourceSlice) -> None:
    for item in slices:
        cluster.state.apply_slice(None, item)


def withdraw(cluster: ModelCluster, *slices: ResourceSlice) -> None:
    for item in slices:
        cluster.state.apply_slice(item, None)


def need(cluster: ModelCluster, name: str, *others: ResourceClaim, **pod: Any) -> None:
    """A pod with a claim for a pair and these."""
    cluster.put_claim(a_claim(f"{name}-ours"))
    for claim in others:
        cluster.put_claim(claim)
    cluster.put_pod(a_pod(name, [f"{name}-ours", *(claim.metadata.name for claim in others)], **pod))


def where(cluster: ModelCluster, name: str) -> str | None:
    return cluster.node_of(f"{name}-ours")
