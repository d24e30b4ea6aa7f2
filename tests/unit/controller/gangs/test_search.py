"""The gang search against trying everything, in small made-up worlds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.gangs.packing import Members
from controller.gangs.problem import Found, Group, NotFound, Question, Shape, Taken
from controller.gangs.search import search

State = tuple[tuple[int, ...], int]
"""Free NICs by rail, and free GPUs."""


@dataclass
class World:
    """A member takes one GPU and, of each rail of the set, NICs in turn until it has enough."""

    nics: tuple[int, ...]  # by shape: NICs that a member wants
    seats: dict[str, int]  # by node: members for which there is CPU
    far: frozenset[int]  # rails that are far from the GPUs

    def take(self, shape: int, state: State, rails: int | None) -> Taken[State] | None:
        free, gpus = list(state[0]), state[1]
        if not gpus:
            return None
        want = self.nics[shape]
        ways = [rails] if rails is not None else range(1, 1 << len(free))
        found = [way for r in ways if (way := self._nics(tuple(free), r, want)) is not None]
        if not found:
            return None
        tiers, mask, left = min(found)
        return Taken((left, gpus - 1), tiers, sum(1 for n in left if n == 1), mask)

    def _nics(self, free: tuple[int, ...], rails: int, want: int) -> tuple[int, int, tuple[int, ...]] | None:
        numbers = [r for r in range(len(free)) if rails >> r & 1]
        left, tiers, mask = list(free), 0, 0
        if not want:
            return 0, 0, free
        while want:
            turn = [r for r in numbers if left[r]]
            if not turn:
                return None
            for rail in turn[:want]:
                left[rail] -= 1
                want -= 1
                tiers += rail in self.far
                mask |= 1 << rail
        exactly = sum(self.nics) and rails.bit_count() <= sum(a - b for a, b in zip(free, left, strict=True))
        return (tiers, mask, tuple(left)) if mask == rails or not exactly else None

    def fits(self, node: str, members: Members) -> bool:
        return sum(members) <= self.seats[node]


def everything(question: Question[State], world: World) -> Iterator[int]:
    """The cost of each way there is, by trying them all."""
    nodes = [(g.domain, node, g.state) for g in question.groups for node in g.nodes]
    for domain in {d for d, _, _ in nodes}:
        mine = [(node, state) for d, node, state in nodes if d == domain]
        for rails in question.rails:
            splits = [_splits(shape.count, len(mine)) for shape in question.shapes]
            for split in product(*splits):
                cost = 0
                for index, (node, state) in enumerate(mine):
                    members = tuple(counts[index] for counts in split)
                    more = _node(world, node, state, members, rails)
                    if more is None:
                        break
                    cost += more
                else:
                    yield cost


def _node(world: World, node: str, state: State, members: Members, rails: int | None) -> int | None:
    if not any(members):
        return 0
    if not world.fits(node, members):
        return None
    cost = 1
    for shape, count in enumerate(members):
        for _ in range(count):
            taken = world.take(shape, state, rails)
            if taken is None:
                return None
            state = taken.state
            cost += (taken.tiers << 96) + (taken.other << 32)
    return cost


def _splits(count: int, nodes: int) -> list[tuple[int, ...]]:
    return [split for split in product(range(count + 1), repeat=nodes) if sum(split) == count]


def subsets(rails: int, most: int) -> tuple[int, ...]:
    return tuple(
        sum(1 << r for r in chosen)
        for size in range(1, most + 1)
        for chosen in combinations(range(rails), size)
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Question[State], World]:
    rails = draw(st.integers(1, 3))
    nics = tuple(draw(st.lists(st.integers(0, 2), min_size=1, max_size=2)))
    shapes = [Shape(draw(st.integers(1, 3)), n) for n in nics]
    states = st.tuples(st.tuples(*[st.integers(0, 2)] * rails), st.integers(0, 3))
    groups: list[Group[State]] = []
    names = iter("abcd")
    left = 4
    while left and (not groups or draw(st.booleans())):
        size = draw(st.integers(1, left))
        left -= size
        state = draw(states)
        mask = sum(1 << r for r, free in enumerate(state[0]) if free)
        nodes = [next(names) for _ in range(size)]
        groups.append(Group(draw(st.sampled_from("xy")), state, nodes, mask))
    seats = {node: draw(st.integers(0, 3)) for group in groups for node in group.nodes}
    same = max(nics) > 0 and draw(st.booleans())
    sets: tuple[int | None, ...] = subsets(rails, max(nics)) if same else (None,)
    far = draw(st.frozensets(st.integers(0, rails - 1)))
    return Question(shapes, groups, sets), World(nics, seats, far)


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_a_way_is_found_where_there_is_one_and_it_is_the_best(case: tuple[Question[State], World]) -> None:
    question, world = case
    best = min(everything(question, world), default=None)
    answer = search(question, world)
    if best is None:
        assert isinstance(answer, NotFound)
        assert not answer.gave_up
        assert sum(answer.most) < sum(question.demand)
        return
    assert isinstance(answer, Found)
    assert answer.cost == best
    states = {node: (g.domain, g.state) for g in question.groups for node in g.nodes}
    placed = [sum(counts) for counts in zip(*(m for _, m in answer.places), strict=True)]
    assert tuple(placed) == question.demand
    assert len({node for node, _ in answer.places}) == len(answer.places)
    assert {states[node][0] for node, _ in answer.places} == {answer.domain}
    for node, members in answer.places:
        assert _node(world, node, states[node][1], members, answer.rails) is not None


def a_world(seats: int = 8, nics: tuple[int, ...] = (1,), far: frozenset[int] = frozenset()) -> World:
    return World(nics, {f"n{i}": seats for i in range(20)}, far)


def group(domain: str, state: State, nodes: list[str], rails: int) -> Group[State]:
    return Group(domain, state, nodes, rails)


def names(*numbers: int) -> list[str]:
    return [f"n{i}" for i in numbers]


def test_members_share_the_fullest_node_before_another_is_opened() -> None:
    groups = [group("", ((4,), 2), names(0, 1), 1), group("", ((8,), 8), names(2, 3), 1)]
    answer = search(Question([Shape(2, 1)], groups, (1,)), a_world())
    assert isinstance(answer, Found)
    assert answer.places == (("n0", (2,)),)


def test_better_tiers_are_worth_more_nodes() -> None:
    groups = [group("", ((8, 0), 8), names(0), 1), group("", ((0, 1), 8), names(1, 2), 2)]
    answer = search(Question([Shape(2, 1)], groups, (1, 2)), a_world(far=frozenset({0})))
    assert isinstance(answer, Found)
    assert answer.rails == 2
    assert answer.places == (("n1", (1,)), ("n2", (1,)))


def test_all_are_on_one_set_of_rails_or_nowhere() -> None:
    groups = [group("", ((1, 0), 1), names(0), 1), group("", ((0, 1), 1), names(1), 2)]
    answer = search(Question([Shape(2, 1)], groups, (1, 2)), a_world())
    assert isinstance(answer, NotFound)
    assert answer.most == (1,)
    assert isinstance(search(Question([Shape(2, 1)], groups, (None,)), a_world()), Found)


def test_all_are_in_one_domain_or_nowhere() -> None:
    groups = [group(d, ((1,), 1), names(i), 1) for i, d in enumerate("xyy")]
    answer = search(Question([Shape(2, 1)], groups, (1,)), a_world())
    assert isinstance(answer, Found)
    assert answer.domain == "y"
    assert isinstance(search(Question([Shape(3, 1)], groups, (1,)), a_world()), NotFound)


def test_a_node_that_is_not_open_after_all_is_replaced_by_another() -> None:
    world = a_world()
    world.seats["n0"] = 0
    groups = [group("", ((2,), 1), names(0, 1, 2), 1)]
    answer = search(Question([Shape(2, 1)], groups, (1,)), world)
    assert isinstance(answer, Found)
    assert [node for node, _ in answer.places] == names(1, 2)


def test_a_leader_with_fewer_nics_is_on_some_of_the_workers_rails() -> None:
    groups = [group("", ((1, 1), 1), names(0, 1), 3), group("", ((0, 1), 1), names(2), 2)]
    answer = search(Question([Shape(2, 2), Shape(1, 1)], groups, (1, 2, 3)), a_world(nics=(2, 1)))
    assert isinstance(answer, Found)
    assert (answer.rails, dict(answer.places)["n2"]) == (3, (0, 1))


def test_a_search_without_steps_says_that_it_gave_up() -> None:
    groups = [group("", ((2,), 1), names(0, 1, 2), 1)]
    answer = search(Question([Shape(2, 1)], groups, (1,), steps=3), a_world())
    assert isinstance(answer, NotFound)
    assert answer.gave_up


@pytest.mark.parametrize("members", [1, 8, 32])
def test_steps_grow_with_states_and_not_with_nodes(members: int) -> None:
    def steps(nodes: int) -> int:
        world = CountingWorld((1,), {f"n{i}": 8 for i in range(nodes)}, frozenset())
        groups = [group("", ((1, 1), 1), [f"n{i}" for i in range(nodes)], 3)]
        search(Question([Shape(members, 1)], groups, (1, 2)), world)
        return world.asked

    assert steps(5000) == steps(64)


@dataclass
class CountingWorld(World):
    asked: int = 0

    def take(self, shape: int, state: State, rails: int | None) -> Taken[State] | None:
        self.asked += 1
        return super().take(shape, state, rails)
