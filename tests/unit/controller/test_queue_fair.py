"""What the queue promises namespaces: each has its share of the time, whatever the others ask for."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.gangs.membership import GangId
from controller.queue import Item, PlacementQueue, Rank

INF = float("inf")
SHARE_SECONDS = 0.03
"""What a namespace's turns may take before it goes behind the others."""
TURN_SECONDS = 0.03
"""No turn takes longer."""
SWEEP_SECONDS = 0.2


def rank_of(item: Item, created: str = "2026-01-01T00:00:00Z", priority: int = 0) -> Rank:
    name = ("", item.name) if isinstance(item, GangId) else item
    return -priority, created, name


@dataclass
class Desk:
    """Works off a queue. Time passes by what turns take, and where nothing is due."""

    queue: PlacementQueue = field(default_factory=PlacementQueue)
    now: float = 0.0
    generation: int = 1
    served: list[tuple[float, Item]] = field(default_factory=list)

    def turn(self, seconds: float, *, park: bool = True) -> Item | None:
        """Give one its turn, which takes so long; then it is parked, or placed."""
        turn = self.queue.pop(self.now, self.generation)
        if turn is None:
            return None
        self.now += seconds
        self.queue.charge(turn.item, seconds, self.now)
        self.served.append((self.now, turn.item))
        if park:
            self.queue.park(turn.item, turn.rank, self.now, generation=self.generation, full_at=INF)
        return turn.item


def crowd(desk: Desk, namespace: str, count: int, *, priority: int = 0) -> None:
    for number in range(count):
        item = namespace, f"p{number:04}"
        desk.queue.add(item, rank_of(item, priority=priority))


def test_a_namespace_with_a_thousand_pods_costs_the_first_of_another_its_share() -> None:
    desk = Desk()
    crowd(desk, "crowd", 1000)
    desk.queue.add(("other", "first"), rank_of(("other", "first"), created="2026-01-02T00:00:00Z"))
    while desk.turn(0.002) != ("other", "first"):
        pass
    assert desk.now <= SHARE_SECONDS + 2 * 0.002 + 1e-9


def test_a_pod_that_comes_in_the_middle_of_a_sweep_is_next() -> None:
    desk = Desk()
    crowd(desk, "crowd", 1000)
    while desk.turn(0.001) is not None:
        pass
    desk.generation += 1
    desk.now += 60.0
    for _ in range(100):
        assert desk.turn(0.001) is not None
    desk.queue.add(("other", "new"), rank_of(("other", "new"), created="2026-01-02T00:00:00Z"))
    assert desk.turn(0.001) == ("other", "new")


def test_what_came_free_is_for_those_who_waited_in_other_namespaces_too() -> None:
    desk = Desk()
    desk.queue.add(("a", "old"), rank_of(("a", "old")))
    assert desk.turn(0.001) == ("a", "old")
    desk.generation += 1
    assert desk.turn(0.001) == ("a", "old")  # no sweep is due for a moment
    desk.generation += 1
    young = "b", "young"
    desk.queue.add(young, rank_of(young, created="2026-01-02T00:00:00Z"))
    desk.now = 0.0015
    assert desk.turn(0.001) is None
    due = desk.queue.next_due(desk.generation)
    assert due is not None
    desk.now = due
    assert [desk.turn(0.001), desk.turn(0.001)] == [("a", "old"), young]


def test_nobody_waits_for_the_next_sweep_of_a_namespace_that_takes_long_over_it() -> None:
    desk = Desk()
    crowd(desk, "crowd", 1000)
    while desk.turn(1e-6) is not None:
        pass
    desk.generation += 1
    while desk.turn(1e-6) is not None:
        pass
    desk.generation += 1
    young = "b", "young"
    desk.queue.add(young, rank_of(young, created="2026-01-02T00:00:00Z"))
    assert desk.turn(1e-6) == young


def test_the_parked_of_one_namespace_do_not_wait_for_the_sweeps_of_another() -> None:
    desk = Desk()
    crowd(desk, "crowd", 1000)
    desk.queue.add(("other", "one"), rank_of(("other", "one")))
    while desk.turn(1e-6) is not None:
        pass
    desk.generation += 1
    while desk.turn(1e-6) is not None:
        pass
    desk.generation += 1
    desk.now += 0.01
    assert desk.turn(1e-6) == ("other", "one")


def test_priority_goes_first_within_the_share_and_does_not_buy_more() -> None:
    desk = Desk()
    crowd(desk, "low", 50)
    crowd(desk, "high", 50, priority=1000)
    first = [desk.turn(0.01) for _ in range(20)]
    assert [item[0] for item in first[:4] if isinstance(item, tuple)] == ["high"] * 4
    assert sum(isinstance(item, tuple) and item[0] == "low" for item in first) >= 8


def test_a_gang_counts_for_its_namespace() -> None:
    desk = Desk()
    for number in range(10):
        gang = GangId("crowd", "Job", f"j{number}", "uid")
        desk.queue.add(gang, rank_of(gang))
    desk.queue.add(("other", "first"), rank_of(("other", "first"), created="2026-01-02T00:00:00Z"))
    desk.turn(0.05)
    assert desk.turn(0.001) == ("other", "first")


