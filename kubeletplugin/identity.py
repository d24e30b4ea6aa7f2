"""Which node the plugin speaks for, as the API server knows it, without a right to read any node.

The token of a DaemonSet's pod is bound to the pod and names its node (KEP-4193, Kubernetes 1.32 and newer).
Who asks the API server about itself, which everybody may, is told that node's name and UID.
"""

from __future__ import annotations

from typing import Final

import msgspec

from driver.errors import KubeNotFoundError, KubeRefusedError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import Node

_NODE_NAME: Final = "authentication.kubernetes.io/node-name"
_NODE_UID: Final = "authentication.kubernetes.io/node-uid"
_REVIEW: Final = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


class _UserInfo(msgspec.Struct):
    extra: dict[str, list[str]] = {}


class _Status(msgspec.Struct, rename="camel"):
    user_info: _UserInfo = msgspec.field(default_factory=_UserInfo)


class _Review(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


def node_uid(client: KubeClient, node_name: str) -> str:
    """Return the UID of the Node, from the token where it is bound to that node, else from the Node itself.

    Raises:
        KubeError: the API server does not say, or the token names no node and may not read the Node.
    """
    try:
        extra = client.create(paths.self_review(), _REVIEW, _Review).status.user_info.extra
    except (KubeNotFoundError, KubeRefusedError):
        extra = {}
    uid = extra.get(_NODE_UID, [""])[0]
    if uid and extra.get(_NODE_NAME) == [node_name]:
        return uid
    return client.get(paths.node(node_name), Node).metadata.uid
