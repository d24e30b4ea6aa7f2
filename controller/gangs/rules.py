"""Affinity, anti-affinity and spreading between the members of a gang, as seats that the search counts.

kube-scheduler takes the members one by one, each beside those before it; here they are chosen all at once. So
a rule is read as what it makes of the end: how many members may be at one place when all are there, such that
there is an order in which they may come. Of a spread this is exact for each `level`, the least that any value
has in the end: no value then has more than that and maxSkew. Which level is the best one nobody knows before,
so there is a question for each.

Rules over labels that each have one node are seats of nodes, those over one other label seats of zones. A
second label of zones is left to the last check, on the draft.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations_with_replacement, product
from typing import TypeVar

import msgspec

from controller.gangs.kinds import Kind
from controller.gangs.packing import Members
from controller.gangs.problem import Group, Question
from controller.gangs.seats import Apart, Count, Seats
from controller.neighbours import Neighbours
from controller.nodes import NodeRecord
from controller.pod_rules import Spread, Whom, newcomer
from controller.tally import Near
from driver.kube.objects import Node, Pod

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Apart:
    """A term of anti-affinity of members'. `single`: each value of its label has one node."""

    key: str
    seat: Apart
    near: Near
    single: bool


@dataclass(frozen=True, slots=True)
class _Spread:
    """A constraint of members'. `bearing` shapes have it, `weights` are those that it counts; `single`: each
    value of its label has one node.
    """

    spread: Spread
    near: Near
    bearing: Members
    weights: Members
    single: bool

    @property
    def key(self) -> str:
        return self.spread.topology_key

    @property
    def lowest(self) -> int:
        """The least that any value has now."""
        return self.near.lowest if self.near.values >= self.spread.min_domains else 0

    def levels(self, pods: int) -> Iterator[int]:
        """The least that any value may have when so many pods are there that it counts."""
        level = self.lowest
        if self.near.values < self.spread.min_domains:  # then it stays 0 for kube-scheduler
            yield level
            return
        there = [self.near.at(value) for value in self.near.sizes]
        while sum(max(0, level - n) for n in there) <= pods:
            room = sum(max(0, level + self.spread.max_skew - n) for n in there)
            if room >= pods or level == self.lowest:
                yield level
            level += 1

    def seats(self, value: str, level: int) -> Seats:
        """Of all nodes of the value."""
        there = self.near.at(value)
        most = level + self.spread.max_skew - there
        least = max(0, level - there) if value in self.near.sizes else 0
        counted = (Count(self.weights, max(0, most), least),)
        return counted if most >= 0 else (*counted, Count(self.bearing, 0))