def test_an_interrupted_turn_goes_on_before_the_others_of_its_namespace_and_looks_at_the_same() -> None:
    queue = PlacementQueue()
    for name in ("a", "b"):
        queue.park(("ns", name), rank_of(("ns", name)), 0.0, generation=1, full_at=INF)
    turn = queue.pop(1.0, 2)
    assert turn is not None
    assert turn.since == 1
    queue.add(turn.item, turn.rank, turn.since)
    again = queue.pop(1.0, 3)
    assert again == turn


def test_who_left_leaves_no_queue_behind() -> None:
    queue = PlacementQueue()
    for number in range(100):
        item = f"ns-{number}", "p"
        queue.add(item, rank_of(item))
        queue.remove(item)
    assert queue._queues == {}


waiting = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40
)


@settings(max_examples=40, deadline=None)
@given(waiting, st.lists(st.floats(0.0001, TURN_SECONDS), min_size=1, max_size=20))
def test_among_namespaces_within_their_share_the_order_is_that_of_ranks(
    pods: list[tuple[str, int, int]], costs: list[float]
) -> None:
    desk = Desk()
    ranks: dict[tuple[str, str], Rank] = {}
    for number, (namespace, age, priority) in enumerate(pods):
        item = namespace, f"p{number}"
        ranks[item] = rank_of(item, created=f"2026-01-0{age + 1}T00:00:00Z", priority=priority)
        desk.queue.add(item, ranks[item])
    used: dict[str, float] = {}
    left = dict(ranks)
    for turn in range(len(pods)):
        over = {namespace for namespace, seconds in used.items() if seconds > SHARE_SECONDS}
        within = {item: rank for item, rank in left.items() if item[0] not in over}
        cost = costs[turn % len(costs)]
        found = desk.turn(cost, park=False)
        assert found in (within or left)
        assert isinstance(found, tuple)
        if within:
            assert left[found] == min(within.values())
        used = {namespace: seconds * 0.5**cost for namespace, seconds in used.items()}
        used[found[0]] = used.get(found[0], 0.0) + cost
        del left[found]


@settings(max_examples=40, deadline=None)
@given(st.lists(waiting, min_size=1, max_size=4), st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_single_namespace_is_served_in_the_order_of_ranks_whatever_its_turns_cost(
    arrivals: list[list[tuple[str, int, int]]], parks: list[bool]
) -> None:
    cheap, dear = Desk(), Desk()
    number = 0
    for batch in arrivals:
        for _, age, priority in batch:
            item = "one", f"p{number}"
            number += 1
            for desk in (cheap, dear):
                rank = rank_of(item, created=f"2026-01-0{age + 1}T00:00:00Z", priority=priority)
                desk.queue.add(item, rank)
        for turn, park in enumerate(parks):
            found = cheap.queue.pop(cheap.now, cheap.generation)
            other = dear.queue.pop(dear.now, dear.generation)
            assert found == other
            if found is None:
                break
            dear.queue.charge(found.item, 5.0, dear.now)
            for desk in (cheap, dear):
                if park:
                    desk.queue.park(found.item, found.rank, desk.now, generation=desk.generation, full_at=INF)
                desk.generation += turn % 2


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), st.floats(0.005, TURN_SECONDS), min_size=2),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
)
def test_each_namespace_that_always_waits_has_its_share(
    costs: dict[str, float], priorities: dict[str, int]
) -> None:
    desk = Desk()
    for namespace in costs:
        crowd(desk, namespace, 3, priority=priorities.get(namespace, 0))
    used = dict.fromkeys(costs, 0.0)
    while desk.now < 1.5:
        turn = desk.queue.pop(desk.now, desk.generation)
        assert turn is not None
        assert isinstance(turn.item, tuple)
        namespace = turn.item[0]
        desk.now += costs[namespace]
        used[namespace] += costs[namespace]
        desk.queue.charge(turn.item, costs[namespace], desk.now)
        desk.queue.add(turn.item, turn.rank)
    share = desk.now / len(costs)
    for namespace, seconds in used.items():
        # Accounts fade, and with them what a turn's length or the share made them differ.
        assert seconds >= share - (SHARE_SECONDS + TURN_SECONDS) * (1 + desk.now), namespace


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.005, TURN_SECONDS), min_size=2, max_size=6), st.integers(1, 40))
def test_nobody_starves(costs: list[float], size: int) -> None:
    """Not the pod of a namespace that used much, while pods of others come and come."""
    desk = Desk()
    desk.queue.charge(("greedy", "p"), 2.0, 0.0)
    desk.queue.add(("greedy", "p"), rank_of(("greedy", "p")))
    number = 0
    while desk.now < 10.0:
        number += 1
        item = f"ns-{number % size}", f"p{number}"
        desk.queue.add(item, rank_of(item, created="2026-01-02T00:00:00Z"))
        if desk.turn(costs[number % len(costs)], park=False) == ("greedy", "p"):
            break
    assert desk.served[-1][1] == ("greedy", "p")
