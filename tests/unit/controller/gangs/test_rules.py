"""Gangs whose pods have rules for each other are placed wherever kube-scheduler would let them all be."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.pod_rules import neighbour
from driver.kube.objects import Pod
from tests.unit.controller.gangs.troop import a_cluster, gang_claim, members, nodes_of, of_job, rails_of
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import a_node, a_pod, an_inventory, slices_of

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
JOB = {"job": "a"}
SELECTOR = {"matchLabels": JOB}


def zoned(*zones: str, pairs: int = 4) -> ModelCluster:
    """A node in each of these zones; the empty one is none."""
    labels = [{HOST: f"n{i}"} | ({ZONE: zone} if zone else {}) for i, zone in enumerate(zones)]
    return a_cluster(len(zones), pairs=pairs, labels=labels)


def labelled(pod: Pod, labels: Mapping[str, str]) -> Pod:
    meta = msgspec.structs.replace(pod.metadata, labels=dict(labels))
    return msgspec.structs.replace(pod, metadata=meta)


def spread(key: str, skew: int = 1, **more: Any) -> dict[str, Any]:
    constraint = {"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "DoNotSchedule"}
    return {"topologySpreadConstraints": [{**constraint, "labelSelector": SELECTOR, **more}]}


def affinity(kind: str, key: str, selector: Mapping[str, Any] = SELECTOR) -> dict[str, Any]:
    terms = [{"topologyKey": key, "labelSelector": selector}]
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def apart(key: str) -> dict[str, Any]:
    return affinity("podAntiAffinity", key)


def together(key: str) -> dict[str, Any]:
    return affinity("podAffinity", key)


def come(
    cluster: ModelCluster, count: int, rules: Mapping[str, Any], *, require: str = "SYS", **gang: Any
) -> list[str]:
    """The members of a gang, all with the same rules; then the controller's turn."""
    names = members("a", count)
    for index, name in enumerate(names):
        cluster.put_claim(
            gang_claim(f"{name}-claim", f"claim-{index}", require=require, **{"size": count, **gang})
        )
        cluster.put_pod(of_job(labelled(a_pod(name, [f"{name}-claim"], **rules), JOB), "a"))
    cluster.wait(3)
    return names


def here(cluster: ModelCluster, node: str, name: str = "other", labels: Mapping[str, str] = JOB) -> None:
    """A pod that runs there already."""
    cluster.put_pod(labelled(a_pod(name, node=node), labels))


def per_node(cluster: ModelCluster, names: list[str]) -> list[int]:
    return sorted(Counter(nodes_of(cluster, names)).values())


def are_placed(cluster: ModelCluster, names: list[str]) -> bool:
    return None not in nodes_of(cluster, names)


def test_spread_over_nodes_leaves_two_on_each_where_there_are_twice_as_many() -> None:
    cluster = zoned(*"xxxx")
    names = come(cluster, 8, spread(HOST))
    assert per_node(cluster, names) == [2, 2, 2, 2]
    assert len({frozenset(rails_of(cluster, name)) for name in names}) == 1


def test_spread_over_nodes_has_at_most_max_skew_more_than_the_emptiest_of_them_all() -> None:
    cluster = zoned(*"xxxx")
    cluster.add_node(a_node("bare", labels={HOST: "bare"}), [])  # has no devices, and so no member
    names = come(cluster, 8, spread(HOST, 1))
    assert not are_placed(cluster, names)
    assert "4 of 8 members have room at once" in cluster.messages("a-0", "Unsatisfiable")[0]
    other = zoned(*"xxxx")
    other.add_node(a_node("bare", labels={HOST: "bare"}), [])
    assert per_node(other, come(other, 8, spread(HOST, 2))) == [2, 2, 2, 2]


def test_spread_over_nodes_counts_only_those_that_the_pods_ask_for() -> None:
    cluster = zoned(*"xxxx")
    cluster.add_node(a_node("bare", labels={HOST: "bare"}), [])
    names = come(cluster, 8, {**spread(HOST), "nodeSelector": {ZONE: "x"}})
    assert per_node(cluster, names) == [2, 2, 2, 2]


