"""What members do to nodes, asked of the allocator once for all nodes in equal state.

A node's state is the Group that the index has it in, or would have it in with some members on it. Where that
does not tell enough, because a claim looks too closely or something pins a member to the node, it is the node
itself with what is taken there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from controller.allocator.model import DeviceId, PoolDevice, add_amounts, shares_of
from controller.allocator.traits import rail_of, type_of
from controller.allocator.verdict import Allocation, Refusal
from controller.answers import Answers, Shape
from controller.effort import Interrupted
from controller.equal import Published, Standing
from controller.gangs.kinds import Kind, nic_rails
from controller.gangs.problem import Taken
from controller.nodes import Group
from controller.state import ClusterState
from driver.names import TYPE_NIC, TYPE_VF


@dataclass(frozen=True, slots=True)
class Single:
    """A node with a state of its own."""

    node: str
    standing: Standing


NodeState = Group | Single


@dataclass(slots=True)
class Memo:
    """What members do to nodes in equal state, and on which rails such nodes have free NICs."""

    steps: dict[object, Taken[NodeState] | None] = field(default_factory=dict)
    open_rails: dict[Group, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps) + len(self.open_rails)


class NodeStates:
    """Asks the allocator, and keeps what it says of equal nodes in a Memo."""

    def __init__(self, state: ClusterState, answers: Answers, memo: Memo, fresh: int) -> None:
        """`fresh`: so many questions may be new; `Interrupted` is raised for the next."""
        self._state = state
        self._answers = answers
        self._known, self._open = memo.steps, memo.open_rails
        self._fresh = fresh

    def shape(self, kind: Kind, rails: int | None) -> Shape:
        """What a member of this kind asks on these rails (a bit mask; None: any)."""
        if rails not in kind.shapes:
            kind.shapes[rails] = self._answers.shape(kind.quest_on(rails))
        return kind.shapes[rails]

    def answer(self, shape: Shape, state: NodeState) -> Allocation | None:
        """What one member would get on a node in this state; None: nothing."""
        if isinstance(state, Single):
            answer = self._answers.of_node(shape, self._state.nodes[state.node], state.standing)
            return answer if isinstance(answer, Allocation) else None
        known = self._answers.of_group(shape, state)
        return known if isinstance(known, Allocation) else None

    def of_group(self, shape: Shape, group: Group) -> Allocation | Refusal | None:
        """The answer of all nodes of the group, if there is one for all."""
        if shape not in group.answers:
            self._spend()
        return self._answers.of_group(shape, group)

    def take(self, kind: Kind, rails: int | None, state: NodeState) -> Taken[NodeState] | None:
        """What one more member does to a node, as a new question if it is one."""
        if kind.pin and not (isinstance(state, Single) and state.node == kind.pin):
            return None
        asked = self.shape(kind, rails)
        key = (asked, state, kind.asking)
        if isinstance(state, Group) and key in self._known:
            return self._known[key]
        if isinstance(state, Group):  # what a single node publishes may change
            self._spend()
            taken = self._known[key] = self.step(kind, asked, state)
            return taken
        return self.step(kind, asked, state)

    def step(self, kind: Kind, shape: Shape, state: NodeState) -> Taken[NodeState] | None:
        """The same, asked whatever it costs."""
        answer = self.answer(shape, state)
        if isinstance(state, Single):
            published, standing = self._answers.asked(shape, self._state.nodes[state.node]), state.standing
        else:
            published, standing = state.published, Standing(state.published.first(state.counts), state.shared)
        if answer is None:
            return None
        after = _after(published, standing, answer)
        *ranks, rank_cost, cost, _ = answer.score
        rails = 0
        for share, asks in zip(answer.claims, kind.asking, strict=True):
            for rail in nic_rails(share.devices) if asks else ():
                rails |= 0 if rail is None else 1 << rail
        left: NodeState
        if isinstance(state, Single):
            left = Single(state.node, after)
        else:
            left = self._state.index.group_of(published, after)
        return Taken(left, (sum(ranks) << 32) + rank_cost, cost, rails)

    def open_rails(self, group: Group) -> int:
        """Rails with a free NIC, as a bit mask."""
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

    def _spend(self) -> None:
        """One more question that the allocator has not answered before."""
        if not self._fresh:
            raise Interrupted
        self._fresh -= 1


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
