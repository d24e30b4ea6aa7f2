"""The queue asks a namespace again only when something may have changed: it gives what asking all of them
each time would give.
"""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from controller.namespace_queue import Item, NamespaceQueue, Rank, Turn
from controller.queue import PlacementQueue, namespace_of

_SHARE_SECONDS, _SOON_SECONDS = 0.03, 0.05
NAMESPACES = ["a", "b", "c", "d"]


def _queue() -> NamespaceQueue:
    return NamespaceQueue(sweep_seconds=0.2, resync_seconds=300.0)


class Scan:
    """The rule of `controller.queue`, put plainly: every namespace is asked at every turn."""

    def __init__(self) -> None:
        self.queues = {name: _queue() for name in NAMESPACES}
        self.accounts = dict.fromkeys(NAMESPACES, (0.0, 0.0))

    def remove(self, item: Item) -> None:
        namespace = namespace_of(item)
        self.queues[namespace].remove(item)
        if not len(self.queues[namespace]):
            self.queues[namespace] = _queue()

    def charge(self, item: Item, seconds: float, now: float) -> None:
        namespace = namespace_of(item)
        self.accounts[namespace] = self.used(namespace, now) + seconds, now

    def used(self, namespace: str, now: float) -> float:
        seconds, at = self.accounts[namespace]
        return float(seconds * 0.5 ** (now - at))

    def pop(self, now: float, generation: int) -> Turn | None:
        name = self.next(now, generation)
        return None if name is None else self.queues[name].pop(now, generation)

    def next(self, now: float, generation: int) -> str | None:
        order: list[tuple[tuple[bool, float], Rank, str]] = []
        for name, queue in self.queues.items():
            rank = queue.first(now, generation)
            if rank is not None:
                used = self.used(name, now)
                order.append(((True, used) if used > _SHARE_SECONDS else (False, 0.0), rank, name))
        promised = [
            (name, eldest)
            for name, queue in self.queues.items()
            if (eldest := queue.eldest_to_look(generation, _SOON_SECONDS)) is not None
            and self.used(name, now) <= _SHARE_SECONDS
        ]
        for _, rank, name in sorted(order):
            if not any(eldest < rank for other, eldest in promised if other != name):
                return name
        return None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "park", "park", "remove", "pop", "pop", "pop", "move on", "wait"]),
        st.sampled_from(NAMESPACES),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.0005, 0.01, 0.04, 0.3, 2.0]),
    ),
    max_size=60,
)


FORGOTTEN = [
    ("park", "d", 0, 0.0),
    ("move on", "a", 0, 0.0),
    ("remove", "d", 0, 0.0),
    ("park", "d", 0, 0.0),
    ("move on", "a", 0, 0.0),
]


@given(STEPS)
@example(FORGOTTEN)
def test_it_gives_what_asking_every_namespace_gives(
    steps: list[tuple[str, str, int, float]],
) -> None:
    queue, scan = PlacementQueue(), Scan()
    now, asked = 1.0, 0.0
    generation = 1
    for kind, namespace, number, seconds in steps:
        item = (namespace, f"pod-{number}")
        rank: Rank = (-(number % 2), f"{number}", item)
        match kind:
            case "add":
                queue.add(item, rank)
                scan.queues[namespace].add(item, rank)
            case "park":
                seen = None if number == 3 else generation
                alike = "alike" if number < 2 else None
                for one in (queue, scan.queues[namespace]):
                    one.park(item, rank, now, generation=seen, full_at=now + 3 * seconds + 1, alike=alike)
            case "remove":
                queue.remove(item)
                scan.remove(item)
            case "pop":
                asked = now
                turn = queue.pop(now, generation)
                assert turn == scan.pop(now, generation)
                if turn is not None:
                    for either in (queue, scan):
                        either.charge(turn.item, seconds, now)
            case "move on":
                generation += 1
            case _:
                now += seconds
        assert (queue.next_due(generation) == 0.0) == (scan.next(asked, generation) is not None)
    while True:
        turn = queue.pop(now, generation)
        assert turn == scan.pop(now, generation)
        if turn is None:
            break


def test_a_namespace_whose_account_has_faded_is_in_the_order_of_ranks_again() -> None:
    queue = PlacementQueue()
    for name, created in (("a", "1"), ("b", "2"), ("c", "3")):
        queue.add((name, "pod"), (0, created, (name, "pod")))
    queue.charge(("a", "earlier"), 0.04, 0.0)
    turn = queue.pop(0.0, 1)
    assert turn is not None
    assert turn.item == ("b", "pod")
    turn = queue.pop(1.0, 1)
    assert turn is not None
    assert turn.item == ("a", "pod")
