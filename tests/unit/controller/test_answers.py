"""Laws of shared answers: each is what asking the node itself gives, and keeps every rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.reads import reads
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation, Refusal
from controller.choice import Chooser
from controller.draft import Draft
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState
from driver.kube.objects import (
    AllocationResult,
    Device,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    ResourceClaim,
    ResourceClaimStatus,
)
from driver.names import DRIVER_NAME
from tests.unit.allocator import world
from tests.unit.allocator.checker import Case
from tests.unit.allocator.pair_checker import violations
from tests.unit.controller.things import a_node, a_pod

CEL = CelCache()
CLASSES = world.classes()
NODES = ("n0", "n1", "n2")
OURS = f'device.attributes["{DRIVER_NAME}"]'
ROOT = "resource.kubernetes.io/pcieRoot"

FIRST_VF = f"{OURS}.?vfIndex.orValue(0) == 0"
ON_N1 = f'{OURS}.?uuid.orValue("").startsWith("n1-")'
IDENTIFIED = f'{OURS}.exists(name, name == "uuid")'
PAIR = [world.alignment("g", "n")]
NEAR = [world.alignment("g", "n", require="NODE")]

ASKED: Sequence[Callable[[], ResourceClaim]] = (
    lambda: world.claim(["g: gpu", "n: nic"], config=PAIR),
    lambda: world.claim(["g: gpu x2", "n: nic x2"], config=PAIR),
    lambda: world.claim(["g: gpu x2", "n: nic"], config=NEAR),
    lambda: world.claim(["n: nic x2"]),
    lambda: world.claim(["g: gpu", "n: nic"], match={ROOT: ["g", "n"]}),
    lambda: world.claim(["n: nic x2"], distinct=[(f"{DRIVER_NAME}/vfIndex", ["n"])]),
    lambda: world.claim(["g: gpu x2"], match={f"{DRIVER_NAME}/uuid": ["g"]}),
    lambda: world.claim([f"n: nic if {FIRST_VF}"]),
    lambda: world.claim([f"g: gpu if {ON_N1}"]),
    lambda: world.claim([f"g: gpu if {IDENTIFIED}", "n: nic"]),
    lambda: world.claim(["g: gpu", "n: nic all"]),
    lambda: world.claim(["n: nic", "g: gpu x2 | gpu"]),
    lambda: world.claim(["g: gpu admin"]),
    lambda: world.claim(["s: share mem~3Gi"]),
)


def matches(expression: str, device: Device) -> bool:
    """The selectors of these tests, said in Python."""
    kind, number, uuid = (device.attributes.get(name) for name in ("type", "vfIndex", "uuid"))
    meanings: Mapping[str, bool] = {
        _selector("gpu"): kind is not None and kind.string == "gpu",
        _selector("nic"): kind is not None and kind.string == "vf",
        FIRST_VF: number is None or number.int_ == 0,
        ON_N1: uuid is not None and (uuid.string or "").startswith("n1-"),
        IDENTIFIED: uuid is not None,
    }
    return meanings[expression]


def _selector(name: str) -> str:
    cel = CLASSES[name].spec.selectors[0].cel
    assert cel is not None
    return cel.expression


@st.composite
def machines(draw: st.DrawFn) -> list[str]:
    """Switches with GPUs and VFs; some draw from counters, some are shared by many."""
    lines = []
    counters = draw(st.booleans())
    for switch in range(draw(st.integers(1, 2))):
        place = f"pcieSwitch=s{switch} pcieRoot=r{switch // 2} numaNode={switch // 2} rail={switch}"
        for number in range(draw(st.integers(1, 2))):
            drawn = " -s.a=2" if counters else ""
            lines.append(f"gpu-{switch}-{number}: type=gpu {place} uuid=NODE-{switch}-{number}{drawn}")
        for number in range(draw(st.integers(0, 4))):
            drawn = " -s.a=1" if counters and draw(st.booleans()) else ""
            lines.append(f"vf-{switch}-{number}: type=vf {place} vfIndex={number}{drawn}")
    if draw(st.booleans()):
        lines.append("shared-0: type=share mem~8Gi multi")
    order = draw(st.permutations(lines))
    return ["!counters", *order] if counters else list(order)


class Cluster:
    """Three nodes that publish the same but for names and identities."""

    def __init__(self, machine: Sequence[str]) -> None:
        self.state = ClusterState(DRIVER_NAME)
        classes = world.classes(share=f'{OURS}.?type.orValue("") == "share"')
        for device_class in classes.values():
            self.state.apply_class(None, device_class)
        lines = [line for line in machine if not line.startswith("!")]
        self.counters = {"s": {"a": "5"}} if len(lines) < len(machine) else None
        self.devices: dict[str, list[Device]] = {}
        for name in NODES:
            self.state.apply_node(None, a_node(name))
            mine = [world.device(line.replace("NODE", name), managed=True) for line in lines]
            self.devices[name] = mine
            for item in world.of_devices(mine, self.counters, pool=f"pool-of-{name}", node=name, cut=4):
                self.state.apply_slice(None, item)
        self.chooser = Chooser(self.state, PlacementSettings(), CEL)
        self.claims: list[ResourceClaim] = []

    def ask(self, claim: ResourceClaim, node: str, draft: Draft | None = None) -> Allocation | Refusal:
        return self.chooser.answer(Quest(a_pod("p"), (claim,), draft=draft), node)

    def ask_directly(self, claim: ResourceClaim, node: str) -> Allocation | Refusal:
        record = self.state.nodes[node]
        devices = self.state.index.devices(record)
        assert devices is not None
        taken, shared = self.state.index.taken(record), self.state.index.shared(record)
        return allocate([claim], devices, self.state.classes, taken, Options(), CEL, shared)

    def place(self, claim: ResourceClaim, node: str) -> None:
        """Where it can be had."""
        answer = self.ask(claim, node)
        if isinstance(answer, Allocation):
            status = msgspec.structs.replace(claim.status, allocation=answer.claims[0].result)
            placed = msgspec.structs.replace(claim, status=status)
            self.state.apply_claim(None, placed, 0.0)
            self.claims.append(placed)

    def take(self, node: str, number: int) -> None:
        """Let somebody else hold one of the devices."""
        devices = self.devices[node]
        device = devices[number % len(devices)]
        if not device.allow_multiple_allocations:
            uid = f"{node}/{device.name}"
            claim = world.claim(["g: gpu"], name=uid)
            result = DeviceRequestAllocationResult(
                request="g", driver=DRIVER_NAME, pool=f"pool-of-{node}", device=device.name
            )
            allocation = AllocationResult(devices=DeviceAllocationResult(results=[result]))
            status = ResourceClaimStatus(allocation=allocation)
            self.state.apply_claim(None, msgspec.structs.replace(claim, status=status), 0.0)

    def release(self, number: int) -> None:
        if self.claims:
            self.state.apply_claim(self.claims.pop(number % len(self.claims)), None, 0.0)

    def case(self, claim: ResourceClaim, node: str) -> Case:
        taken = frozenset(device.device for device in self.state.index.taken(self.state.nodes[node]))
        return Case(self.devices[node], self.state.classes, [claim], taken, self.counters or {}, managed=True)


def named(claim: ResourceClaim, number: int) -> ResourceClaim:
    metadata = msgspec.structs.replace(claim.metadata, name=f"c{number}", uid=f"uid-{number}")
    return msgspec.structs.replace(claim, metadata=metadata)


def worth(answer: Allocation) -> tuple[Any, ...]:
    return answer.score, sorted(pair.tier for share in answer.claims for pair in share.pairs)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    machines(),
    st.sets(st.tuples(st.sampled_from(NODES), st.integers(0, 15)), max_size=12),
    st.lists(st.tuples(st.integers(0, len(ASKED) - 1), st.sampled_from(NODES), st.booleans()), max_size=4),
    st.sets(st.integers(0, len(ASKED) - 1), min_size=1, max_size=3),
)
@example(
    [
        *(f"vf-0-{n}: type=vf pcieSwitch=s0 pcieRoot=r0 numaNode=0 rail=0 vfIndex={n}" for n in (0, 1)),
        "vf-1-0: type=vf pcieSwitch=s1 pcieRoot=r0 numaNode=0 rail=1 vfIndex=0",
        *(f"vf-0-{n}: type=vf pcieSwitch=s0 pcieRoot=r0 numaNode=0 rail=0 vfIndex={n}" for n in (2, 3)),
        *(f"gpu-1-{n}: type=gpu pcieSwitch=s1 pcieRoot=r0 numaNode=0 rail=1 uuid=NODE-1-{n}" for n in (0, 1)),
        "gpu-0-0: type=gpu pcieSwitch=s0 pcieRoot=r0 numaNode=0 rail=0 uuid=NODE-0-0",
        *(f"vf-1-{n}: type=vf pcieSwitch=s1 pcieRoot=r0 numaNode=0 rail=1 vfIndex={n}" for n in (1, 2)),
        "shared-0: type=share mem~8Gi multi",
    ],
    {("n2", 14), ("n2", 5), ("n2", 0)},
    [],
    {3},
)
def test_a_shared_answer_is_what_asking_the_node_itself_gives(
    machine: list[str],
    held: set[tuple[str, int]],
    history: list[tuple[int, str, bool]],
    wanted: set[int],
) -> None:
    cluster = Cluster(machine)
    for node, device in held:
        cluster.take(node, device)
    for number, (which, node, release) in enumerate(history):
        if release:
            cluster.release(which)
        cluster.place(named(ASKED[which](), number), node)
    for number in wanted:
        for node in NODES:
            claim = named(ASKED[number](), 100 + number)
            answer, direct = cluster.ask(claim, node), cluster.ask_directly(claim, node)
            assert type(answer) is type(direct), (answer, direct)
            if not isinstance(answer, Allocation) or not isinstance(direct, Allocation):
                event("refused")
                continue
            event("placed")
            assert worth(answer) == worth(direct)
            (share,) = answer.claims
            results = share.result.devices.results
            assert {result.pool for result in results} == {f"pool-of-{node}"}
            assert [result.device for result in results] == [d.id.device for d in share.devices]
            real = {device.name: device for device in cluster.devices[node]}
            assert all(device.device == real[device.id.device] for device in share.devices)
            if "shared-0" not in real and not results[0].admin_access:
                chosen = [(result.request, result.device) for result in results]
                pairs = [(pair.gpu.id.device, pair.nic.id.device, pair.tier.name) for pair in share.pairs]
                assert violations(cluster.case(claim, node), matches, [chosen], [pairs]) == []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(machines(), st.lists(st.integers(0, len(ASKED) - 1), min_size=1, max_size=6))
def test_a_draft_takes_what_the_state_would_once_it_is_written(machine: list[str], wanted: list[int]) -> None:
    drafted, written = Cluster(machine), Cluster(machine)
    draft = Draft()
    for number, which in enumerate(wanted):
        claim = named(ASKED[which](), number)
        answer, again = drafted.ask(claim, "n0", draft), written.ask(claim, "n0")
        assert type(answer) is type(again)
        if isinstance(answer, Allocation) and isinstance(again, Allocation):
            assert [share.result for share in answer.claims] == [share.result for share in again.claims]
            draft = draft.plus("n0", a_pod(f"p{number}"), answer)
            written.place(claim, "n0")
    other = drafted.ask(named(ASKED[3](), 99), "n1", draft)
    assert type(other) is type(drafted.ask(named(ASKED[3](), 99), "n1")), "another node has nothing of it"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('device.driver == "d"', set()),
        (f'device.driver == "d" && {OURS}.type == "gpu"', {"type"}),
        (f'{OURS}["type"] in ["a"] || {OURS}.?rail.orValue(0) == 1', {"type", "rail"}),
        ("device . attributes [ 'd' ] . uuid == 'x'", {"uuid"}),
        (f"has({OURS}.uuid)", {"uuid"}),
        (IDENTIFIED, None),
        (f'"uuid" in {OURS}', None),
        ('device.attributes["d"][device.driver] == 1', None),
        ("device.attributes.size() > 0", None),
        ('device.attributes["d"].all(k, true)', None),
        (f"cel.bind(a, {OURS}, a.uuid == 'x')", None),
        ('device.attributes["d"]["uu" + "id"] == "x"', None),
        (r'device.attributes["d"]["\u0075uid"] == "x"', None),
        ("device.attributes['d'].type // .x\n == 'a'", None),
    ],
)
def test_what_a_selector_reads_is_told_where_it_is_plain(expression: str, names: set[str] | None) -> None:
    assert reads(expression) == names
