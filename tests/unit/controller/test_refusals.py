"""What is remembered of refusals says what asking again would say, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller import answers
from controller.choice import Chooser
from controller.fits import Fits
from controller.quest import Quest
from controller.refusals import Misfits
from controller.settings import PlacementSettings
from controller.state import ClusterState
from driver.kube.objects import Node, Pod
from driver.names import DRIVER_NAME
from tests.unit.controller.model import CEL, ModelCluster
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, a_request, an_inventory, slices_of

NODES = ("n0", "n1", "n2")
HOSTNAME = "kubernetes.io/hostname"
INVENTORY = an_inventory(pairs=2, vfs=1)
APART: Any = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "shy"}}}
        ]
    }
}
TOLERANT = [{"key": "maintenance", "operator": "Exists"}]


def labelled(pod: Pod, app: str) -> Pod:
    return msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, labels={"app": app}))


def node(name: str, zone: str = "a", *, cpu: str = "8", taint: bool = False) -> Node:
    taints = [{"key": "maintenance", "effect": "NoSchedule"}] if taint else []
    return a_node(name, cpu=cpu, labels={HOSTNAME: name, "zone": zone}, taints=taints)


SEEKERS = [
    a_pod("plain"),
    a_pod("plain-too"),
    a_pod("large", cpu="6"),
    a_pod("choosy", nodeSelector={"zone": "b"}),
    a_pod("tolerant", tolerations=TOLERANT),
    a_pod("urgent", cpu="6", priority=10),
    labelled(a_pod("shy", affinity=APART), "shy"),
    labelled(a_pod("calm"), "calm"),
]
QUESTS = [
    Quest(pod, (a_claim(f"{pod.metadata.name}-{gpus}", gpus=gpus, nics=gpus),))
    for pod in SEEKERS
    for gpus in (1, 2)
]


def a_state() -> ClusterState:
    state = ClusterState(DRIVER_NAME)
    for device_class in CLASSES:
        state.apply_class(None, device_class)
    for name in NODES:
        state.apply_node(None, node(name))
        for item in slices_of(name, INVENTORY):
            state.apply_slice(None, item)
    return state


events = st.one_of(
    st.tuples(st.just("run"), st.sampled_from(NODES), st.sampled_from(["calm", "shy"]), st.integers(1, 8)),
    st.tuples(st.just("nominate"), st.sampled_from(NODES), st.integers(0, 20), st.integers(1, 8)),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(
        st.just("node"), st.sampled_from(NODES), st.sampled_from("ab"), st.sampled_from("48"), st.booleans()
    ),
    st.tuples(st.just("allocate"), st.integers(0, len(QUESTS) - 1)),
    st.tuples(st.just("free"), st.integers(0, 5)),
)


class History:
    """Applies events to a state."""

    def __init__(self, state: ClusterState, chooser: Chooser) -> None:
        self.state, self.chooser = state, chooser
        self.nodes = {name: node(name) for name in NODES}
        self.pods: list[Pod] = []
        self.claims: list[str] = []
        self.number = 0

    def apply(self, kind: str, *args: Any) -> None:
        self.number += 1
        getattr(self, f"_{kind}")(*args)

    def _put(self, pod: Pod) -> None:
        self.state.apply_pod(None, pod)
        self.pods.append(pod)

    def _run(self, name: str, app: str, cpu: int) -> None:
        affinity: Any = {"affinity": APART} if app == "shy" else {}
        self._put(labelled(a_pod(f"runs-{self.number}", node=name, cpu=str(cpu), **affinity), app))

    def _nominate(self, name: str, priority: int, cpu: int) -> None:
        status = {"nominatedNodeName": name}
        self._put(a_pod(f"comes-{self.number}", cpu=str(cpu), status=status, priority=priority))

    def _end(self, which: int) -> None:
        if which < len(self.pods):
            self.state.apply_pod(self.pods.pop(which), None)

    def _node(self, name: str, zone: str, cpu: str, taint: bool) -> None:
        changed = node(name, zone, cpu=cpu, taint=taint)
        self.state.apply_node(self.nodes[name], changed)
        self.nodes[name] = changed

    def _allocate(self, which: int) -> None:
        best = self.chooser.choose(replace(QUESTS[which], left_out={"nowhere": 0.0})).best
        if best is not None:
            claim = a_claim(f"taken-{self.number}")
            self.state.assume(claim, best.allocation.claims[0].result)
            self.claims.append(claim.metadata.uid)

    def _free(self, which: int) -> None:
        if which < len(self.claims):
            self.state.not_written(self.claims.pop(which))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, min_size=1, max_size=12))
def test_what_is_remembered_of_refusals_is_what_asking_again_would_say(history: list[Any]) -> None:
    state = a_state()
    chooser, control = (Chooser(state, PlacementSettings(), CEL) for _ in range(2))
    misfits = Misfits(state.index)
    past = History(state, control)
    for event in history:
        past.apply(*event)
        for quest in QUESTS:
            # A node that is left out, though it is nowhere, makes a quest like no other.
            choice, told = chooser.choose(quest), control.choose(replace(quest, left_out={"nowhere": 0.0}))
            assert (choice.best and choice.best.node) == (told.best and told.best.node)
            assert told.permanent or not choice.permanent
            kept, fresh = Fits(state, quest, misfits), Fits(state, quest)
            for name in NODES:
                record = state.nodes[name]
                assert (kept.why_not(record) is None) == (fresh.why_not(record) is None)


def test_equal_pods_are_told_the_same_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    state = a_state()
    chooser = Chooser(state, PlacementSettings(), CEL)
    quests = [Quest(a_pod(name, cpu="9"), (a_claim(name),)) for name in ("p", "q")]
    first, second = (chooser.choose(quest) for quest in quests)
    assert first is second
    assert "3 × too little cpu" in first.why_not


def test_a_node_that_has_the_devices_but_not_the_room_is_worth_waiting_for() -> None:
    cluster = ModelCluster()
    unnamed, named = an_inventory(), an_inventory()
    named = replace(named, gpus=tuple(replace(gpu, product_name="H100") for gpu in named.gpus))
    cluster.add_node(node("unnamed"), slices_of("unnamed", unnamed))
    cluster.add_node(node("full"), slices_of("full", named))
    cluster.put_pod(a_pod("runs", node="full", cpu="8"))
    selector = 'device.attributes["tandem-dra.io"].productName == "H100"'  # fails where there is none
    cluster.put_claim(a_claim("c", requests=[a_request("gpu", "gpu.tandem-dra.io", 1, selector)]))
    cluster.put_pod(a_pod("p", ["c"]))
    cluster.wait(1)
    assert cluster.node_of("c") is None
    cluster.delete_pod("runs")
    cluster.wait(1)
    assert cluster.node_of("c") == "full"


def test_a_thousand_equal_pods_wait_without_a_turn_each() -> None:
    cluster = ModelCluster()
    cluster.add_node(node("n0"), slices_of("n0", an_inventory(pairs=2)))
    for number in range(20):
        cluster.put_claim(a_claim(f"c{number:02d}"))
        cluster.put_pod(a_pod(f"p{number:02d}", [f"c{number:02d}"]))
    cluster.run()
    assert [key for _, key, _ in cluster.allocated] == [("default", "p00"), ("default", "p01")]
    looks = cluster.placer.counts["refusals"]
    cluster.delete_claim("c00")
    cluster.delete_pod("p00")
    cluster.wait(1)
    assert cluster.node_of("c02") == "n0"
    assert cluster.placer.counts["refusals"] <= looks + 2


def test_what_is_known_of_claims_that_nobody_asks_for_any_more_does_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "_KEPT_CLOSE", 3)
    state = a_state()
    chooser = Chooser(state, PlacementSettings(), CEL)
    for number in range(8):
        request = a_request("gpu", "gpu.tandem-dra.io", 1, f"{number} == {number}")
        assert chooser.choose(Quest(a_pod("p"), (a_claim("c", requests=[request]),))).best is not None
    assert all(len(published.memo) <= 3 for published in state.index.published())
