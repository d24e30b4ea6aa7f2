"""Would the pods around let this pod onto that node? Asked before we allocate there: we choose the node.

kube-scheduler's filters NodePorts, PodTopologySpread and InterPodAffinity (Kubernetes 1.36), answered from
counts: a question costs what the pod's own rules cost, not what the cluster holds, and nothing where no pod
has any rule. tests/oracle holds the answers against kube-scheduler's own plugins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from controller import fit
from controller.census import Census, Change, Counted
from controller.labels import EVERYTHING, Labels
from controller.pod_rules import Neighbour, Newcomer, Spread, Term, Whom, newcomer
from controller.tally import Domain, Near, Tally
from driver.kube.objects import Node, Pod


class Neighbours:
    """The cluster's placed pods, and what they mean to those who come. Not thread-safe."""

    def __init__(self) -> None:
        self._census = Census()

    def put(self, pod: Neighbour) -> bool:
        """A pod took its node, or changed there. True if a pod that was refused may do now."""
        return self._census.put(pod)

    def drop(self, pod: Pod) -> bool:
        """A pod left its node, if it had one. True as for `put`."""
        return self._census.drop(pod.metadata.namespace, pod.metadata.uid)

    def apply_node(self, name: str, node: Node | None) -> None:
        """A node came, changed or went (None), in any order with its pods."""
        self._census.apply_node(name, node)

    def apply_namespace(self, name: str, labels: Labels | None) -> None:
        """A namespace's labels; None: it is gone. One that was never told has the label of its name alone."""
        self._census.apply_namespace(name, labels)

    def ask(self, pod: Pod, beside: Iterable[Neighbour] = ()) -> Question | None:
        """What the pods around mean to one that looks for a node; None: they close no node to it.

        Args:
            pod: the pod. If it is counted itself (a node is promised to it), it is left out.
            beside: pods that `put` was not told of, on the nodes that they will have.
        """
        namespace, labels = pod.metadata.namespace, pod.metadata.labels
        changes: list[Change] = [(other, 1) for other in beside]
        repelled = self._census.repelled(namespace, labels)
        for other, _ in changes:
            repelled += [t for t in other.anti_affinity if self._census.means(t.whom, namespace, labels)]
        comer = newcomer(pod)
        if not (comer.ports or comer.affinity or comer.anti_affinity or comer.spread or repelled):
            return None
        itself = self._census.pod(namespace, pod.metadata.uid)
        if itself is not None:
            changes.append((itself, -1))
        return Question(self._census, comer, tuple(dict.fromkeys(repelled)), changes)

    def means(self, whom: Whom, pod: Pod) -> bool:
        """A rule of some pod's means this one."""
        return self._census.means(whom, pod.metadata.namespace, pod.metadata.labels)

    def why_not(self, pod: Pod, node: Node, beside: Iterable[Neighbour] = ()) -> str | None:
        """The reason why the pods around close the node to the pod, or None. For many nodes, `ask` once."""
        question = self.ask(pod, beside)
        return question.why_not(node) if question is not None else None


