"""What the API server reads leniently is no fault to `tandem plan` either."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from controller.validation.documents import decode
from driver.errors import InvalidObjectError
from driver.kube.objects import Pod, ResourceClaim, ResourceSlice
from driver.kube.storage import StorageClass
from driver.names import DRIVER_NAME

REQUEST: dict[str, Any] = {"name": "gpu", "exactly": {"deviceClassName": "gpu"}}
POOL = {"name": "p", "resourceSliceCount": 1}
MAP = 'device.attributes["a.io"]'
TOO_COMPLEX = f"{MAP}.all(x, {MAP}.all(y, {MAP}.all(z, {MAP}.all(u, x == u))))"
NOT_CEL = "device."


def read(kind: str, spec: dict[str, Any], version: str = "resource.k8s.io/v1") -> Any:
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    return decode(json.dumps(document).encode(), DRIVER_NAME)


def a_slice(**spec: Any) -> Any:
    return read("ResourceSlice", {"driver": "d.example.com", "pool": POOL, "nodeName": "n", **spec})


def test_null_is_what_is_not_there() -> None:
    exactly = {**REQUEST["exactly"], "selectors": None, "tolerations": [{"operator": None, "key": "a"}]}
    devices = {"requests": [{"name": "gpu", "exactly": exactly}], "constraints": None, "config": None}
    claim = read("ResourceClaim", {"devices": devices})
    assert isinstance(claim, ResourceClaim)
    (request,) = claim.spec.devices.requests
    assert request.exactly is not None
    assert (request.exactly.selectors, request.exactly.tolerations[0].operator) == ([], "Equal")


@pytest.mark.parametrize("value", [8, "8", " 8 ", 8.0])
def test_a_quantity_may_be_a_number_or_have_blanks_around_it(value: object) -> None:
    found = a_slice(devices=[{"name": "a", "capacity": {"m": {"value": value}}}])
    assert isinstance(found, ResourceSlice)
    assert float(found.spec.devices[0].capacity["m"].value) == 8


def test_a_quantity_or_a_generation_that_is_left_out_is_zero() -> None:
    found = a_slice(devices=[{"name": "a", "capacity": {"m": {}, "n": None}}])
    assert found.spec.pool.generation == 0
    assert {name: c.value for name, c in found.spec.devices[0].capacity.items()} == {"m": "0", "n": "0"}


def test_a_drivers_name_may_have_capitals() -> None:
    assert read("ResourceSlice", {"driver": "D.example.com", "pool": POOL, "nodeName": "n"}) is not None


def test_init_containers_run_in_turn_and_fields_of_newer_versions_are_passed_over() -> None:
    ports = [{"containerPort": 80, "hostPort": 80}]
    containers = [{"name": "a", "ports": ports}, {"name": "b", "ports": ports}]
    pod = read("Pod", {"initContainers": containers, "somethingOfTomorrow": {}}, "v1")
    assert isinstance(pod, Pod)


def test_volumes_are_read_with_all_the_fields_that_they_have_in_a_cluster() -> None:
    volume = {
        "capacity": {"storage": 5},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Delete",
        "local": {"path": "/mnt"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "c", "namespace": "n"},
    }
    found = read("PersistentVolume", volume, "v1")
    assert (found.spec.capacity, found.spec.claim_ref.name) == ({"storage": "5"}, "c")
    claim = read("PersistentVolumeClaim", {"dataSource": None, "storageClassName": ""}, "v1")
    assert (claim.metadata.namespace, claim.spec.storage_class_name) == ("default", "")
    document = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "s"},
        "provisioner": "csi.example.com",
        "reclaimPolicy": "Delete",
        "allowVolumeExpansion": True,
    }
    storage_class = decode(json.dumps(document).encode(), DRIVER_NAME)
    assert isinstance(storage_class, StorageClass)
    assert storage_class.volume_binding_mode == "Immediate"


def test_a_misspelt_field_of_a_volume_is_a_fault() -> None:
    with pytest.raises(InvalidObjectError, match=r"storageClasName.*storageClassName"):
        read("PersistentVolumeClaim", {"storageClasName": "fast"}, "v1")


def in_a_claim(expression: str) -> dict[str, Any]:
    exactly = {**REQUEST["exactly"], "selectors": [{"cel": {"expression": expression}}]}
    return {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}


def in_a_subrequest(expression: str) -> dict[str, Any]:
    sub = {"name": "a", "deviceClassName": "gpu", "selectors": [{"cel": {"expression": expression}}]}
    return {"devices": {"requests": [{"name": "gpu", "firstAvailable": [sub]}]}}


SELECTORS = {
    "ResourceClaim": (in_a_claim, "spec.devices.requests[0].exactly.selectors[0]"),
    "ResourceClaimTemplate": (
        lambda expression: {"spec": in_a_subrequest(expression)},
        "spec.spec.devices.requests[0].firstAvailable[0].selectors[0]",
    ),
    "DeviceClass": (
        lambda expression: {"selectors": [{"cel": {"expression": expression}}]},
        "spec.selectors[0]",
    ),
}


@pytest.mark.parametrize("kind", SELECTORS)
def test_a_selector_that_costs_more_than_kubernetes_takes_is_a_fault_with_its_estimate(kind: str) -> None:
    spec, field = SELECTORS[kind]
    with pytest.raises(InvalidObjectError) as caught:
        read(kind, spec(TOO_COMPLEX))
    assert (caught.value.field, caught.value.value) == (f"{field}.cel.expression", TOO_COMPLEX)
    assert str(caught.value).startswith(kind)
    assert re.search(r"too complex, exceeds cost limit: .* as [1-9]\d{6,}, above 1000000$", str(caught.value))
    assert read(kind, spec(f"{MAP}.all(x, {MAP}.all(y, x == y))")) is not None


@pytest.mark.parametrize("kind", SELECTORS)
def test_a_selector_that_does_not_compile_is_told_where_it_is_used(kind: str) -> None:
    spec, _ = SELECTORS[kind]
    assert read(kind, spec(NOT_CEL)) is not None
