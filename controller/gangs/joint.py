"""A gang's members on nodes: the joint search asked about a real cluster, and its answer as allocations.

Members that ask for the same are of one shape. A node's state is the Group that the index has it in, or would
have it in with some members on it; so what one member does to a node is asked of the allocator once for all
nodes in equal state, and kept. The search counts; then its answer is drafted node by node with the real
devices, and a node that cannot take its members after all (devices that reach over several nodes, the odd
rule between pods) is left out and the search is asked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations, islice

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, PoolDevice, add_amounts, shares_of
from controller.allocator.traits import rail_of, type_of
from controller.allocator.verdict import Allocation, Refusal
from controller.answers import Answers, Shape
from controller.choice import Chooser
from controller.draft import Draft
from controller.effort import TURN_STEPS, Effort, Interrupted
from controller.equal import Published, Standing
from controller.gangs import problem, search
from controller.gangs.addresses import Addresses
from controller.gangs.kinds import Band, Kind, Unit, kinds_of, most_nics, nic_rails, rail_mask, rails_in
from controller.gangs.packing import Members
from controller.gangs.rules import Rules, has_rules, loosened
from controller.nodes import Group
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState
from controller.wish import Wish
from driver.names import TYPE_NIC, TYPE_VF

_KEPT = 200_000
_FRESH = 40
"""So many questions that the allocator has not answered before are enough at once."""
_BEGUN = 16
"""So many searches that were interrupted are kept."""
_DRAFTS = 32
_RAIL_SETS = 4096
"""More are not tried one by one: then only those that members would choose by themselves."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A member's place; `allocation` is of what its wish wants, with what those want who share a claim."""

    wish: Wish
    node: str
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Not all have room. `most` of them would have room at once, on those rails in that domain; `short` is a
    member of the kind that has none. `unfinished`: asked again, the search goes on. `reason`: why rails were
    left out, if any. `limits`: what those rails mean for the claims of `short`. `kinds`: of members that ask
    for the same, the first, how many there are, and how many of them have room.
    """

    most: int
    short: Wish
    rails: frozenset[int] | None
    domain: str
    gave_up: bool = False
    unfinished: bool = False
    reason: str = ""
    limits: tuple[Limit | None, ...] = ()
    kinds: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Single:
    """A node with a state of its own: a claim looks too closely, or something pins a member to it."""

    node: str
    standing: Standing


_State = Group | _Single


@dataclass(slots=True)
class _Memo:
    """What members do to nodes in equal state, and on which rails such nodes have free NICs."""

    steps: dict[object, problem.Taken[_State] | None] = field(default_factory=dict)
    open_rails: dict[Group, int] = field(default_factory=dict)


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
        self._memo = _Memo()
        self._begun: dict[object, problem.Tries] = {}

    def place(self, band: Band) -> list[Placed] | NoRoom:
        """All of them or none; members that share a claim that is not allocated yet have one place.

        Raises:
            TandemError: something about the claims is wrong, wherever they would go.
        """
        self._answers.effort = Effort(TURN_STEPS)
        if len(self._memo.steps) + len(self._memo.open_rails) > _KEPT:
            self._memo = _Memo()
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
        memo: _Memo,
        band: Band,
        fresh: int,
        tries: problem.Tries,
    ) -> None:
        self._state = state
        self._chooser = chooser
        self._answers = answers
        self._tries = tries
        self._known, self._open = memo.steps, memo.open_rails
        self._band = band
        self._kinds = kinds_of(band)
        self._closed: set[tuple[str, Members]] = set()
        self._fitting: dict[tuple[str, Members], bool] = {}
        self._fresh = fresh
        self._rules = any(has_rules(wish.pod) for wish in band.wishes)

    def run(self) -> list[Placed] | NoRoom:
        try:
            return self._run()
        except Interrupted:
            wish = self._band.wishes[0]
            return NoRoom(0, wish, None, "", gave_up=True, unfinished=True)

    def _run(self) -> list[Placed] | NoRoom:
        groups = list(self._groups())
        for kind in self._kinds:
            kind.nics = self._nics(kind, groups)
        room = [
            sum(len(g.nodes) for g in groups if self._answer(self._shape(number, None), g.state) is not None)
            for number in range(len(self._kinds))
        ]
        # Those that the fewest nodes would take are the most demanding.
        self._kinds = [self._kinds[n] for n in sorted(range(len(room)), key=room.__getitem__)]
        shapes = [problem.Shape(len(kind.units), most_nics(kind)) for kind in self._kinds]
        sets, reason = self._with_addresses(self._rail_sets(groups))
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

    def _best(self, questions: Sequence[problem.Question[_State]]) -> problem.Found | problem.NotFound:
        """Of the ways there are, or else how near it comes."""
        answers = [search.search(question, self) for question in questions]
        found = [answer for answer in answers if isinstance(answer, problem.Found)]
        if found:
            return min(found, key=lambda answer: answer.cost)
        nobody = problem.NotFound((0,) * len(self._kinds), "", None)
        near = [answer for answer in answers if isinstance(answer, problem.NotFound)]
        return max(near, key=lambda answer: (answer.gave_up, sum(answer.most)), default=nobody)

    # For the search

    def take(self, shape: int, state: _State, rails: int | None) -> problem.Taken[_State] | None:
        """What one more member does to a node."""
        kind = self._kinds[shape]
        if kind.pin and not (isinstance(state, _Single) and state.node == kind.pin):
            return None
        asked = self._shape(shape, rails)
        key = (asked, state, kind.asking)
        if isinstance(state, Group) and key in self._known:
            return self._known[key]
        if isinstance(state, Group):  # what a single node publishes may change
            self._spend()
            taken = self._known[key] = self._step(kind, asked, state)
            return taken
        return self._step(kind, asked, state)

    def _shape(self, number: int, rails: int | None) -> Shape:
        kind = self._kinds[number]
        if rails not in kind.shapes:
            quest = replace(kind.quest, limits=kind.limits(rails))
            kind.shapes[rails] = self._answers.shape(quest)
        return kind.shapes[rails]

    def fits(self, node: str, members: Members) -> bool:
        """Would kube-scheduler put these members there, devices aside?"""
        if (node, members) in self._closed:
            return False
        known = self._fitting.get((node, members))
        if known is None:
            known = self._fitting[node, members] = self._fit(node, members)
        return known

    def _fit(self, node: str, members: Members) -> bool:
        draft = Draft()
        seen: set[str] = set()
        for kind, count in zip(self._kinds, members, strict=True):
            for unit in kind.units[:count]:
                for wish in unit.wishes:
                    pod = loosened(wish.pod) if self._rules else wish.pod
                    others = tuple(claim for claim in wish.others if claim.metadata.uid not in seen)
                    quest = replace(kind.quest, pod=pod, allocated=wish.allocated, draft=draft, others=others)
                    if self._chooser.why_not(quest, node) is not None:
                        return False
                    seen.update(claim.metadata.uid for claim in others)
                    draft = draft.plus(node, pod, self._chooser.others_on(quest, node))
        return True

    def _step(self, kind: Kind, shape: Shape, state: _State) -> problem.Taken[_State] | None:
        answer = self._answer(shape, state)
        if isinstance(state, _Single):
            published, standing = self._state.nodes[state.node].published, state.standing
        else:
            published, standing = state.published, Standing(state.published.first(state.counts), state.shared)
        if answer is None or published is None:
            return None
        after = _after(published, standing, answer)
        *ranks, rank_cost, cost, _ = answer.score
        rails = 0
        for share, asks in zip(answer.claims, kind.asking, strict=True):
            for rail in nic_rails(share.devices) if asks else ():
                rails |= 0 if rail is None else 1 << rail
        left: _State
        if isinstance(state, _Single):
            left = _Single(state.node, after)
        else:
            left = self._state.index.group_of(published, after)
        return problem.Taken(left, (sum(ranks) << 32) + rank_cost, cost, rails)

    def _answer(self, shape: Shape, state: _State) -> Allocation | None:
        if isinstance(state, _Single):
            answer = self._answers.of_node(shape, self._state.nodes[state.node], state.standing)
            return answer if isinstance(answer, Allocation) else None
        known = self._answers.of_group(shape, state)
        return known if isinstance(known, Allocation) else None

    # Before and after it

    def _groups(self) -> Iterator[problem.Group[_State]]:
        """Nodes by state and domain, the fullest first, without those that no member can be on; those that
        members are pinned to by themselves.
        """
        label, domain, left_out = self._band.within, self._band.terms.domain, self._band.left_out
        pins = {kind.pin for kind in self._kinds if kind.pin}
        shapes = [self._answers.shape(kind.quest) for kind in self._kinds]
        for group in self._state.index.groups():
            answers = [self._of_group(shape, group) for shape in shapes]
            shared = None not in answers
            if shared and not any(isinstance(answer, Allocation) for answer in answers):
                continue
            rails = self._open_rails(group)
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
                    yield problem.Group(value, _Single(name, record.standing), (name,), rails)
                else:
                    domains.setdefault(value, []).append(name)
            for value, names in domains.items():
                yield problem.Group(value, group, names, rails)

    def _of_group(self, shape: Shape, group: Group) -> Allocation | Refusal | None:
        """The answer of all nodes of the group, if there is one for all."""
        if shape not in group.answers:
            self._spend()
        return self._answers.of_group(shape, group)

    def _spend(self) -> None:
        """One more question that the allocator has not answered before."""
        if not self._fresh:
            raise Interrupted
        self._fresh -= 1

    def _open_rails(self, group: Group) -> int:
        """Rails with a free NIC."""
        known = self._open.get(group)
        if known is not None:
            return known
        mask = 0
        for device, members, taken in _classes(group):
            if type_of(device) in (TYPE_NIC, TYPE_VF) and taken < members:
                rail = rail_of(device)
                mask |= 0 if rail is None else 1 << rail
        self._open[group] = mask
        return mask

    def _nics(self, kind: Kind, groups: Sequence[problem.Group[_State]]) -> tuple[int, ...]:
        """How many NICs each claim gets, as the first nodes that can take the member have it."""
        shape = self._answers.shape(kind.quest)
        for group in groups:
            answer = self._answer(shape, group.state)
            if answer is not None:
                return tuple(len(list(nic_rails(share.devices))) for share in answer.claims)
        return (0,) * len(kind.asking)

    def _rail_sets(self, groups: Sequence[problem.Group[_State]]) -> tuple[int | None, ...]:
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

    def _natural(self, groups: Sequence[problem.Group[_State]], least: int) -> Iterator[int]:
        """Rail sets that members would choose by themselves."""
        seen: set[int] = set()
        for group in groups:
            for number in range(len(self._kinds)):
                taken = self._step(self._kinds[number], self._shape(number, None), group.state)
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
        shape = self._shape(seat.shape, rails)
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


def _after(published: Published, standing: Standing, answer: Allocation) -> Standing:
    """How a node stands with the answer's devices taken, too."""
    taken = standing.taken
    shared: dict[int, dict[str, Fraction]] = {at: dict(amounts) for at, amounts in standing.shared}
    for share in answer.claims:
        for result in share.result.devices.results:
            if not result.admin_access and result.share_id is None:
                _, position = published.place(DeviceId(result.driver, result.pool, result.device))
                taken |= 1 << position
        for device, amounts in shares_of(share.result):
            _, position = published.place(device)
            add_amounts(shared.setdefault(position, {}), amounts)
    return Standing(taken, tuple((p, tuple(sorted(shared[p].items()))) for p in sorted(shared)))


def _classes(group: Group) -> Iterator[tuple[PoolDevice, int, int]]:
    """One device of each class of the group's nodes, how many there are, and how many are taken."""
    devices = group.published.devices.devices
    for members, taken in zip(group.published.classes, group.counts, strict=True):
        if members[0] < len(devices):
            yield devices[members[0]], len(members), taken
