from __future__ import annotations

from typing import Any

import msgspec
import pytest

from driver.errors import RetryableError
from driver.kube.decoding import Decoder
from driver.kube.objects import ResourceClaim
from kubeletplugin.claims import AllocatedClaim, ClaimError, ClaimNotReadyError, ours_on, read
from tests.unit.kube.hostile import HOSTILE
from tests.unit.kubeletplugin.world import DRIVER, GPUS, NODE, VFS, claim, config, placement


def wire(obj: dict[str, Any]) -> ResourceClaim:
    return msgspec.json.decode(msgspec.json.encode(obj), type=ResourceClaim)


def taken(obj: dict[str, Any]) -> AllocatedClaim:
    return read(wire(obj), DRIVER, NODE)


def test_only_our_results_are_taken_in_their_order() -> None:
    obj = claim("c", [VFS[0], GPUS[0]])
    other = {"request": "disk", "driver": "disk.example", "pool": "p", "device": "d"}
    obj["status"]["allocation"]["devices"]["results"].insert(1, other)
    assert [device.device for device in taken(obj).devices] == [VFS[0], GPUS[0]]


def test_a_subrequests_part_is_left_out_of_the_request() -> None:
    obj = claim("c", [GPUS[0]])
    obj["status"]["allocation"]["devices"]["results"][0]["request"] = "gpu/big"
    assert taken(obj).devices[0].request == "gpu"


def test_pods_alone_are_consumers() -> None:
    obj = claim("c", [GPUS[0]], pods=["a"])
    other = {"apiGroup": "x.example", "resource": "pods", "name": "b", "uid": "b"}
    obj["status"]["reservedFor"].append(other)
    assert [pod.uid for pod in taken(obj).consumers] == ["uid-a"]


@pytest.mark.parametrize("generated", [True, False])
def test_a_claim_made_for_one_pod_cannot_be_joined(generated: bool) -> None:
    assert taken(claim("c", [GPUS[0]], generated=generated)).joinable is not generated


def test_the_controllers_placement_is_believed_the_last_one_if_a_class_has_one_too() -> None:
    first, last = (placement((VFS[0], name, [])) for name in ("eth9", "net1"))
    found = taken(claim("c", [VFS[0]], configs=[config(first), config(last)])).placement
    assert found is not None
    assert found.interfaces[0].interface == "net1"


def test_a_placement_from_the_claim_is_a_forgery() -> None:
    word = placement((VFS[0], "net1", []))
    with pytest.raises(ClaimError, match=r"claim ns/c: .*config\[0\].*FromClaim; only the controller"):
        taken(claim("c", [VFS[0]], configs=[config(word, source="FromClaim")]))


def test_a_wrong_configuration_names_where_it_is() -> None:
    wrong = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Alignment", "pairs": {"gpus": "a", "nix": "b"}}
    with pytest.raises(ClaimError, match=r"config\[0\].opaque.parameters: .*nix"):
        taken(claim("c", [GPUS[0]], configs=[config(wrong, source="FromClaim")]))


@pytest.mark.parametrize("name", ["deep", "half a pair"])
def test_a_claim_is_read_whatever_other_drivers_parameters_and_ours_are_an_error_of_it(name: str) -> None:
    obj = claim("c", [GPUS[0]])
    entry = {"source": "FromClaim", "opaque": {"driver": "other.io", "parameters": "HERE"}}
    obj["status"]["allocation"]["devices"]["config"] = [entry]
    for driver, parameters in (("other.io", HOSTILE[name]), (DRIVER, HOSTILE[name])):
        entry["opaque"] = {"driver": driver, "parameters": "HERE"}
        text = msgspec.json.encode(obj).replace(b'"HERE"', parameters)
        read_by_the_client = Decoder(ResourceClaim).decode(text)
        if driver == "other.io":
            assert [device.device for device in read(read_by_the_client, DRIVER, NODE).devices] == [GPUS[0]]
        else:
            with pytest.raises(ClaimError, match=r"config\[0\].opaque.parameters: (is nested|has)"):
                read(read_by_the_client, DRIVER, NODE)


def test_configurations_of_other_drivers_are_none_of_ours() -> None:
    other = config({"anything": 1})
    other["opaque"]["driver"] = "other.example"
    assert taken(claim("c", [GPUS[0]], configs=[other])).placement is None


def test_a_claim_of_another_node_is_refused_with_both_pools() -> None:
    with pytest.raises(
        ClaimError, match=r"of pool tandem-dra.io/node-b; this node's is tandem-dra.io/node-a"
    ):
        taken(claim("c", [GPUS[0]], pool="tandem-dra.io/node-b"))


@pytest.mark.parametrize("status", [{}, {"allocation": {"devices": {}}}])
def test_what_is_not_allocated_or_not_reserved_may_be_so_later(status: dict[str, Any]) -> None:
    with pytest.raises(ClaimNotReadyError) as error:
        taken(claim("c", []) | {"status": status})
    assert isinstance(error.value, RetryableError)


def test_ours_on_asks_for_our_pool_and_a_reservation() -> None:
    assert ours_on(wire(claim("c", [GPUS[0]])), DRIVER, NODE)
    assert not ours_on(wire(claim("c", [GPUS[0]])), DRIVER, "node-b")
    assert not ours_on(wire(claim("c", [GPUS[0]], pods=[])), DRIVER, NODE)
