"""An allocated ResourceClaim as far as it concerns this driver on this node.

A claim may hold other drivers' devices, configurations of several origins, and reservations of things
that are not pods; everything behind this module sees only what is ours. Pure: an object in, a value or
an error out.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from driver.codec import PLACEMENT, kind_of
from driver.config import decode_user
from driver.errors import ConfigError, PermanentError, RetryableError
from driver.kube.objects import DeviceAllocationConfig, ResourceClaim
from driver.names import pool_name
from driver.placement import Placement, decode_placement


@dataclass(frozen=True, slots=True, order=True)
class Consumer:
    """A pod for which the claim is reserved."""

    uid: str
    name: str


@dataclass(frozen=True, slots=True)
class ClaimedDevice:
    """One result of ours. `request` is the main request's name, which is what the kubelet knows it by."""

    request: str
    pool: str
    device: str
    admin_access: bool = False
    share_id: str | None = None


@dataclass(frozen=True, slots=True)
class AllocatedClaim:
    """What this node is to prepare.

    Attributes:
        devices: our results in their order; empty where the claim has none of ours.
        placement: the controller's decision; None where kube-scheduler allocated.
        consumers: pods in `reservedFor`.
        joinable: pods may come to share it without a Prepare of their own (it was not generated for one pod).
    """

    uid: str
    namespace: str
    name: str
    devices: tuple[ClaimedDevice, ...]
    placement: Placement | None
    consumers: tuple[Consumer, ...]
    joinable: bool


class ClaimError(PermanentError):
    """The claim cannot be prepared as it stands; attribute `claim` is its ``namespace/name``."""

    def __init__(self, claim: str, message: str) -> None:
        super().__init__(f"claim {claim}: {message}")
        self.claim = claim


class ClaimNotReadyError(RetryableError):
    """Not, or no longer, allocated and reserved here; attribute `claim` is its ``namespace/name``."""

    def __init__(self, claim: str, message: str) -> None:
        super().__init__(f"claim {claim}: {message}")
        self.claim = claim


def ours_on(claim: ResourceClaim, driver_name: str, node_name: str) -> bool:
    """Is a device of this node's pool allocated to the claim, and the claim reserved for somebody?"""
    allocation = claim.status.allocation
    pool = pool_name(driver_name, node_name)
    return bool(
        allocation is not None
        and claim.status.reserved_for
        and any(r.driver == driver_name and r.pool == pool for r in allocation.devices.results)
    )


def read(claim: ResourceClaim, driver_name: str, node_name: str) -> AllocatedClaim:
    """Take out what is ours.

    Raises:
        ClaimNotReadyError: not allocated, or not reserved for any pod.
        ClaimError: allocated on another node, or one of our configurations is wrong or forged.
    """
    meta = claim.metadata
    title = f"{meta.namespace}/{meta.name}"
    allocation = claim.status.allocation
    if allocation is None:
        raise ClaimNotReadyError(title, "is not allocated")
    consumers = tuple(
        Consumer(uid=r.uid, name=r.name)
        for r in claim.status.reserved_for
        if r.resource == "pods" and not r.api_group
    )
    if not consumers:
        raise ClaimNotReadyError(title, "is not reserved for any pod")
    pool = pool_name(driver_name, node_name)
    results = [result for result in allocation.devices.results if result.driver == driver_name]
    for result in results:
        if result.pool != pool:
            raise ClaimError(
                title,
                f"status.allocation.devices.results: device {result.device} is of pool {result.pool}; "
                f"this node's is {pool}",
            )
    return AllocatedClaim(
        uid=meta.uid,
        namespace=meta.namespace,
        name=meta.name,
        devices=tuple(
            ClaimedDevice(
                request=result.request.split("/", 1)[0],
                pool=result.pool,
                device=result.device,
                admin_access=bool(result.admin_access),
                share_id=result.share_id,
            )
            for result in results
        ),
        placement=_placement(title, allocation.devices.config, driver_name),
        consumers=consumers,
        joinable=not any(owner.kind == "Pod" and owner.controller for owner in meta.owner_references),
    )


def _placement(title: str, configs: list[DeviceAllocationConfig], driver_name: str) -> Placement | None:
    """Decode all our configurations; the last Placement from a class counts, since the controller
    appends its own.

    A Placement from the claim would be a tenant's forgery of the controller's word, and is refused.
    """
    placement: Placement | None = None
    for index, config in enumerate(configs):
        if config.opaque is None or config.opaque.driver != driver_name:
            continue
        try:
            placement = _decode(config.opaque.parameters, config.source) or placement
        except ConfigError as error:
            raise ClaimError(
                title, f"status.allocation.devices.config[{index}].opaque.parameters: {error}"
            ) from error
    return placement


def _decode(parameters: msgspec.Raw, source: str) -> Placement | None:
    """The Placement, if it is one."""
    if kind_of(parameters) != PLACEMENT:
        decode_user(parameters)
        return None
    if source != "FromClass":
        raise ConfigError(
            f"{PLACEMENT} has source {source}; only the controller decides placements", path="kind"
        )
    return decode_placement(parameters)
