"""Which pod next, on which node, and what to do when it does not bind: the controller's decisions.

The core is a state machine without I/O and without a clock of its own: changes go into the ClusterState,
`step` gives the actions that follow, `outcome` takes in what came of them. So its laws (never one device for
two claims, never more than a few allocations a minute for a pod) can be tested over made-up histories.
Not thread-safe.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from controller import notices
from controller.actions import Action, Allocate, Cleared, Outcome, Tell
from controller.allocator.cel import TURN_STEPS, CelCache, SelectorsPendingError
from controller.backoff import Backoff
from controller.choice import Choice, Chooser
from controller.effort import Efforts, Interrupted
from controller.gangs.book import GangBook
from controller.gangs.joint import Joint
from controller.gangs.membership import GangId
from controller.gangs.turns import GangTurns, Wait
from controller.giving import Giving
from controller.ownership import Ownership
from controller.quest import Quest
from controller.queue import Item, PlacementQueue, Turn
from controller.sentences import joined
from controller.settings import PlacementSettings
from controller.state import ClusterState, Key
from controller.taking_back import CONTESTED, GANG_INCOMPLETE, POD_INCOMPLETE, TakingBack
from controller.unheeded import unattached, unheeded
from controller.wish import NoWish, Wish, Wishes, rank
from driver.errors import RetryableError, TandemError
from driver.kube.objects import Pod, ResourceClaim

log = logging.getLogger(__name__)

T = TypeVar("T")

_NEVER = float("inf")
_TELL_AGAIN_SECONDS = 10.0
_BROKEN_SECONDS = 60.0


class Placer:
    """Decides over a ClusterState, which its owner keeps true."""

    def __init__(self, state: ClusterState, settings: PlacementSettings, cel: CelCache) -> None:
        self._state = state
        self._cel = cel
        self._ownership = Ownership(settings.driver_name, cel, state.known)
        self._wishes = Wishes(state, self._ownership)
        self._chooser = Chooser(state, settings, cel)
        self._backoff = Backoff(settings.backoff)
        self._book = GangBook(state, self._wishes)
        joint = Joint(state, self._chooser, settings, cel)
        self._efforts = Efforts()
        self._gangs = GangTurns(state, self._book, joint, self._chooser, self._backoff, self._efforts)
        self._queue = PlacementQueue(
            sweep_seconds=settings.sweep_seconds, resync_seconds=settings.resync_seconds
        )
        self._again: set[Key] = set()
        """Pods to take in once more at `_again_at`: their selectors were not all evaluated."""
        self._again_at = 0.0
        self._paused: set[Item] = set()
        """What used up its turn with selectors."""
        self._told: dict[str, tuple[str, float]] = {}
        self._turn_of: Item | None = None
        self.counts: Counter[str] = Counter()
        """What happened so far, by name; for the metrics."""
        self._taking_back = TakingBack(state, settings, self._backoff, self.counts)
        self._giving = Giving(
            state, settings, self._wishes, self._chooser, self._backoff, self._taking_back, self.counts
        )

    # Time passes

    def absorb(self, now: float) -> list[Action]:
        """Take in what changed. To be called by standbys as well, so that they know of failures."""
        state, taking_back = self._state, self._taking_back
        actions: list[Action] = []
        for failure in _drained(state.failures):
            with self._isolated("taking in the failure of claim", _key(failure.claim)):
                taking_back.failed(failure, now)
        for uid in _drained(state.gone):
            self._backoff.forget(uid)
            self._told.pop(uid, None)
            self._efforts.forget(uid)
            taking_back.forget(uid)
        for name in _drained(state.renewed):
            record = state.nodes.get(name)
            if record is None or record.node is None:
                self._backoff.node_gone(name)
            else:
                self._backoff.node_changed(name)
        gangs: set[GangId] = set()
        touched = {*_drained(state.touched), *_drained(self._again)}
        with self._cel.turn(TURN_STEPS):
            for key in touched:
                with self._isolated("taking in a change of pod", key):
                    try:
                        gangs |= self._book.update(key)
                        actions += self._enqueue(key)
                    except SelectorsPendingError as pending:
                        self._again.add(key)
                        self._again_at = now + pending.seconds
        self._requeue(gangs)
        with self._isolated("noticing what others did"):
            noticed = notices.take(state, self._ownership, self.counts)
            actions += noticed.tells
            taking_back.expire(noticed.contested, CONTESTED)
        return actions + taking_back.tell(now)

    def step(self, now: float) -> list[Action]:
        """What to do now: at most one pod's or gang's placement, and what is due to be taken back."""
        actions: list[Action] = []
        with self._isolated("taking back"):
            for action in self._taking_back.take(now):
                actions.append(action)  # noqa: PERF402  # what comes before a bug counts
        turn = self._queue.pop(now, self._state.generation)
        self._resume()
        self._turn_of = None if turn is None else turn.item
        if turn is None:
            return actions
        try:
            with self._cel.turn(TURN_STEPS):
                return actions + self._try(turn, now)
        except SelectorsPendingError as pending:
            if pending.seconds:
                self._queue.park(turn.item, turn.rank, now, generation=None, full_at=now + pending.seconds)
            else:
                self._paused.add(turn.item)
            return actions
        except Exception as error:  # of this one; the others have their turns all the same
            log.exception("deciding about %s", turn.item)
            return actions + self._broken(turn, error, now)

    def took(self, seconds: float, now: float) -> None:
        """The last `step` took so long, which counts for the namespace whose turn it was."""
        if self._turn_of is not None:
            self._queue.charge(self._turn_of, seconds, now)
            self._turn_of = None

    def _resume(self) -> None:
        """What used up its turn is looked at again, now that another has had one."""
        paused = _drained(self._paused)
        self._again.update(item for item in paused if not isinstance(item, GangId))
        self._again_at = 0.0 if paused else self._again_at
        self._requeue(item for item in paused if isinstance(item, GangId))

    def lead(self, now: float) -> None:
        """Decide from now on: after a start, or a time without the lead."""
        self._taking_back.begin_anew(now)

    def next_due(self) -> float | None:
        """When `step` may have something to do though nothing changes; None: never."""
        if self._paused:
            return 0.0
        again = self._again_at if self._again else None
        due = (again, self._taking_back.next_due(), self._queue.next_due(self._state.generation))
        return min((at for at in due if at is not None), default=None)

    def outcome(self, outcome: Outcome, now: float) -> list[Action]:
        """Take in how a write ended."""
        if isinstance(outcome, Cleared):
            self._taking_back.cleared(outcome, now)
            return []
        return self._giving.ended(outcome, now)

    def __len__(self) -> int:
        """Pods that wait for a placement."""
        return len(self._queue)

    @property
    def waiting_gangs(self) -> int:
        """Gangs of which members wait."""
        return len(self._gangs)

    def _try(self, turn: Turn, now: float) -> list[Action]:
        if isinstance(turn.item, GangId):
            return self._try_gang(turn.item, now)
        return self._try_pod(turn.item, turn.since, now)

    def _broken(self, turn: Turn, error: Exception, now: float) -> list[Action]:
        """A bug: say so, and look again much later, whatever changes."""
        self.counts["internal_errors"] += 1
        self._queue.park(turn.item, turn.rank, now, generation=None, full_at=now + _BROKEN_SECONDS)
        key = turn.item
        pods = self._book.pods(key) if isinstance(key, GangId) else [self._state.claimants[key]]
        message = f"the controller failed to decide, which is a bug in it: {error!r}"
        return [Tell(pod, "Warning", "DecisionFailed", message) for pod in pods]

    @contextmanager
    def _isolated(self, *what: object) -> Iterator[None]:
        """A bug that one object brings to light must not stop the others."""
        try:
            yield
        except Exception:
            self.counts["internal_errors"] += 1
            log.exception(" ".join(map(str, what)))

    # One pod

    def _enqueue(self, key: Key) -> list[Action]:
        """Something of the pod changed."""
        pod = self._state.claimants.get(key)
        if pod is None or pod.metadata.deletion_timestamp or pod.spec.scheduling_gates:
            self._queue.remove(key)
        elif not self._book.has(key):
            self._queue.add(key, rank(pod))
        else:
            self._queue.remove(key)
            return self._alone(pod)
        return []

    def _try_pod(self, key: Key, since: int, now: float) -> list[Action]:
        pod = self._state.claimants.get(key)
        if pod is None:
            return []
        wish = self._wishes.of(pod)
        if isinstance(wish, NoWish):
            return self._passed_over(pod, wish, now)
        if not wish.wanted:
            return []
        order = rank(pod)
        not_before = self._backoff.not_before(wish.subjects)
        if not_before > now:
            self._queue.park(key, order, now, generation=None, full_at=not_before)
            return []
        left_out = self._backoff.left_out(wish.subjects, now)
        generation = self._state.generation
        sharers = tuple(self._wishes.sharers(wish))
        tried = self._backoff.tried(wish.subjects)
        quest = Quest(pod, wish.wanted, wish.allocated, sharers, left_out, tried, since, others=wish.others)
        uid = pod.metadata.uid
        try:
            chosen = self._giving.place(wish, quest, self._efforts.next(uid))
        except SelectorsPendingError:
            raise
        except Interrupted:
            self._efforts.interrupted(uid)
            self._queue.add(key, order, since)
            return []
        except TandemError as error:
            chosen = Choice(why_not=str(error), permanent=not isinstance(error, RetryableError))
        actions = self._not_read(wish.wanted, now)
        if isinstance(chosen, Allocate):
            self._efforts.decided(uid)
            return [chosen, *actions, *self._unattached(chosen)]
        self._taking_back.expire(self._held_in_vain(wish), POD_INCOMPLETE)
        self.counts["refusals"] += 1
        full_at = min(left_out.values(), default=_NEVER)
        if not since:
            said, full_at = self._unsatisfiable(quest, chosen, now, full_at)
            actions += said
        woken_by = None if chosen.permanent or chosen.gave_up else generation
        if chosen.gave_up:
            self.counts["searches_given_up"] += 1
            full_at = now + self._efforts.gave_up(uid)
        else:
            self._efforts.decided(uid)
        self._queue.park(key, order, now, generation=woken_by, full_at=full_at, alike=chosen.alike)
        return actions

    def _not_read(self, claims: Iterable[ResourceClaim], now: float) -> list[Action]:
        """Say once of each claim which of its configs do nothing though they look like ours."""
        said: list[Action] = []
        for claim in claims:
            uid = claim.metadata.uid
            if uid not in self._told:
                parts = unheeded(claim, self._state.classes, self._state.driver_name)
                self._told[uid] = "; ".join(parts), now
                said += [Tell(claim, "Warning", "ConfigNotRead", part) for part in parts]
        return said

    def _unattached(self, chosen: Allocate) -> Iterator[Action]:
        """Say which Attachments of the claims are for no NIC."""
        for write in chosen.writes:
            for part in unattached(write.claim, write.allocation, self._state.driver_name):
                yield Tell(write.claim, "Warning", "ConfigNotRead", part)

    def _passed_over(self, pod: Pod, wish: NoWish, now: float) -> list[Action]:
        """Say why the pod is not decided about, where nobody else would."""
        uid = pod.metadata.uid
        if wish.not_ours is not None:
            if self._state.pools.left:  # in scheduler mode it is kube-scheduler's
                return []
            return [Tell(wish.not_ours, "Warning", "NotOurs", wish.reason)]
        if not wish.refused or self._told.get(uid, ("", 0.0))[0] == wish.reason:
            return []
        self._told[uid] = wish.reason, now
        self.counts["refusals"] += 1
        return [Tell(pod, "Warning", "Unsatisfiable", wish.reason)]

    def _held_in_vain(self, wish: Wish) -> Iterator[Key]:
        """Claims that pin the pod to a node where it cannot be completed, and that nobody else waits for."""
        for claim in wish.allocated:
            key = claim.metadata.namespace, claim.metadata.name
            if key in self._state.unreserved and self._state.waiting_users(key) == [_key(wish.pod)]:
                yield key

    def _unsatisfiable(
        self, quest: Quest, choice: Choice, now: float, full_at: float
    ) -> tuple[list[Action], float]:
        """Say why, but a pod's changing reasons only so often; then when to look again in order to say it."""
        uid = quest.pod.metadata.uid
        told, at = self._told.get(uid, ("", -_NEVER))
        if told == choice.why_not:
            return [], full_at
        if now < at + _TELL_AGAIN_SECONDS:
            return [], min(full_at, at + _TELL_AGAIN_SECONDS)
        if self._chooser.left_to_scheduler(quest):
            self._told[uid] = ("", now)
            return [], full_at
        message = joined(choice.why_not, self._chooser.nearest(quest.wanted, choice))
        self._told[uid] = (choice.why_not, now)
        objects: list[ResourceClaim | Pod] = [*quest.wanted, quest.pod]
        return [Tell(each, "Warning", "Unsatisfiable", message) for each in objects], full_at

    # A gang

    def _requeue(self, gangs: Iterable[GangId]) -> None:
        for gang in gangs:
            with self._isolated("taking in a change of", gang):
                order = self._gangs.rank(gang)
                if order is None:
                    self._queue.remove(gang)
                else:
                    self._queue.add(gang, order)

    def _alone(self, pod: Pod) -> list[Action]:
        """A pod that asks for a gang, though nothing makes it a member of one."""
        why, uid = self._book.alone(_key(pod)), pod.metadata.uid
        if not why or self._told.get(uid, ("", 0.0))[0] == why:
            return []
        if self._chooser.left_to_scheduler(Quest(pod, tuple(self._state.claims_of(pod) or ()))):
            return []
        self._told[uid] = why, _NEVER
        return [Tell(pod, "Warning", "GangConflict", why)]

    def _try_gang(self, gang: GangId, now: float) -> list[Action]:
        order = self._gangs.rank(gang)
        look = self._gangs.look(gang, now)
        if look is None or order is None:
            return []
        if not isinstance(look, Wait):
            allocated = self._giving.place_all(look)
            if not isinstance(allocated, TandemError):
                self.counts["gang_placements"] += 1
                self._requeue([gang])  # it may have more members than its size
                wanted = [claim for one in look for claim in one.wish.wanted]
                return [*allocated, *self._not_read(wanted, now)]
            look = self._gangs.refused(gang, str(allocated), now)
        self.counts["gang_timeouts"] += any(tell.reason == "GangTimedOut" for tell in look.tells)
        self.counts["searches_given_up"] += look.gave_up
        generation = (look.seen or self._state.generation) if look.on_change else None
        self._queue.park(gang, order, now, generation=generation, full_at=look.until)
        self._taking_back.expire(look.take_back, GANG_INCOMPLETE)
        return list(look.tells)


def _drained(items: list[T] | set[T]) -> list[T]:
    """What was in it; it is empty afterwards, whatever becomes of them."""
    out = list(items)
    items.clear()
    return out


def _key(obj: Pod | ResourceClaim) -> Key:
    return obj.metadata.namespace, obj.metadata.name
