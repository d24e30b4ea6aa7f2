"""The index from a node's state to its nodes, and who shares what."""

from __future__ import annotations

import msgspec

from controller.allocator.cel import CelCache
from controller.allocator.verdict import Allocation
from controller.choice import Chooser
from controller.equal import IDENTITIES
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState
from driver.kube.objects import Device, DeviceAttribute, DeviceConstraint, ResourceClaim, ResourceSlice
from driver.names import DRIVER_NAME
from tests.unit.controller.things import (
    CLASSES,
    a_claim,
    a_node,
    a_pod,
    a_request,
    an_inventory,
    slices_of,
)

CEL = CelCache()
replace = msgspec.structs.replace


def a_state(*nodes: str) -> ClusterState:
    state = ClusterState(DRIVER_NAME)
    for device_class in CLASSES:
        state.apply_class(None, device_class)
    for name in nodes:
        add(state, name, slices_of(name))
    return state


def add(state: ClusterState, name: str, slices: list[ResourceSlice]) -> None:
    state.apply_node(None, a_node(name))
    for item in slices:
        state.apply_slice(None, item)


def groups(state: ClusterState) -> list[list[str]]:
    return [list(group.names) for group in state.index.groups()]


def place(state: ClusterState, claim: ResourceClaim, node: str) -> ResourceClaim:
    answer = chooser(state).answer(Quest(a_pod("p"), (claim,)), node)
    assert isinstance(answer, Allocation), answer
    placed = replace(claim, status=replace(claim.status, allocation=answer.claims[0].result))
    state.apply_claim(None, placed, 0.0)
    return placed


def chooser(state: ClusterState) -> Chooser:
    return Chooser(state, PlacementSettings(), CEL)


def with_devices(item: ResourceSlice, devices: list[Device]) -> ResourceSlice:
    return replace(item, spec=replace(item.spec, devices=devices))


def with_attribute(device: Device, name: str, text: str) -> Device:
    return replace(device, attributes={**device.attributes, name: DeviceAttribute(string=text)})


def test_nodes_that_differ_in_names_and_identities_alone_are_one_group() -> None:
    state = a_state("n0", "n1")
    (item, *others) = slices_of("n2")
    for identity in sorted(IDENTITIES):
        devices = [with_attribute(device, identity, f"n2-{device.name}") for device in item.spec.devices]
        item = with_devices(item, devices)
    add(state, "n2", [item, *others])
    assert groups(state) == [["n0", "n1", "n2"]]


def test_a_node_that_publishes_something_else_is_another_group() -> None:
    state = a_state("n0")
    add(state, "n1", slices_of("n1", an_inventory(pairs=2)))
    (item, *others) = slices_of("n2")
    add(state, "n2", [with_devices(item, [with_attribute(d, "brand", "x") for d in item.spec.devices])])
    assert not others
    assert sorted(groups(state)) == [["n0"], ["n1"], ["n2"]]


def test_it_counts_how_many_virtual_functions_are_taken_and_not_which() -> None:
    state = a_state()
    for name in ("n0", "n1"):
        add(state, name, slices_of(name, an_inventory(pairs=1, vfs=3)))
    first, second = a_claim("a", gpus=0), a_claim("b", gpus=0)
    place(state, first, "n0")
    place(state, second, "n1")
    third = place(state, a_claim("c", gpus=0), "n1")
    assert len(groups(state)) == 2
    state.apply_claim(second, None, 0.0)
    assert groups(state) == [["n0", "n1"]]
    assert state.nodes["n0"].standing != state.nodes["n1"].standing, "other functions of the same NIC"
    results = [
        place(state, a_claim(f"d{node}", gpus=0), node).status.allocation.devices.results[0].device  # type: ignore[union-attr]
        for node in ("n0", "n1")
    ]
    assert third.status.allocation is not None
    taken = third.status.allocation.devices.results[0].device
    assert results[0] == taken, "the one that is free there"
    assert results[1] != taken


def test_the_fullest_state_comes_first() -> None:
    state = a_state("n0", "n1", "n2")
    place(state, a_claim("a"), "n1")
    place(state, a_claim("b", gpus=2, nics=2), "n2")
    assert groups(state) == [["n2"], ["n1"], ["n0"]]


def test_a_group_that_is_met_again_still_has_its_answers() -> None:
    state = a_state("n0", "n1")
    choose = chooser(state)
    quest = Quest(a_pod("p"), (a_claim("c"),))
    choose.choose(quest)
    (group,) = state.index.groups()
    (known,) = group.answers.values()
    placed = [place(state, a_claim(f"on-{node}"), node) for node in ("n0", "n1")]
    assert group.names == [] or group not in list(state.index.groups())
    for claim in placed:
        state.apply_claim(claim, None, 0.0)
    assert list(state.index.groups()) == [group]
    choose.choose(quest)
    assert known in group.answers.values()


def test_since_walks_only_over_what_changed_for_the_better() -> None:
    state = a_state("n0", "n1", "n2")
    claim = place(state, a_claim("a"), "n1")
    seen = state.generation
    assert list(state.index.since(seen)) == []
    state.apply_claim(claim, None, 0.0)
    assert [record.name for record in state.index.since(seen)] == ["n1"]
    assert chooser(state).choose(Quest(a_pod("p"), (a_claim("b"),), since=seen)).best.node == "n1"  # type: ignore[union-attr]


