"""Whose a claim is follows from the devices that there are, and stays as it is while they come and go."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.known_devices import KnownDevices
from controller.ownership import Owner, Ownership
from controller.state import ClusterState
from driver.kube.objects import DeviceClass, ObjectMeta, ResourceSlice
from driver.names import DRIVER_NAME
from tests.unit.allocator import world
from tests.unit.controller.model import CEL, a_cluster, wish
from tests.unit.controller.things import (
    CLASSES,
    OURS,
    a_claim,
    a_class,
    a_node,
    a_request,
    slices_of,
)

ANY = DeviceClass(metadata=ObjectMeta(name="any"))
GPU, VF, OTHER = "gpu.tandem-dra.io", "rdma-vf.tandem-dra.io", "other.example.com"
OUR_RAIL = 'device.attributes["tandem-dra.io"].rail'


def a_class_of(name: str, expression: str) -> DeviceClass:
    plain = a_class(name)
    selector = plain.spec.selectors[0]
    assert selector.cel is not None
    cel = type(selector.cel)(expression=expression)
    spec = type(plain.spec)(selectors=[type(selector)(cel=cel)])
    return type(plain)(metadata=plain.metadata, spec=spec)


GUARDED = a_class_of("guarded", f'{OURS} && has({OUR_RAIL}) && "type" in device.attributes["tandem-dra.io"]')
BOTH = a_class_of("both", f'device.driver in ["{DRIVER_NAME}", "{OTHER}"]')
UNNAMED = a_class_of("unnamed", 'device.attributes["tandem-dra.io"].type == "gpu"')
STANDARD = a_class_of(
    "standard", 'device.attributes["resource.kubernetes.io"].pcieRoot.startsWith("pci0000")'
)
BY_NAME = {c.metadata.name: c for c in (*CLASSES, ANY, GUARDED, BOTH, UNNAMED, STANDARD)}
THEIRS = world.slices(["x-0: type=x model=big"], driver=OTHER, pool="other-n0", node="n0")


def owner(*requests: dict[str, Any], published: list[ResourceSlice] | None = None) -> Owner:
    known = KnownDevices(DRIVER_NAME)
    for item in published or []:
        known.add(item.spec.driver, item.spec.devices)
    return Ownership(DRIVER_NAME, CEL, known).of(a_claim("c", requests=list(requests)), BY_NAME)


PUBLISHED = {
    "nothing": [],
    "ours": slices_of("n0"),
    "theirs": THEIRS,
    "both": [*slices_of("n0"), *THEIRS],
}


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize(
    ("requests", "who"),
    [
        ([a_request("a", GPU)], Owner.OURS),
        ([a_request("a", GPU), a_request("b", VF)], Owner.OURS),
        ([a_request("a", OTHER)], Owner.OTHERS),
        ([a_request("a", GPU), a_request("b", OTHER)], Owner.MIXED),
        ([a_request("a", "not.there")], Owner.UNKNOWN),
        ([], Owner.OTHERS),
        ([a_request("a", "any")], Owner.OTHERS),
        ([a_request("a", "any", 1, OURS)], Owner.OURS),
        ([a_request("a", GPU, 1, f"{OUR_RAIL} == 3")], Owner.OURS),
        # Nobody has such a device, and nobody but us could say so.
        ([a_request("a", GPU, 1, 'device.driver == "other.example.com"')], Owner.OURS),
        ([a_request("a", GPU, 1, "this is not CEL")], Owner.OTHERS),
        ([a_request("a", "unnamed")], Owner.OURS),
        ([a_request("a", "standard")], Owner.OTHERS),
    ],
)
def test_a_claim_is_ours_where_only_our_devices_can_meet_it(
    requests: list[dict[str, Any]], who: Owner, published: list[ResourceSlice]
) -> None:
    assert owner(*requests, published=published) is who


GUARDS = [
    f"has({OUR_RAIL}) && {OUR_RAIL} == 3",
    f"has({OUR_RAIL}) && {OUR_RAIL} >= 0",
    f'"rail" in device.attributes["tandem-dra.io"] && {OUR_RAIL} == 1',
    f'"tandem-dra.io" in device.attributes && {OUR_RAIL} == 1',
    'device.attributes["tandem-dra.io"].?rail.orValue(-1) == 2',
    'device.attributes["tandem-dra.io"].?rail.hasValue()',
    'device.attributes[?"tandem-dra.io"].?rail.orValue(-1) >= 0',
    f"!has({OUR_RAIL}) || {OUR_RAIL} < 2",
    f"has({OUR_RAIL}) ? {OUR_RAIL} == 0 : false",
    'cel.bind(a, device.attributes["tandem-dra.io"], has(a.rail) && a.rail in [0, 1])',
    'has(device.attributes["resource.kubernetes.io"].pcieRoot)',
    'device.attributes["tandem-dra.io"].exists(name, name == "rail")',
]
TOO_NARROW = [
    f"{OUR_RAIL} == 99",
    f"has({OUR_RAIL}) && {OUR_RAIL} == 99",
    'device.attributes["tandem-dra.io"].?rail.orValue(-1) == 99',
    'has(device.attributes["tandem-dra.io"].colour)',
    '"colour" in device.attributes["tandem-dra.io"]',
    f'has({OUR_RAIL}) && device.attributes["tandem-dra.io"].uuid == "GPU-of-another-node"',
]


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("class_name", [GPU, "guarded"])
@pytest.mark.parametrize("expression", [*GUARDS, *TOO_NARROW])
def test_a_guard_makes_a_claim_nobody_elses(
    expression: str, class_name: str, published: list[ResourceSlice]
) -> None:
    assert owner(a_request("a", class_name, 1, expression), published=published) is Owner.OURS


@pytest.mark.parametrize("expression", [guard for guard in GUARDS if "tandem-dra.io" in guard])
def test_a_guard_with_our_driver_beside_it_needs_no_class_of_ours(expression: str) -> None:
    request = a_request("a", "any", 1, f"{OURS} && ({expression})")
    assert owner(request, published=PUBLISHED["both"]) is Owner.OURS


@pytest.mark.parametrize(
    "expression",
    [
        'has(device.attributes["other.example.com"].model)',
        '"model" in device.attributes["other.example.com"]',
        'device.attributes["other.example.com"].?model.orValue("") == "big"',
        'device.driver != "tandem-dra.io"',
        'has(device.attributes["unheard.example.com"].x)',
        f"!has({OUR_RAIL})",
        "true",
    ],
)
def test_what_strangers_devices_match_or_could_match_is_left_to_kube_scheduler(expression: str) -> None:
    for published in PUBLISHED.values():
        assert owner(a_request("a", "any", 1, expression), published=published) is Owner.OTHERS


def test_a_class_of_ours_and_anothers_is_the_others_as_soon_as_they_are_there() -> None:
    assert owner(a_request("a", "both"), published=PUBLISHED["theirs"]) is Owner.OTHERS
    assert owner(a_request("a", "both"), published=PUBLISHED["both"]) is Owner.OTHERS
    small = a_request("a", "both", 1, 'device.attributes["tandem-dra.io"].?type.orValue("") == "gpu"')
    assert owner(small, published=PUBLISHED["both"]) is Owner.OURS


def test_alternatives_are_ours_only_together() -> None:
    def either(*classes: str) -> dict[str, Any]:
        return {
            "name": "a",
            "firstAvailable": [{"name": f"s{i}", "deviceClassName": c} for i, c in enumerate(classes)],
        }

    assert owner(either(GPU, VF)) is Owner.OURS
    assert owner(either(GPU, "guarded")) is Owner.OURS
    assert owner(either(GPU, OTHER)) is Owner.OTHERS
    assert owner(either(GPU, OTHER), a_request("b", GPU)) is Owner.MIXED


def test_a_class_is_ours_alone_by_the_same_rule() -> None:
    ownership = Ownership(DRIVER_NAME, CEL)
    owned = {name for name, device_class in BY_NAME.items() if ownership.owns(device_class)}
    assert owned == {GPU, VF, "nic.tandem-dra.io", "guarded", "unnamed", "both"}


def test_kinds_are_few_however_many_devices_there_are() -> None:
    known = KnownDevices(DRIVER_NAME)
    known.add(DRIVER_NAME, [device for item in slices_of("n0") for device in item.spec.devices])
    version = known.version
    for number in range(1, 20):
        assert not known.add(
            DRIVER_NAME, [device for item in slices_of(f"n{number}") for device in item.spec.devices]
        )
    assert known.version == version
    assert sum(len(chunk.devices) for chunk in known.ours()) < 20


def test_a_pod_that_waits_is_looked_at_when_the_first_device_makes_its_claim_ours() -> None:
    cluster = a_cluster(0)
    cluster.state.apply_class(
        None, a_class_of("big", 'device.attributes[?"tandem-dra.io"].?memoryKind.orValue("") == "HBM9"')
    )
    wish(cluster, "p", requests=[a_request("g", "big")])
    cluster.wait(1)
    assert cluster.node_of("p-claim") is None
    special = world.slices(
        ["gpu-0: type=gpu memoryKind=HBM9"], pool=f"{DRIVER_NAME}/n0", node="n0", managed=True
    )
    cluster.add_node(a_node("n0"), special)
    cluster.wait(1)
    assert cluster.node_of("p-claim") == "n0"


CLAIMS = [
    a_claim("c", requests=[a_request("a", class_name, 1, expression)])
    for class_name in (GPU, "guarded", "any", "both")
    for expression in (*GUARDS, *TOO_NARROW)
]
EVENTS = st.lists(
    st.tuples(st.sampled_from(["slices", "claim"]), st.integers(0, 2), st.booleans()), max_size=12
)


@settings(max_examples=50, deadline=None)
@given(events=EVENTS)
def test_ownership_stays_while_devices_are_taken_and_nodes_come_and_go(
    events: list[tuple[str, int, bool]],
) -> None:
    """Once there was a node of the kind, nothing that happens to nodes and claims changes a verdict."""
    state = ClusterState(DRIVER_NAME)
    published = {number: slices_of(f"n{number}") for number in range(3)}
    for item in (*published[0], *THEIRS):
        state.apply_slice(None, item)
    ownership = Ownership(DRIVER_NAME, CEL, state.known)
    before = [ownership.of(claim, BY_NAME) for claim in CLAIMS]
    there: set[object] = {("slices", 0)}
    for what, number, comes in events:
        if comes == ((what, number) in there):
            continue
        there ^= {(what, number)}
        if what == "slices":
            for item in published[number]:
                state.apply_slice(None if comes else item, item if comes else None)
            continue
        device = published[number][0].spec.devices[0].name
        taken = a_claim(
            f"taken-{number}",
            status={
                "allocation": {
                    "devices": {
                        "results": [
                            {
                                "request": "gpu",
                                "driver": DRIVER_NAME,
                                "pool": f"{DRIVER_NAME}/n{number}",
                                "device": device,
                            }
                        ]
                    }
                }
            },
        )
        state.apply_claim(None if comes else taken, taken if comes else None, 0.0)
    assert [ownership.of(claim, BY_NAME) for claim in CLAIMS] == before
