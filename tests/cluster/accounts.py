"""Kubeconfigs of service accounts, so that what a test starts has the rights of its manifest and no more."""

from __future__ import annotations

import json

from tests.controlplane import Cluster


def kubeconfig_of(cluster: Cluster, namespace: str, account: str, *arguments: str, server: str = "") -> str:
    """A kubeconfig with a new token.

    Args:
        cluster: where.
        namespace: of the account.
        account: its name.
        arguments: more of `kubectl create token`: an object that the token is bound to.
        server: another address under which the API server is reached; HTTP is for a test's own proxy.
    """
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--output=json"))
    token = cluster.kubectl(f"--namespace={namespace}", "create", "token", account, *arguments).strip()
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    if server:
        config["clusters"][0]["cluster"] = {"server": server}
    return json.dumps(config)
