"""The same nodes as kube-scheduler's own filter plugins leave, on random questions.

The counts are put to the test as they are kept in a cluster: nodes and pods come in any order, some go again,
the question is asked in between too, and some pods are only drafted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from controller import fit
from controller.neighbours import Neighbours
from controller.pod_rules import neighbour
from driver.kube.objects import Node, Pod
from tests.oracle.fit_oracle import ask
from tests.oracle.fit_questions import Json, question

SEED = 2026
BATCHES, BATCH = 4, 500


def refused(asked: Json, draw: random.Random) -> set[str]:
    """The nodes that do not do, by our word."""
    nodes = {node.metadata.name: node for node in msgspec.convert(asked["nodes"], list[Node])}
    pods = msgspec.convert(asked["pods"], list[Pod])
    pod = msgspec.convert(asked["pod"], Pod)
    drafted = [other for other in pods if draw.random() < 0.2]
    placed = [other for other in pods if other not in drafted]
    around = Neighbours()

    def relabel(namespace: Json) -> None:
        around.apply_namespace(namespace["metadata"]["name"], namespace["metadata"]["labels"])

    def replaced(node: Node) -> None:
        other = draw.choice(list(nodes.values()))
        stranger = msgspec.structs.replace(
            node,
            metadata=msgspec.structs.replace(node.metadata, labels=other.metadata.labels),
            spec=other.spec,
        )
        around.apply_node(node.metadata.name, stranger)
        around.apply_node(node.metadata.name, node)

    def visited(other: Pod) -> None:
        around.put(neighbour(other, draw.choice(list(nodes))))
        if draw.random() < 0.3:
            around.drop(other)
        around.put(neighbour(other))

    steps: list[Callable[[], object]] = [
        *(partial(relabel, namespace) for namespace in asked["namespaces"]),
        *(partial(replaced, node) for node in nodes.values()),
        *(partial(visited, other) for other in placed),
        partial(around.put, neighbour(pod, draw.choice(list(nodes)))),  # a node is promised to it
    ]
    draw.shuffle(steps)
    for step in steps:
        step()
        if draw.random() < 0.3:
            around.ask(pod)
    asking = around.ask(pod, [neighbour(other) for other in drafted])
    requests = fit.pod_requests(pod)
    used: dict[str, dict[str, int]] = {name: {} for name in nodes}
    for other in pods:
        fit.add(used[other.spec.node_name], fit.pod_requests(other))
    return {
        name
        for name, node in nodes.items()
        if fit.why_not(pod, node, requests, used[name]) or (asking is not None and asking.why_not(node))
    }


@pytest.mark.parametrize("batch", range(BATCHES))
def test_kube_scheduler_leaves_the_same_nodes(batch: int) -> None:
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    questions = [question(SEED, number) for number in numbers]
    answers = ask(questions)
    differences = [
        (number, sorted(ours), answer.refused)
        for number, asked, answer in zip(numbers, questions, answers, strict=True)
        if (ours := refused(asked, random.Random(number))) != answer.refused.keys()
    ]
    assert differences == []
    plugins = {plugin for answer in answers for plugin in answer.refused.values()}
    assert plugins >= {
        "NodePorts",
        "NodeResourcesFit",
        "PodTopologySpread",
        "InterPodAffinity",
        "NodeAffinity",
    }
    some = [a for a, q in zip(answers, questions, strict=True) if 0 < len(a.refused) < len(q["nodes"])]
    assert len(some) > BATCH / 4  # or the questions would prove little
