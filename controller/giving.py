"""From a choice to what is written, and what came of it: the allocations that are on their way.

All claims of a pod are decided together, and all members of a gang; what cannot be had whole leaves no trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from controller import decision
from controller.actions import ALLOCATED_BY_ANOTHER, Action, Allocate, NotWritten, Tell, Write, Written
from controller.allocator.verdict import Allocation
from controller.attachments import NoAddressError, both, closing
from controller.backoff import Backoff
from controller.choice import Choice, Chooser
from controller.effort import Effort
from controller.gangs.places import Placed
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState, Key
from controller.taking_back import TakingBack
from controller.wish import Wish, Wishes
from driver.errors import TandemError


class Giving:
    """Takes devices and addresses in the state, and gives them back where a write fails. Not thread-safe."""

    def __init__(
        self,
        state: ClusterState,
        settings: PlacementSettings,
        wishes: Wishes,
        chooser: Chooser,
        backoff: Backoff,
        taking_back: TakingBack,
        counts: Counter[str],
    ) -> None:
        """`counts` is added to: `allocations` and `failed_writes`."""
        self._state = state
        self._settings = settings
        self._wishes = wishes
        self._chooser = chooser
        self._backoff = backoff
        self._taking_back = taking_back
        self._counts = counts
        self._placing: dict[str, tuple[Key, str, str]] = {}  # by claim UID: pod, node, what was decided

    def place(self, wish: Wish, quest: Quest, effort: Effort) -> Allocate | Choice:
        """Allocate at the best place, or say why there is none. A rail that has fewer addresses than NICs
        were put on it is left out, and the choice made again.

        Raises:
            TandemError: something about the claims is wrong, wherever they would go.
            Interrupted: the effort is used up, and there is no answer yet.
        """
        while True:
            choice = self._chooser.choose(quest, effort)
            if choice.best is None:
                return choice
            try:
                return self._allocate(wish, choice.best.node, choice.best.allocation)
            except NoAddressError as error:
                before = both(quest.limits, self._state.network_limits(wish.wanted))
                limits = closing(error.rail, self._state.networks_of(wish.wanted), before)
                if limits == before:
                    raise
                quest = replace(quest, limits=limits, since=0)

    def place_all(self, places: Sequence[Placed]) -> list[Action] | TandemError:
        """Allocate for all, or for none and why."""
        allocated: list[Action] = []
        uids = []
        try:
            for one in places:
                allocate = self._allocate(one.wish, one.node, one.allocation)
                allocated.append(allocate)
                uids += [write.claim.metadata.uid for write in allocate.writes]
        except TandemError as error:
            for uid in uids:
                self._placing.pop(uid)
                self._state.not_written(uid)
            self._state.touched.difference_update(_key(one.wish) for one in places)
            return error
        return allocated

    def ended(self, outcome: Written | NotWritten, now: float) -> list[Action]:
        """Take in how a write ended."""
        pod, node, text = self._placing.pop(outcome.uid, (("", ""), "", ""))
        claim = self._state.claim_by_uid(outcome.uid)
        if isinstance(outcome, Written):
            self._counts["allocations"] += 1
            self._state.written(outcome.uid, outcome.version, now)
            return [Tell(claim, "Normal", "Allocated", text)] if claim is not None else []
        self._counts["failed_writes"] += 1
        self._state.not_written(outcome.uid)
        waiting = self._state.claimants.get(pod)
        self._backoff.fail([one.metadata.uid for one in (claim, waiting) if one is not None], None, now)
        if claim is None or (outcome.message == ALLOCATED_BY_ANOTHER and self._state.pools.left):
            return []  # where kube-scheduler has devices as well, it may be faster
        message = f"the allocation on node {node} was not written: {outcome.message}"
        return [Tell(claim, "Warning", "AllocationNotWritten", message)]

    def _allocate(self, wish: Wish, node: str, allocation: Allocation) -> Allocate:
        composed = decision.compose(
            wish.wanted,
            allocation,
            driver_name=self._settings.driver_name,
            networks=self._state.networks_of(wish.wanted),
            addresses=self._state.books.addresses,
            names_in_use=self._wishes.interface_names(wish),
            mtu=self._settings.mtu,
        )
        pod = _key(wish)
        for claim, result in composed:
            text = decision.describe(node, result, self._settings.driver_name)
            self._placing[claim.metadata.uid] = pod, node, text
            self._taking_back.begin(claim)
            self._state.assume(claim, result)
        return Allocate(pod, node, tuple(Write(claim, result) for claim, result in composed))


def _key(wish: Wish) -> Key:
    return wish.pod.metadata.namespace, wish.pod.metadata.name
