"""A plan as JSON (and YAML), for programs."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from controller.planning import Plan, PlannedClaim
from driver.kube.objects import AllocationResult, DeviceAllocationConfig, OpaqueConfig


def to_builtins(plan: Plan) -> dict[str, Any]:
    """``pods[]`` with namespace, name, node, reason and claims[]; ``schedulerMode[]``, nodes where
    kube-scheduler decides; ``micros``. None stands where there is nothing.
    """
    return {
        "pods": [
            {
                "namespace": pod.namespace,
                "name": pod.name,
                "node": pod.node,
                "reason": pod.reason,
                "claims": [_claim(claim) for claim in pod.claims],
            }
            for pod in plan.pods
        ],
        "schedulerMode": list(plan.scheduler_mode),
        "micros": plan.micros,
    }


def to_json(plan: Plan) -> str:
    """One document, indented."""
    return msgspec.json.format(msgspec.json.encode(to_builtins(plan)), indent=2).decode() + "\n"


def to_yaml(plan: Plan) -> str:
    """The same document."""
    document = msgspec.json.decode(msgspec.json.encode(to_builtins(plan)))
    return yaml.safe_dump(document, sort_keys=False, width=110)


def _shown(allocation: AllocationResult | None) -> AllocationResult | None:
    """The allocation with a word in place of parameters that the API server takes and we cannot decode."""
    if allocation is None:
        return None
    devices = allocation.devices
    config = [_shown_entry(entry) for entry in devices.config]
    return msgspec.structs.replace(allocation, devices=msgspec.structs.replace(devices, config=config))


def _shown_entry(entry: DeviceAllocationConfig) -> DeviceAllocationConfig:
    if entry.opaque is None:
        return entry
    try:
        msgspec.json.decode(entry.opaque.parameters)
    except (msgspec.DecodeError, RecursionError):
        word = f"{len(bytes(entry.opaque.parameters))} bytes that cannot be decoded"
        opaque = OpaqueConfig(driver=entry.opaque.driver, parameters=msgspec.Raw(msgspec.json.encode(word)))
        return msgspec.structs.replace(entry, opaque=opaque)
    return entry


def _claim(claim: PlannedClaim) -> dict[str, Any]:
    return {
        "namespace": claim.namespace,
        "name": claim.name,
        "allocation": _shown(claim.allocation),
        "pairs": [
            {"gpu": pair.gpu, "nic": pair.nic, "tier": pair.tier.name, "rail": pair.rail}
            for pair in claim.pairs
        ],
        "notes": list(claim.notes),
    }
