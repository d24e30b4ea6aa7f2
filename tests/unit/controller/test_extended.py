"""Pods that ask for our devices by an extended resource are told why they wait."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.allocator.cel import CelCache
from controller.extended import Askers, why_waits
from controller.ownership import Ownership
from driver.kube.objects import DeviceClass, Pod
from driver.names import DRIVER_NAME
from tests.unit.controller.things import a_class, a_pod

OURS = a_class("gpu.tandem-dra.io", "gpu")
UNSCHEDULABLE = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}


def named(device_class: DeviceClass, resource: str) -> DeviceClass:
    spec = msgspec.structs.replace(device_class.spec, extended_resource_name=resource)
    return msgspec.structs.replace(device_class, spec=spec)


def asking(resource: str, amount: str = "1", **more: Any) -> Pod:
    containers = [{"name": "main", "resources": {"requests": {"cpu": "1", resource: amount}}}]
    return a_pod("p", **{"containers": containers, "status": UNSCHEDULABLE, **more})


def told(pod: Pod, *classes: DeviceClass) -> str:
    ownership = Ownership(DRIVER_NAME, CelCache())
    return why_waits(pod, {c.metadata.name: c for c in classes}, ownership.owns) or ""


@pytest.mark.parametrize(
    "resource", ["example.com/gpu", "deviceclass.resource.kubernetes.io/gpu.tandem-dra.io"]
)
def test_a_resource_of_our_class_is_told_with_what_to_do(resource: str) -> None:
    message = told(asking(resource), named(OURS, "example.com/gpu"))
    assert resource in message
    assert "ResourceClaimTemplate" in message


def test_other_resources_and_other_drivers_classes_are_none_of_our_business() -> None:
    theirs = named(a_class("their-gpu", driver="other.example.com"), "other.example.com/gpu")
    assert told(asking("example.com/fpga"), OURS, theirs) == ""
    assert told(asking("other.example.com/gpu"), OURS, theirs) == ""
    assert told(asking("example.com/gpu", "0"), named(OURS, "example.com/gpu")) == ""


def test_a_pod_is_looked_at_once_kube_scheduler_gave_up_and_again_when_classes_change() -> None:
    askers = Askers()
    fresh, refused = asking("example.com/gpu", status={}), asking("example.com/gpu")
    askers.apply(None, fresh)
    assert askers.take() == []
    askers.apply(fresh, refused)
    assert askers.take() == [refused]
    askers.apply(refused, refused)
    assert askers.take() == []
    askers.reconsider()
    assert askers.take() == [refused]
    askers.apply(refused, asking("example.com/gpu", node="a"))
    askers.reconsider()
    assert askers.take() == []
