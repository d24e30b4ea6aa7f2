"""Allocations that no pod has reserved yet: how long each may stand, and who is to blame when it goes.

What comes back has failed only where somebody judged it. kube-scheduler leaves its verdict in the pod's
condition PodScheduled; when that reads as it did before the allocation was written, either kube-scheduler has
not looked at the pod since (it is away, or the API server is), or no node got as far as the claims, and
another node would do no better. So such an allocation stands longer, and no node is blamed when it goes.
Pure, as the placement is that uses it: `now` is monotonic seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from controller.actions import Action, Clear, Cleared, Tell
from controller.backoff import Backoff
from controller.settings import PlacementSettings
from controller.state import ClusterState, Failure, Key
from driver.kube.objects import Pod, ResourceClaim

CONTESTED = "another claim was given one of its devices as well"
GANG_INCOMPLETE = "its gang cannot be completed on the same terms"
POD_INCOMPLETE = "the pod's other claims cannot be allocated there"
_PARTED = "another claim of its pod did not stay on that node"

_PATIENCE = 4
"""So many times longer an allocation stands while nothing is seen of kube-scheduler."""
_VERDICT_SECONDS = 1.0
"""kube-scheduler gives an allocation back first, and says why in a second write."""


@dataclass(frozen=True, slots=True)
class _Before:
    """What kube-scheduler had said of the claim's pods, by UID, and how much it had done."""

    verdicts: Mapping[str, str] = field(default_factory=dict)
    scheduled: int = -1


_NOTHING = _Before()


@dataclass(frozen=True, slots=True)
class _Returned:
    """An allocation that kube-scheduler gave back, of which is to be told when we know why, or at `due`."""

    failure: Failure
    before: _Before
    due: float