class Question:
    """One pod's rules, and those of others that mean it, with their counts looked up. Valid until the next
    change.

    Attributes:
        apart: its terms of anti-affinity, and the pods that each means.
        together: its terms of affinity, and the pods that all of them mean.
        first: it may be anywhere, as the first of a series whose pods want to be near each other.
        spread: its constraints, the pods that each counts, and the most that a value has before it comes.
    """

    def __init__(
        self, census: Census, comer: Newcomer, repelled: Sequence[Term], changes: Sequence[Change]
    ) -> None:
        self._census = census
        self._comer = comer
        self._changes = changes
        pod = comer.pod.metadata
        self._repelled = [(term, census.repelling(term, changes)) for term in repelled]
        self.apart = [
            (term, census.near(census.domain(term.topology_key), Counted((term.whom,)), changes))
            for term in comer.anti_affinity
        ]
        all_terms = Counted(tuple(dict.fromkeys(term.whom for term in comer.affinity)))
        self.together = [
            (term, census.near(census.domain(term.topology_key), all_terms, changes))
            for term in comer.affinity
        ]
        # The first of a series that wants to be near its own kind may start anywhere.
        self.first = all(
            census.means(term.whom, pod.namespace, pod.labels) and not near.anywhere
            for term, near in self.together
        )
        self.spread = [self._spread_of(constraint) for constraint in comer.spread]

    @property
    def looks_around(self) -> bool:
        """The answer for a node depends on other nodes' pods, and so may change while the node does not."""
        return bool(self._repelled or self.apart or self.together or self.spread)

    def why_not(self, node: Node) -> str | None:
        """The first reason why the pods around close the node, in kube-scheduler's order, or None."""
        return self._taken_port(node) or self._uneven(node) or self.alone(node) or self._crowded(node)

    def closed(self, node: Node) -> str | None:
        """As `why_not`, as far as no pod that comes can change it for the better."""
        return self._taken_port(node) or self._crowded(node)

    def alone(self, node: Node) -> str | None:
        """As `why_not`, as far as pods must be there."""
        for term, near in self.together:
            value = node.metadata.labels.get(term.topology_key)
            if value is None or not (self.first or near.at(value) > 0):
                return f"required pod affinity ({term.topology_key}): no such pod there"
        return None

    def _taken_port(self, node: Node) -> str | None:
        if self._comer.ports:
            used = self._census.ports(node.metadata.name, self._changes)
            for port in self._comer.ports:
                if any(port.clashes(other) for other in used):
                    return f"host port {port.port}/{port.protocol} is taken"
        return None

    def _uneven(self, node: Node) -> str | None:
        for constraint, near, most in self.spread:
            value = node.metadata.labels.get(constraint.topology_key)
            if value is None:
                return f"no label {constraint.topology_key}, over which the pod is to be spread"
            if near.at(value) > most:
                return f"topology spread over {constraint.topology_key} (maxSkew {constraint.max_skew})"
        return None

    def _crowded(self, node: Node) -> str | None:
        labels = node.metadata.labels
        for term, near in self.apart:
            if near.at(labels.get(term.topology_key)) > 0:
                return f"required pod anti-affinity ({term.topology_key}): such a pod is there"
        for term, near in self._repelled:
            if near.at(labels.get(term.topology_key)) > 0:
                return f"anti-affinity of a pod that is there ({term.topology_key})"
        return None

    def _spread_of(self, constraint: Spread) -> tuple[Spread, Near, int]:
        """The constraint, the pods that it counts, and how many of them a value may have at most."""
        domain = self._spread_domain(constraint)
        if constraint.whom.selector == EVERYTHING:  # then kube-scheduler counts nobody but the newcomer
            near = Near(domain, Tally(), {})
        else:
            near = self._census.near(domain, Counted((constraint.whom,), living=True), self._changes)
        lowest = near.lowest if near.values >= constraint.min_domains else 0
        pod = self._comer.pod.metadata
        itself = self._census.means(constraint.whom, pod.namespace, pod.labels)
        return constraint, near, constraint.max_skew + lowest - itself

    def _spread_domain(self, constraint: Spread) -> Domain:
        """Nodes that count: with all labels over which the pod is spread, and open to it by the policies."""
        pod = self._comer.pod
        shut: list[Callable[[Node], bool]] = []
        sign: list[object] = []
        keys = tuple(sorted({one.topology_key for one in self._comer.spread}))
        if len(keys) > 1:
            shut.append(lambda node: any(key not in node.metadata.labels for key in keys))
            sign.append(keys)
        required = fit.required_affinity(pod)
        if constraint.honor_affinity and (required is not None or pod.spec.node_selector):
            shut.append(lambda node: fit.unwanted(pod, node) is not None)
            sign.append(msgspec.json.encode((pod.spec.node_selector, required), order="sorted"))
        if constraint.honor_taints:
            shut.append(lambda node: fit.untolerated(node, pod.spec.tolerations) is not None)
            sign.append(msgspec.json.encode(pod.spec.tolerations))
        left_out = (lambda node: any(is_shut(node) for is_shut in shut)) if shut else None
        return self._census.domain(constraint.topology_key, tuple(sign), left_out)
