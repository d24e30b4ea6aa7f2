from __future__ import annotations

import msgspec
import pytest

from driver.kube.objects import Pod, ResourceClaim


def test_lists_that_the_server_writes_as_null_are_empty() -> None:
    raw = b"""{"spec": {"devices": {"requests": null}},
               "status": {"devices": [{"driver": "d", "pool": "p", "device": "x", "conditions": null}]}}"""
    claim = msgspec.json.decode(raw, type=ResourceClaim)
    assert claim.spec.devices.requests == []
    assert claim.status.devices[0].conditions == []


def test_a_bookmark_of_a_watch_of_pods_can_be_read() -> None:
    raw = b'{"metadata": {"resourceVersion": "7"}, "spec": {"containers": null}, "status": {}}'
    pod = msgspec.json.decode(raw, type=Pod)
    assert (pod.metadata.resource_version, pod.spec.containers) == ("7", [])


def test_another_type_than_a_list_is_still_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="requests"):
        msgspec.json.decode(b'{"spec": {"devices": {"requests": 1}}}', type=ResourceClaim)
