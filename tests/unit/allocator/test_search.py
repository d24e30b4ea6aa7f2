"""Laws of the allocator: what it returns keeps every rule, and it finds what brute force finds, as good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, NodeDevices
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation, Refusal
from driver.kube.objects import Device, DeviceAttribute, ResourceClaim
from driver.names import DRIVER_NAME
from tests.unit.allocator import world
from tests.unit.allocator.checker import Case, broken, choices, first
from tests.unit.allocator.pair_checker import best, goodness, violations

CEL = CelCache()
CLASSES = world.classes()
ATTRIBUTES = ("resource.kubernetes.io/pcieRoot", "resource.kubernetes.io/numaNode", "tandem-dra.io/color")


def color_is(number: int) -> str:
    return f'device.attributes["tandem-dra.io"].?color.orValue(-1) == {number}'


def matches(expression: str, device: Device) -> bool:
    """The selectors of these tests, said in Python."""
    kind, color = device.attributes.get("type"), device.attributes.get("color")
    meanings = {
        CLASSES["gpu"].spec.selectors[0].cel.expression: kind is not None and kind.string == "gpu",  # type: ignore[union-attr]
        CLASSES["nic"].spec.selectors[0].cel.expression: kind is not None and kind.string in ("nic", "vf"),  # type: ignore[union-attr]
        "true": True,
        color_is(0): color is not None and color.int_ == 0,
        color_is(1): color is not None and color.int_ == 1,
    }
    return meanings[expression]


def run(case: Case, *, steps: int = 20_000, mating_steps: int = 1_000) -> Allocation | Refusal:
    slices = world.of_devices(case.devices, case.counters)
    node = NodeDevices.build(slices, world.node())
    taken = {DeviceId(DRIVER_NAME, "pool", name) for name in case.taken}
    return allocate(
        case.claims,
        node,
        case.classes,
        taken,
        Options(managed_only=case.managed, steps=steps, mating_steps=mating_steps),
        CEL,
        limits=[case.limits.get(i) for i in range(len(case.claims))],
    )


def outcome(answer: Allocation) -> tuple[list[list[tuple[str, str]]], list[list[tuple[str, str, str]]]]:
    results = [[(r.request, r.device) for r in one.result.devices.results] for one in answer.claims]
    pairs = [[(p.gpu.id.device, p.nic.id.device, p.tier.name) for p in one.pairs] for one in answer.claims]
    return results, pairs


def check(case: Case) -> None:
    """Against brute force, which goes Kubernetes' way but for claims with pairs."""
    answer = run(case)
    if case.limits or any(claim.spec.devices.config for claim in case.claims):
        found: tuple[list[str], tuple[int, ...] | None] | None = best(case, matches)
    else:
        names = first(case, matches)
        found = None if names is None else (names, None)
    if isinstance(answer, Refusal):
        event("refused")
        assert not answer.gave_up
        assert not answer.unsupported
        assert found is None, f"{answer.message}, but there is {found}"
        return
    event("placed")
    results, pairs = outcome(answer)
    assert violations(case, matches, results, pairs) == []
    assert found is not None
    names, goal = found
    assert sorted({request for claim in results for request, _ in claim}) == sorted(set(names))
    assert goal in (None, goodness(_ranks(case.claims, pairs)))


def _ranks(claims: Sequence[ResourceClaim], pairs: Sequence[Sequence[tuple[str, str, str]]]) -> Counter[int]:
    """All alignments of these tests prefer in the tiers' order, so a tier's number is its rank."""
    order = {name: rank for rank, name in enumerate(("PIX", "PXB", "PHB", "NODE", "SYS"))}
    return Counter(order[tier] for claim in pairs for _, _, tier in claim)