def test_spread_over_nodes_counts_who_is_there() -> None:
    cluster = zoned(*"xxx")
    here(cluster, "n0")
    names = come(cluster, 5, spread(HOST))
    assert Counter(nodes_of(cluster, names)) == {"n0": 1, "n1": 2, "n2": 2}


def test_anti_affinity_over_nodes_puts_one_member_on_each() -> None:
    cluster = zoned(*"xxxx")
    assert per_node(cluster, come(cluster, 4, apart(HOST))) == [1, 1, 1, 1]


def test_anti_affinity_leaves_out_nodes_where_such_a_pod_is() -> None:
    cluster = zoned(*"xxxx")
    here(cluster, "n1")
    names = come(cluster, 3, apart(HOST))
    assert sorted(map(str, nodes_of(cluster, names))) == ["n0", "n2", "n3"]


def test_where_anti_affinity_has_no_room_for_all_nobody_is_placed_and_people_learn_how_many_had() -> None:
    cluster = zoned(*"xxxx")
    names = come(cluster, 5, apart(HOST))
    assert nodes_of(cluster, names) == [None] * 5
    assert "4 of 5 members have room at once" in cluster.messages("a-0", "Unsatisfiable")[0]


def test_anti_affinity_over_zones_puts_one_member_into_each() -> None:
    cluster = zoned("x", "x", "y", "z", "")
    names = come(cluster, 3, apart(ZONE))
    assert sorted(map(str, nodes_of(cluster, names)))[1:] == ["n2", "n3"]


@pytest.mark.parametrize(("count", "most"), [(4, [2, 2]), (5, [2, 3]), (6, [3, 3])])
def test_spread_over_zones_fills_them_alike(count: int, most: list[int]) -> None:
    cluster = zoned("x", "x", "x", "y")
    names = come(cluster, count, spread(ZONE), rails="any")
    zone = {"n0": "x", "n1": "x", "n2": "x", "n3": "y"}
    assert sorted(Counter(zone[str(node)] for node in nodes_of(cluster, names)).values()) == most


def test_spread_over_zones_and_over_nodes_hold_together() -> None:
    cluster = zoned("x", "x", "y", "y")
    both = [*spread(ZONE)["topologySpreadConstraints"], *spread(HOST)["topologySpreadConstraints"]]
    assert per_node(cluster, come(cluster, 6, {"topologySpreadConstraints": both})) == [1, 1, 2, 2]


def test_too_few_zones_for_min_domains_leave_no_more_than_max_skew_in_each() -> None:
    cluster = zoned("x", "y")
    names = come(cluster, 4, spread(ZONE, 1, minDomains=3))
    assert not are_placed(cluster, names)
    other = zoned("x", "y", "z")
    assert are_placed(other, come(other, 4, spread(ZONE, 1, minDomains=3)))


def test_affinity_over_zones_puts_all_members_into_one_that_has_room() -> None:
    cluster = zoned("x", "y", "y", "y")
    names = come(cluster, 4, together(ZONE), require="PIX", rails="same")
    assert not are_placed(cluster, names), "a rail has one GPU beside it on each node"
    other = zoned("x", "y", "y", "y")
    names = come(other, 3, together(ZONE), require="PIX", rails="same")
    assert sorted(map(str, nodes_of(other, names))) == ["n1", "n2", "n3"]


def test_affinity_follows_pods_that_are_there() -> None:
    cluster = zoned("x", "x", "y")
    here(cluster, "n2")
    assert nodes_of(cluster, come(cluster, 2, together(ZONE))) == ["n2", "n2"]


def test_workers_that_want_to_be_near_their_leader_are_in_its_zone() -> None:
    cluster = zoned("x", "y", "y")
    rules = affinity("podAffinity", ZONE, {"matchLabels": {"role": "leader"}})
    for name in ("lead", "w-0", "w-1"):
        leads = name == "lead"
        labels = {"role": "leader" if leads else "worker"}
        cluster.put_claim(gang_claim(f"{name}-claim", f"claim-{name}", size=3, require="PIX"))
        pod = a_pod(name, [f"{name}-claim"], **({} if leads else rules))
        cluster.put_pod(of_job(labelled(pod, labels), "a"))
    cluster.wait(3)
    assert not are_placed(cluster, ["lead", "w-0", "w-1"]), "a zone has two nodes at most"
    cluster.add_node(
        a_node("n3", cpu="64", labels={ZONE: "y", HOST: "n3"}), slices_of("n3", an_inventory(4, 2))
    )
    cluster.wait(3)
    assert sorted(map(str, nodes_of(cluster, ["lead", "w-0", "w-1"]))) == ["n1", "n2", "n3"]