def test_a_pool_that_is_not_whole_is_shared_with_nobody() -> None:
    state = a_state("n0")
    for name in ("n1", "n2"):
        (item,) = slices_of(name)
        pool = replace(item.spec.pool, resource_slice_count=2)
        add(state, name, [replace(item, spec=replace(item.spec, pool=pool))])
    assert sorted(groups(state)) == [["n0"], ["n1"], ["n2"]]
    choice = chooser(state).choose(Quest(a_pod("p", node="n1"), (a_claim("c"),)))
    assert "pool tandem-dra.io/n1 is not used: incomplete: 1 of 2 slices" in choice.why_not


def test_what_one_node_takes_of_a_network_attached_pool_the_others_do_not_have() -> None:
    state = ClusterState(DRIVER_NAME, managed_only=False)
    state.apply_class(None, CLASSES[-1])
    for name in ("n0", "n1"):
        state.apply_node(None, a_node(name))
    (item,) = slices_of("anywhere", an_inventory(pairs=1, vfs=1), taint=False)
    theirs = "other.example.com"
    state.apply_slice(
        None, replace(item, spec=replace(item.spec, driver=theirs, node_name=None, all_nodes=True))
    )
    assert sorted(groups(state)) == [["n0"], ["n1"]]
    both = len(item.spec.devices)
    request = a_request("any", theirs, both)
    first, second = (a_claim(name, requests=[request]) for name in ("a", "b"))
    claim = place(state, first, "n0")
    assert chooser(state).choose(Quest(a_pod("p"), (second,))).best is None
    state.apply_claim(claim, None, 0.0)
    assert chooser(state).choose(Quest(a_pod("p"), (second,))).best is not None


def test_within_keeps_to_nodes_with_the_label() -> None:
    state = a_state()
    for name, block in (("n0", "a"), ("n1", "b")):
        add(state, name, slices_of(name))
        state.apply_node(state.nodes[name].node, a_node(name, labels={"block": block}))
    choose = chooser(state)
    quest = Quest(a_pod("p"), (a_claim("c"),), within=("block", "b"))
    best = choose.choose(quest).best
    assert best is not None
    assert best.node == "n1"
    assert [equals.nodes for equals in choose.groups(quest)] == [["n0", "n1"]]
    assert choose.why_not(quest, "n0") == "not of block=b"


def test_a_pod_of_a_daemonset_is_asked_of_its_node_alone() -> None:
    state = a_state("n0", "n1")
    need = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    terms = {"nodeSelectorTerms": [{"matchFields": [need]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    choose = chooser(state)
    best = choose.choose(Quest(a_pod("p", affinity=affinity), (a_claim("c"),))).best
    assert best is not None
    assert best.node == "n1"
    refused = choose.choose(Quest(a_pod("p", affinity=affinity), (a_claim("c", gpus=9, nics=9),)))
    assert refused.why_not.startswith("0/1 nodes: ")


def test_refusals_of_several_claims_call_the_pods_own_claims() -> None:
    state = a_state("n0")
    choose = chooser(state)
    for name in ("first", "second"):
        claims = [a_claim(f"{name}-{i}", gpus=2, nics=0) for i in range(2)]
        one_switch = [DeviceConstraint(match_attribute=f"{DRIVER_NAME}/pcieSwitch")]
        specs = [replace(c.spec, devices=replace(c.spec.devices, constraints=one_switch)) for c in claims]
        wanted = tuple(replace(claim, spec=spec) for claim, spec in zip(claims, specs, strict=True))
        choice = choose.choose(Quest(a_pod("p"), wanted))
        assert choice.best is None
        assert f"default/{name}-" in choice.why_not


def test_a_selector_on_an_identity_finds_the_one_device_in_the_cluster() -> None:
    state = a_state("n0")
    (item,) = slices_of("n1")
    first, *others = item.spec.devices
    add(state, "n1", [with_devices(item, [with_attribute(first, "uuid", "GPU-the-one"), *others])])
    assert groups(state) == [["n0", "n1"]]
    selector = 'device.attributes["tandem-dra.io"].uuid == "GPU-the-one"'
    claim = a_claim("c", requests=[a_request("gpu", "gpu.tandem-dra.io", 1, selector)])
    assert first.attributes["type"].string == "gpu"
    best = chooser(state).choose(Quest(a_pod("p"), (claim,))).best
    assert best is not None
    assert best.node == "n1"


def test_a_node_that_is_gone_is_forgotten_when_its_last_pod_is() -> None:
    state = a_state("n0", "n1")
    pod = a_pod("p", node="n1")
    state.apply_pod(None, pod)
    state.apply_node(a_node("n1"), None)
    for item in slices_of("n1"):
        state.apply_slice(item, None)
    assert groups(state) == [["n0"]]
    assert set(state.nodes) == {"n0", "n1"}
    state.apply_pod(pod, None)
    assert groups(state) == [["n0"]]
    assert set(state.nodes) == {"n0"}
    add(state, "n1", slices_of("n1"))
    assert groups(state) == [["n0", "n1"]]
