"""A gang's members on nodes: the joint search asked about a real cluster, and its answer as allocations.

Members that ask for the same are of one shape, and nodes count by their state (see
`controller.gangs.node_states`). The search counts; then its answer is drafted node by node with the real
devices, and a node that cannot take its members after all (devices that reach over several nodes, the odd
rule between pods) is left out and the search is asked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.verdict import Allocation, Refusal
from controller.answers import Answers
from controller.choice import Chooser
from controller.draft import Draft
from controller.effort import TURN_STEPS, Effort, Interrupted
from controller.gangs import problem, search
from controller.gangs.addresses import Addresses
from controller.gangs.kinds import Band, Kind, Unit, kinds_of, most_nics, nic_rails, rail_mask, rails_in
from controller.gangs.node_states import Memo, NodeState, NodeStates, Single
from controller.gangs.packing import Members
from controller.gangs.places import NoRoom, Placed, Tried
from controller.gangs.rules import Rules, has_rules, loosened
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState

_KEPT = 200_000
_FRESH = 40
"""So many questions that the allocator has not answered before are enough at once."""
_BEGUN = 16
"""So many searches that were interrupted are kept."""
_DRAFTS = 32
_RAIL_SETS = 4096
"""More are not tried one by one: then only those that members would choose by themselves."""


@dataclass(frozen=True, slots=True)
class _Seat:
    """A place for one unit of a shape; `members` are all that the node has."""

    shape: int
    unit: Unit
    node: str
    members: Members


class Joint:
    """Places several pods at once. Keeps answers; not thread-safe."""

    def __init__(
        self,
        state: ClusterState,
        chooser: Chooser,
        settings: PlacementSettings,
        cel: CelCache,
        fresh: int = _FRESH,
    ) -> None:
        """`fresh`: so many new questions to the allocator are enough at once; the next time goes on."""
        self._state = state
        self._fresh = fresh
        self._chooser = chooser
        self._answers = Answers(
            state, Options(driver=settings.driver_name, managed_only=state.managed_only), cel
        )
        self._memo = Memo()
        self._begun: dict[object, problem.Tries] = {}

    def place(self, band: Band) -> list[Placed] | NoRoom:
        """All of them or none; members that share a claim that is not allocated yet have one place.

        Raises:
            TandemError: something about the claims is wrong, wherever they would go.
        """
        self._answers.effort = Effort(TURN_STEPS)
        if len(self._memo) > _KEPT:
            self._memo = Memo()
        members = tuple(wish.pod.metadata.uid for wish in band.wishes)
        key = (members, band.same_rails, band.within, band.terms, frozenset(band.left_out))
        tries = self._begun.pop(key, None) or problem.Tries()
        tries.turn = 0
        attempt = _Attempt(self._state, self._chooser, self._answers, self._memo, band, self._fresh, tries)
        answer = attempt.run()
        if isinstance(answer, NoRoom) and answer.unfinished:
            if len(self._begun) >= _BEGUN:
                del self._begun[next(iter(self._begun))]
            self._begun[key] = tries
        return answer


class _Attempt:
    def __init__(
        self,
        state: ClusterState,
        chooser: Chooser,
        answers: Answers,
        memo: Memo,
        band: Band,
        fresh: int,
        tries: problem.Tries,
    ) -> None:
        self._state = state
        self._chooser = chooser
        self._answers = answers
        self._tries = tries
        self._states = NodeStates(state, answers, memo, fresh)
        self._band = band
        self._kinds = kinds_of(band)
        self._closed: set[tuple[str, Members]] = set()
        self._fitting: dict[tuple[str, Members], bool] = {}
        self._seen: list[problem.Group[NodeState]] = []
        self._rail_sets_seen = 0
        self._fitted: dict[tuple[str, Members], tuple[Draft, frozenset[str]]] = {}
        """Members that fit a node: their draft, and their claims of other drivers by UID."""
        self._rules = any(has_rules(wish.pod) for wish in band.wishes)

    def run(self) -> list[Placed] | NoRoom:
        try:
            answer = self._run()
        except Interrupted:
            answer = NoRoom(0, self._band.wishes[0], None, "", gave_up=True, unfinished=True)
        if isinstance(answer, NoRoom) and answer.gave_up:
            return replace(answer, tried=self._tried())
        return answer

    def _tried(self) -> Tried:
        nodes, states = sum(len(g.nodes) for g in self._seen), len({g.state for g in self._seen})
        return Tried(len(self._kinds), nodes, states, self._rail_sets_seen, self._tries.steps)

    def _run(self) -> list[Placed] | NoRoom:
        groups = self._seen
        groups.extend(self._groups())
        for kind in self._kinds:
            kind.nics = self._nics(kind, groups)
        room = [
            sum(len(g.nodes) for g in groups if self._states.answer(shape, g.state) is not None)
            for shape in [self._states.shape(kind, None) for kind in self._kinds]
        ]
        # Those that the fewest nodes would take are the most demanding.
        self._kinds = [self._kinds[n] for n in sorted(range(len(room)), key=room.__getitem__)]
        shapes = [problem.Shape(len(kind.units), most_nics(kind)) for kind in self._kinds]
        sets, reason = self._with_addresses(self._rail_sets(groups))
        self._rail_sets_seen = sum(rails is not None for rails in sets)
        questions = [problem.Question(shapes, groups, sets, tries=self._tries)] if sets else []
        if self._rules:
            rules = Rules(self._state.neighbours, self._state.nodes, self._kinds)
            questions = [seated for question in questions for seated in rules.questions(question)]
        for _ in range(_DRAFTS):
            found = self._best(questions)
            if isinstance(found, problem.NotFound):
                return replace(self._no_room(found), reason=reason)
            placed = self._drafted(found)
            if placed is not None:
                return placed
        return self._no_room(problem.NotFound((0,) * len(shapes), "", None, gave_up=True))

    def _best(self, questions: Sequence[problem.Question[NodeState]]) -> problem.Found | problem.NotFound:
        """Of the ways there are, or else how near it comes."""
        answers = [search.search(question, self) for question in questions]
        found = [answer for answer in answers if isinstance(answer, problem.Found)]
        if found:
            return min(found, key=lambda answer: answer.cost)
        nobody = problem.NotFound((0,) * len(self._kinds), "", None)
        near = [answer for answer in answers if isinstance(answer, problem.NotFound)]
        return max(near, key=lambda answer: (answer.gave_up, sum(answer.most)), default=nobody)

    # For the search

    def take(self, shape: int, state: NodeState, rails: int | None) -> problem.Taken[NodeState] | None:
        """What one more member does to a node."""
        return self._states.take(self._kinds[shape], rails, state)

    def fits(self, node: str, members: Members) -> bool:
        """Would kube-scheduler put these members there, devices aside?"""
        if (node, members) in self._closed:
            return False
        known = self._fitting.get((node, members))
        if known is None:
            known = self._fitting[node, members] = self._fit(node, members)
        return known

    def _fit(self, node: str, members: Members) -> bool:
        last = max((number for number, count in enumerate(members) if count), default=0)
        fewer = (*members[:last], max(0, members[last] - 1), *members[last + 1 :])
        known = self._fitted.get((node, fewer))
        if known is not None:  # most questions are about one member more
            units, (draft, seen) = [(self._kinds[last], self._kinds[last].units[fewer[last]])], known
        else:
            chosen = [(kind, count) for kind, count in zip(self._kinds, members, strict=True) if count]
            units = [(kind, unit) for kind, count in chosen for unit in kind.units[:count]]
            draft, seen = Draft(), frozenset()
        for kind, unit in units:
            for wish in unit.wishes:
                pod = loosened(wish.pod) if self._rules else wish.pod
                others = tuple(claim for claim in wish.others if claim.metadata.uid not in seen)
                quest = replace(kind.quest, pod=pod, allocated=wish.allocated, draft=draft, others=others)
                if self._chooser.why_not(quest, node) is not None:
                    return False
                seen = seen.union(claim.metadata.uid for claim in others)
                draft = draft.plus(node, pod, self._chooser.others_on(quest, node))
        self._fitted[node, members] = draft, seen
        return True

    # Before and after it

    def _groups(self) -> Iterator[problem.Group[NodeState]]:
        """Nodes by state and domain, the fullest first, without those that no member can be on; those that
        members are pinned to by themselves.
        """
        label, domain, left_out = self._band.within, self._band.terms.domain, self._band.left_out
        pins = {kind.pin for kind in self._kinds if kind.pin}
        shapes = [self._answers.shape(kind.quest) for kind in self._kinds]
        for group in self._state.index.groups():
            answers = [self._states.of_group(shape, group) for shape in shapes]
            shared = None not in answers
            if shared and not any(isinstance(answer, Allocation) for answer in answers):
                continue
            rails = self._states.open_rails(group)
            if shared and not (label or left_out or pins):
                yield problem.Group("", group, group.names, rails)
                continue
            domains: dict[str, list[str]] = {}
            for name in group.names:
                record = self._state.nodes[name]
                value = record.node.metadata.labels.get(label) if label and record.node is not None else ""
                if name in left_out or value is None or (label and domain not in (None, value)):
                    continue
                if not shared or name in pins:
                    yield problem.Group(value, Single(name, record.standing), (name,), rails)
                else:
                    domains.setdefault(value, []).append(name)
            for value, names in domains.items():
                yield problem.Group(value, group, names, rails)

    def _nics(self, kind: Kind, groups: Sequence[problem.Group[NodeState]]) -> tuple[int, ...]:
        """How many NICs each claim gets, as the first nodes that can take the member have it."""
        shape = self._answers.shape(kind.quest)
        for group in groups:
            answer = self._states.answer(shape, group.state)
            if answer is not None:
                return tuple(len(list(nic_rails(share.devices))) for share in answer.claims)
        return (0,) * len(kind.asking)

    def _rail_sets(self, groups: Sequence[problem.Group[NodeState]]) -> tuple[int | None, ...]:
        """On which the gang may be, as bit masks."""
        placed = self._band.terms.rails
        most = max([most_nics(kind) for kind in self._kinds] + [nics for nics, _ in placed], default=0)
        if not self._band.same_rails or not most:
            return (None,)
        for nics, rails in placed:
            if nics == most:  # a claim with as many NICs as any has one on each of the gang's rails
                return (rail_mask(rails),)
        least = 0
        for _, rails in placed:
            least |= rail_mask(rails)
        free = 0
        for group in groups:
            free |= group.rails
        rest = list(rails_in(free & ~least))
        sizes = range(max(0, 1 - least.bit_count()), most - least.bit_count() + 1)
        sets: list[int] = []
        for size in sizes:
            for chosen in combinations(rest, size):
                sets.append(least | rail_mask(chosen))
                if len(sets) > _RAIL_SETS:
                    return tuple(self._natural(groups, least))
        return tuple(sets)

    def _with_addresses(self, sets: Sequence[int | None]) -> tuple[list[int | None], str]:
        """Those of the rail sets that have addresses for all members, and why the others have not."""
        addresses = Addresses(self._state, self._kinds)
        short = {rails: addresses.short(rails) for rails in sets if rails is not None}
        reason = next((why for why in short.values() if why), "")
        return [rails for rails in sets if rails is None or not short[rails]], reason

    def _natural(self, groups: Sequence[problem.Group[NodeState]], least: int) -> Iterator[int]:
        """Rail sets that members would choose by themselves."""
        seen: set[int] = set()
        for group in groups:
            for kind in self._kinds:
                taken = self._states.step(kind, self._states.shape(kind, None), group.state)
                if taken is not None and taken.rails & least == least and taken.rails not in seen:
                    seen.add(taken.rails)
                    yield taken.rails

    def _drafted(self, found: problem.Found) -> list[Placed] | None:
        """The way with real devices, in an order in which the members may come; None where a node cannot take
        its members, which is then closed.
        """
        draft, placed = Draft(), list[Placed]()
        waiting = self._seated(found)
        while waiting:
            late = []
            for seat in waiting:
                member = self._member(seat, found.rails, draft)
                if member is None:
                    late.append(seat)
                    continue
                placed.append(member)
                draft = draft.plus(seat.node, member.wish.pod, member.allocation)
                for follower in seat.unit.followers:
                    draft = draft.plus(seat.node, follower.pod)
            if len(late) == len(waiting):
                self._closed.update((seat.node, seat.members) for seat in late[:1])
                return None
            waiting = late
        return placed

    def _seated(self, found: problem.Found) -> list[_Seat]:
        """Who goes where: on each node one, then on each a second one, as spreading has it."""
        units = [iter(kind.units) for kind in self._kinds]
        seats = [
            (turn, _Seat(number, unit, node, members))
            for node, members in found.places
            for turn, (number, unit) in enumerate(
                (number, unit)
                for number, count in enumerate(members)
                for unit in islice(units[number], count)
            )
        ]
        return [seat for _, seat in sorted(seats, key=lambda entry: entry[0])]

    def _member(self, seat: _Seat, rails: int | None, draft: Draft) -> Placed | None:
        """The member in its seat, beside those of the draft; None where it cannot be there, or not yet."""
        record, wish = self._state.nodes[seat.node], seat.unit.wish
        quest = Quest(wish.pod, wish.wanted, wish.allocated, draft=draft, others=wish.others)
        shape = self._states.shape(self._kinds[seat.shape], rails)
        standing = self._state.index.standing(record, draft)
        answer = self._answers.of_node(shape, record, standing)
        if isinstance(answer, Refusal) or (self._rules and self._chooser.why_not(quest, seat.node)):
            return None
        return Placed(wish, seat.node, self._answers.moved(shape, answer, quest, record, standing))

    def _no_room(self, found: problem.NotFound) -> NoRoom:
        kind, most = next(
            (k, n) for k, n in zip(self._kinds, found.most, strict=True) if n < len(k.units) or found.gave_up
        )
        return NoRoom(
            most=sum(found.most),
            short=kind.units[min(most, len(kind.units) - 1)].wish,
            rails=frozenset(rails_in(found.rails)) if found.rails is not None else None,
            domain=_value(found.domain),
            gave_up=found.gave_up,
            limits=kind.limits(found.rails),
            kinds=tuple(
                (k.units[0].wish.pod.metadata.name, len(k.units), n)
                for k, n in zip(self._kinds, found.most, strict=True)
            ),
        )


def _value(domain: object) -> str:
    """Of the gang's label."""
    return str(domain[0] if isinstance(domain, tuple) else domain)