def test_one_member_a_node_within_one_zone() -> None:
    cluster = zoned("x", "y", "y", "x", "y")
    rules = {"affinity": {**apart(HOST)["affinity"], **together(ZONE)["affinity"]}}
    assert sorted(map(str, nodes_of(cluster, come(cluster, 3, rules)))) == ["n1", "n2", "n4"]


def test_members_with_one_host_port_are_on_a_node_each() -> None:
    cluster = zoned(*"xxx")
    container = {"name": "main", "ports": [{"containerPort": 80, "hostPort": 80}]}
    assert per_node(cluster, come(cluster, 3, {"containers": [container]})) == [1, 1, 1]


def test_members_whose_rules_do_not_mean_themselves_may_share_a_node() -> None:
    cluster = zoned(*"xx")
    names = come(cluster, 4, affinity("podAntiAffinity", HOST, {"matchLabels": {"job": "b"}}))
    assert per_node(cluster, names) in ([4], [2, 2])


RULES = st.sampled_from(
    [
        *(spread(key, skew) for key in (HOST, ZONE) for skew in (1, 2)),
        spread(ZONE, 1, minDomains=2),
        *(rule(key) for rule in (apart, together) for key in (HOST, ZONE)),
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    zones=st.lists(st.sampled_from(["x", "y", "z", ""]), min_size=1, max_size=4),
    rooms=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    there=st.lists(st.integers(0, 3), max_size=3),
    count=st.integers(2, 5),
    rules=st.lists(RULES, min_size=1, max_size=2),
)
def test_a_gang_is_placed_just_where_its_members_could_come_one_by_one(
    zones: list[str], rooms: list[int], there: list[int], count: int, rules: list[dict[str, Any]]
) -> None:
    cluster = ModelCluster()
    for index, zone in enumerate(zones):
        labels = {HOST: f"n{index}"} | ({ZONE: zone} if zone else {})
        inventory = an_inventory(rooms[index], 1)
        node = a_node(f"n{index}", cpu="64", labels=labels)
        cluster.add_node(node, slices_of(f"n{index}", inventory) if rooms[index] else [])
    for number, node_index in enumerate(there):
        here(cluster, f"n{node_index % len(zones)}", f"other-{number}")
    merged = merge(rules)
    possible = could_come(cluster, labelled(a_pod("any", **merged), JOB), rooms, count)
    names = come(cluster, count, merged, rails="any")
    assert are_placed(cluster, names) == possible


def merge(rules: list[dict[str, Any]]) -> dict[str, Any]:
    spreads = [one for rule in rules for one in rule.get("topologySpreadConstraints", [])]
    once = {(one["topologyKey"]): one for one in spreads}
    terms = {kind: body for rule in rules for kind, body in rule.get("affinity", {}).items()}
    return {"topologySpreadConstraints": list(once.values()), "affinity": terms}


def could_come(cluster: ModelCluster, pod: Pod, rooms: list[int], count: int) -> bool:
    """Tried in every order, each member beside those before it, as kube-scheduler would."""
    nodes = [record.node for record in cluster.state.nodes.values() if record.node is not None]
    rooms_of = {node.metadata.name: room for node, room in zip(nodes, rooms, strict=False)}
    ways = {(0,) * len(nodes)}
    for _ in range(count):
        further = set()
        for way in ways:
            beside = [
                dataclasses.replace(neighbour(pod, node.metadata.name), uid=f"{node.metadata.name}-{i}")
                for node, taken in zip(nodes, way, strict=True)
                for i in range(taken)
            ]
            question = cluster.state.neighbours.ask(pod, beside)
            for index, node in enumerate(nodes):
                if way[index] < rooms_of[node.metadata.name] and (
                    question is None or question.why_not(node) is None
                ):
                    further.add((*way[:index], way[index] + 1, *way[index + 1 :]))
        ways = further
    return bool(ways)
