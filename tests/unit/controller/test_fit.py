from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.fit import pod_requests, selects, thousandths, why_not
from driver.errors import ConfigError
from driver.kube.objects import Container, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from tests.unit.controller.things import a_node, a_pod

NODE = a_node("a", labels={"zone": "north", "gpus": "8"})


def reason(pod: Any, node: Node = NODE, used: dict[str, int] | None = None) -> str:
    return why_not(pod, node, pod_requests(pod), used or {}) or ""


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"nodeAffinity": required}


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [
        ("1", 1000),
        ("500m", 500),
        ("2Gi", 2 * 2**30 * 1000),
        ("1e3", 10**6),
        ("100n", 1),
        ("1.5", 1500),
        ("0", 0),
    ],
)
def test_quantities_are_read_in_thousandths_rounded_up(quantity: str, amount: int) -> None:
    assert thousandths(quantity) == amount


def test_what_is_no_quantity_is_named() -> None:
    with pytest.raises(ConfigError, match="4 cores"):
        thousandths("4 cores")


def test_a_plain_pod_fits() -> None:
    assert reason(a_pod("p")) == ""


def test_a_taint_repels_unless_it_is_tolerated_with_its_value_and_effect() -> None:
    node = a_node("a", taints=[{"key": "team", "value": "red", "effect": "NoSchedule"}])
    assert "team=red:NoSchedule" in reason(a_pod("p"), node)
    for toleration, fits in [
        ({"key": "team", "operator": "Equal", "value": "red", "effect": "NoSchedule"}, True),
        ({"key": "team", "value": "red"}, True),
        ({"key": "team", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "team", "value": "blue"}, False),
        ({"key": "team", "operator": "Exists", "effect": "NoExecute"}, False),
    ]:
        assert (reason(a_pod("p", tolerations=[toleration]), node) == "") is fits, toleration


def test_prefer_no_schedule_repels_nobody() -> None:
    node = a_node("a", taints=[{"key": "team", "effect": "PreferNoSchedule"}])
    assert reason(a_pod("p"), node) == ""


def test_a_cordoned_node_takes_only_pods_that_tolerate_it() -> None:
    node = a_node("a", unschedulable=True)
    assert "unschedulable" in reason(a_pod("p"), node)
    toleration = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}
    assert reason(a_pod("p", tolerations=[toleration]), node) == ""


def test_node_selector_wants_every_label() -> None:
    assert reason(a_pod("p", nodeSelector={"zone": "north"})) == ""
    assert "zone=south" in reason(a_pod("p", nodeSelector={"zone": "south"}))


@pytest.mark.parametrize(
    ("key", "operator", "values", "fits"),
    [
        ("zone", "In", ["north", "east"], True),
        ("zone", "In", ["east"], False),
        ("missing", "In", ["x"], False),
        ("zone", "NotIn", ["north"], False),
        ("missing", "NotIn", ["x"], True),
        ("zone", "Exists", [], True),
        ("missing", "Exists", [], False),
        ("missing", "DoesNotExist", [], True),
        ("zone", "DoesNotExist", [], False),
        ("gpus", "Gt", ["7"], True),
        ("gpus", "Gt", ["8"], False),
        ("gpus", "Lt", ["9"], True),
        ("zone", "Gt", ["1"], False),
        ("missing", "Lt", ["1"], False),
    ],
)
def test_required_affinity_operators(key: str, operator: str, values: list[str], fits: bool) -> None:
    term = {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}
    assert (reason(a_pod("p", affinity=affinity(term))) == "") is fits


def test_one_affinity_term_is_enough_and_an_empty_one_matches_nothing() -> None:
    no = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]}
    by_name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}
    assert reason(a_pod("p", affinity=affinity(no, by_name))) == ""
    assert "affinity" in reason(a_pod("p", affinity=affinity(no, {})))
    assert "affinity" in reason(a_pod("p", affinity=affinity(by_name)), a_node("b"))


