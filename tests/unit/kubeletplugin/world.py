"""A node to prepare on: a small inventory, its directories, an API, and the real parts over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from driver.devices import Gpu, Inventory, Netdev, Nic, Place, RdmaDevice, Vf
from driver.errors import RetryableError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.mig import MigInstance, MigProfile
from kubeletplugin.cdi import CdiFiles
from kubeletplugin.ledger import Ledger
from kubeletplugin.machine import Machine
from kubeletplugin.podcgroups import PodCgroups
from kubeletplugin.podrecords import PodRecords
from kubeletplugin.preparer import ClaimRef, Preparer
from kubeletplugin.sweeper import PodDirectories, Sweeper
from tests.unit.kubeletplugin.api import FakeApi, Json

DRIVER = "tandem-dra.io"
NODE = "node-a"
POOL = f"{DRIVER}/{NODE}"
GPUS = ("gpu-0000-1b-00-0", "gpu-0000-2b-00-0")
VFS = ("vf-0000-1a-00-1", "vf-0000-1a-00-2", "vf-0000-2a-00-1", "vf-0000-2a-00-2")
DEV_NODES = (
    "nvidia0",
    "nvidia1",
    "nvidiactl",
    "nvidia-uvm",
    "infiniband/rdma_cm",
    *(f"infiniband/uverbs{n}" for n in (1, 2, 3, 4)),
)


MIGS = ("mig-0000-1b-00-0-3g-40gb-0", "mig-0000-1b-00-0-1g-10gb-4")
MIG_NODES = tuple(f"nvidia-caps/nvidia-cap{n}" for n in (12, 13, 21, 22))


def in_mig_mode(found: Inventory, *, capabilities: bool = True) -> Inventory:
    """The first GPU cut into two instances."""
    profiles = (MigProfile("1g.10gb", 19, 10 << 30), MigProfile("3g.40gb", 9, 40 << 30))
    instances: tuple[MigInstance, ...] = (
        MigInstance("MIG-1", 9, 1, 0, start=0, size=4, gpu_instance_minor=12, compute_instance_minor=13),
        MigInstance("MIG-2", 19, 2, 0, start=4, size=1, gpu_instance_minor=21, compute_instance_minor=22),
    )
    if not capabilities:
        instances = tuple(replace(i, gpu_instance_minor=None, compute_instance_minor=None) for i in instances)
    first, *others = found.gpus
    cut = replace(first, mig_enabled=True, mig_profiles=profiles, mig_instances=instances)
    return replace(found, gpus=(cut, *others))


def inventory() -> Inventory:
    """Two GPUs, two NICs of two VFs each; NIC and GPU of a number share a switch."""

    def gpu(index: int) -> Gpu:
        return Gpu(
            pci_address=f"0000:{index + 1}b:00.0",
            place=Place(pcie_switch=f"0000:{index + 1}0:00.0"),
            uuid=f"GPU-{index}",
            minor=index,
        )

    def vf(index: int, number: int) -> Vf:
        rdma = index * 2 + number
        return Vf(
            pci_address=f"0000:{index + 1}a:00.{number}",
            index=number - 1,
            place=Place(pcie_switch=f"0000:{index + 1}0:00.0"),
            netdev=Netdev(name=f"eth{rdma}", index=rdma),
            rdma=RdmaDevice(
                name=f"mlx5_{rdma}", char_devices=(f"infiniband/uverbs{rdma}", "infiniband/rdma_cm")
            ),
        )

    def nic(index: int) -> Nic:
        return Nic(
            pci_address=f"0000:{index + 1}a:00.0",
            name=f"mlx5_pf{index}",
            place=Place(pcie_switch=f"0000:{index + 1}0:00.0"),
            vfs=(vf(index, 1), vf(index, 2)),
            sriov_num_vfs=2,
        )

    return Inventory(machine="test", gpus=(gpu(0), gpu(1)), nics=(nic(0), nic(1)))


def placement(*interfaces: tuple[str, str, list[str]], pairs: Sequence[Json] = ()) -> Json:
    """The controller's word, as it stands in an allocation; interfaces are (device, name, addresses)."""
    return {
        "apiVersion": "tandem-dra.io/v1beta1",
        "kind": "Placement",
        "pairs": list(pairs),
        "interfaces": [{"device": d, "interface": i, "addresses": a} for d, i, a in interfaces],
    }


def config(parameters: Json, source: str = "FromClass") -> Json:
    """One entry of status.allocation.devices.config."""
    return {"source": source, "requests": [], "opaque": {"driver": DRIVER, "parameters": parameters}}


