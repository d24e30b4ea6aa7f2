"""Placements that are decided but not in the ClusterState yet: a gang is drafted member by member, then
written whole or dropped whole.

A draft is a value. The next one shares all that the step did not touch, so a search may go back to any
earlier one for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from controller import fit
from controller.allocator.capacity import Amounts
from controller.allocator.model import DeviceId, add_amounts, shares_of
from controller.allocator.verdict import Allocation
from controller.books import Pool
from controller.pod_rules import Neighbour, neighbour
from driver.kube.objects import Pod


@dataclass(frozen=True, slots=True)
class Draft:
    """What the drafted placements take, beside what the ClusterState knows.

    Attributes:
        taken: devices held whole, by pool (a network-attached pool is taken for all nodes at once).
        shared: what is consumed of devices that are shared, by pool.
        used: resources by node.
        neighbours: the drafted pods, as what they mean to others.
    """

    taken: Mapping[Pool, frozenset[DeviceId]] = field(default_factory=dict)
    shared: Mapping[Pool, Mapping[DeviceId, Amounts]] = field(default_factory=dict)
    used: Mapping[str, fit.Amounts] = field(default_factory=dict)
    neighbours: tuple[Neighbour, ...] = ()

    def plus(self, node: str, pod: Pod, allocation: Allocation | None = None) -> Draft:
        """The draft with one more pod; `allocation` is of those claims that it is the first to bring."""
        taken, shared = dict(self.taken), dict(self.shared)
        for claim in allocation.claims if allocation is not None else ():
            for result in claim.result.devices.results:
                if not result.admin_access and result.share_id is None:
                    pool = result.driver, result.pool
                    device = DeviceId(result.driver, result.pool, result.device)
                    taken[pool] = taken.get(pool, frozenset()) | {device}
            for device, amounts in shares_of(claim.result):
                pool = device.driver, device.pool
                total: dict[str, Fraction] = dict(shared.get(pool, {}).get(device, {}))
                add_amounts(total, amounts)
                shared[pool] = {**shared.get(pool, {}), device: total}
        used = fit.total_of([self.used.get(node, {}), fit.pod_requests(pod)])
        return Draft(
            taken=taken,
            shared=shared,
            used={**self.used, node: used},
            neighbours=(*self.neighbours, neighbour(pod, node)),
        )
