from __future__ import annotations

from typing import Any

import pytest

from controller.ownership import Owner, Ownership
from driver.kube.objects import DeviceClass, ObjectMeta
from driver.names import DRIVER_NAME
from tests.unit.controller.model import CEL
from tests.unit.controller.things import CLASSES, OURS, a_claim, a_request

ANY = DeviceClass(metadata=ObjectMeta(name="any"))
BY_NAME = {device_class.metadata.name: device_class for device_class in (*CLASSES, ANY)}
GPU, VF, OTHER = "gpu.tandem-dra.io", "rdma-vf.tandem-dra.io", "other.example.com"


def owner(*requests: dict[str, Any]) -> Owner:
    return Ownership(DRIVER_NAME, CEL).of(a_claim("c", requests=list(requests)), BY_NAME)


@pytest.mark.parametrize(
    ("requests", "who"),
    [
        ([a_request("a", GPU)], Owner.OURS),
        ([a_request("a", GPU), a_request("b", VF)], Owner.OURS),
        ([a_request("a", OTHER)], Owner.OTHERS),
        ([a_request("a", GPU), a_request("b", OTHER)], Owner.MIXED),
        ([a_request("a", "not.there")], Owner.UNKNOWN),
        ([], Owner.OTHERS),
        ([a_request("a", "any")], Owner.OTHERS),
        ([a_request("a", "any", 1, OURS)], Owner.OURS),
        ([a_request("a", GPU, 1, 'device.attributes["tandem-dra.io"].rail == 3')], Owner.OURS),
        ([a_request("a", GPU, 1, 'device.driver == "other.example.com"')], Owner.OTHERS),
        ([a_request("a", GPU, 1, "this is not CEL")], Owner.OTHERS),
    ],
)
def test_a_claim_is_ours_where_only_our_devices_can_meet_it(
    requests: list[dict[str, Any]], who: Owner
) -> None:
    assert owner(*requests) is who


def test_alternatives_are_ours_only_together() -> None:
    def either(*classes: str) -> dict[str, Any]:
        return {
            "name": "a",
            "firstAvailable": [{"name": f"s{i}", "deviceClassName": c} for i, c in enumerate(classes)],
        }

    assert owner(either(GPU, VF)) is Owner.OURS
    assert owner(either(GPU, OTHER)) is Owner.OTHERS
