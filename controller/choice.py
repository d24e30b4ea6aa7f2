"""One pod, all nodes: where its claims go best, or why nowhere.

What costs most is asked least. The allocator answers once for all nodes in equal state, and mostly has done
so before (`controller.answers`); states are looked at fullest first, until enough of them can take the
claims. Only of nodes in such states is asked what kube-scheduler would say of the pod there. Why a pod was
refused is found out when somebody wants to be told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit
from controller.allocator.verdict import Allocation, Refusal, aggregate
from controller.answers import Answer, Answers, Shape
from controller.effort import TURN_STEPS, Effort, Interrupted
from controller.equal import Standing
from controller.fits import Fits, pins
from controller.nodes import Group, NodeRecord
from controller.other_claims import OtherClaims
from controller.quest import Quest
from controller.refusals import Misfits, Refusals, likeness
from controller.remedies import Remedies
from controller.retry_order import RetryRank
from controller.scheduler_mode import SchedulerMode
from controller.settings import PlacementSettings
from controller.state import ClusterState
from driver.kube.objects import ResourceClaim

_POOLS_NAMED = 2
_NOT_TRIED = Refusal(
    claim="",
    subject="search",
    message="search: gave up before these nodes were tried; fewer subrequests or constraints would help",
    gave_up=True,
)


@dataclass(frozen=True, slots=True)
class Option:
    """A node that can take the pod, and how. `sharers_left_out` are other pods of shared claims that it
    cannot take as well.
    """

    sharers_left_out: int
    allocation: Allocation
    node: str


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why there is no place: a sentence for people, nodes of which each gave another reason, and the limits
    that the claims had. `open`: nodes that have a place.
    """

    why_not: str
    refused: tuple[str, ...] = ()
    limits: tuple[Limit | None, ...] = ()
    open: int = 0


class Choice:
    """The best option, or why there is none. `permanent`: no waiting helps; `gave_up`: nothing is proved."""

    def __init__(
        self,
        best: Option | None = None,
        why_not: str = "",
        *,
        permanent: bool = False,
        gave_up: bool = False,
        find_reasons: Callable[[], Reasons] | None = None,
        alike: Hashable = None,
    ) -> None:
        """`find_reasons` is called at most once, when the reasons are wanted. Quests with an equal `alike`
        are refused together; None: like no other.
        """
        self.best = best
        self.permanent = permanent
        self.gave_up = gave_up
        self.alike = alike
        self._find = find_reasons
        self._reasons = Reasons(why_not)

    @property
    def why_not(self) -> str:
        """A sentence for people; may cost a walk over all nodes."""
        return self._found().why_not

    @property
    def refused(self) -> tuple[str, ...]:
        """Nodes of which each gave another reason."""
        return self._found().refused

    @property
    def limits(self) -> tuple[Limit | None, ...]:
        """For each claim the rails that its NICs could be on (None: any); or empty."""
        return self._found().limits

    def _found(self) -> Reasons:
        if self._find is not None:
            self._reasons, self._find = self._find(), None
        return self._reasons


@dataclass(frozen=True, slots=True)
class Equals:
    """Nodes that give one answer, in terms of which only the names of pools and node differ. `nodes`, by
    name, have the devices; whether the pod fits is another question.
    """

    answer: Allocation
    nodes: Sequence[str]


_Candidates = tuple[Group, Sequence[str], Standing | None]
"""Nodes, by name, that are in the state of a group; how they stand, where a draft is the reason for that."""


