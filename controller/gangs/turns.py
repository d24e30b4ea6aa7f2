"""A gang's turn: is it complete, and where does it go; if not, how long to wait, and what to say meanwhile.

What is kept here is only how long a gang has waited and what was said of it, which a new controller may well
begin anew. All that decides is read off the cluster (`controller.gangs.book`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from controller.actions import Tell
from controller.allocator.cel import SelectorsPendingError
from controller.allocator.limits import listed
from controller.backoff import Backoff, Tried
from controller.choice import Chooser, Reasons
from controller.effort import TURN_STEPS, Effort, Efforts
from controller.gangs.book import GangBook, Roll
from controller.gangs.gave_up import gave_up
from controller.gangs.joint import Joint
from controller.gangs.kinds import Band, kinds_of
from controller.gangs.membership import GangId
from controller.gangs.places import NoRoom, Placed
from controller.quest import Quest
from controller.queue import Rank
from controller.retry_order import worse_first
from controller.sentences import joined
from controller.state import ClusterState, Key
from controller.wish import Wish, rank
from driver.errors import TandemError
from driver.kube.objects import Pod, ResourceClaim

_NEVER = float("inf")
_KINDS_NAMED: Final = 4
_SMALLER: Final = "; nearest: size: "
_NOWHERE: Mapping[str, float] = MappingProxyType({})
_SETTLE_SECONDS = 2.0
"""Members come one after the other; nothing is said of the first seconds."""
_TELL_AGAIN_SECONDS = 10.0
_PAUSE_SECONDS = 0.02
_PARTS = 1000
"""A search over states of which the allocator was never asked is made in parts, so many at most, with pauses
for others.
"""
_LATE_FIRST_SECONDS, _LATE_LAST_SECONDS = 5.0, 300.0
"""After its time-out a gang is looked at so often, at first and at last, whatever changes in between."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to place now. Look again at `until` (seconds), or, `on_change`, when the cluster changes from
    what it was at generation `seen` (0: now). Allocations of the claims in `take_back` are held in vain.
    `gave_up`: nothing is proved.
    """

    until: float = _NEVER
    on_change: bool = False
    tells: tuple[Tell, ...] = ()
    take_back: tuple[Key, ...] = ()
    seen: int = 0
    gave_up: bool = False


@dataclass(slots=True)
class _Waiting:
    since: float
    deadline: float
    timeouts: int = 0
    parts: int = 0
    begun: int = 0
    told: object = None
    told_at: float = -_NEVER


@dataclass(frozen=True, slots=True)
class _Say:
    """Something to tell; what it is about tells it from other things, its text may cost something."""

    reason: str
    about: object
    text: Callable[[], str]


class GangTurns:
    """Decides over a GangBook. Not thread-safe."""

    def __init__(
        self,
        state: ClusterState,
        book: GangBook,
        joint: Joint,
        chooser: Chooser,
        backoff: Backoff,
        efforts: Efforts,
    ) -> None:
        self._state = state
        self._book = book
        self._joint = joint
        self._chooser = chooser
        self._backoff = backoff
        self._efforts = efforts
        self._waiting: dict[GangId, _Waiting] = {}

    def __len__(self) -> int:
        """Gangs of which members wait."""
        return len(self._waiting)

    def rank(self, gang: GangId) -> Rank | None:
        """When it is its turn: the gang waits since it is complete, in the place of the last of the members
        that start together. So nobody who joins brings the others before those who waited already, by age or
        by priority. Of equal priority a gang that holds something and is not complete comes first, so that
        what is free goes to gangs that cannot go back. Who joins a complete one has a place of its own. None
        where no member is left.
        """
        pods = self._book.pods(gang)
        if not pods:
            self._waiting.pop(gang, None)
            self._efforts.forget(gang)
            return None
        first = rank(pods[min(self._book.size(gang), len(pods)) - 1])
        claims = [claim for pod in pods for claim in self._state.claims_of(pod) or ()]
        held = [self._state.allocation_of(claim) is not None for claim in claims]
        if any(held) and not all(held):
            roll = self._book.roll(gang)
            if roll is None or len(roll.allocated) < roll.size:
                first = first[0], "", first[2]
            elif roll.waiting:
                first = rank(roll.waiting[0].pod)
        return first[0], first[1], (gang.namespace, f"{gang.kind}/{gang.name}/{gang.uid}")

    def look(self, gang: GangId, now: float) -> Sequence[Placed] | Wait | None:
        """Places for all members that are to go together now, or what to wait for; None: for nothing."""
        roll = self._book.roll(gang)
        if roll is None or not roll.waiting:
            self._waiting.pop(gang, None)
            self._efforts.forget(gang)
            return None
        waiting = self._waiting.get(gang)
        if waiting is None:
            waiting = _Waiting(now, now + roll.gang.timeout_seconds)
            self._waiting[gang] = waiting
        if roll.conflict:
            say = _Say("GangConflict", roll.conflict, lambda: f"{gang}: {roll.conflict}")
            tells, again = self._told(roll, waiting, now, say, late=False)
            return Wait(again, tells=tells)
        if roll.missing:
            return self._incomplete(roll, waiting, now)
        subjects = [uid for wish in roll.waiting[: roll.next] for uid in wish.subjects]
        not_before = self._backoff.not_before(subjects)
        if not_before > now:
            return Wait(until=not_before)
        left_out = self._backoff.left_out(subjects, now)
        if not waiting.parts:
            waiting.begun = self._state.generation
        places = self._places_elsewhere(roll, left_out, self._backoff.tried(subjects))
        waiting.parts = waiting.parts + 1 if isinstance(places, NoRoom) and places.unfinished else 0
        if 0 < waiting.parts < _PARTS:
            return Wait(until=now + _PAUSE_SECONDS)  # others have their turns meanwhile
        if not isinstance(places, NoRoom | str):
            self._efforts.decided(gang)
            return places
        wait = self.refused(gang, places, now, left_out)
        if isinstance(places, str) or not places.gave_up:
            self._efforts.decided(gang)
            return replace(wait, seen=waiting.begun)
        again = now + self._efforts.gave_up(gang)
        return replace(wait, until=min(again, waiting.deadline), on_change=False, gave_up=True)

    def asked(self, gang: GangId) -> Sequence[Placed] | str:
        """Places for those that are to go together, or why there are none; empty where nobody waits. For
        telling: nothing is kept of it.
        """
        roll = self._book.roll(gang)
        if roll is None or not roll.waiting:
            return ()
        if roll.conflict or roll.missing:
            return f"{gang}: {roll.conflict}" if roll.conflict else _missing(roll)
        places = self._places(roll, _NOWHERE)
        for _ in range(_PARTS):
            if not isinstance(places, NoRoom) or not places.unfinished:
                break
            places = self._places(roll, _NOWHERE)
        if isinstance(places, NoRoom | str):
            return self._refusal(roll, places, _NOWHERE)
        return places

    def _places_elsewhere(
        self, roll: Roll, left_out: Mapping[str, float], tried: Mapping[str, Tried]
    ) -> Sequence[Placed] | NoRoom | str:
        """Places without the nodes where members failed in this round; where that leaves too few, without
        those that failed more often than others; else without those left out now.
        """
        for worse in worse_first(tried):
            places = self._places(roll, {**dict.fromkeys(worse, _NEVER), **left_out})
            if not isinstance(places, NoRoom | str) or (isinstance(places, NoRoom) and places.unfinished):
                return places
        return self._places(roll, left_out)

    def _places(self, roll: Roll, left_out: Mapping[str, float]) -> Sequence[Placed] | NoRoom | str:
        refusal: NoRoom | str = ""
        for wishes in _together(roll):
            band = Band(wishes, roll.asking, roll.gang.same_rails, roll.gang.within, roll.terms, left_out)
            try:
                placed = self._joint.place(band)
            except SelectorsPendingError:
                raise
            except TandemError as error:
                refusal = refusal or str(error)
                continue
            if not isinstance(placed, NoRoom):
                return placed
            refusal = refusal or placed
        return refusal

    def refused(
        self,
        gang: GangId,
        why: NoRoom | str,
        now: float,
        left_out: Mapping[str, float] = MappingProxyType({}),
    ) -> Wait:
        """All are there but cannot be placed; what members hold that nobody has reserved goes back."""
        roll, waiting = self._book.roll(gang), self._waiting.get(gang)
        if roll is None or waiting is None:
            return Wait()
        back = tuple(self._unreserved(roll)) if len(roll.allocated) < roll.size else ()
        late = self._is_late(roll, waiting, now)
        say = _Say(
            "Unsatisfiable",
            why,
            lambda: self._refusal(roll, why, left_out),
        )
        tells, again = self._told(roll, waiting, now, say, late=late)
        if waiting.timeouts:
            pause = min(_LATE_FIRST_SECONDS * 2 ** (waiting.timeouts - 1), _LATE_LAST_SECONDS)
            return Wait(min(now + pause, waiting.deadline), False, tells, back)
        return Wait(min(*left_out.values(), again, waiting.deadline), True, tells, back)

    def _incomplete(self, roll: Roll, waiting: _Waiting, now: float) -> Wait:
        text = _missing(roll)
        late = self._is_late(roll, waiting, now)
        settled = waiting.since + _SETTLE_SECONDS
        if now < settled and not late:
            return Wait(until=min(settled, waiting.deadline))
        tells, again = self._told(roll, waiting, now, _Say("GangIncomplete", text, lambda: text), late=late)
        return Wait(min(again, waiting.deadline), tells=tells)

    # Saying why

    def _is_late(self, roll: Roll, waiting: _Waiting, now: float) -> bool:
        """Its time is over, once more: each time after twice as long."""
        if now < waiting.deadline:
            return False
        waiting.timeouts += 1
        waiting.deadline = now + roll.gang.timeout_seconds * 2**waiting.timeouts
        return True

    def _told(
        self, roll: Roll, waiting: _Waiting, now: float, say: _Say, *, late: bool
    ) -> tuple[tuple[Tell, ...], float]:
        """To all members that wait, but what changes only so often; and when there is more to say."""
        reason, text = say.reason, ""
        if late:
            reason, text = "GangTimedOut", f"after {now - waiting.since:.0f} s: "
        elif say.about == waiting.told:
            return (), _NEVER
        elif now < waiting.told_at + _TELL_AGAIN_SECONDS:
            return (), waiting.told_at + _TELL_AGAIN_SECONDS
        first = roll.waiting[0]
        if self._chooser.left_to_scheduler(Quest(first.pod, first.wanted, first.allocated)):
            waiting.told, waiting.told_at = say.about, now
            return (), _NEVER
        text += say.text()
        waiting.told, waiting.told_at = say.about, now
        claims = {claim.metadata.uid: claim for wish in roll.waiting for claim in wish.wanted}
        about: list[ResourceClaim | Pod] = [*claims.values(), *(wish.pod for wish in roll.waiting)]
        kind: Literal["Normal", "Warning"] = "Normal" if reason == "GangIncomplete" else "Warning"
        return tuple(Tell(one, kind, reason, text) for one in about), _NEVER

    def _refusal(self, roll: Roll, why: NoRoom | str, left_out: Mapping[str, float]) -> str:
        before = f"{roll.id}: "
        return f"{before}{why}" if isinstance(why, str) else self._room(roll, why, left_out, before)

    def _room(self, roll: Roll, room: NoRoom, left_out: Mapping[str, float], before: str) -> str:
        """Why there is no room, and the least that would have to change."""
        members = min(roll.next, len(roll.waiting))
        if room.gave_up:
            return before + gave_up(roll, members, room)
        name = room.short.pod.metadata.name
        if not room.most:
            short = room.short
            quest = Quest(short.pod, short.wanted, short.allocated, left_out=left_out, others=short.others)
            choice = self._chooser.choose(quest, Effort(TURN_STEPS, last=True))
            if choice.best is None:
                nearest = self._chooser.nearest(short.wanted, choice)
                return joined(choice.why_not, nearest, before=f"{before}pod {name} has no room: ")
        where = [f"on {listed(room.rails)}"] if room.rails else []
        where += [f"with {roll.gang.within}={room.domain}"] if roll.gang.within and room.domain else []
        if roll.terms.rails or roll.terms.domain:
            where.append("as its other members are")
        text = " ".join([f"{room.most} of {members} members have room at once", *where])
        if len(room.kinds) > 1:
            kinds = [f"{n} of {count} like pod {first}" for first, count, n in room.kinds[:_KINDS_NAMED]]
            text += f" ({', '.join(kinds)})"
        text += f"; pod {name} has none"
        if room.reason:
            return joined(f"{text}; {room.reason}", "", before=before)
        found = self._one_by_one(roll, room, left_out)
        nearest = self._nearest(roll, room, left_out)
        if not nearest or nearest.startswith(_SMALLER):  # else it is the gang's own word that is in the way
            one = replace(found, refused=found.refused[:1])  # others cost as much, and help no more
            change = self._chooser.nearest(room.short.wanted, one)
            nearest += change and f"; for one more member{change[1:]}"
        return joined(f"{text}{_obstacles(found)}", nearest, before=before)

    def _one_by_one(self, roll: Roll, room: NoRoom, left_out: Mapping[str, float]) -> Reasons:
        """Why nodes refuse the member that has no room, on the rails and in the domain of the others."""
        short, within = room.short, (roll.gang.within, room.domain)
        quest = Quest(
            short.pod,
            short.wanted,
            short.allocated,
            left_out=left_out,
            limits=room.limits,
            within=within if all(within) else None,
        )
        return self._chooser.reasons(quest)

    def _nearest(self, roll: Roll, room: NoRoom, left_out: Mapping[str, float]) -> str:
        """Which word of the gang's would have to be another."""
        gang = roll.gang
        band = Band(roll.waiting[: roll.next], roll.asking, gang.same_rails, gang.within, left_out=left_out)
        kinder = [("rails: any", replace(band, same_rails=False))] if gang.same_rails else []
        if gang.within:
            kinder.append((f"to leave out within: {gang.within}", replace(band, within="")))
        for change, other in kinder:
            if not isinstance(self._joint.place(other), NoRoom):
                return f"; nearest: {change} would do"
        if room.most >= 2 and not roll.allocated:  # no gang is smaller
            return f"{_SMALLER}{room.most} would do"
        return ""

    # What is held in vain

    def _unreserved(self, roll: Roll) -> Iterator[Key]:
        """Claims of members that are allocated, and that no pod has reserved."""
        for pod in (*roll.allocated, *(wish.pod for wish in roll.waiting)):
            for claim in self._state.claims_of(pod) or ():
                key = claim.metadata.namespace, claim.metadata.name
                if key in self._state.unreserved:
                    yield key


def _obstacles(found: Reasons) -> str:
    """What nodes say to the member that has no room, in groups."""
    parts = [found.why_not] if found.why_not else []
    if found.open:
        nodes = f"{found.open} node{'s' * (found.open > 1)}"
        parts.insert(0, f"{nodes} would take it, but not beside the others")
    return f": {'; '.join(parts)}" if parts else ""


def _missing(roll: Roll) -> str:
    there = len(roll.allocated) + len(roll.waiting)
    text = f"waits for its gang, {roll.id}: {there} of {roll.size} members are there"
    if roll.held_up:
        pod, reason = roll.held_up[0]
        text += f"; pod {pod.metadata.name}: {reason}"
    return text


def _together(roll: Roll) -> Iterator[Sequence[Wish]]:
    """What is to be placed together: all that make the size full, or else any one of those that are more."""
    if len(roll.allocated) < roll.size:
        yield roll.waiting[: roll.next]
    else:
        for kind in kinds_of(Band(roll.waiting, roll.asking)):
            yield (kind.units[0].wish,)
