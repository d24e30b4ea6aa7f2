"""Nodes that are API objects only: what a bench of the controller's half needs by the thousand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Nothing sends these nodes' heartbeats, so the controller manager must not miss them.
FOR_GOOD = "--node-monitor-grace-period=8760h"

LABEL = "tandem-dra.io/fake-node"
CAPACITY = {"cpu": "192", "memory": "2Ti", "pods": "250", "ephemeral-storage": "1Ti"}


def fake_node(name: str, labels: Mapping[str, str], capacity: Mapping[str, str]) -> dict[str, Any]:
    """A Node that is Ready, labelled LABEL, with CAPACITY and whatever `capacity` adds or changes."""
    amount = CAPACITY | dict(capacity)
    ready = {"type": "Ready", "status": "True", "reason": "FakeNode", "message": "nothing runs here"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, LABEL: "true"} | dict(labels)},
        "status": {"capacity": amount, "allocatable": amount, "conditions": [ready]},
    }
