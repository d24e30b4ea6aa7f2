"""Gangs of many unlike members: placed one by one, in counted steps, and in turns."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given, settings

from controller.effort import Interrupted
from controller.gangs.packing import Members
from controller.gangs.problem import Found, Group, NotFound, Question, Shape, Tries
from controller.gangs.search import search
from controller.gangs.seats import Apart, Count
from tests.unit.allocator.test_counted_work import counted
from tests.unit.controller.gangs.test_search import (
    State,
    World,
    _node,
    a_world,
    everything,
    group,
    names,
    worlds,
)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_one_by_one_a_way_is_found_where_there_is_one(case: tuple[Question[State], World]) -> None:
    question, world = case
    best = min(everything(question, world), default=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("controller.gangs.search._COUNTED_STEPS", 0)
        answer = search(question, world)
    if best is None:
        assert isinstance(answer, NotFound)
        assert not answer.gave_up
        assert sum(answer.most) < sum(question.demand)
        return
    assert isinstance(answer, Found)
    assert answer.cost >= best
    states = {node: g.state for g in question.groups for node in g.nodes}
    parts = [_node(world, node, states[node], members, answer.rails) for node, members in answer.places]
    assert None not in parts
    assert sum(part or 0 for part in parts) == answer.cost
    assert tuple(map(sum, zip(*(m for _, m in answer.places), strict=True))) == question.demand


@pytest.mark.parametrize("members", [12, 24, 64])
@pytest.mark.parametrize("nodes", [3, 20])
def test_unlike_members_take_steps_by_their_number(members: int, nodes: int) -> None:
    room = -(-members // nodes)
    world = World((1,) * members, {f"n{i}": room for i in range(nodes)}, frozenset())
    groups = [group("", ((room, room), room), names(*range(nodes)), 3)]
    question = Question([Shape(1, 1)] * members, groups, (1, 2, 3))
    answer = search(question, world)
    assert isinstance(answer, Found)
    assert len(answer.places) <= nodes
    assert question.tries.steps <= 600 * members


@dataclass
class Processors(World):
    """Members need processors of different number, of which nodes in equal state have more or fewer."""

    sizes: tuple[int, ...] = ()

    def fits(self, node: str, members: Members) -> bool:
        return sum(n * size for n, size in zip(members, self.sizes, strict=True)) <= self.seats[node]


@pytest.mark.parametrize("last", [8, 9])
def test_nodes_alike_in_devices_are_all_tried_where_they_differ_in_what_else_they_have(last: int) -> None:
    world = Processors((1, 1, 1), {"n0": 8, "n1": last}, frozenset(), (1, 8, 8))
    groups = [group("", ((3,), 3), names(0, 1), 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("controller.gangs.search._COUNTED_STEPS", 0)
        answer = search(Question([Shape(1, 1)] * 3, groups, (1,)), world)
    assert isinstance(answer, Found if last == 9 else NotFound)


def test_a_thousand_unlike_members_end_in_counted_steps() -> None:
    members = 1_200
    world = World((1,) * members, {f"n{i}": 8 for i in range(150)}, frozenset())
    groups = [group("", ((8,), 8), names(*range(150)), 1)]
    question = Question([Shape(1, 1)] * members, groups, (1,))
    with suppress(Interrupted):
        search(question, world)
    assert question.tries.steps <= 25_000


def test_unlike_members_without_room_end_in_counted_steps() -> None:
    world = World((1,) * 25, {f"n{i}": 8 for i in range(3)}, frozenset())
    groups = [group("", ((8,), 8), names(0, 1, 2), 1)]
    question = Question([Shape(1, 1)] * 25, groups, (1,))
    answer = search(question, world)
    assert isinstance(answer, NotFound)
    assert answer.gave_up
    assert sum(answer.most) == 24
    assert question.tries.steps <= 25_000


NOBODY_FITS = (
    Question([Shape(1, 0), Shape(1, 1)], [group("x", ((0, 1), 1), ["a", "b", "c"], 2)], (1, 2)),
    World((0, 1), dict.fromkeys("abc", 0), frozenset()),
)


@settings(max_examples=60, deadline=None)
@given(worlds())
@example(NOBODY_FITS)
def test_in_turns_the_answer_is_the_same(case: tuple[Question[State], World]) -> None:
    question, world = case
    whole = search(replace(question, tries=Tries()), world)
    tries = Tries()
    hasty = replace(question, turn_steps=0, tries=tries)
    answer: Found | NotFound | None = None
    turns = 0
    while answer is None:
        tries.turn, turns = 0, turns + 1
        with suppress(Interrupted):
            answer = search(hasty, world)
    assert answer == whole
    assert turns <= 1 + 2 * len(question.rails)  # domains times rail sets


def test_a_search_of_many_rail_sets_is_interrupted_and_comes_to_its_end() -> None:
    world = a_world(nics=(1, 1))
    groups = [group("", ((1,) * 12, 1), names(0, 1, 2), (1 << 12) - 1)]
    question = Question(
        [Shape(2, 1), Shape(2, 1)], groups, tuple(1 << rail for rail in range(12)), turn_steps=20
    )
    turns = 1
    while True:
        question.tries.turn = 0
        try:
            answer = search(question, world)
            break
        except Interrupted:
            turns += 1
    assert isinstance(answer, NotFound)
    assert not answer.gave_up
    assert sum(answer.most) == 3
    assert turns > 1


@pytest.mark.parametrize("nodes", [20, 50])
def test_what_members_mean_to_each_other_counts_as_steps(nodes: int) -> None:
    """A gang of unlike members, each on a node of its own, more than there are nodes."""
    members = 64
    alone = (1,) * members
    seats = (Count(alone, 1), Apart(alone, alone))
    world = World(alone, {f"n{i}": members for i in range(nodes)}, frozenset())
    groups: list[Group[State]] = [Group("", ((8,), 8), [f"n{i}"], 1, None, seats) for i in range(nodes)]
    tries = Tries()
    with counted() as calls:
        answer = search(Question([Shape(1, 1)] * members, groups, (1,), tries=tries), world)
    assert isinstance(answer, NotFound)
    assert answer.gave_up
    assert calls.number <= 15 * tries.steps


@pytest.mark.parametrize("nodes", [200, 1_400])
def test_ten_thousand_like_members_end_before_work_that_would_use_up_all_steps(nodes: int) -> None:
    some = [f"n{i}" for i in range(nodes)]
    world = World((1,), dict.fromkeys(some, 8), frozenset())
    question = Question([Shape(10_000, 1)], [group("", ((8,), 8), some, 1)], (1,))
    with counted() as calls:
        answer = search(question, world)
    assert isinstance(answer, NotFound)
    assert answer.gave_up is (nodes * 8 >= 10_000)
    assert answer.most == ((0,) if answer.gave_up else (nodes * 8,))
    assert calls.number <= 200_000
