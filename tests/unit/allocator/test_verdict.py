"""What people read, and what is written into claims."""

from __future__ import annotations

import msgspec

from controller.allocator.candidates import Options
from controller.allocator.cel import CelCache
from controller.allocator.model import NodeDevices
from controller.allocator.solve import allocate
from controller.allocator.verdict import Allocation, Refusal, aggregate
from driver.kube.objects import DeviceClass, DeviceClassConfig, OpaqueConfig, ResourceClaim
from tests.unit.allocator import world

CEL = CelCache()


def refusal(message: str) -> Refusal:
    return Refusal(claim="ns/c", subject="request", message=message)


def placed(
    claim: ResourceClaim, devices: list[str], classes: dict[str, DeviceClass] | None = None
) -> Allocation:
    node = NodeDevices.build(world.slices(devices, managed=True), world.node())
    answer = allocate([claim], node, classes or world.classes(), set(), Options(), CEL)
    assert isinstance(answer, Allocation), answer
    return answer


def test_reasons_are_counted_over_nodes_most_frequent_first() -> None:
    reasons = [refusal("too far"), refusal("none free"), refusal("none free")]
    assert aggregate(reasons) == "0/3 nodes: 2 × none free; 1 × too far"


def test_a_long_list_of_reasons_ends_with_how_many_are_left_out() -> None:
    text = aggregate(refusal(f"{number:02} " + "x" * 100) for number in range(40))
    assert len(text) < 1000
    assert text.endswith("other reasons")


def test_no_nodes_at_all_is_said_plainly() -> None:
    assert aggregate([]) == "0/0 nodes"


def test_an_allocation_is_pinned_to_its_node_by_name() -> None:
    result = placed(world.claim(["g: gpu"]), ["gpu-0: type=gpu"]).claims[0].result
    assert result.node_selector is not None
    (term,) = result.node_selector.node_selector_terms
    assert [(f.key, f.operator, f.values) for f in term.match_fields] == [("metadata.name", "In", ["node"])]
    assert not term.match_expressions


def test_tolerations_go_into_the_results() -> None:
    result = placed(world.claim(["g: gpu +sick:NoExecute"]), ["gpu-0: type=gpu !sick:NoExecute"])
    (toleration,) = result.claims[0].result.devices.results[0].tolerations
    assert (toleration.key, toleration.operator, toleration.effect) == ("sick", "Exists", "NoExecute")


def test_configs_of_a_class_come_once_for_all_its_requests_and_before_the_claims_own() -> None:
    classes = world.classes()
    opaque = OpaqueConfig(driver="other.io", parameters=msgspec.Raw(b'{"x":1}'))
    spec = classes["gpu"].spec
    config = [DeviceClassConfig(opaque=opaque)]
    classes["gpu"] = DeviceClass(
        metadata=classes["gpu"].metadata, spec=type(spec)(selectors=spec.selectors, config=config)
    )
    claim = world.claim(["a: gpu", "b: gpu", "nic: nic"], config=[world.alignment(gpus="a")])
    devices = ["gpu-[0-1]: type=gpu", "vf-0: type=vf"]
    configs = placed(claim, devices, classes).claims[0].result.devices.config
    assert [(c.source, c.requests) for c in configs] == [("FromClass", ["a", "b"]), ("FromClaim", [])]


def test_the_fuller_of_two_nodes_has_the_better_score() -> None:
    claim = world.claim(["g: gpu"])
    assert placed(claim, ["gpu-0: type=gpu"]).score < placed(claim, ["gpu-[0-3]: type=gpu"]).score


def test_a_node_with_nearer_pairs_has_the_better_score_though_it_is_emptier() -> None:
    claim = world.claim(["gpu: gpu", "nic: nic"], config=[world.alignment()])
    far = placed(claim, ["gpu-0: type=gpu numaNode=0", "vf-0: type=vf numaNode=0"])
    near = placed(claim, ["gpu-[0-3]: type=gpu pcieSwitch=s#", "vf-[0-3]: type=vf pcieSwitch=s#"])
    assert near.score < far.score