@st.composite
def devices(draw: st.DrawFn, *, most: int = 7, counters: bool = False, mixed: bool = False) -> list[Device]:
    """`mixed`: GPUs and VFs by turns, most of them free to take."""
    lines = []
    for number in range(draw(st.integers(most - 2 if mixed else 3, most))):
        kind = ("gpu", "vf")[number % 2] if mixed else draw(st.sampled_from(["gpu", "vf"]))
        root = draw(st.integers(0, 2))
        words = [f"{kind}-{number}: type={kind}"]
        words += draw(st.sampled_from([[f"pcieRoot=r{root}", f"numaNode={root // 2}"], ["numaNode=0"], []]))
        if len(words) == 3 and draw(st.booleans()):
            words.append(f"pcieSwitch=s{root}")
        if draw(st.booleans()):
            words.append(f"color={draw(st.integers(0, 1))}")
        words += draw(
            st.sampled_from([[], [], [], [], [], ["!broken:NoSchedule"], ["!tandem-dra.io/held:None"]])
        )
        if counters:
            words += draw(st.sampled_from([[], ["-s.a=1"], ["-s.a=2", "-s.b=1"], ["-s.b=2"]]))
        lines.append(" ".join(words))
    return [world.device(line, managed=mixed or draw(st.integers(0, 19)) > 0) for line in lines]


@st.composite
def requests(draw: st.DrawFn, name: str, *, several: bool = False) -> str:
    def one() -> str:
        text = draw(st.sampled_from(["gpu", "nic", "any"]))
        text += draw(st.sampled_from(["", "", "", "", "", " x2", " x2", " x3", " all"]))
        text += draw(st.sampled_from(["", "", "", " +broken:"]))
        return text + draw(st.sampled_from(["", "", "", "", f" if {color_is(0)}", f" if {color_is(1)}"]))

    options = [one() for _ in range(draw(st.integers(1, 3)) if several else 1)]
    return f"{name}: {' | '.join(options)}"


@st.composite
def claims(draw: st.DrawFn, *, flexible: bool = False) -> list[ResourceClaim]:
    answer = []
    for number in range(draw(st.integers(1, 2))):
        names = [f"r{i}" for i in range(draw(st.integers(1, 3 - number)))]
        some = st.lists(st.sampled_from(names), unique=True)
        rules: st.SearchStrategy[list[tuple[str, list[str]]]] = st.just([]) | st.lists(
            st.tuples(st.sampled_from(ATTRIBUTES), some), max_size=2
        )
        answer.append(
            world.claim(
                [draw(requests(name, several=flexible)) for name in names],
                name=f"c{number}",
                match=draw(rules),
                distinct=draw(st.just([]) | rules),
            )
        )
    return answer


LAW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make(
    found: Sequence[Device],
    wanted: Sequence[ResourceClaim],
    taken: set[int],
    counters: Mapping[str, Mapping[str, str]],
) -> Case:
    names = frozenset(found[i].name for i in taken if i < len(found))
    return Case(found, CLASSES, wanted, names, counters)


@LAW
@given(devices(), claims(), st.sets(st.integers(0, 6), max_size=2))
def test_exact_requests_are_met_when_they_can_be(
    found: list[Device], wanted: list[ResourceClaim], taken: set[int]
) -> None:
    check(make(found, wanted, taken, {}))


@LAW
@given(devices(most=6), claims(flexible=True))
def test_the_first_possible_subrequests_are_chosen(found: list[Device], wanted: list[ResourceClaim]) -> None:
    check(make(found, wanted, set(), {}))


@LAW
@given(devices(counters=True), claims(), st.sets(st.integers(0, 6), max_size=2), st.integers(1, 4))
def test_counters_are_never_overdrawn(
    found: list[Device], wanted: list[ResourceClaim], taken: set[int], limit: int
) -> None:
    check(make(found, wanted, taken, {"s": {"a": str(limit), "b": "3"}}))


