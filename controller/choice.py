"""One pod, all nodes: where its claims go best, or why nowhere.

Of each node the cheap questions come first: what kube-scheduler would say of the pod (a few comparisons), an
answer that is known already (a look-up), then the allocator. Answers are kept by what the claims ask for,
since a hundred pods of one Deployment ask the same: an allocation holds until the node's devices change, a
refusal until they change for the better. So each pod costs about one search, for the node that the last took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from controller import fit
from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation, Refusal, aggregate
from controller.books import node_of
from controller.nearest import Change, Question, changes
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState, NodeRecord
from driver.kube.objects import Pod, ResourceClaim

_KEPT = 100_000
_POOLS_NAMED = 2
_NEAREST_KEPT = 256
_NODES_ASKED = 4
"""For the nearest change: so many nodes, each with another reason."""


@dataclass(frozen=True, slots=True)
class Option:
    """A node that can take the pod. Less is better: other pods of shared claims left out, then the score."""

    sharers_left_out: int
    allocation: Allocation
    node: str

    @property
    def order(self) -> tuple[int, tuple[int, ...], str]:
        """Sorts the best first; the name makes equals the same every time."""
        return self.sharers_left_out, self.allocation.score, self.node


@dataclass(frozen=True, slots=True)
class Choice:
    """The best option, or a sentence for people; `permanent` where no waiting helps; `refused` are nodes of
    which each gave another reason.
    """

    best: Option | None = None
    why_not: str = ""
    permanent: bool = False
    refused: tuple[str, ...] = ()


class Chooser:
    """Looks for the node. Keeps answers; not thread-safe."""

    def __init__(self, state: ClusterState, settings: PlacementSettings, cel: CelCache) -> None:
        self._state = state
        self._settings = settings
        self._cel = cel
        self._options = Options(driver=settings.driver_name, managed_only=state.managed_only)
        self._refused: dict[tuple[bytes, str], tuple[int, Refusal]] = {}
        self._nearest: dict[tuple[bytes, tuple[object, ...]], str] = {}
        self._allocated: dict[tuple[bytes, str], tuple[int, tuple[int, ...], Allocation]] = {}

    def choose(self, quest: Quest) -> Choice:
        """Find a place.

        Raises:
            TandemError: something about the claims is wrong, wherever they would go.
        """
        pod, wanted, allocated = quest.pod, quest.wanted, quest.allocated
        sharers, left_out, since = quest.sharers, quest.left_out, quest.since
        requests = fit.pod_requests(pod)
        misfits: Counter[str] = Counter()
        refusals: list[Refusal] = []
        refused: dict[str, str] = {}
        bad_pools: dict[str, None] = {}
        found: list[Option] = []
        shape = msgspec.json.encode([claim.spec for claim in wanted], order="sorted")
        possible: list[tuple[int, int, str, NodeRecord]] = []
        for record in self._records(pod, allocated):
            if record.generation <= since or record.node is None:
                continue
            reason = self._misfit(pod, requests, allocated, record, left_out)
            if reason is not None:
                misfits[reason] += 1
                continue
            missing = self._sharers_left_out(pod, sharers, record)
            possible.append((missing, -self._state.taken_count(record), record.name, record))
        # Fullest first, so that the search may end early and still leave whole nodes to who needs them.
        for missing, _, name, record in sorted(possible, key=lambda entry: entry[:3]):
            verdict = self._allocate(wanted, record, shape)
            if isinstance(verdict, Refusal):
                refusals.append(verdict)
                for bad in record.index.bad_pools if record.index is not None else ():
                    bad_pools[f"pool {bad.pool.name} is not used: {bad.reason}"] = None
                if not verdict.permanent and not verdict.gave_up:
                    refused.setdefault(verdict.message, name)
                continue
            found.append(Option(missing, verdict, name))
            if len(found) >= self._settings.enough_nodes:
                break
        if not self._state.nodes and not self._state.managed_only:
            return Choice(why_not="there is no node")
        if found:
            return Choice(best=min(found, key=lambda option: option.order))
        return Choice(
            why_not=_why_not(refusals, misfits, list(bad_pools), self._settings.driver_name),
            permanent=bool(refusals) and all(refusal.permanent for refusal in refusals),
            refused=tuple(refused.values()),
        )

    def nearest(self, wanted: Sequence[ResourceClaim], choice: Choice) -> str:
        """The least that would have to change, as a sentence that follows `why_not`; empty where nothing
        small would do. Costs several searches: for telling people, now and then.
        """
        records = [self._state.nodes[name] for name in choice.refused[:_NODES_ASKED]]
        shape = msgspec.json.encode([claim.spec for claim in wanted], order="sorted")
        versions = tuple((r.name, r.devices_generation, self._state.taken_version(r)) for r in records)
        known = self._nearest.get((shape, versions))
        if known is None:
            if len(self._nearest) >= _NEAREST_KEPT:
                self._nearest.clear()
            known = self._nearest[shape, versions] = self._find_nearest(wanted, records)
        return known

    def _find_nearest(self, wanted: Sequence[ResourceClaim], records: Sequence[NodeRecord]) -> str:
        found: list[tuple[Change, str]] = []
        for record in records:
            devices = self._state.devices(record)
            if devices is not None:
                question = Question(
                    wanted,
                    devices,
                    self._state.classes,
                    self._state.taken(record),
                    self._options,
                    self._cel,
                    self._state.shared(record),
                )
                found += [(change, record.name) for change in changes(question)]
        if not found:
            return ""
        change, name = min(found)
        return f"; nearest on node {name}: {change.text}"

    def _records(self, pod: Pod, allocated: Sequence[ResourceClaim]) -> Iterator[NodeRecord]:
        """Nodes with devices of ours; one at most where something pins the pod by name."""
        pins = [
            node
            for claim in allocated
            if claim.status.allocation and (node := node_of(claim.status.allocation))
        ]
        pins += [pod.spec.node_name] if pod.spec.node_name else []
        pinned = self._state.nodes.get(pins[0]) if pins else None
        records = self._state.nodes.values() if not pins else [pinned] if pinned is not None else []
        for record in records:
            if not self._state.managed_only or self._state.pools(record):
                yield record

    def _misfit(
        self,
        pod: Pod,
        requests: fit.Amounts,
        allocated: Sequence[ResourceClaim],
        record: NodeRecord,
        left_out: Mapping[str, float],
    ) -> str | None:
        node = record.node
        if node is None:
            return "the node is gone"
        if record.name in left_out:
            return "left out for a while, the pod was not bound there"
        for claim in allocated:
            allocation = claim.status.allocation
            selector = allocation.node_selector if allocation is not None else None
            if selector is not None and not fit.selects(selector, node):
                return f"claim {claim.metadata.name} of the pod is allocated elsewhere"
        if pod.spec.node_name:
            return fit.repelled(pod, node)
        used = record.used_beside([pod.metadata.uid], pod.spec.priority or 0)
        return fit.why_not(pod, node, requests, used)

    @staticmethod
    def _sharers_left_out(pod: Pod, sharers: Sequence[Pod], record: NodeRecord) -> int:
        """How many of the sharers would not fit beside the pod and each other."""
        if not sharers or record.node is None:
            return 0
        used = dict(record.used_beside([p.metadata.uid for p in (pod, *sharers)], pod.spec.priority or 0))
        fit.add(used, fit.pod_requests(pod))
        missing = 0
        for sharer in sharers:
            requests = fit.pod_requests(sharer)
            if fit.why_not(sharer, record.node, requests, used) is None:
                fit.add(used, requests)
            else:
                missing += 1
        return missing

    def _allocate(
        self, wanted: Sequence[ResourceClaim], record: NodeRecord, shape: bytes
    ) -> Allocation | Refusal:
        key = (shape, record.name)
        known = self._refused.get(key)
        if known is not None and known[0] == record.devices_generation:
            return known[1]
        version = self._state.taken_version(record)
        kept = self._allocated.get(key)
        if kept is not None and kept[:2] == (record.devices_generation, version):
            return kept[2]
        devices = self._state.devices(record)
        if devices is None:
            return Refusal(claim="", subject="node", message="the node is gone")
        verdict = allocate(
            wanted,
            devices,
            self._state.classes,
            self._state.taken(record),
            self._options,
            self._cel,
            self._state.shared(record),
        )
        if len(self._refused) + len(self._allocated) >= _KEPT:
            self._refused.clear()
            self._allocated.clear()
        if isinstance(verdict, Refusal):
            self._refused[key] = (record.devices_generation, verdict)
        else:
            self._allocated[key] = (record.devices_generation, version, verdict)
        return verdict


def _why_not(
    refusals: Sequence[Refusal], misfits: Mapping[str, int], bad_pools: Sequence[str], driver_name: str
) -> str:
    parts = [aggregate(refusals)] if refusals else []
    if misfits:
        reasons = [
            f"{n} × {reason}" for reason, n in sorted(misfits.items(), key=lambda item: (-item[1], item[0]))
        ]
        parts.append(f"{sum(misfits.values())} nodes do not fit the pod: {'; '.join(reasons[:5])}")
    parts += bad_pools[:_POOLS_NAMED]
    return "; ".join(parts) or f"no node publishes devices of {driver_name} for the controller"
