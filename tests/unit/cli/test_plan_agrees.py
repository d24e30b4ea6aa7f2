"""`tandem plan` against the allocator beneath it, which elsewhere is held against Kubernetes' own."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from controller.allocator.cel import CelCache
from controller.allocator.verdict import Refusal
from controller.planning import PlannedPod, plan
from controller.settings import PlacementSettings
from controller.validation.documents import decode
from driver.names import DRIVER_NAME
from tests.oracle.compare import ours_to
from tests.oracle.generate import question

CEL = CelCache()
CASES = 150


def documents(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The question as files: the waiting claims are those of one pod."""
    dra = "resource.k8s.io/v1"
    waiting = [c["metadata"]["name"] for c in asked["claims"] if not c.get("status", {}).get("allocation")]
    namespace = asked["claims"][0]["metadata"].get("namespace", "default")
    claims = [{"name": f"c{i}", "resourceClaimName": name} for i, name in enumerate(waiting)]
    pod = {"metadata": {"name": "pod", "namespace": namespace}, "spec": {"resourceClaims": claims}}
    return [
        {"apiVersion": "v1", "kind": "Node", **asked["node"]},
        *({"apiVersion": dra, "kind": "ResourceSlice", **one} for one in asked["slices"]),
        *({"apiVersion": dra, "kind": "DeviceClass", **one} for one in asked["classes"]),
        *({"apiVersion": dra, "kind": "ResourceClaim", **one} for one in asked["claims"]),
        {"apiVersion": "v1", "kind": "Pod", **pod},
    ]


def planned(asked: dict[str, Any]) -> PlannedPod:
    decoded = [decode(msgspec.json.encode(one), DRIVER_NAME) for one in documents(asked)]
    objects = [one for one in decoded if one is not None]
    assert len(objects) == len(decoded)
    settings = PlacementSettings(driver_name="nobodys.example.com")
    (pod,) = plan(objects, settings, CEL, time.perf_counter).pods
    return pod


@pytest.mark.parametrize("number", range(CASES))
def test_a_pod_is_placed_as_the_allocator_would(number: int) -> None:
    # Pools of any form are any driver's but ours.
    asked = question(11, number)
    pod, verdict = planned(asked), ours_to(asked)
    if isinstance(verdict, Refusal):
        assert pod.node is None
        assert verdict.message in (pod.reason or "")
        return
    assert pod.node == asked["node"]["metadata"]["name"]
    results = [claim.allocation.devices.results for claim in pod.claims if claim.allocation]
    assert results == [share.result.devices.results for share in verdict.claims]
