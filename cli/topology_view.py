"""What `tandem topology` shows, computed once for all its forms: devices in nvidia-smi's order, tiers, pairs.

nvidia-smi orders GPUs by PCI address, and NICs by the number in their RDMA device's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from driver.devices import Gpu, Inventory, Nic, Tier, pci_order
from driver.devices import nvlinks as links_between
from driver.topology import pairing, tier


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A GPU and a NIC that Tandem would give to a pod together."""

    gpu: Gpu
    nic: Nic
    tier: Tier

    @property
    def rail(self) -> int | None:
        """The rail that both are on; None where they are on none, or on different ones."""
        return self.gpu.rail if self.gpu.rail == self.nic.rail else None


@dataclass(frozen=True, slots=True)
class View:
    """A machine as it is shown. `tiers` has a row for each GPU and a column for each NIC; `nvlinks` has a row
    and a column for each GPU, 0 where no link is known.
    """

    machine: str
    gpus: tuple[Gpu, ...]
    nics: tuple[Nic, ...]
    tiers: tuple[tuple[Tier, ...], ...]
    pairs: tuple[ShownPair, ...]
    nvlinks: tuple[tuple[int, ...], ...] = ()
    overlay: str = ""

    @property
    def fabric(self) -> int:
        """Links between each two GPUs where all have the same number, else 0."""
        counts = {n for i, row in enumerate(self.nvlinks) for j, n in enumerate(row) if i != j}
        return counts.pop() if len(counts) == 1 else 0

    def gpu_name(self, gpu: Gpu) -> str:
        """``GPU0`` … as nvidia-smi counts."""
        return f"GPU{self.gpus.index(gpu)}"

    def nic_name(self, nic: Nic) -> str:
        """``NIC0`` … as nvidia-smi counts."""
        return f"NIC{self.nics.index(nic)}"


def view(inventory: Inventory, *, machine: str = "", nvlinks: int = 0, overlay: str = "") -> View:
    """Compute the view; `machine` replaces the product's name, `nvlinks` is the number of links between two
    GPUs where NVML does not say, `overlay` names what corrected the tree.

    GPUs that NVML does not answer for are shown as well: the tree says where they are.
    """
    everything = (*inventory.gpus, *inventory.silent_gpus)
    gpus = tuple(sorted(everything, key=lambda gpu: pci_order(gpu.pci_address)))
    nics = tuple(sorted(inventory.nics, key=_nic_order))
    gpu_at, nic_at = {g.pci_address: g for g in gpus}, {n.pci_address: n for n in nics}
    mates = pairing(
        {g.pci_address: g.place for g in gpus},
        {n.pci_address: n.place for n in nics},
        {
            **{gpu.pci_address: gpu.rail for gpu in gpus if gpu.rail is not None},
            **{nic.pci_address: nic.rail for nic in nics if nic.rail is not None},
        },
    )
    found = [ShownPair(gpu_at[m.gpu], nic_at[m.nic], m.tier) for m in mates]
    return View(
        machine=machine or inventory.machine,
        gpus=gpus,
        nics=nics,
        tiers=tuple(tuple(tier(gpu.place, nic.place) for nic in nics) for gpu in gpus),
        pairs=tuple(sorted(found, key=lambda pair: (gpus.index(pair.gpu), nics.index(pair.nic)))),
        nvlinks=tuple(
            tuple(0 if one is other else links_between(one, other) or nvlinks for other in gpus)
            for one in gpus
        ),
        overlay=overlay,
    )


def to_json(shown: View) -> bytes:
    """The view as JSON: machine, gpus, nics, tiers by GPU and NIC, pairs."""
    document = {
        "machine": shown.machine,
        "gpus": [
            {
                "name": shown.gpu_name(gpu),
                "pciBusID": gpu.pci_address,
                "numaNode": gpu.place.numa_node,
                "rail": gpu.rail,
            }
            for gpu in shown.gpus
        ],
        "nics": [
            {
                "name": shown.nic_name(nic),
                "pciBusID": nic.pci_address,
                "numaNode": nic.place.numa_node,
                "rail": nic.rail,
                "rdmaDevice": nic.rdma.name if nic.rdma is not None else None,
            }
            for nic in shown.nics
        ],
        "tiers": [[tier.name for tier in row] for row in shown.tiers],
        "pairs": [
            {
                "gpu": shown.gpu_name(pair.gpu),
                "nic": shown.nic_name(pair.nic),
                "tier": pair.tier.name,
                "rail": pair.rail,
            }
            for pair in shown.pairs
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _nic_order(nic: Nic) -> tuple[object, ...]:
    """RDMA devices first, numbers in names by value (mlx5_10 after mlx5_9); the rest in PCI order."""
    if nic.rdma is None:
        return (1, (), pci_order(nic.pci_address))
    parts = re.split(r"(\d+)", nic.rdma.name)
    return (0, tuple((part, 0) if i % 2 == 0 else ("", int(part)) for i, part in enumerate(parts)), ())
