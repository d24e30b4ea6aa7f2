"""How long the kubelet waits for NodePrepareResources.

Over the plugin's real socket, for claims that a real API server has: the plugin's GETs, the ledger's disk
writes and the CDI files are all in it. Every claim is a new one; it is unprepared before the next, so that
devices are free.

    python -m bench.prepare [--rounds 150]
"""

from __future__ import annotations

import argparse
import time
import uuid
from typing import Any

from bench.plugin_node import DRIVER, PluginNode, plugin_node
from bench.report import Goal, finish, progress, summary
from driver.kube import paths
from driver.kube.objects import ResourceClaim, ResourceSlice
from kubeletplugin.proto import dra_v1_pb2

DEVICE_COUNTS = 1, 8
GOAL_MS = 20.0
WARM_UP_ROUNDS = 5
_NAMESPACE = "default"
_REQUESTS = [
    {"name": kind, "exactly": {"deviceClassName": f"{kind}.tandem-dra.io"}} for kind in ("gpu", "vf")
]


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=150, help="measured claims of each size (%(default)d)")
    rounds: int = parser.parse_args().rounds
    results: dict[str, Any] = {}
    with plugin_node() as node:
        node.start()
        stub = node.serving()
        names = _devices(node)
        for count in DEVICE_COUNTS:
            progress(f"{rounds} claims of {count} device(s)")
            prepare, unprepare = [], []
            for index in range(WARM_UP_ROUNDS + rounds):
                claim = _allocated_claim(node, f"bench-{count}-{index}", names[:count])
                begin = time.perf_counter()
                answer = stub.NodePrepareResources(dra_v1_pb2.NodePrepareResourcesRequest(claims=[claim]))
                middle = time.perf_counter()
                done = stub.NodeUnprepareResources(dra_v1_pb2.NodeUnprepareResourcesRequest(claims=[claim]))
                end = time.perf_counter()
                _check(answer.claims[claim.uid].error, done.claims[claim.uid].error)
                assert len(answer.claims[claim.uid].devices) == count
                node.client.delete(paths.claim(_NAMESPACE, claim.name))
                if index >= WARM_UP_ROUNDS:
                    prepare.append((middle - begin) * 1e3)
                    unprepare.append((end - middle) * 1e3)
            results[f"devices_{count}"] = {"prepare_ms": summary(prepare), "unprepare_ms": summary(unprepare)}
    worst = max(results[f"devices_{count}"]["prepare_ms"]["p99"] for count in DEVICE_COUNTS)
    finish("prepare", results, [Goal("prepare_p99_ms", worst, "ms", GOAL_MS)])


def _devices(node: PluginNode) -> list[str]:
    """GPUs and VFs in turns, as the plugin publishes them."""
    published: list[str] = []
    deadline = time.monotonic() + 30
    while not published and time.monotonic() < deadline:
        slices, _ = node.client.list(paths.slices(), ResourceSlice)
        published = [device.name for slice_ in slices for device in slice_.spec.devices]
        time.sleep(0.05)
    gpus = [name for name in published if name.startswith("gpu-")]
    vfs = [name for name in published if name.startswith("vf-")]
    step = max(1, len(vfs) // len(gpus))
    return [name for pair in zip(gpus, vfs[::step], strict=False) for name in pair]


def _allocated_claim(node: PluginNode, name: str, devices: list[str]) -> dra_v1_pb2.Claim:
    """A claim as kube-scheduler leaves it: allocated to this node, and reserved for a pod."""
    claim = node.client.create(
        paths.claims(_NAMESPACE),
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": _NAMESPACE},
            "spec": {"devices": {"requests": _REQUESTS}},
        },
        ResourceClaim,
    )
    results = [
        {"request": device.partition("-")[0], "driver": DRIVER, "pool": node.pool, "device": device}
        for device in devices
    ]
    status = {
        "allocation": {"devices": {"results": results}},
        "reservedFor": [{"resource": "pods", "name": name, "uid": str(uuid.uuid4())}],
    }
    node.client.patch(paths.claim_status(_NAMESPACE, name), {"status": status}, ResourceClaim)
    return dra_v1_pb2.Claim(namespace=_NAMESPACE, name=name, uid=claim.metadata.uid)


def _check(*errors: str) -> None:
    for error in errors:
        if error:
            raise RuntimeError(error)


if __name__ == "__main__":
    main()
