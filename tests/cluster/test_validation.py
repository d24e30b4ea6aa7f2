"""`tandem plan` refuses what the API server refuses, and nothing else: held against the API server itself."""

from __future__ import annotations

import json
from typing import Final

import pytest

from controller.validation.documents import decode
from driver.errors import InvalidObjectError
from driver.names import DRIVER_NAME
from tests.cluster.mutants import Json, examples, mutants
from tests.controlplane import Cluster
from tests.controlplane.api import ApiError

SEED: Final = 1
COUNT: Final = 1200
_RESOURCES: Final = {
    "ResourceClaim": "namespaces/default/resourceclaims",
    "ResourceClaimTemplate": "namespaces/default/resourceclaimtemplates",
    "DeviceClass": "deviceclasses",
    "ResourceSlice": "resourceslices",
}


def server_says(cluster: Cluster, item: Json) -> str:
    """Why the API server refuses the object; empty where it takes it."""
    path = f"/apis/resource.k8s.io/v1/{_RESOURCES[item['kind']]}?dryRun=All&fieldValidation=Strict"
    try:
        cluster.api.post(path, item)
    except ApiError as error:
        return str(error)
    return ""


def plan_says(item: Json) -> str:
    """Why `tandem plan` refuses the object; empty where it takes it."""
    try:
        decode(json.dumps(item).encode(), DRIVER_NAME)
    except InvalidObjectError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("title", examples())
def test_what_is_right_is_taken_by_both(cluster: Cluster, title: str) -> None:
    item = examples()[title]
    assert (server_says(cluster, item), plan_says(item)) == ("", "")


def test_what_goes_wrong_is_refused_by_both_or_by_none(cluster: Cluster) -> None:
    refused = 0
    differ = []
    for mutant in mutants(SEED, COUNT):
        theirs, ours = server_says(cluster, mutant.object), plan_says(mutant.object)
        refused += bool(theirs)
        if bool(theirs) != bool(ours):
            differ.append((mutant.title, theirs, ours))
    assert differ == []
    assert COUNT / 10 < refused < COUNT - COUNT / 20