class Chooser:
    """Looks for the node. Keeps answers; not thread-safe."""

    def __init__(self, state: ClusterState, settings: PlacementSettings, cel: CelCache) -> None:
        self._state = state
        self._settings = settings
        self._cel = cel
        self._options = Options(driver=settings.driver_name, managed_only=state.managed_only)
        self._answers = Answers(state, self._options, cel)
        self._others = OtherClaims(state, cel)
        self._misfits = Misfits(state.index)
        self._refusals: Refusals[Choice] = Refusals()
        self._told: Refusals[Reasons] = Refusals()
        self._remedies = Remedies(state, self._options, cel)
        self._scheduler_mode = SchedulerMode(state, settings.driver_name, cel)

    def choose(self, quest: Quest, effort: Effort | None = None) -> Choice:
        """Find a place with this effort, or with as much as it takes.

        Raises:
            TandemError: something about the claims is wrong, wherever they would go.
            Interrupted: the effort is used up; asked again, the search goes on where it was.
        """
        with self._within(effort or Effort()):
            return self._choose(quest)

    def _choose(self, quest: Quest) -> Choice:
        others = self._others.ask(quest)
        fits = Fits(self._state, quest, self._misfits, others, self._answers.effort)
        shape = self._answers.shape(quest)
        alike = likeness(quest, fits.needs, minds_neighbours=fits.minds_neighbours)
        alike = None if alike is None else (shape, alike, fits.looks_around, others and others.shape)
        before = self._refusals.of(alike)
        if before is not None and before.generation == self._state.generation:
            by_name = len(quest.wanted) > 1 or others is not None
            return self._refused(quest, before.said) if by_name else before.said
        if fits.looks_around:  # what changed elsewhere may have opened any node
            quest = replace(quest, since=0)
        elif before is not None:
            quest = replace(quest, since=before.generation)
        elif quest.since < self._state.index.moved_on_at:  # it may have looked around then
            quest = replace(quest, since=0)
        best: tuple[RetryRank, int, tuple[int, ...], str, Allocation] | None = None
        best_rank = fits.best_rank()
        permanent = {before.said.permanent} if before is not None else {False} if quest.since else set()
        gave_up = before is not None and before.said.gave_up
        found = 0
        for answer, names in self._asked(shape, quest):
            gave_up |= isinstance(answer, Refusal) and answer.gave_up
            permanent.add(isinstance(answer, Refusal) and answer.permanent)
            if isinstance(answer, Refusal) or (best and best[:3] < (best_rank, 0, answer.score)):
                continue
            first = fits.first(names)
            if first is not None:
                rank, missing, name = first
                option = (rank, missing, answer.score, name, answer)
                best = option if best is None or option[:4] < best[:4] else best
                found += rank == best_rank
                if found >= self._settings.enough_states:
                    break
        if best is None:
            gave_up |= fits.gave_up
            refused = Choice(permanent=permanent == {True}, gave_up=gave_up, alike=alike)
            choice = self._refused(quest, refused)
            self._refusals.put(alike, self._state.generation, choice)
            return choice
        _, missing, _, name, answer = best
        record = self._state.nodes[name]
        standing = self._state.index.standing(record, quest.draft)
        return Choice(Option(missing, self._answers.moved(shape, answer, quest, record, standing), name))

    def answer(self, quest: Quest, node: str) -> Allocation | Refusal:
        """What the allocator says of one node, in that node's terms; whether the pod fits is not asked."""
        self._state.index.settle()
        shape = self._answers.shape(quest)
        record = self._state.nodes.get(node)
        if record is None:
            return Refusal(claim="", subject="node", message="the node is gone")
        standing = self._state.index.standing(record, quest.draft)
        answer = self._answers.of_node(shape, record, standing)
        if isinstance(answer, Refusal):
            return answer
        return self._answers.moved(shape, answer, quest, record, standing)

    def groups(self, quest: Quest) -> Iterator[Equals]:
        """All nodes that have the devices, those in equal state together, the fullest first. Lazy; not to be
        used any more when the state has changed.
        """
        shape = self._answers.shape(quest)
        for answer, names in self._asked(shape, quest):
            if isinstance(answer, Allocation):
                yield Equals(answer, names)

    def why_not(self, quest: Quest, node: str) -> str | None:
        """Why the pod does not fit the node, devices aside; None if it does."""
        record = self._state.nodes.get(node)
        if record is None:
            return "the node is gone"
        with self._within(Effort(TURN_STEPS, last=True)):
            return Fits(self._state, quest, others=self._others.ask(quest)).why_not(record)

    def others_on(self, quest: Quest, node: str) -> Allocation | None:
        """What kube-scheduler could allocate there for the pod's claims of other drivers."""
        others = self._others.ask(quest)
        return others.allocation(node) if others is not None else None

    def left_to_scheduler(self, quest: Quest) -> bool:
        """Does kube-scheduler do for the pod what is to be done, on nodes in scheduler mode? Costs some
        searches where there are such nodes: for telling people, or rather not telling them.
        """
        with self._within(Effort(TURN_STEPS, last=True)):
            return self._scheduler_mode.serves(quest, self._others.ask(quest))

    def reasons(self, quest: Quest) -> Reasons:
        """Why nodes refuse, though others may not. Costs a walk over all nodes where it was not asked before:
        for telling people, now and then.
        """
        fits = Fits(self._state, quest, self._misfits)
        like = likeness(quest, fits.needs, minds_neighbours=fits.minds_neighbours)
        if like is None:
            return self._reasons(quest)
        alike = self._answers.shape(quest), like
        known = self._told.of(alike)
        if known is None or known.generation != self._state.generation:
            self._told.put(alike, self._state.generation, self._reasons(quest))
            known = self._told.of(alike)
        return known.said if known is not None else self._reasons(quest)

    def nearest(self, wanted: Sequence[ResourceClaim], choice: Choice | Reasons) -> str:
        """The least that would have to change, as a sentence that follows `why_not`; empty where nothing
        small would do. Costs several searches: for telling people, now and then.
        """
        return self._remedies.of(wanted, choice.refused, choice.limits)

    def _asked(self, shape: Shape, quest: Quest) -> Iterator[tuple[Answer, Sequence[str]]]:
        """Every candidate with the allocator's answer."""
        records = self._state.nodes
        for group, names, drafted in self._candidates(quest):
            try:
                answer = self._answers.of_group(shape, group)
            except Interrupted:
                if not self._answers.effort.last:
                    raise
                answer = _NOT_TRIED
            if answer is not None:
                yield answer, names
                continue
            for name in names:
                standing = drafted or records[name].standing
                yield self._of_node(shape, records[name], standing), [name]

    def _of_node(self, shape: Shape, record: NodeRecord, standing: Standing) -> Answer:
        try:
            return self._answers.of_node(shape, record, standing)
        except Interrupted:
            if not self._answers.effort.last:
                raise
            return _NOT_TRIED

    def _candidates(self, quest: Quest) -> Iterator[_Candidates]:
        """Nodes by state; one at most where something pins the pod by name."""
        index, pinned = self._state.index, pins(quest)
        groups = index.groups()
        some: Iterable[NodeRecord] | None = None
        if pinned:
            some = [record] if (record := self._state.nodes.get(pinned[0])) is not None else []
        elif quest.since:
            some = index.since(quest.since)
        drafted = self._drafted(quest)
        for record in (self._state.nodes[name] for name in sorted(drafted)):
            if record.published is not None and (not pinned or record.name == pinned[0]):
                standing = index.standing(record, quest.draft)
                yield index.group_of(record.published, standing), [record.name], standing
        if some is None:
            for group in groups:
                names = [n for n in group.names if n not in drafted] if drafted else group.names
                yield group, names, None
            return
        by_group: dict[Group, list[str]] = {}
        for record in some:
            if record.group is not None and record.name not in drafted:
                by_group.setdefault(record.group, []).append(record.name)
        for group in sorted(by_group, key=lambda group: (-group.full, group.number)):
            yield group, sorted(by_group[group]), None

    def _drafted(self, quest: Quest) -> set[str]:
        """Nodes whose devices the draft concerns."""
        draft = quest.draft
        if draft is None:
            return set()
        pools = {*draft.taken, *draft.shared}
        return {name for pool in pools for name in self._state.index.concerned(pool)}

    def _refused(self, quest: Quest, like: Choice) -> Choice:
        """The same refusal, with reasons in terms of this quest."""
        everywhere = replace(quest, since=0)
        return Choice(
            permanent=like.permanent,
            gave_up=like.gave_up,
            alike=like.alike,
            find_reasons=lambda: self._reasons(everywhere),
        )

    def _reasons(self, quest: Quest) -> Reasons:
        with self._within(Effort(TURN_STEPS, last=True)):
            return self._find_reasons(quest)

    @contextmanager
    def _within(self, effort: Effort) -> Iterator[None]:
        """Answers take this effort meanwhile."""
        before = self._answers.effort
        self._answers.effort = effort
        self._others.within(effort)
        try:
            yield
        finally:
            self._answers.effort = before
            self._others.within(before)

    def _find_reasons(self, quest: Quest) -> Reasons:
        fits = Fits(self._state, quest, self._misfits, self._others.ask(quest), self._answers.effort)
        if not self._state.nodes and not self._state.managed_only:
            return Reasons("there is no node")
        misfits: Counter[str] = Counter()
        refusals: list[Refusal] = []
        first: dict[str, str] = {}
        refused: dict[str, str] = {}
        open_ = 0
        bad_pools: dict[str, None] = {}
        # Refusals of several claims call them by name.
        shape = self._answers.shape(quest, named=len(quest.wanted) > 1)
        for answer, names in self._asked(shape, quest):
            for name in names:
                record = self._state.nodes[name]
                reason = fits.why_not(record)
                if reason is not None:
                    misfits[reason] += 1
                elif isinstance(answer, Allocation):
                    open_ += 1
                else:
                    refusals.append(answer)
                    for bad in record.published.devices.bad_pools if record.published is not None else ():
                        bad_pools[f"pool {bad.pool.name} is not used: {bad.reason}"] = None
                    first.setdefault(answer.message, name)
                    if not answer.permanent and not answer.gave_up:
                        refused.setdefault(answer.message, name)

        def explained(message: str) -> tuple[str, Refusal] | None:
            found = self._remedies.explained(quest.wanted, first[message], shape.limits)
            return (first[message], found) if found is not None else None

        parts = [aggregate(refusals, explained)] if refusals else []
        others = [*list(bad_pools)[:_POOLS_NAMED], *self._scheduler_mode.said()]
        text = _why_not(parts, misfits, others, "" if open_ else self._settings.driver_name)
        return Reasons(text, tuple(refused.values()), shape.limits, open_)


def _why_not(parts: list[str], misfits: Mapping[str, int], others: Sequence[str], driver_name: str) -> str:
    if misfits:
        reasons = [
            f"{n} × {reason}" for reason, n in sorted(misfits.items(), key=lambda item: (-item[1], item[0]))
        ]
        parts.append(f"{sum(misfits.values())} nodes do not fit the pod: {'; '.join(reasons[:5])}")
    parts += others
    if not parts and driver_name:
        return f"no node publishes devices of {driver_name} for the controller"
    return "; ".join(parts)
