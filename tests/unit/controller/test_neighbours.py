"""Rules between pods, each by a small story. tests/oracle/test_fit.py asks kube-scheduler's own plugins."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.neighbours import Neighbours
from controller.pod_rules import neighbour
from driver.kube.objects import Pod
from tests.unit.allocator.test_counted_work import counted
from tests.unit.controller.things import a_node, a_pod

ZONE = "topology.kubernetes.io/zone"
NODES = {
    name: a_node(name, labels={ZONE: zone, "host": name})
    for name, zone in (("a", "north"), ("b", "north"), ("c", "south"))
}


def labelled(name: str, app: str, namespace: str = "default", **spec: Any) -> Pod:
    pod = a_pod(name, **spec)
    metadata = msgspec.structs.replace(pod.metadata, labels={"app": app}, namespace=namespace)
    return msgspec.structs.replace(pod, metadata=metadata)


def rule(kind: str, app: str, key: str = ZONE, **term: Any) -> dict[str, Any]:
    """An affinity of this kind to pods of this app."""
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}, **term}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def spread(app: str, key: str = ZONE, **more: Any) -> list[dict[str, Any]]:
    constraint = {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule"}
    return [{**constraint, "labelSelector": {"matchLabels": {"app": app}}, **more}]


def around(*pods: Pod) -> Neighbours:
    made = Neighbours()
    for node in NODES.values():
        made.apply_node(node.metadata.name, node)
    for pod in pods:
        made.put(neighbour(pod))
    return made


def open_nodes(neighbours: Neighbours, pod: Pod, *beside: Pod) -> str:
    drafted = [neighbour(other) for other in beside]
    return "".join(name for name, node in NODES.items() if not neighbours.why_not(pod, node, drafted))


def test_a_pod_without_rules_is_asked_nothing_where_nobody_else_has_any() -> None:
    assert around(labelled("web", "web", node="a")).ask(labelled("p", "db")) is None


def test_affinity_wants_one_near() -> None:
    wish = labelled("p", "db", affinity=rule("podAffinity", "web"))
    assert open_nodes(around(labelled("web", "web", node="a")), wish) == "ab"
    assert open_nodes(around(), wish) == ""


def test_the_first_of_its_kind_may_start_anywhere_and_the_second_must_follow() -> None:
    wish = labelled("p", "web", affinity=rule("podAffinity", "web"))
    assert open_nodes(around(), wish) == "abc"
    assert open_nodes(around(), wish, labelled("other", "web", node="c")) == "c"


def test_anti_affinity_closes_the_zone() -> None:
    wish = labelled("p", "db", affinity=rule("podAntiAffinity", "web"))
    assert open_nodes(around(labelled("web", "web", node="a")), wish) == "c"


def test_anti_affinity_of_those_who_are_there_counts_too() -> None:
    lonely = labelled("lonely", "x", node="c", affinity=rule("podAntiAffinity", "web", "host"))
    assert open_nodes(around(lonely), labelled("p", "web")) == "ab"
    assert open_nodes(around(lonely), labelled("p", "db")) == "abc"
    assert open_nodes(around(lonely), labelled("p", "web", "elsewhere")) == "abc"


def test_what_has_gone_counts_no_more() -> None:
    lonely = labelled("lonely", "x", node="c", affinity=rule("podAntiAffinity", "web", "host"))
    neighbours = around(lonely)
    assert open_nodes(neighbours, labelled("p", "web")) == "ab"
    assert neighbours.drop(lonely)
    assert open_nodes(neighbours, labelled("p", "web")) == "abc"


def test_a_pod_does_not_keep_itself_away_from_the_node_promised_to_it() -> None:
    apart = labelled("p", "web", affinity=rule("podAntiAffinity", "web", "host"))
    neighbours = around()
    neighbours.put(neighbour(apart, "b"))
    assert open_nodes(neighbours, apart) == "abc"
    assert open_nodes(neighbours, labelled("q", "web")) == "ac"


def test_namespaces_are_meant_by_their_labels_as_they_are_now() -> None:
    selector = {"matchLabels": {"team": "red"}}
    wish = labelled("p", "db", affinity=rule("podAntiAffinity", "web", namespaceSelector=selector))
    neighbours = around(labelled("web", "web", "other", node="a"))
    assert open_nodes(neighbours, wish) == "abc"
    neighbours.apply_namespace("other", {"team": "red"})
    assert open_nodes(neighbours, wish) == "c"
    neighbours.apply_namespace("other", None)
    assert open_nodes(neighbours, wish) == "abc"


def test_match_label_keys_of_a_pod_from_a_file_are_filled_in_and_not_twice() -> None:
    more: dict[str, Any] = {"labelSelector": {}, "matchLabelKeys": ["app"]}
    wish = labelled("p", "web", affinity=rule("podAntiAffinity", "", **more))
    neighbours = around(labelled("web", "web", node="a"), labelled("db", "db", node="c"))
    assert open_nodes(neighbours, wish) == "c"
    filled = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]}
    wish = labelled(
        "p", "web", affinity=rule("podAntiAffinity", "", labelSelector=filled, matchLabelKeys=["app"])
    )
    assert open_nodes(neighbours, wish) == "ab"  # labelled anew since the API server filled it in


def test_spreading_keeps_the_skew() -> None:
    wish = labelled("p", "web", topologySpreadConstraints=spread("web"))
    assert open_nodes(around(), wish) == "abc"
    assert open_nodes(around(labelled("w", "web", node="a")), wish) == "c"
    assert open_nodes(around(labelled("w", "web", node="a")), wish, labelled("v", "web", node="c")) == "abc"


def test_a_pod_that_ends_is_not_spread_against() -> None:
    wish = labelled("p", "web", topologySpreadConstraints=spread("web"))
    assert open_nodes(around(labelled("w", "web", node="a", deleted=True)), wish) == "abc"


def test_too_few_domains_count_as_empty_ones() -> None:
    wish = labelled("p", "web", topologySpreadConstraints=spread("web", minDomains=3))
    full = around(labelled("w", "web", node="a"), labelled("v", "web", node="c"))
    assert open_nodes(full, wish) == ""


def test_nodes_that_the_selector_closes_are_not_waited_for() -> None:
    more: dict[str, Any] = {"nodeSelector": {ZONE: "north"}}
    pods = labelled("w", "web", node="a"), labelled("v", "web", node="b")
    wish = labelled("p", "web", topologySpreadConstraints=spread("web", "host"), **more)
    assert open_nodes(around(*pods), wish) == "abc"  # c is closed by the selector alone
    ignoring = labelled(
        "p", "web", topologySpreadConstraints=spread("web", "host", nodeAffinityPolicy="Ignore"), **more
    )
    assert open_nodes(around(*pods), ignoring) == "c"


def test_a_host_port_is_had_once_on_a_node_and_address() -> None:
    def served(name: str, node: str = "", **port: Any) -> Pod:
        ports = [{"containerPort": 80, "hostPort": 80, **port}]
        return a_pod(name, node=node, containers=[{"name": "main", "ports": ports}])

    assert open_nodes(around(served("s", "a")), served("p")) == "bc"
    assert open_nodes(around(served("s", "a")), served("p", protocol="UDP")) == "abc"
    assert open_nodes(around(served("s", "a", hostIP="10.0.0.1")), served("p", hostIP="10.0.0.2")) == "abc"
    assert open_nodes(around(), served("p"), served("s", "b")) == "ac"


def test_a_node_that_moves_takes_its_pods_along() -> None:
    wish = labelled("p", "db", affinity=rule("podAntiAffinity", "web"))
    neighbours = around(labelled("web", "web", node="a"))
    assert open_nodes(neighbours, wish) == "c"
    moved = a_node("a", labels={ZONE: "south", "host": "a"})
    neighbours.apply_node("a", moved)
    closed = [
        node.metadata.name for node in (moved, NODES["b"], NODES["c"]) if neighbours.why_not(wish, node)
    ]
    assert closed == ["a", "c"]


def test_only_what_a_rule_counts_is_a_reason_to_look_again() -> None:
    neighbours = around(labelled("web", "web", node="a"))
    wish = labelled("p", "db", affinity=rule("podAffinity", "web"))
    assert not neighbours.put(neighbour(labelled("w", "web", node="c")))
    neighbours.ask(wish)
    assert neighbours.put(neighbour(labelled("v", "web", node="c")))
    assert not neighbours.put(neighbour(labelled("x", "cache", node="c")))


def test_what_was_forgotten_is_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.census._TALLIES_KEPT", 2)
    monkeypatch.setattr("controller.census._DOMAINS_KEPT", 2)
    neighbours = around()
    for turn in range(3):
        for index, app in enumerate("wxyz"):
            neighbours.put(neighbour(labelled(f"{app}{turn}", app, node="abc"[(index + turn) % 3])))
            for key in (ZONE, "host", "kubernetes.io/os"):
                apart = labelled("p", "p", affinity=rule("podAntiAffinity", app, key))
                used = {(index + before) % 3 for before in range(turn + 1)}
                if key == "host":
                    assert open_nodes(neighbours, apart) == "".join("abc"[n] for n in {0, 1, 2} - used)


def test_pods_with_the_same_labels_are_looked_at_once() -> None:
    """A pod with many rules, each new, among many pods of few workloads."""
    pods = [labelled(f"web-{i}", f"web-{i % 5}", node="abc"[i % 3]) for i in range(600)]
    neighbours = around(*pods)
    kind = "requiredDuringSchedulingIgnoredDuringExecution"
    apps = [[f"none-{i}", f"nobody-{i}"] for i in range(50)]
    terms = [
        {
            "topologyKey": ZONE,
            "namespaceSelector": {},
            "labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": values}]},
        }
        for values in apps
    ]
    wish = labelled("p", "db", affinity={"podAntiAffinity": {kind: terms}})
    with counted() as calls:
        assert open_nodes(neighbours, wish) == "abc"
    assert calls.number <= len(terms) * len(pods)


def test_who_changes_labels_counts_by_the_new_ones() -> None:
    wish = labelled("p", "db", affinity=rule("podAffinity", "web"))
    neighbours = around(labelled("one", "web", node="a"), labelled("two", "web", node="a"))
    neighbours.put(neighbour(labelled("one", "db", node="a")))
    neighbours.drop(labelled("two", "web", node="a"))
    assert open_nodes(neighbours, wish) == ""
    neighbours.put(neighbour(labelled("one", "web", node="c")))
    assert open_nodes(neighbours, wish) == "c"
