"""What the kubelet plugin costs and how fast it is there: memory at rest, start to slices, slices restored.

On a DGX H100 with 64 VFs, against a real API server. The file cache is warm: a first start goes unmeasured.

    python -m bench.plugin [--rounds 5] [--rest-seconds 30]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Set
from typing import Any

from bench.plugin_node import PluginNode, plugin_node, resident_mb, wait_until
from bench.report import Goal, finish, progress, summary
from driver.kube import paths
from driver.kube.objects import ResourceSlice

RSS_GOAL_MB = 90.0
START_GOAL_SECONDS = 2.0
RESTORE_GOAL_SECONDS = 1.0


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="starts, and deletions (%(default)d)")
    parser.add_argument(
        "--rest-seconds", type=float, default=30.0, help="before memory is read (%(default)g)"
    )
    options = parser.parse_args()
    with plugin_node() as node:
        process = node.start()
        wait_until(lambda: _complete(node), "slices")
        starts = []
        for _ in range(options.rounds):
            process.stop()
            _delete_all(node)
            begin = time.monotonic()
            process.start()
            starts.append(wait_until(lambda: _complete(node), "slices") - begin)
        progress(f"started {options.rounds} times")
        restored = []
        for _ in range(options.rounds):
            restored.append(_restored_after(node))
            time.sleep(0.2)
        progress(f"deleted all slices {options.rounds} times; at rest for {options.rest_seconds:g} s")
        time.sleep(options.rest_seconds)
        resident = resident_mb(process.pid)
    results: dict[str, Any] = {
        "rss_mb": round(resident, 1),
        "start_to_slices_s": summary(starts),
        "slices_restored_s": summary(restored),
    }
    goals = [
        Goal("plugin_rss_mb", resident, "MB", RSS_GOAL_MB),
        Goal("start_to_slices_s", max(starts), "s", START_GOAL_SECONDS),
        Goal("slices_restored_s", max(restored), "s", RESTORE_GOAL_SECONDS),
    ]
    finish("plugin", results, goals)


def _slices(node: PluginNode) -> list[ResourceSlice]:
    found, _ = node.client.list(paths.slices(), ResourceSlice)
    return found


def _restored_after(node: PluginNode) -> float:
    before = _uids(node)
    begin = time.monotonic()
    _delete_all(node)
    return wait_until(lambda: _complete(node, but=before), "restored slices") - begin


def _uids(node: PluginNode) -> set[str]:
    return {slice_.metadata.uid for slice_ in _slices(node)}


def _complete(node: PluginNode, but: Set[str] = frozenset()) -> bool:
    """Is the pool whole, and of slices none of which is one of `but`?"""
    found = _slices(node)
    return bool(found) and all(
        slice_.spec.pool.resource_slice_count == len(found) and slice_.metadata.uid not in but
        for slice_ in found
    )


def _delete_all(node: PluginNode) -> None:
    for slice_ in _slices(node):
        node.client.delete(paths.slice_(slice_.metadata.name))


if __name__ == "__main__":
    main()
