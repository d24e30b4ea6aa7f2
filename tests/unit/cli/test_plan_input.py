"""What the API server reads leniently is no fault to `tandem plan` either."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.validation.documents import decode
from driver.errors import InvalidObjectError
from driver.kube.objects import Pod, ResourceClaim, ResourceSlice
from driver.kube.storage import StorageClass
from driver.names import DRIVER_NAME

REQUEST: dict[str, Any] = {"name": "gpu", "exactly": {"deviceClassName": "gpu"}}
POOL = {"name": "p", "resourceSliceCount": 1}


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
