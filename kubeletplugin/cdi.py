"""CDI files: how the container runtime learns what a prepared device brings into a container.

One file a claim, one CDI device a result, so that a container gets only what it asked for. The files
follow from the
ledger, are written atomically, and need no fsync: a machine that crashed makes them anew at start.

Fields and the versions that brought them: the Container Device Interface specification, SPEC.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kubeletplugin.planner import Plan, PlannedDevice

_BASE_VERSION = "0.3.0"
_HOST_PATH_VERSION = "0.5.0"  # hostPath, and device names that begin with a digit


def kind(driver_name: str, claim_uid: str) -> str:
    """CDI kind of a claim's devices: of its own, so that a device's name may be the same in every claim."""
    return f"{driver_name}/claim-{claim_uid}"


def device_id(driver_name: str, claim_uid: str, device: PlannedDevice) -> str:
    """What the kubelet hands to the runtime: ``<vendor>/<class>=<name>``."""
    return f"{kind(driver_name, claim_uid)}={device.cdi_name}"


def rdma_environment(devices: Sequence[PlannedDevice]) -> dict[str, str]:
    """Variables that tell NCCL, UCX and NVSHMEM which NICs a container has; empty without RDMA.

    The leading ``=`` makes NCCL compare whole names, else ``mlx5_1`` would also be ``mlx5_12``. A traffic
    class is one for a process: it is told where all the NICs are to have the same.
    """
    nics = [device for device in devices if device.rdma_device]
    if not nics:
        return {}
    ports = ",".join(f"{nic.rdma_device}:1" for nic in nics)
    told = {"NCCL_IB_HCA": f"={ports}", "UCX_NET_DEVICES": ports, "NVSHMEM_HCA_LIST": ports}
    classes = {nic.traffic_class for nic in nics}
    if len(classes) == 1 and (traffic_class := classes.pop()) is not None:
        told |= {"NCCL_IB_TC": str(traffic_class), "UCX_IB_TRAFFIC_CLASS": str(traffic_class)}
    return told


def spec(driver_name: str, plan: Plan, together: Sequence[PlannedDevice]) -> dict[str, Any]:
    """The specification of a claim.

    Args:
        together: all devices that the claim's pods have on this node. A container's CDI devices are
            concatenated and the last value of a variable wins, so every NIC carries the whole list.
    """
    environment = rdma_environment(together)
    devices = [_device(device, environment if device.rdma_device else {}) for device in plan.devices]
    newer = any(
        device.cdi_name[0].isdigit() or any(node.path != node.host_path for node in device.nodes)
        for device in plan.devices
    )
    return {
        "cdiVersion": _HOST_PATH_VERSION if newer else _BASE_VERSION,
        "kind": kind(driver_name, plan.uid),
        "devices": devices,
    }


def _device(device: PlannedDevice, environment: dict[str, str]) -> dict[str, Any]:
    own = {**dict(device.env), **environment}
    edits: dict[str, Any] = {"env": [f"{key}={value}" for key, value in own.items()]}
    if device.nodes:
        edits["deviceNodes"] = [
            {"path": node.path}
            if node.path == node.host_path
            else {"path": node.path, "hostPath": node.host_path}
            for node in device.nodes
        ]
    return {"name": device.cdi_name, "containerEdits": edits}


class CdiFiles:
    """The driver's files in a CDI directory, ``<driver>-claim-<uid>.json``; other drivers' are left alone."""

    def __init__(self, directory: Path, driver_name: str) -> None:
        self._directory = directory
        self._driver_name = driver_name
        self._prefix = f"{driver_name}-claim-"

    def write(self, plan: Plan, together: Sequence[PlannedDevice]) -> None:
        """Write a claim's file, or replace it whole.

        Raises:
            OSError: the directory cannot be written.
        """
        target = self._path(plan.uid)
        # The runtime reads *.json and *.yaml only.
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        data = msgspec.json.encode(spec(self._driver_name, plan, together))
        try:
            fresh.write_bytes(data)
        except FileNotFoundError:
            self._directory.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(data)
        fresh.replace(target)

    def claims(self) -> set[str]:
        """UIDs of the claims that have a file. Raises OSError."""
        if not self._directory.is_dir():
            return set()
        names = [file.name for file in self._directory.iterdir() if file.name.startswith(self._prefix)]
        return {name.removeprefix(self._prefix).removesuffix(".json") for name in names}

    def remove(self, claim_uid: str) -> None:
        """Remove a claim's file; none is no error."""
        self._path(claim_uid).unlink(missing_ok=True)

    def prune(self, claim_uids: Iterable[str]) -> None:
        """Remove the files of all claims but these, and what a killed writer left."""
        keep = {self._path(uid).name for uid in claim_uids}
        if not self._directory.is_dir():
            return
        for file in self._directory.iterdir():
            ours = file.name.startswith((self._prefix, f".{self._prefix}"))
            if ours and file.name not in keep:
                file.unlink(missing_ok=True)

    def _path(self, claim_uid: str) -> Path:
        return self._directory / f"{self._prefix}{claim_uid}.json"
