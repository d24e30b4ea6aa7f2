"""Which pods are where, as rules between pods count them; kept up change by change.

A rule is counted when it is first asked about, by a walk over the labels that pods of its namespaces have;
from then on only changes are counted. Rules that pods of one owner share are counted once. What was not asked
about for long is forgotten, so neither memory nor the cost of a change grows with rules that were there once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

import msgspec

from controller.labels import EVERYTHING, NOTHING, Labels
from controller.pod_rules import HostPort, Neighbour, Term, Whom
from controller.tally import Domain, Near, Tally
from driver.kube.objects import Node

Change = tuple[Neighbour, int]
"""A pod to be counted besides (1), or to be left out (-1)."""

_TALLIES_KEPT = 512
_DOMAINS_KEPT = 128
_ANY_NAMESPACE = ""
_NAME_LABEL = "kubernetes.io/metadata.name"  # the API server gives it to each namespace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Counted:
    """What a tally counts: pods that all of `whoms` mean; `living` ones only, which are not being deleted."""

    whoms: tuple[Whom, ...]
    living: bool = False


class Census:
    """Placed pods, nodes' labels and namespaces' labels. Not thread-safe."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._namespaces: dict[str, Labels] = {}
        self._pods: dict[str, dict[str, Neighbour]] = {}
        self._alike: dict[str, dict[bytes, dict[str, Neighbour]]] = {}
        """By namespace, those with the same labels: rules mean all of them or none."""
        self._ports: dict[str, Counter[HostPort]] = {}
        self._repelling: dict[Term, Tally] = {}
        self._repelling_index = _Index[Term]()
        self._tallies: OrderedDict[Counted, Tally] = OrderedDict()
        self._tallies_index = _Index[Counted]()
        self._domains: OrderedDict[tuple[object, ...], Domain] = OrderedDict()

    # Changes

    def put(self, pod: Neighbour) -> bool:
        """A pod took its node, or changed there. True if a pod that was refused may do now."""
        before = self.pod(pod.namespace, pod.uid)
        if before == pod:
            return False
        better = self.drop(before.namespace, before.uid) if before is not None else False
        self._pods.setdefault(pod.namespace, {})[pod.uid] = pod
        self._alike.setdefault(pod.namespace, {}).setdefault(_labelled(pod), {})[pod.uid] = pod
        return self._count(pod, 1) or better

    def drop(self, namespace: str, uid: str) -> bool:
        """A pod left its node, if it had one. True if a pod that was refused may do now."""
        pod = self._pods.get(namespace, {}).pop(uid, None)
        if pod is None:
            return False
        if not self._pods[namespace]:
            del self._pods[namespace]
        like = self._alike[namespace][_labelled(pod)]
        del like[uid]
        if not like:
            del self._alike[namespace][_labelled(pod)]
        if not self._alike[namespace]:
            del self._alike[namespace]
        return self._count(pod, -1) or bool(pod.ports or pod.anti_affinity)

    def apply_node(self, name: str, node: Node | None) -> None:
        """A node came, changed or went (None), in any order with its pods."""
        if node is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = node
        for domain in self._domains.values():
            before, after = domain.apply(name, node)
            if before != after:
                for tally in self._all_tallies():
                    tally.moved(domain, name, before, after)

    def apply_namespace(self, name: str, labels: Labels | None) -> None:
        """A namespace's labels; None: it is gone. One that was never told has the label of its name alone."""
        if self._namespaces.get(name) == labels:
            return
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = labels
        for counted in list(self._tallies):
            if any(whom.namespace_selector not in (NOTHING, EVERYTHING) for whom in counted.whoms):
                self._forget(counted)

    # Questions

    def pod(self, namespace: str, uid: str) -> Neighbour | None:
        """A pod that is counted."""
        return self._pods.get(namespace, {}).get(uid)

    def means(self, whom: Whom, namespace: str, labels: Labels) -> bool:
        """The rule means a pod of this namespace with these labels."""
        its = self._namespaces.get(namespace)
        return whom.means(namespace, its if its is not None else {_NAME_LABEL: namespace}, labels)

    def repelled(self, namespace: str, labels: Labels) -> list[Term]:
        """Terms of anti-affinity of placed pods that mean such a pod."""
        found = self._repelling_index.find(namespace, labels)
        return [term for term in found if self.means(term.whom, namespace, labels)]

    def repelling(self, term: Term, changes: Sequence[Change]) -> Near:
        """Placed pods that have this term of anti-affinity."""
        domain = self.domain(term.topology_key)
        extra = _extra(domain, changes, lambda pod: pod.anti_affinity.count(term))
        return Near(domain, self._repelling.get(term, Tally()), extra)

    def near(self, domain: Domain, counted: Counted, changes: Sequence[Change]) -> Near:
        """Placed pods of a rule."""
        extra = _extra(domain, changes, lambda pod: self._counts(counted, pod))
        return Near(domain, self._tally(counted), extra)

    def ports(self, node: str, changes: Sequence[Change]) -> Mapping[HostPort, int]:
        """Host ports of the node that pods have."""
        ports = Counter(self._ports.get(node))
        for pod, sign in changes:
            if pod.node == node:
                for port in pod.ports:
                    ports[port] += sign
        return +ports

    def domain(
        self, key: str, sign: tuple[object, ...] = (), left_out: Callable[[Node], bool] | None = None
    ) -> Domain:
        """Nodes by the value of a label, but for those left out; `sign` tells apart what leaves them out."""
        domain = self._domains.get((key, *sign))
        if domain is not None:
            self._domains.move_to_end((key, *sign))
            return domain
        while len(self._domains) >= _DOMAINS_KEPT:
            _, oldest = self._domains.popitem(last=False)
            for tally in self._all_tallies():
                tally.forget(oldest)
        domain = self._domains[key, *sign] = Domain(key, left_out)
        for name, node in self._nodes.items():
            domain.apply(name, node)
        return domain

    # Beneath

    def _count(self, pod: Neighbour, sign: int) -> bool:
        """True if a rule that was asked about counts the pod."""
        if pod.ports:
            ports = self._ports.setdefault(pod.node, Counter())
            ports.update(dict.fromkeys(pod.ports, sign))
            self._ports[pod.node] = ports = +ports
            if not ports:
                del self._ports[pod.node]
        for term in pod.anti_affinity:
            self._repel(term, pod.node, sign)
        counting = [c for c in self._tallies_index.find(pod.namespace, pod.labels) if self._counts(c, pod)]
        for counted in counting:
            self._tallies[counted].add(pod.node, sign)
        return bool(counting)

    def _repel(self, term: Term, node: str, sign: int) -> None:
        tally = self._repelling.get(term)
        if tally is None:
            tally = self._repelling[term] = Tally()
            self._repelling_index.add(term.whom, term)
        tally.add(node, sign)
        if not tally:
            del self._repelling[term]
            self._repelling_index.remove(term.whom, term)

    def _all_tallies(self) -> Iterator[Tally]:
        yield from self._repelling.values()
        yield from self._tallies.values()

    def _tally(self, counted: Counted) -> Tally:
        tally = self._tallies.get(counted)
        if tally is not None:
            self._tallies.move_to_end(counted)
            return tally
        while len(self._tallies) >= _TALLIES_KEPT:
            self._forget(next(iter(self._tallies)))
        tally = self._tallies[counted] = Tally()
        first = counted.whoms[0]
        self._tallies_index.add(first, counted)
        namespaces = first.namespaces if first.namespace_selector == NOTHING else self._pods.keys()
        label, value = first.selector.anchor or ("", None)
        for namespace in namespaces:
            for like in self._alike.get(namespace, {}).values():
                one = next(iter(like.values()))
                if one.labels.get(label) == value and self._mean(counted, one):
                    for pod in like.values():
                        if not (counted.living and pod.ending):
                            tally.add(pod.node, 1)
        return tally

    def _forget(self, counted: Counted) -> None:
        del self._tallies[counted]
        self._tallies_index.remove(counted.whoms[0], counted)

    def _counts(self, counted: Counted, pod: Neighbour) -> bool:
        return not (counted.living and pod.ending) and self._mean(counted, pod)

    def _mean(self, counted: Counted, pod: Neighbour) -> bool:
        return all(self.means(whom, pod.namespace, pod.labels) for whom in counted.whoms)


