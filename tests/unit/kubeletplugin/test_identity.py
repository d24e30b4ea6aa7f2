from __future__ import annotations

import pytest

from driver.errors import KubeNotFoundError
from driver.kube import paths
from driver.kube.client import KubeClient
from kubeletplugin.identity import node_uid
from tests.unit.kubeletplugin.api import FakeApi
from tests.unit.kubeletplugin.world import NODE

NAME, UID = "authentication.kubernetes.io/node-name", "authentication.kubernetes.io/node-uid"


def test_a_token_that_is_bound_to_the_node_tells_its_uid_and_no_node_is_read(
    api: FakeApi, client: KubeClient
) -> None:
    api.user_extra = {NAME: [NODE], UID: ["uid-of-the-token"]}
    assert node_uid(client, NODE) == "uid-of-the-token"
    assert [path for _, path in api.requests] == [paths.self_review()]


@pytest.mark.parametrize("extra", [{}, {NAME: [NODE]}, {NAME: ["another"], UID: ["anothers"]}])
def test_any_other_client_reads_the_node(
    api: FakeApi, client: KubeClient, extra: dict[str, list[str]]
) -> None:
    api.user_extra = extra
    api.put(paths.node(NODE), {"metadata": {"name": NODE, "uid": "uid-of-the-node"}})
    assert node_uid(client, NODE) == "uid-of-the-node"


def test_where_neither_says_it_the_error_names_the_node(api: FakeApi, client: KubeClient) -> None:
    with pytest.raises(KubeNotFoundError, match=NODE):
        node_uid(client, NODE)
