"""What holds of pods with claims of other drivers in whatever cluster, whatever happens there."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.explaining import explain, state_of
from controller.planning import plan
from controller.settings import PlacementSettings
from controller.validation.documents import KubeObject
from driver.kube.objects import ResourceClaim, ResourceSlice
from driver.names import DRIVER_NAME
from tests.unit.controller.model import CEL, ModelCluster, a_cluster
from tests.unit.controller.others import (
    OTHER,
    THIRD,
    publish,
    taken,
    their_claim,
    theirs_on,
    where,
    withdraw,
)
from tests.unit.controller.things import (
    CLASSES,
    a_claim,
    a_class,
    a_node,
    a_pod,
    an_inventory,
    slices_of,
)


def test_explain_says_what_the_controller_says() -> None:
    objects: list[KubeObject] = [
        *CLASSES,
        a_claim("ours"),
        their_claim("theirs"),
        a_pod("p", ["ours", "theirs"]),
    ]
    for node in ("n0", "n1"):
        objects += [a_node(node), *slices_of(node)]

    def explained(*more: KubeObject) -> str:
        found = explain(
            state_of([*objects, *more], DRIVER_NAME), ("default", "ours"), PlacementSettings(), CEL
        )
        assert found is not None
        return found.text

    assert "claim theirs (no published device is of its class) has no devices there" in explained()
    assert "node n1 could take it now" in explained(*theirs_on("n1"))


AMOUNTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=4)
WANTED = st.lists(st.tuples(st.sampled_from([OTHER, THIRD]), st.integers(1, 2)), min_size=1, max_size=3)


def cluster_of(
    amounts: Sequence[tuple[int, int, int]], wanted: Sequence[tuple[str, int]]
) -> list[KubeObject]:
    """Nodes with so many devices of two other drivers, of which so many are taken, and a pod."""
    objects: list[KubeObject] = [*CLASSES, a_class(THIRD, driver=THIRD)]
    for number, (first, second, held) in enumerate(amounts):
        node = f"n{number}"
        objects += [a_node(node), *slices_of(node, an_inventory(pairs=1))]
        objects += theirs_on(node, first) if first else []
        objects += theirs_on(node, second, driver=THIRD) if second else []
        devices = [f"x-{n}" for n in range(min(held, first))]
        if devices:
            held_claim = their_claim(f"held-{node}", len(devices))
            status = msgspec.structs.replace(held_claim.status, allocation=taken(node, *devices))
            objects.append(msgspec.structs.replace(held_claim, status=status))
    objects.append(a_claim("p-ours"))
    names = [f"theirs-{number}" for number in range(len(wanted))]
    objects += [their_claim(n, count, driver=d) for n, (d, count) in zip(names, wanted, strict=True)]
    objects.append(a_pod("p", ["p-ours", *names]))
    return objects


def load(cluster: ModelCluster, objects: Sequence[KubeObject]) -> None:
    for item in objects:
        if isinstance(item, ResourceClaim):
            cluster.put_claim(item)
    state = state_of([o for o in objects if not isinstance(o, ResourceClaim)], DRIVER_NAME)
    for node in state.nodes.values():
        cluster.state.apply_node(None, node.node)
    for device_class in state.classes.values():
        if device_class.metadata.name not in cluster.state.classes:
            cluster.state.apply_class(None, device_class)
    for item in objects:
        if isinstance(item, ResourceSlice):
            cluster.state.apply_slice(None, item)
    for pod in state.claimants.values():
        cluster.put_pod(pod)


@settings(max_examples=40, deadline=None)
@given(amounts=AMOUNTS, wanted=WANTED)
def test_controller_explain_and_plan_agree_whether_there_is_a_place(
    amounts: list[tuple[int, int, int]], wanted: list[tuple[str, int]]
) -> None:
    objects = cluster_of(amounts, wanted)
    cluster = ModelCluster()
    load(cluster, objects)
    cluster.run()
    node = where(cluster, "p")
    planned = plan(objects, PlacementSettings(), CEL, time.perf_counter)
    (pod,) = [pod for pod in planned.pods if pod.name == "p"]
    assert (node is None) == (pod.node is None)
    said = explain(state_of(objects, DRIVER_NAME), ("default", "p-ours"), PlacementSettings(), CEL)
    assert said is not None
    assert (f"node {node} could take it now" in said.text) is (node is not None)
    if node is not None:
        first, second, held = amounts[int(node[1:])]
        asked = {OTHER: 0, THIRD: 0}
        for driver, count in wanted:
            asked[driver] += count
        assert asked[OTHER] <= first - min(held, first)
        assert asked[THIRD] <= second


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pod", "gone", "slices", "held", "bind", "wait"]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_whoever_can_be_placed_is_in_order_whatever_happens_to_other_drivers_devices(
    steps: list[tuple[str, int, int]],
) -> None:
    """`fair` holds every allocation against a look at everything anew; at the end nobody waits in vain."""
    cluster = a_cluster(3, fair=True)
    there: dict[str, list[ResourceSlice]] = {}
    number = 0
    for what, index, amount in steps:
        node, name = f"n{index}", f"held-n{index}"
        if what == "pod":
            number += 1
            pod = f"p{number}"
            cluster.put_claim(a_claim(f"{pod}-ours", uid=f"o{number}"))
            cluster.put_claim(their_claim(f"{pod}-theirs", 1 + amount % 2, uid=f"t{number}"))
            cluster.put_pod(a_pod(pod, [f"{pod}-ours", f"{pod}-theirs"], uid=f"u{number}", cpu="2"))
        elif what == "gone" and cluster.pods:
            pod = sorted(cluster.pods)[index % len(cluster.pods)]
            cluster.delete_pod(pod)
            cluster.delete_claim(f"{pod}-ours")
            cluster.delete_claim(f"{pod}-theirs")
        elif what == "slices":
            withdraw(cluster, *there.pop(node, []))
            if amount:
                there[node] = theirs_on(node, amount)
                publish(cluster, *there[node])
        elif what == "held":
            if name in cluster.claims:
                cluster.delete_claim(name)
            else:
                cluster.put_claim(their_claim(name))
                cluster.set_allocation(name, taken(node, "x-0"))
        elif what == "bind":
            _bind_one(cluster)
        cluster.wait(0.5, step=0.5)
    assert cluster._first() is None


def _bind_one(cluster: ModelCluster) -> None:
    """As kube-scheduler: the first pod that waits with our claim allocated gets the rest, and is bound."""
    for name, pod in sorted(cluster.pods.items()):
        node = where(cluster, name)
        if pod.spec.node_name or node is None:
            continue
        held = {d for c in cluster.claims for d in cluster.devices_of(c) if cluster.node_of(c) == node}
        published = {
            device.name
            for item in cluster.state.others.pools.slices((OTHER, f"{OTHER}-{node}"))
            for device in item.spec.devices
        }
        free = sorted(published - held)
        count = cluster.claims[f"{name}-theirs"].spec.devices.requests[0].exactly.count  # type: ignore[union-attr]
        if len(free) >= count:
            cluster.set_allocation(f"{name}-theirs", taken(node, *free[:count]))
            cluster.bind(name, node)
            return