def test_a_pod_pinned_by_name_goes_there_and_nowhere_else_whatever_the_taints() -> None:
    node = a_node("a", taints=[{"key": "team", "effect": "NoSchedule"}], unschedulable=True)
    assert reason(a_pod("p", node="a"), node) == ""
    assert "pinned to b" in reason(a_pod("p", node="b"), node)


def test_the_resource_that_runs_short_is_named_with_what_is_free() -> None:
    assert reason(a_pod("p", cpu="2"), used={"cpu": 7000}) == "too little cpu (wants 2000m, free 1000m)"
    assert reason(a_pod("p", cpu="1"), used={"cpu": 7000}) == ""
    assert "pods" in reason(a_pod("p"), used={"pods": 110_000})


def test_a_resource_that_the_node_does_not_have_is_short_unless_zero_is_wanted() -> None:
    pod = a_pod("p", containers=[{"resources": {"requests": {"example.com/fpga": "1", "x.io/y": "0"}}}])
    assert "example.com/fpga" in reason(pod)


def container(cpu: str, *, sidecar: bool = False) -> Container:
    document = {"resources": {"requests": {"cpu": cpu}}, **({"restartPolicy": "Always"} if sidecar else {})}
    return msgspec.convert(document, Container)


@pytest.mark.parametrize(
    ("containers", "init", "overhead", "cpu"),
    [
        (["1", "2"], [], "0", 3000),
        (["1"], [("5", False)], "0", 5000),
        (["3"], [("1", True)], "0", 4000),
        (
            ["1"],
            [("2", True), ("4", False)],
            "0",
            6000,
        ),  # beside the sidecar that started before
        (["1"], [("4", False), ("2", True)], "0", 4000),  # not beside one that starts after
        (["1"], [], "250m", 1250),
    ],
)
def test_init_containers_sidecars_and_overhead_count_as_they_run(
    containers: list[str], init: list[tuple[str, bool]], overhead: str, cpu: int
) -> None:
    pod = a_pod("p")
    spec = msgspec.structs.replace(
        pod.spec,
        containers=[container(c) for c in containers],
        init_containers=[container(c, sidecar=sidecar) for c, sidecar in init],
        overhead={"cpu": overhead},
    )
    requests = pod_requests(msgspec.structs.replace(pod, spec=spec))
    assert requests["cpu"] == cpu
    assert requests["pods"] == 1000


def test_what_the_pod_requests_as_a_whole_replaces_its_containers_cpu_and_memory_alone() -> None:
    containers = [{"resources": {"requests": {"cpu": "1", "example.com/fpga": "1"}}}]
    resources = {"requests": {"cpu": "4", "hugepages-2Mi": "2Mi", "example.com/other": "1"}}
    pod = a_pod("p", containers=containers, resources=resources, overhead={"cpu": "250m"})
    requests = pod_requests(pod)
    assert requests["cpu"] == 4250
    assert requests["hugepages-2Mi"] == 2 * 2**20 * 1000
    assert requests["example.com/fpga"] == 1000
    assert "example.com/other" not in requests


class _Compared(str):
    compared = 0

    def __eq__(self, other: object) -> bool:
        _Compared.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


@pytest.mark.parametrize(("operator", "fitting"), [("In", 1), ("NotIn", 99)])
def test_of_many_values_few_are_compared_with_each_node(operator: str, fitting: int) -> None:
    values: list[str] = [_Compared(f"n{number}") for number in range(99, 10_000)]
    need = NodeSelectorRequirement(key="host", operator=operator, values=values)
    required = NodeSelector(node_selector_terms=[NodeSelectorTerm(match_expressions=[need])])
    nodes = [a_node(f"n{number}", labels={"host": f"n{number}"}) for number in range(100)]
    assert sum(selects(required, node) for node in nodes) == fitting
    assert _Compared.compared <= 2 * len(nodes)