def claim(
    name: str,
    devices: Sequence[str],
    *,
    uid: str = "",
    pods: Sequence[str] = ("pod-1",),
    configs: Sequence[Json] = (),
    generated: bool = True,
    pool: str = POOL,
) -> Json:
    """An allocated ResourceClaim, each device under a request of its own kind."""
    owners = [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True}]
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid or f"uid-{name}",
            "ownerReferences": owners if generated else [],
        },
        "spec": {},
        "status": {
            "allocation": {
                "devices": {
                    "results": [
                        {"request": d.split("-")[0], "driver": DRIVER, "pool": pool, "device": d}
                        for d in devices
                    ],
                    "config": list(configs),
                }
            },
            "reservedFor": [{"resource": "pods", "name": pod, "uid": f"uid-{pod}"} for pod in pods],
        },
    }


@dataclass
class Listing:
    """A probe that says what it is told."""

    found: Inventory = field(default_factory=inventory)

    def read(self) -> Inventory:
        return self.found


@dataclass
class KernelLess:
    """The attach engine's half of the seam without a kernel: NICs come home, unless they are `stuck`."""

    ledger: Ledger
    stuck: bool = False
    released: list[str] = field(default_factory=list)

    def release_claim(self, claim_uid: str) -> None:
        if self.stuck:
            raise RetryableError(f"a NIC of {claim_uid} does not come home")
        rows = [row for row in self.ledger.by_claim(claim_uid) if row.sandbox]
        self.ledger.begin_detach(rows)
        self.ledger.finish_detach(rows)
        self.released.append(claim_uid)


class World:
    """One node over a directory. `reopen` is what a start after a kill finds."""

    def __init__(self, root: Path, api: FakeApi, client: KubeClient, *, hold_seconds: float = 0.0) -> None:
        self.root = root
        self.api = api
        self.client = client
        self.hold_seconds = hold_seconds
        self.probe = Listing()
        self.dev = root / "dev"
        self.pods = root / "kubelet-pods"
        self.cgroups = root / "cgroup"
        self.cdi = root / "cdi"
        self.records = root / "pods"
        self.pods.mkdir(exist_ok=True)
        (self.cgroups / "kubepods").mkdir(parents=True, exist_ok=True)
        (self.cgroups / "cgroup.controllers").touch()
        self.mkdev(*DEV_NODES)
        self.prepared: list[str] = []
        self.held: list[frozenset[str]] = []
        self.starts = 0
        self.open()

    def open(self, boot_id: str = "boot-1", dev_root: Path | None = None, *, may_list: bool = False) -> None:
        self.starts += 1
        self.ledger = Ledger(self.root / "state/ledger.db", boot_id=boot_id, instance=f"start-{self.starts}")
        self.engine = KernelLess(self.ledger)
        self.machine = Machine(self.probe, dev_root or self.dev, dict)
        self.sweeper = Sweeper(
            driver_name=DRIVER,
            node_name=NODE,
            client=self.client,
            ledger=self.ledger,
            pods=PodDirectories(self.pods),
            files=CdiFiles(self.cdi, DRIVER),
            may_list=may_list,
            on_held=self.held.append,
        )
        self.preparer = Preparer(
            driver_name=DRIVER,
            node_name=NODE,
            client=self.client,
            ledger=self.ledger,
            machine=self.machine,
            engine=self.engine,
            pods=PodCgroups(self.cgroups),
            cdi_files=CdiFiles(self.cdi, DRIVER),
            records=PodRecords(self.records),
            on_prepared=self.prepared.append,
            on_freed=lambda _: self.sweeper.report(),
            on_held=lambda uid: self.sweeper.conflict(self.preparer, uid),
            hold_seconds=self.hold_seconds,
        )

    def reopen(self, boot_id: str = "boot-1") -> None:
        """The process ended somewhere, and starts again."""
        self.ledger.close()
        self.open(boot_id)
        self.sweeper.replay(self.preparer)
        self.preparer.restore_files()

    def mkdev(self, *names: str) -> None:
        """Device nodes, or what stands for them."""
        for name in names:
            (self.dev / name).parent.mkdir(parents=True, exist_ok=True)
            (self.dev / name).touch()

    def set_running(self, pod_uid: str, running: bool = True) -> None:
        """What the kernel says of the pod's control group."""
        group = self.cgroups / f"kubepods/pod{pod_uid}"
        group.mkdir(exist_ok=True)
        (group / "cgroup.events").write_text(f"populated {int(running)}\nfrozen 0\n")

    def close(self) -> None:
        self.ledger.close()

    def allocate(self, name: str, *devices: str, **kwargs: Any) -> ClaimRef:
        """A claim in the API."""
        obj = self.api.put(paths.claim("ns", name), claim(name, devices, **kwargs))
        return ClaimRef("ns", name, obj["metadata"]["uid"])

    def deallocate(self, name: str) -> None:
        """What the API says after the pod is gone."""
        path = paths.claim("ns", name)
        self.api.put(path, self.api.objects[path] | {"status": {}})

    def cdi_files(self) -> set[str]:
        return {file.name for file in self.cdi.iterdir()} if self.cdi.exists() else set()

    def record_files(self) -> set[str]:
        return {file.name for file in self.records.iterdir()} if self.records.exists() else set()