@st.composite
def aligned(draw: st.DrawFn) -> list[ResourceClaim]:
    answer = []
    for number in range(draw(st.integers(1, 2))):
        more = {"require": draw(st.sampled_from(["PIX", "PHB", "NODE", "SYS", "SYS"]))}
        gpus, nics = draw(
            st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 2), (1, 2), (2, 1), (3, 1), (1, 3), (3, 2)])
        )
        wanted = [f"gpu: gpu x{gpus}", f"nic: nic x{nics}"]
        if draw(st.integers(0, 3)) == 0:
            wanted.append(draw(requests("other")))
        match = draw(st.sampled_from([[], [], [], [(ATTRIBUTES[1], ["gpu", "nic"])]]))
        distinct = draw(st.sampled_from([[], [], [], [(ATTRIBUTES[0], ["nic"])]]))
        answer.append(
            world.claim(
                wanted, name=f"c{number}", match=match, distinct=distinct, config=[world.alignment(**more)]
            )
        )
    return answer


@settings(LAW, max_examples=250)
@given(devices(most=8, mixed=True), aligned())
def test_pairs_are_as_near_as_the_best(found: list[Device], wanted: list[ResourceClaim]) -> None:
    check(make(found, wanted, set(), {}))


@st.composite
def limited(draw: st.DrawFn) -> tuple[list[Device], dict[int, Limit]]:
    """Devices, some NICs among them on rails, and a limit on one claim or two."""
    found = []
    for one in draw(devices(most=8, mixed=True)):
        rail = draw(st.sampled_from([None, 0, 0, 1, 1, 2]))
        if rail is not None and one.name.startswith("vf"):
            attributes = {**one.attributes, "rail": DeviceAttribute(int_=rail)}
            one = msgspec.structs.replace(one, attributes=attributes)
        found.append(one)
    rails = st.frozensets(st.integers(0, 2), max_size=3)
    limits = st.builds(Limit, rails, st.just("closed"), st.sampled_from([True, True, False]))
    return found, draw(st.dictionaries(st.integers(0, 1), limits, min_size=1))


@settings(LAW, max_examples=250)
@given(limited(), st.one_of(aligned(), claims(), claims(flexible=True)))
def test_limits_on_rails_are_kept_and_met_where_they_can_be(
    found: tuple[list[Device], dict[int, Limit]], wanted: list[ResourceClaim]
) -> None:
    limits = {index: limit for index, limit in found[1].items() if index < len(wanted)}
    check(Case(found[0], CLASSES, wanted, limits=limits))


@LAW
@given(devices(most=8, mixed=True), st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 1)]), st.permutations("gn"))
def test_claims_of_one_pod_are_as_near_to_each_other_as_can_be(
    found: list[Device], counts: tuple[int, int], order: list[str]
) -> None:
    wanted = {
        "g": world.claim([f"gpu: gpu x{counts[0]}"], name="g"),
        "n": world.claim([f"nic: nic x{counts[1]}"], name="n"),
    }
    case = make(found, [wanted[name] for name in order], set(), {})
    answer, goal = run(case), best(case, matches)
    assert isinstance(answer, Allocation) == (goal is not None)
    if isinstance(answer, Allocation) and goal is not None:
        assert goodness(_ranks(case.claims, outcome(answer)[1])) == goal[1]


@st.composite
def unaligned(draw: st.DrawFn) -> list[ResourceClaim]:
    """GPUs and NICs in one claim or two, of which no Alignment says what pairs with what; perhaps one does of
    some of them.
    """
    wanted = draw(
        st.sampled_from(
            [
                ["gpu: gpu", "nic: nic"],
                ["gpu: gpu x2", "nic: nic x2"],
                ["gpu: gpu", "nic: nic x2"],
                ["gpu: gpu x3", "nic: nic x2"],
                ["gpu: gpu", "nic: nic", "gpu2: gpu", "nic2: nic"],
                ["gpu: gpu", "gpu2: gpu", "nic: nic x2"],
                ["gpu: gpu x2", "nic: nic", "nic2: nic"],
                ["gpu: gpu x2", "nic: nic x2", "nic2: nic"],
            ]
        )
    )
    names = [request.partition(":")[0] for request in wanted]
    some = st.lists(st.sampled_from(names), unique=True, max_size=2)
    match = draw(st.just([]) | st.lists(st.tuples(st.sampled_from(ATTRIBUTES), some), max_size=1))
    config = draw(st.sampled_from([[], [], [world.alignment()]]))
    where = draw(st.integers(0, len(wanted))) if not match and not config else 0
    parts = [part for part in (wanted[where:], wanted[:where]) if part]
    return [
        world.claim(part, name=f"c{number}", match=match, config=config) for number, part in enumerate(parts)
    ]


