"""The nearest change that would place refused claims, as a sentence: asked on a few nodes, and kept.

`controller.nearest` asks the allocator several times for one node; the same claims are refused by the same
nodes many times over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from controller.allocator.asks import MAX_RESULTS
from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit
from controller.allocator.verdict import Refusal
from controller.effort import TURN_STEPS, Effort
from controller.nearest import changes
from controller.nodes import NodeRecord
from controller.state import ClusterState
from controller.what_if import Change, Question
from driver.kube.objects import ResourceClaim

_KEPT: Final = 256
_TELLING_STEPS: Final = 4 * TURN_STEPS
"""So much the changes may take together that are tried for one message."""
_NODES_ASKED: Final = 4
"""Each with another reason."""
_MOST_REQUESTS: Final = 4 * MAX_RESULTS


class Remedies:
    """Asks over a ClusterState. Not thread-safe."""

    def __init__(self, state: ClusterState, options: Options, cel: CelCache) -> None:
        self._state = state
        self._options = options
        self._cel = cel
        self._known: dict[object, str] = {}

    def of(
        self, wanted: Sequence[ResourceClaim], refused: Sequence[str], limits: Sequence[Limit | None]
    ) -> str:
        """What follows the reasons for which these nodes refused the claims; empty where nothing small would
        do, and for claims of very many requests, where nothing small could. Costs several searches where it
        was not asked before.
        """
        if sum(len(claim.spec.devices.requests) for claim in wanted) > _MOST_REQUESTS:
            return ""
        records = [self._state.nodes[name] for name in refused[:_NODES_ASKED] if name in self._state.nodes]
        specs = msgspec.json.encode([claim.spec for claim in wanted], order="sorted")
        index = self._state.index
        versions = tuple((r.name, r.devices_generation, index.taken_version(r)) for r in records)
        key = (specs, tuple(limits), versions)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[key] = self._find(wanted, records, limits)
        return known

    def explained(
        self, wanted: Sequence[ResourceClaim], node: str, limits: Sequence[Limit | None]
    ) -> Refusal | None:
        """What the node's refusal says to people; None where there is none any more. Costs a search."""
        record = self._state.nodes.get(node)
        effort = Effort(TURN_STEPS)
        question = self._question(wanted, record, limits, effort) if record is not None else None
        return question.explained() if question is not None else None

    def _find(
        self,
        wanted: Sequence[ResourceClaim],
        records: Sequence[NodeRecord],
        limits: Sequence[Limit | None],
    ) -> str:
        found: list[tuple[Change, str]] = []
        effort = Effort(_TELLING_STEPS)
        for record in records:
            question = self._question(wanted, record, limits, effort)
            if question is not None:
                found += [(change, record.name) for change in changes(question)]
        if not found:
            return ""
        change, name = min(found)
        return f"; nearest on node {name}: {change.text}"

    def _question(
        self,
        wanted: Sequence[ResourceClaim],
        record: NodeRecord,
        limits: Sequence[Limit | None],
        effort: Effort,
    ) -> Question | None:
        """As the node is now, by its real names."""
        index = self._state.index
        devices = index.devices(record)
        if devices is None:
            return None
        return Question(
            wanted,
            devices,
            self._state.classes,
            index.taken(record),
            self._options,
            self._cel,
            index.shared(record),
            limits,
            effort,
        )
