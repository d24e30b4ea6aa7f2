"""What it costs to know a node: probing it, building its slices, and asking again when nothing has changed.

The node is `vf-dense` (8 GPUs, 8 NICs with 32 VFs each): its sysfs is rendered, its 264 interfaces are real
ones in a network namespace of their own (needs root), NVML answers beneath pynvml. The probes are those of
production.

    python -m bench.inventory [--machine NAME] [--rounds 15]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.report import Goal, finish, progress, summary
from driver.devices import Inventory
from driver.inventory import HostProbe
from driver.kube.objects import ResourceSlice
from driver.mock.hardware import MockHardware
from driver.slices import SliceOptions, build

_CLONE_NEWNET = 0x40000000
_PROBE_MS, _SLICES_MS, _POLL_CPU_MS = 150, 30, 20


def main() -> None:
    """Run and print the answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--machine", default="vf-dense")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise SystemExit(f"a network namespace: {os.strerror(ctypes.get_errno())}; run as root")
    with tempfile.TemporaryDirectory() as directory:
        hardware = MockHardware(options.machine, Path(directory), "bench")
        roots = hardware.install()
        try:
            results, goals = _measure(roots.sysfs, options.rounds)
        finally:
            hardware.remove()
    finish("inventory", {"machine": options.machine, **results}, goals)


def _measure(sysfs: Path, rounds: int) -> tuple[dict[str, Any], list[Goal]]:
    HostProbe(sysfs).read()  # imports, page cache
    inventory = HostProbe(sysfs).read()
    functions = sum(1 + len(nic.vfs) for nic in inventory.nics)
    progress(f"{len(inventory.gpus)} GPUs, {len(inventory.nics)} NICs, {functions} functions")
    probe = summary([_wall_ms(lambda: HostProbe(sysfs).read()) for _ in range(rounds)])
    known = HostProbe(sysfs)
    known.read()
    poll_wall, poll_cpu = [], []
    for _ in range(rounds):
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        known.read()
        poll_cpu.append((time.process_time() - cpu) * 1000)
        poll_wall.append((time.perf_counter() - wall) * 1000)
    slices = summary([_wall_ms(lambda: _slices(inventory)) for _ in range(rounds)])
    results = {
        "devices": sum(len(s.spec.devices) for s in _slices(inventory)),
        "probe_ms": probe,
        "slices_ms": slices,
        "unchanged_poll_ms": summary(poll_wall),
        "unchanged_poll_cpu_ms": summary(poll_cpu),
    }
    return results, [
        Goal("probe_ms", probe["p50"], "ms", _PROBE_MS),
        Goal("slices_ms", slices["p50"], "ms", _SLICES_MS),
        Goal("unchanged_poll_cpu_ms", summary(poll_cpu)["p50"], "ms", _POLL_CPU_MS),
    ]


def _slices(inventory: Inventory) -> list[ResourceSlice]:
    return build(
        inventory,
        driver_name="tandem-dra.io",
        node_name="bench",
        node_uid="0",
        generation=1,
        options=SliceOptions(),
    )


def _wall_ms(call: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
