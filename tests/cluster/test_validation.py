"""`tandem plan` refuses what the API server refuses, and nothing else: held against the API server itself."""

from __future__ import annotations

import json
from typing import Final

import pytest

from controller.validation.documents import decode
from driver.errors import InvalidObjectError
from driver.names import DRIVER_NAME
from tests.cluster.mutants import Json, examples, looser_examples, mutants
from tests.controlplane import Cluster, wait_for
from tests.controlplane.api import ApiError

SEED: Final = 1
COUNT: Final = 1200
_PATHS: Final = {
    "ResourceClaim": "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims",
    "ResourceClaimTemplate": "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaimtemplates",
    "DeviceClass": "/apis/resource.k8s.io/v1/deviceclasses",
    "ResourceSlice": "/apis/resource.k8s.io/v1/resourceslices",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Node": "/api/v1/nodes",
}


class Judges:
    """The API server, and `tandem plan`."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"  # without it there are no pods
        wait_for("the namespace's account", lambda: cluster.api.get(account), retry=(ApiError,))

    def __call__(self, item: Json) -> tuple[str, str]:
        """Why each refuses the object; empty where it takes it."""
        path = _PATHS[item["kind"]].format(self._namespace)
        theirs = ours = ""
        try:
            self._cluster.api.post(f"{path}?dryRun=All&fieldValidation=Strict", item)
        except ApiError as error:
            theirs = str(error)
        try:
            decode(json.dumps(item).encode(), DRIVER_NAME)
        except InvalidObjectError as error:
            ours = str(error)
        return theirs, ours


@pytest.fixture
def judges(cluster: Cluster, namespace: str) -> Judges:
    return Judges(cluster, namespace)


@pytest.mark.parametrize("item", [*examples().values(), *looser_examples().values()])
def test_what_is_right_is_taken_by_both(judges: Judges, item: Json) -> None:
    assert judges(item) == ("", "")


def test_what_goes_wrong_is_refused_by_both_or_by_none(judges: Judges) -> None:
    said = [(mutant.title, *judges(mutant.object)) for mutant in mutants(examples(), SEED, COUNT)]
    assert [one for one in said if bool(one[1]) != bool(one[2])] == []
    assert COUNT / 10 < sum(bool(theirs) for _, theirs, _ in said) < COUNT - COUNT / 20


def test_no_pod_or_node_is_refused_that_the_api_server_takes(judges: Judges) -> None:
    said = [(mutant.title, *judges(mutant.object)) for mutant in mutants(looser_examples(), SEED, COUNT)]
    assert [one for one in said if one[2] and not one[1]] == []
    assert sum(bool(ours) for _, _, ours in said) > COUNT / 2
