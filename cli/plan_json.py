"""A plan as JSON (and YAML), for programs."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from controller.planning import Plan, PlannedClaim


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


def _claim(claim: PlannedClaim) -> dict[str, Any]:
    return {
        "namespace": claim.namespace,
        "name": claim.name,
        "allocation": claim.allocation,
        "pairs": [
            {"gpu": pair.gpu, "nic": pair.nic, "tier": pair.tier.name, "rail": pair.rail}
            for pair in claim.pairs
        ],
        "notes": list(claim.notes),
    }