@settings(LAW, max_examples=250)
@given(devices(most=8, mixed=True), unaligned(), st.sets(st.integers(0, 7), max_size=1))
def test_pairs_that_nobody_asked_for_are_as_near_as_the_best_and_cost_no_claim_its_place(
    found: list[Device], wanted: list[ResourceClaim], taken: set[int]
) -> None:
    case = make(found, wanted, taken, {})
    answer, goal = run(case), best(case, matches)
    assert isinstance(answer, Allocation) == (goal is not None)
    if isinstance(answer, Allocation) and goal is not None:
        results, pairs = outcome(answer)
        assert violations(case, matches, results, pairs) == []
        assert goodness(_ranks(case.claims, pairs)) == goal[1]


@pytest.mark.parametrize("tries", [0, 1, 2])
@LAW
@given(found=devices(most=8, mixed=True), wanted=unaligned())
def test_where_the_search_for_pairs_is_cut_short_the_claims_are_placed_all_the_same(
    tries: int, found: list[Device], wanted: list[ResourceClaim]
) -> None:
    case = make(found, wanted, set(), {})
    whole = run(case)
    answer = run(case, mating_steps=tries)
    assert isinstance(answer, Allocation) == isinstance(whole, Allocation)
    if isinstance(answer, Allocation):
        parts = next(iter(choices(case, matches)))
        results, _ = outcome(answer)
        placement = {
            (part.claim, part.name): tuple(d for request, d in results[part.claim] if request == part.name)
            for part in parts
        }
        assert broken(case, parts, placement) == []


@LAW
@given(devices(most=8, mixed=True), aligned())
def test_equal_questions_get_equal_answers(found: list[Device], wanted: list[ResourceClaim]) -> None:
    case = make(found, wanted, set(), {})
    assert run(case) == run(case)


@pytest.mark.parametrize(
    ("gpus", "wanted", "nic_roots", "vfs"), [(8, 4, 3, 16), (8, 5, 4, 8), (8, 8, 7, 32), (16, 16, 15, 64)]
)
@pytest.mark.parametrize("how", ["matchAttribute", "Alignment"])
def test_pigeonholes_are_refused_at_once(gpus: int, wanted: int, nic_roots: int, vfs: int, how: str) -> None:
    lines = [f"gpu-{i}: type=gpu pcieRoot=r{i} pcieSwitch=s{i}" for i in range(gpus)]
    lines += [f"vf-{i}-[1-{vfs}]: type=vf pcieRoot=r{i} pcieSwitch=s{i}" for i in range(nic_roots)]
    if how == "Alignment":
        claim = world.claim(
            [f"gpu: gpu x{wanted}", f"nic: nic x{wanted}"], config=[world.alignment(require="PIX")]
        )
    else:
        claim = world.claim(
            [f"{kind}{i}: {kind}" for i in range(wanted) for kind in ("gpu", "nic")],
            match=[(ATTRIBUTES[0], [f"gpu{i}", f"nic{i}"]) for i in range(wanted)],
        )
    node = NodeDevices.build(world.slices(lines, managed=True, cut=64), world.node())
    answer = allocate([claim], node, CLASSES, set(), Options(steps=1), CEL)
    assert isinstance(answer, Refusal)
    assert not answer.gave_up
    assert str(nic_roots) in answer.message