class Rules:
    """What the rules of the members' pods make of a question. Valid until the cluster changes."""

    def __init__(
        self, neighbours: Neighbours, nodes: Mapping[str, NodeRecord], kinds: Sequence[Kind]
    ) -> None:
        self._nodes = nodes
        self._neighbours = neighbours
        self._pods = [[wish.pod for wish in kind.units[0].wishes] for kind in kinds]
        self._asked = [[q for pod in pods if (q := neighbours.ask(pod))] for pods in self._pods]
        self._together, self._needed = self._affinity()
        self._spreads = self._all_spreads()
        self._aparts = self._all_aparts()
        self._ports = tuple(self._clashes())
        rules: list[_Spread | _Apart] = [*self._spreads, *self._aparts]
        self._zone = next((rule.key for rule in rules if not rule.single), None)
        self._zones = {v: None for rule in rules if rule.key == self._zone for v in rule.near.sizes}

    def questions(self, question: Question[S]) -> Iterator[Question[S]]:
        """The question with seats; one for each end that spreading may have."""
        demand = question.demand
        levels = [
            tuple(one.levels(sum(w * n for w, n in zip(one.weights, demand, strict=True))))
            for one in self._spreads
        ]
        for chosen in product(*levels):
            groups = [part for group in question.groups for part in self._parts(group, chosen)]
            zones: dict[Hashable, Seats] = {v: self._zone_seats(v, chosen) for v in self._zones}
            yield replace(question, groups=groups, zones=zones, musts=self._musts(chosen))

    # Reading the rules

    def _weights(self, whom: Whom) -> Members:
        """By shape: how many pods of a member the rule means."""
        return tuple(sum(self._neighbours.means(whom, pod) for pod in pods) for pods in self._pods)

    def _all_spreads(self) -> list[_Spread]:
        found: dict[Spread, tuple[Near, list[int]]] = {}
        for shape, questions in enumerate(self._asked):
            for spread, near, _ in chain.from_iterable(q.spread for q in questions):
                found.setdefault(spread, (near, [0] * len(self._pods)))[1][shape] = 1
        return [
            _Spread(spread, near, tuple(bearing), self._weights(spread.whom), _is_single(near))
            for spread, (near, bearing) in found.items()
        ]

    def _all_aparts(self) -> list[_Apart]:
        found: dict[object, tuple[str, Whom, Near, list[int]]] = {}
        for shape, questions in enumerate(self._asked):
            for term, near in chain.from_iterable(q.apart for q in questions):
                _, _, _, bearing = found.setdefault(
                    term, (term.topology_key, term.whom, near, [0] * len(self._pods))
                )
                bearing[shape] += 1
        return [
            _Apart(key, Apart(tuple(bearing), self._weights(whom)), near, _is_single(near))
            for key, whom, near, bearing in found.values()
        ]

    def _affinity(self) -> tuple[tuple[str, ...], list[bool]]:
        """Labels of which all members have one value, since the first of them decides it; and of which shapes
        must find somebody there already.
        """
        keys: dict[str, None] = {}
        needed = []
        for questions in self._asked:
            needs = False
            for question in questions:
                whoms = [term.whom for term, _ in question.together]
                nobody = not any(near.anywhere for _, near in question.together)
                if question.first or (nobody and self._means_member(whoms)):
                    keys.update((term.topology_key, None) for term, _ in question.together)
                else:
                    needs = True
            needed.append(needs)
        return tuple(keys), needed

    def _means_member(self, whoms: Sequence[Whom]) -> bool:
        pods = chain.from_iterable(self._pods)
        return any(all(self._neighbours.means(whom, pod) for whom in whoms) for pod in pods)

    def _clashes(self) -> Iterator[Count | Apart]:
        """Members of which one node has the host ports of one only."""
        ports = [[port for pod in pods for port in newcomer(pod).ports] for pods in self._pods]
        shapes = range(len(ports))
        for one, other in combinations_with_replacement(shapes, 2):
            if any(a.clashes(b) for a in ports[one] for b in ports[other]):
                mine, its = (tuple(int(shape == n) for shape in shapes) for n in (one, other))
                yield Count(mine, 1) if one == other else Apart(mine, its)

    # Seats

    def _parts(self, group: Group[S], levels: Sequence[int]) -> Iterator[Group[S]]:
        """The group's nodes by what they mean to the members."""
        parts: dict[tuple[tuple[str, ...], str | None, Seats], list[str]] = {}
        for name in group.nodes:
            node = self._nodes[name].node
            if node is None:
                continue
            labels = node.metadata.labels
            near = tuple(labels[key] for key in self._together if key in labels)
            if len(near) == len(self._together):
                zone = labels.get(self._zone) if self._zone is not None else None
                parts.setdefault((near, zone, self._seats(node, levels)), []).append(name)
        for (near, zone, seats), names in parts.items():
            yield replace(group, domain=(group.domain, *near), zone=zone, seats=seats, nodes=names)

    def _seats(self, node: Node, levels: Sequence[int]) -> Seats:
        """Of one node."""
        labels = node.metadata.labels
        closed = tuple(
            int(any(q.closed(node) or (needs and q.alone(node)) for q in questions))
            for questions, needs in zip(self._asked, self._needed, strict=True)
        )
        seats: list[Count | Apart] = [Count(closed, 0)] if any(closed) else []
        seats += self._ports
        seats += [one.seat for one in self._aparts if one.key in labels and one.single]
        for one, level in zip(self._spreads, levels, strict=True):
            if one.key not in labels:
                seats.append(Count(one.bearing, 0))
            elif one.single:
                seats += one.seats(labels[one.key], level)
        return tuple(seats)

    def _zone_seats(self, value: str, levels: Sequence[int]) -> Seats:
        """Of all nodes of a zone together."""
        seats: list[Count | Apart] = [one.seat for one in self._aparts if one.key == self._zone]
        for one, level in zip(self._spreads, levels, strict=True):
            if one.key == self._zone:
                seats += one.seats(value, level)
        return tuple(seats)

    def _musts(self, levels: Sequence[int]) -> int:
        """Nodes that must get a member."""
        return len(
            {
                node
                for one, level in zip(self._spreads, levels, strict=True)
                if one.single and level > one.lowest
                for node, value in one.near.by_node.items()
                if one.near.at(value) < level
            }
        )


def has_rules(pod: Pod) -> bool:
    """Where it may be depends on where the others are."""
    comer = newcomer(pod)
    return bool(comer.affinity or comer.anti_affinity or comer.spread or comer.ports)


def loosened(pod: Pod) -> Pod:
    """The pod without what other pods could make come true: the rest only gets harder with more of them."""
    affinity = pod.spec.affinity
    if affinity is not None:
        affinity = msgspec.structs.replace(affinity, pod_affinity=None)
    spec = msgspec.structs.replace(pod.spec, affinity=affinity, topology_spread_constraints=[])
    return msgspec.structs.replace(pod, spec=spec)


def _is_single(near: Near) -> bool:
    return max(near.sizes.values(), default=0) <= 1
