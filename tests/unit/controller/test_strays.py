"""A pool of ours counts only from the node that it is named after; another driver's as Kubernetes says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import notices
from controller.allocator.cel import CelCache
from controller.choice import Chooser
from controller.explaining import state_of
from controller.ownership import Ownership
from controller.planning import plan
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState
from controller.strays import is_stray
from driver.kube.objects import CounterSet, Node, NodeSelector, NodeSelectorTerm, ResourceSlice
from driver.names import DRIVER_NAME, pool_name
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, slices_of

CEL = CelCache()
OWNERSHIP = Ownership(DRIVER_NAME, CEL)
VICTIM, OTHER = "victim", "other"
replace = msgspec.structs.replace

Forge = Callable[[ResourceSlice], ResourceSlice]


def changed(
    item: ResourceSlice, name: str, *, pool: dict[str, Any] | None = None, **spec: Any
) -> ResourceSlice:
    pool_of = replace(item.spec.pool, **(pool or {}))
    return replace(
        item, metadata=replace(item.metadata, name=name), spec=replace(item.spec, pool=pool_of, **spec)
    )


def everywhere(item: ResourceSlice) -> ResourceSlice:
    return changed(item, "forged", node_name=None, all_nodes=True)


def selected(item: ResourceSlice) -> ResourceSlice:
    any_node = NodeSelector(node_selector_terms=[NodeSelectorTerm()])
    return changed(item, "forged", node_name=None, node_selector=any_node)


def device_by_device(item: ResourceSlice) -> ResourceSlice:
    devices = [replace(device, node_name=OTHER) for device in item.spec.devices]
    return changed(item, "forged", node_name=None, per_device_node_selection=True, devices=devices)


FORGERIES: dict[str, Forge] = {
    "a copy": lambda item: changed(item, "forged", node_name=OTHER),
    "a newer generation": lambda item: changed(item, "forged", node_name=OTHER, pool={"generation": 99}),
    "more slices than there are": lambda item: changed(
        item, "forged", node_name=OTHER, pool={"resource_slice_count": 7}, devices=[]
    ),
    "counters of the same names": lambda item: changed(
        item, "forged", node_name=OTHER, devices=[], shared_counters=[CounterSet(name="set", counters={})]
    ),
    "for all nodes": everywhere,
    "for selected nodes": selected,
    "device by device": device_by_device,
}
forged = pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())


def objects(*more: ResourceSlice) -> list[Any]:
    """Two nodes, of which only one has devices, and more slices before and after its own."""
    half = len(more) // 2
    nodes: list[Node] = [a_node(VICTIM), a_node(OTHER)]
    return [*nodes, *CLASSES, *more[:half], *slices_of(VICTIM), *more[half:]]


def best(state: ClusterState) -> str | None:
    found = Chooser(state, PlacementSettings(), CEL).choose(Quest(a_pod("p"), (a_claim("c"),))).best
    return found.node if found else None


@forged
def test_what_others_say_of_a_nodes_pool_changes_nothing(forge: Forge) -> None:
    (item,) = slices_of(VICTIM)
    state = state_of(objects(forge(item)), DRIVER_NAME)
    assert best(state) == VICTIM
    alone = state_of(objects(), DRIVER_NAME)
    devices, without = (one.index.own(one.nodes[VICTIM]).devices for one in (state, alone))
    assert (devices.devices, devices.bad_pools) == (without.devices, ())
    assert state.index.reached(state.nodes[OTHER]) == ()


@forged
def test_the_plan_passes_over_it_as_well(forge: Forge) -> None:
    (item,) = slices_of(VICTIM)
    claims = [a_claim("c", gpus=4, nics=4)]
    found = plan([*objects(forge(item)), *claims], PlacementSettings(), CEL, lambda: 0.0)
    assert [pod.node for pod in found.pods] == [VICTIM]
    assert [stray.metadata.name for stray in found.state.pools.strays] == ["forged"]


@forged
def test_it_is_told_once_and_counted_until_it_is_gone(forge: Forge) -> None:
    (item,) = slices_of(VICTIM)
    stray = forge(item)
    state = state_of(objects(), DRIVER_NAME)
    counts: Counter[str] = Counter()
    state.apply_slice(None, stray)
    (tell,) = notices.take(state, OWNERSHIP, counts).tells
    assert (tell.reason, tell.regarding.metadata.name) == ("StraySlice", "forged")
    assert f"spec.pool.name is {pool_name(DRIVER_NAME, VICTIM)}" in tell.message
    state.apply_slice(stray, changed(stray, "forged", pool={"generation": 100}))
    state.apply_slice(None, changed(stray, "second"))
    assert notices.take(state, OWNERSHIP, counts).tells == ()
    assert counts["stray_slices"] == 1
    assert len(state.pools.strays) == 2
    for name in ("forged", "second"):
        state.apply_slice(changed(stray, name), None)
    assert len(state.pools.strays) == 0
    notices.take(state, OWNERSHIP, counts)
    state.apply_slice(None, stray)
    assert len(notices.take(state, OWNERSHIP, counts).tells) == 1


def test_another_drivers_pool_may_span_nodes_or_be_of_none() -> None:
    (item,) = slices_of(VICTIM)
    theirs = "other.example.com"
    for where in ({"node_name": OTHER}, {"node_name": None, "all_nodes": True}):
        state = state_of(objects(), DRIVER_NAME)
        state.apply_slice(None, changed(item, "theirs", driver=theirs, **where))
        state.others.wake(state.nodes)
        index = state.others.index
        assert (theirs, item.spec.pool.name) in index.reached(index.records[OTHER])


@given(st.sampled_from(["n", "n-1", "n.1", ""]), st.sampled_from(["n", "n-1", "n.1", ""]))
def test_a_nodes_bare_name_names_a_pool_of_it_too(node: str, pool: str) -> None:
    (item,) = slices_of("n")
    of = changed(item, "s", node_name=node or None, pool={"name": pool})
    assert is_stray(of, DRIVER_NAME) is not (node != "" and node == pool)


@given(st.sampled_from(["n", "n-1", "n.1", ""]), st.sampled_from(["n", "n-1", "n.1", "", "d/n"]))
def test_only_the_node_that_the_pool_is_named_after_counts(node: str, pool: str) -> None:
    (item,) = slices_of("n")
    name = pool_name(DRIVER_NAME, pool)
    of = changed(item, "s", node_name=node or None, pool={"name": name})
    assert is_stray(of, DRIVER_NAME) is not (node != "" and node == pool)
    assert not is_stray(of, "other.example.com")