class TakingBack:
    """Watches over `state.unreserved`; what fails goes into the back-off. Not thread-safe."""

    def __init__(
        self, state: ClusterState, settings: PlacementSettings, backoff: Backoff, counts: Counter[str]
    ) -> None:
        """`counts` is added to: `returned` and `taken_back`."""
        self._state = state
        self._settings = settings
        self._backoff = backoff
        self._counts = counts
        # All by claim UID.
        self._before: dict[str, _Before] = {}
        """When the allocation was decided."""
        self._extended: dict[str, float] = {}
        """When the allocation was first given more time."""
        self._clearing: set[str] = set()
        self._cleared: dict[str, bool] = {}
        """Cleared by us, and whether the node is to blame."""
        self._returned: dict[str, _Returned] = {}
        self._expired: dict[Key, tuple[str, bool]] = {}

    def begin(self, claim: ResourceClaim) -> None:
        """It is being allocated; what kube-scheduler says of its pods from now on, it says of that."""
        self._before[claim.metadata.uid] = _Before(self._verdicts(_key(claim)), self._state.scheduled)

    def begin_anew(self, now: float) -> None:
        """Nobody watched for a while: all allocations that wait for a pod get their whole time again."""
        state = self._state
        for key in list(state.unreserved):
            claim = state.claims[key]
            state.restart_unreserved(claim, now)
            self.begin(claim)
            self._extended.pop(claim.metadata.uid, None)

    def expire(self, claims: Iterable[Key], reason: str, *, blame: bool = False) -> None:
        """These need not wait for their time to be over, unless a pod has reserved them."""
        self._expired.update(dict.fromkeys(claims, (reason, blame)))

    def forget(self, uid: str) -> None:
        """The claim is gone, or in use."""
        for known in (self._before, self._extended, self._cleared, self._returned):
            known.pop(uid, None)
        self._clearing.discard(uid)

    def failed(self, failure: Failure, now: float) -> None:
        """An allocation went back: leave the node out, and free what else the pods hold there."""
        state = self._state
        uid = failure.claim.metadata.uid
        pods = [state.claimants[key] for key in failure.pods if key in state.claimants]
        by_us = uid in self._cleared
        blame = self._cleared.pop(uid, True)
        subjects = [uid, *(pod.metadata.uid for pod in pods)]
        judged = any(_verdict(pod) for pod in pods)
        self._backoff.fail(subjects, failure.node if blame else None, now, judged=judged)
        for pod in pods:
            for other in state.claims_of(pod) or ():
                held = state.books.held(other.metadata.uid)
                if held is not None and held.node == failure.node and _key(other) in state.unreserved:
                    self.expire([_key(other)], _PARTED, blame=blame)
        before = self._before.pop(uid, _NOTHING)
        self._extended.pop(uid, None)
        if not by_us:
            self._counts["returned"] += 1
            self._returned[uid] = _Returned(failure, before, now + _VERDICT_SECONDS)

    def tell(self, now: float) -> list[Action]:
        """What is to be said of what kube-scheduler gave back."""
        tells: list[Action] = []
        for uid, returned in list(self._returned.items()):
            verdict = self._news(_key(returned.failure.claim), returned.before)
            if verdict or returned.due <= now:
                del self._returned[uid]
                node, why = returned.failure.node, verdict or "the pod did not fit"
                message = f"kube-scheduler gave the allocation on node {node} back: {why}"
                tells.append(Tell(returned.failure.claim, "Warning", "Returned", message))
        return tells

    def take(self, now: float) -> Iterator[Action]:
        """Take back what is due. Lazy, and each claim is looked at once."""
        expired, self._expired = self._expired, {}
        for key, (reason, blame) in expired.items():
            yield from self._take(key, reason, blame=blame)
        unreserved, overdue = self._state.unreserved, now - self._settings.bind_timeout_seconds
        while (first := next(iter(unreserved.items()), None)) is not None and first[1] <= overdue:
            del unreserved[first[0]]  # back in it if it stays
            yield from self._judge(*first, now)

    def next_due(self) -> float | None:
        """When `take` or `tell` may have something to do though nothing changes; None: never."""
        due = [0.0] if self._expired else []
        due += [returned.due for returned in self._returned.values()]
        if (first := next(iter(self._state.unreserved.values()), None)) is not None:
            due.append(first + self._settings.bind_timeout_seconds)
        return min(due, default=None)

    def cleared(self, outcome: Cleared, now: float) -> None:
        """Take in how the attempt to take an allocation back ended."""
        self._clearing.discard(outcome.uid)
        claim = self._state.claim_by_uid(outcome.uid)
        if outcome.error and claim is not None:
            self._state.restart_unreserved(claim, now)
            self._cleared.pop(outcome.uid, None)

    def _judge(self, key: Key, since: float, now: float) -> list[Action]:
        """Its time is over: take it back, or give it more."""
        state, settings = self._state, self._settings
        claim = state.claims[key]
        uid = claim.metadata.uid
        first = self._extended.get(uid, since)
        before = self._before.get(uid, _NOTHING)
        verdict = self._news(key, before)
        timeout, why = settings.bind_timeout_seconds, f"kube-scheduler: {verdict}"
        if not state.waiting_users(key):
            why = "none waits for it"
        elif self._is_nominated(key):
            timeout = settings.nominated_timeout_seconds
        elif not verdict:
            why = "kube-scheduler has said nothing new"
            if state.scheduled == before.scheduled:
                timeout *= _PATIENCE
        state.unreserved[key] = since
        if now < first + timeout:
            self._extended[uid] = first
            state.restart_unreserved(claim, now)
            return []
        reason = f"no pod was bound with it within {now - first:.0f} s; {why}"
        return self._take(key, reason, blame=bool(verdict))

    def _take(self, key: Key, reason: str, *, blame: bool) -> list[Action]:
        state = self._state
        since = state.unreserved.pop(key, None)
        claim = state.claims.get(key)
        held = state.books.held(claim.metadata.uid) if claim is not None else None
        if since is None or claim is None or held is None or held.node is None:
            return []
        uid = claim.metadata.uid
        if uid in self._clearing:
            return []
        self._clearing.add(uid)
        self._cleared[uid] = blame
        self._counts["taken_back"] += 1
        message = f"the allocation on node {held.node} was taken back: {reason}"
        return [Clear(claim, held.node), Tell(claim, "Warning", "TakenBack", message)]

    def _is_nominated(self, claim: Key) -> bool:
        """kube-scheduler makes room for one of the pods there, which takes as long as the victims' grace."""
        state = self._state
        held = state.books.held(state.claims[claim].metadata.uid)
        return held is not None and any(
            state.claimants[pod].status.nominated_node_name == held.node for pod in state.waiting_users(claim)
        )

    def _verdicts(self, claim: Key) -> dict[str, str]:
        pods = [self._state.claimants[key] for key in self._state.waiting_users(claim)]
        return {pod.metadata.uid: _verdict(pod) for pod in pods}

    def _news(self, claim: Key, before: _Before) -> str:
        """What kube-scheduler has said since of one of the claim's pods; empty where that is nothing new."""
        now = self._verdicts(claim)
        return next((said for uid, said in now.items() if said and said != before.verdicts.get(uid)), "")


def _verdict(pod: Pod) -> str:
    """Why kube-scheduler found no node for the pod when it last looked; empty where it has not, or erred."""
    for condition in pod.status.conditions:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return str(condition.get("message", "")) or "Unschedulable"
    return ""


def _key(claim: ResourceClaim) -> Key:
    return claim.metadata.namespace, claim.metadata.name