def _labelled(pod: Neighbour) -> bytes:
    """Equal for equal labels, and short however many these are."""
    return blake2b(msgspec.json.encode(dict(pod.labels), order="sorted"), digest_size=16).digest()


class _Index(Generic[T]):
    """Finds by a pod's namespace and labels what may mean it: each thing lies under a label that all whom it
    means have.
    """

    def __init__(self) -> None:
        self._under: dict[tuple[str, tuple[str, str] | None], dict[T, None]] = {}

    def add(self, whom: Whom, thing: T) -> None:
        for key in _keys(whom):
            self._under.setdefault(key, {})[thing] = None

    def remove(self, whom: Whom, thing: T) -> None:
        for key in _keys(whom):
            del self._under[key][thing]
            if not self._under[key]:
                del self._under[key]

    def find(self, namespace: str, labels: Labels) -> Iterator[T]:
        if self._under:
            for place in (namespace, _ANY_NAMESPACE):
                for label in (None, *labels.items()):
                    yield from self._under.get((place, label), ())


def _keys(whom: Whom) -> Iterator[tuple[str, tuple[str, str] | None]]:
    namespaces = whom.namespaces if whom.namespace_selector == NOTHING else (_ANY_NAMESPACE,)
    return ((namespace, whom.selector.anchor) for namespace in namespaces)


def _extra(
    domain: Domain, changes: Sequence[Change], counts: Callable[[Neighbour], int]
) -> Mapping[str, int]:
    extra: Counter[str] = Counter()
    for pod, sign in changes:
        value = domain.values.get(pod.node)
        if value is not None:
            extra[value] += sign * counts(pod)
    return extra
