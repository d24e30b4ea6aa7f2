"""Many nodes for little: Node objects without a machine, with the slices that a plugin would publish there.

The slices are the real builder's, of an inventory that the real probes read off one of our machine files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from driver.devices import Inventory
from driver.kube import paths
from driver.mock import source
from driver.mock.machine import load
from driver.names import DRIVER_NAME
from driver.slices import SliceOptions, build
from tests.controlplane import Cluster

MACHINE: Final = "dgx-h100"
PAIRS: Final = 8
"""GPUs of that machine, each with a NIC on its switch."""


class Fleet:
    """Fake nodes of one cluster; `vfs_per_pf` other than the machine file's makes smaller pools."""

    def __init__(self, cluster: Cluster, vfs_per_pf: int | None = None) -> None:
        self._cluster = cluster
        machine = load(MACHINE, vfs_per_pf=vfs_per_pf)
        self.inventory = source.read(machine, machine.load_overlay())
        self._published: dict[str, list[str]] = {}
        self._generations: dict[str, int] = {}

    @property
    def nodes(self) -> list[str]:
        """Those that are there."""
        return list(self._published)

    def add(self, count: int, prefix: str, labels: Mapping[str, str] | None = None) -> list[str]:
        """More nodes, Ready and with their slices; returns their names."""
        names = self._cluster.add_fake_nodes(count, prefix, labels)
        for name in names:
            self.publish(name)
        return names

    def publish(self, node: str, inventory: Inventory | None = None, *, pause_seconds: float = 0) -> None:
        """Writes the node's pool in a new generation, slice by slice: it is incomplete until the last one is
        there, with a pause before each.
        """
        api = self._cluster.api
        generation = self._generations[node] = self._generations.get(node, 0) + 1
        slices = build(
            inventory or self.inventory,
            driver_name=DRIVER_NAME,
            node_name=node,
            node_uid=api.get(paths.node(node))["metadata"]["uid"],
            generation=generation,
            options=SliceOptions(),
        )
        documents: dict[str, Any] = {s.metadata.name: json.loads(msgspec.json.encode(s)) for s in slices}
        known = self._published.get(node, [])
        for name in set(known) - set(documents):
            api.delete(paths.slice_(name))
        for name, document in documents.items():
            time.sleep(pause_seconds)
            if name in known:
                found = api.get(paths.slice_(name))
                document["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
                api.request("PUT", paths.slice_(name), document)
            else:
                api.post(paths.slices(), document)
        self._published[node] = list(documents)

    def remove(self, *nodes: str) -> None:
        """Takes nodes out of the cluster, slices first, as when a machine goes for good."""
        for node in nodes:
            for name in self._published.pop(node):
                self._cluster.api.delete(paths.slice_(name))
            self._cluster.api.delete(paths.node(node))
