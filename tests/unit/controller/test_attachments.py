"""Who is on which network, and where there is room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from controller.addressbook import AddressBook, Given
from controller.attachments import NetworkRefusedError, Networks, NoAddressError, choose
from controller.networks import Network
from driver.devices import Inventory
from driver.kube.fabric import FabricNetwork
from driver.kube.objects import DeviceClass, ResourceClaim
from driver.names import DRIVER_NAME
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import (
    a_claim,
    a_class,
    a_node,
    a_pod,
    a_request,
    an_inventory,
    slices_of,
)

ANYBODY: dict[str, Any] = {"selector": {}}
SMALL = {"rails": [{"rail": r, "subnets": [f"10.0.{r}.0/30"]} for r in (0, 1)]}


def networks(*, trusting: bool = False, builtin: Network | None = None, **specs: dict[str, Any]) -> Networks:
    found = Networks(DRIVER_NAME, builtin, trusting)
    for name, spec in specs.items():
        document = {"metadata": {"name": name}, "spec": {"namespaces": ANYBODY, **spec}}
        found.apply(None, msgspec.convert(document, FabricNetwork))
    return found


def attachment(network: str, *requests: str, **more: Any) -> dict[str, Any]:
    parameters = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Attachment", "network": network, **more}
    return {"requests": list(requests), "opaque": {"driver": DRIVER_NAME, "parameters": parameters}}


def claim(*configs: dict[str, Any], requests: list[dict[str, Any]] | None = None) -> ResourceClaim:
    wanted = requests or [a_request("gpu", "gpu"), a_request("nic", "vf")]
    document = {
        "metadata": {"name": "c", "namespace": "team"},
        "spec": {"devices": {"requests": wanted, "config": list(configs)}},
    }
    return msgspec.json.decode(msgspec.json.encode(document), type=ResourceClaim)


def vf_class(*configs: dict[str, Any]) -> dict[str, DeviceClass]:
    plain = msgspec.to_builtins(a_class("vf"))
    plain["spec"]["config"] = [{"opaque": config["opaque"]} for config in configs]
    return {"vf": msgspec.json.decode(msgspec.json.encode(plain), type=DeviceClass), "gpu": a_class("gpu")}


def names(found: Networks, wanted: ResourceClaim, classes: dict[str, DeviceClass]) -> dict[str, str]:
    return {request: network.name for request, network in found.of(wanted, classes).items()}


def refusal(found: Networks, wanted: ResourceClaim, classes: dict[str, DeviceClass]) -> str:
    with pytest.raises(NetworkRefusedError) as caught:
        found.of(wanted, classes)
    return str(caught.value)


def test_a_claim_names_the_network_of_its_requests() -> None:
    found = networks(blue={}, red={})
    assert names(found, claim(attachment("blue", "nic")), vf_class()) == {"nic": "blue"}
    assert names(found, claim(attachment("red")), vf_class()) == {"gpu": "red", "nic": "red"}


def test_a_class_names_it_where_the_claim_does_not() -> None:
    found = networks(blue={}, red={})
    classes = vf_class(attachment("blue"))
    assert names(found, claim(), classes) == {"nic": "blue"}
    assert names(found, claim(attachment("red", "nic")), classes) == {"nic": "red"}


def test_a_class_may_insist() -> None:
    found = networks(blue={}, red={})
    classes = vf_class(attachment("blue", enforce=True))
    assert names(found, claim(attachment("blue", "nic")), classes) == {"nic": "blue"}
    assert refusal(found, claim(attachment("red", "nic")), classes) == (
        'request "nic": names FabricNetwork red, but DeviceClass vf insists on blue'
    )
    assert "only a DeviceClass" in refusal(found, claim(attachment("blue", enforce=True)), vf_class())


def test_two_words_of_a_class_must_be_the_same() -> None:
    found = networks(blue={}, red={})
    both = vf_class(attachment("blue", enforce=True), attachment("red"))
    assert refusal(found, claim(), both) == 'DeviceClass "vf": has two Attachments that differ; right is one'
    assert names(found, claim(), vf_class(attachment("blue"), attachment("blue"))) == {"nic": "blue"}


def test_the_default_is_the_first_by_name_that_the_namespace_may_use_and_then_the_builtin_one() -> None:
    default = {"default": True}
    found = networks(zinc=default, blue=default, amber={**default, "namespaces": {"names": ["other"]}})
    assert names(found, claim(), vf_class()) == {"gpu": "blue", "nic": "blue"}
    assert names(networks(builtin=Network("")), claim(), vf_class()) == {"gpu": "", "nic": ""}
    assert names(networks(blue={}), claim(), vf_class()) == {}


def test_subrequests_have_the_network_of_their_request_or_their_own() -> None:
    subs = [{"name": name, **a_request(name, "vf")["exactly"]} for name in ("big", "small")]
    wanted = claim(attachment("blue", "nic/big"), requests=[{"name": "nic", "firstAvailable": subs}])
    classes = vf_class(attachment("red"))
    assert names(networks(blue={}, red={}), wanted, classes) == {"nic/big": "blue", "nic/small": "red"}


def test_what_a_claim_may_not_have_is_said() -> None:
    found = networks(
        private={"namespaces": {"names": ["other"]}},
        broken={"vlan": 0},
        blue={},
        mute={"namespaces": None},
        keyed={"pkey": 0x8001},
    )
    for name, says in (
        ("private", "FabricNetwork private is not for namespace team (its spec.namespaces)"),
        ("mute", "FabricNetwork mute is not for namespace team (its spec.namespaces)"),
        ("absent", "there is no FabricNetwork absent"),
        (
            "keyed",
            "FabricNetwork keyed has partition key 0x8001, which only the subnet manager "
            "can give: use a network without one",
        ),
        ("broken", "FabricNetwork broken is not valid: spec.vlan: is 0; right is 1 to 4094"),
    ):
        assert refusal(found, claim(attachment(name, "nic")), vf_class()) == f'request "nic": {says}'
    two = claim(attachment("blue", "nic"), attachment("private", "nic"))
    assert refusal(found, two, vf_class()) == 'request "nic": is on two networks, blue and private'


def test_a_namespace_is_let_in_when_it_gets_the_label_and_out_when_it_loses_it() -> None:
    found = networks(gold={"namespaces": {"selector": {"matchLabels": {"tier": "gold"}}}})
    wanted = claim(attachment("gold", "nic"))
    assert "is not for namespace team" in refusal(found, wanted, vf_class())
    found.apply_namespace("team", {"tier": "gold"})
    assert names(found, wanted, vf_class()) == {"nic": "gold"}
    found.apply_namespace("team", None)
    assert "is not for namespace team" in refusal(found, wanted, vf_class())
    trusting = networks(trusting=True, gold={"namespaces": {"selector": {"matchLabels": {"tier": "gold"}}}})
    assert names(trusting, wanted, vf_class()) == {"nic": "gold"}


def test_rails_are_open_where_they_have_a_subnet_with_a_free_address() -> None:
    found, book = networks(small=SMALL), AddressBook()
    wanted = claim(attachment("small", "nic"))
    (limit,) = found.limits([wanted], vf_class(), book)
    assert limit is not None
    assert (limit.rails, limit.requests) == (frozenset({0, 1}), frozenset({"nic"}))
    for host in (1, 2):
        book.take(Given("small", f"10.0.0.{host}/30"))
    (limit,) = found.limits([wanted], vf_class(), book)
    assert limit is not None
    assert (limit.rails, limit.reason) == (
        frozenset({1}),
        "on a rail without a free address of FabricNetwork small",
    )


def test_a_block_with_free_addresses_on_every_rail_limits_nothing() -> None:
    found = networks(blue={"blocks": [{"cidr": "10.0.0.0/29", "railPrefixLength": 30}]}, plain={})
    book = AddressBook()
    wanted = claim(attachment("blue", "nic"))
    assert found.limits([wanted, claim(attachment("plain")), claim()], vf_class(), book) == (None, None, None)
    for host in (5, 6):
        book.take(Given("blue", f"10.0.0.{host}/30"))
    (limit,) = found.limits([wanted], vf_class(), book)
    assert limit is not None
    assert limit.rails == {0}


def test_a_rail_is_open_only_if_both_families_have_an_address() -> None:
    both = {"rails": [{"rail": 0, "subnets": ["10.0.0.0/30", "fd00::/127"]}]}
    found, book = networks(both=both), AddressBook()
    network = found.of(claim(attachment("both")), vf_class())["nic"]
    assert [g.address for g in choose(network, 0, book)] == ["10.0.0.1/30", "fd00::/127"]
    for text in ("fd00::/127", "fd00::1/127"):
        book.take(Given("both", text))
    (limit,) = found.limits([claim(attachment("both", "nic"))], vf_class(), book)
    assert limit is not None
    assert limit.rails == frozenset()
    with pytest.raises(
        NoAddressError, match="rail 0: no free address left in fd00::/127 of FabricNetwork both"
    ):
        choose(network, 0, book)


def test_a_nic_that_no_subnet_is_for_is_refused_by_name_but_not_by_the_builtin_network() -> None:
    small = networks(small=SMALL).of(claim(attachment("small")), vf_class())["nic"]
    with pytest.raises(NoAddressError, match="rail 7 has no subnet in FabricNetwork small"):
        choose(small, 7, AddressBook())
    with pytest.raises(NoAddressError, match="a NIC that is on no rail has no subnet in FabricNetwork small"):
        choose(small, None, AddressBook())
    assert choose(Network("", small.rails), None, AddressBook()) == []
    assert choose(Network("bare"), 3, AddressBook()) == []


def railless(inventory: Inventory) -> Inventory:
    return replace(
        inventory,
        nics=tuple(
            replace(nic, rail=None, vfs=tuple(replace(vf, rail=None) for vf in nic.vfs))
            for nic in inventory.nics
        ),
    )


BLOCKS = {"blocks": [{"cidr": "10.0.0.0/28", "railPrefixLength": 29}]}
RAILS = {"rails": [{"rail": r, "subnets": [f"10.0.{r}.0/29"]} for r in (0, 1)]}


@pytest.mark.parametrize(
    ("network", "fuller"),
    [
        (BLOCKS, an_inventory(pairs=4, vfs=2)),
        (BLOCKS, railless(an_inventory(pairs=1, vfs=3))),
        (RAILS, railless(an_inventory(pairs=1, vfs=3))),
    ],
)
def test_nics_for_which_the_network_has_no_subnet_are_left_to_others(
    network: dict[str, Any], fuller: Inventory
) -> None:
    """There are subnets for two rails; the fuller node has free NICs beyond them, or on no rail at all."""
    spec = {"namespaces": {"selector": {}}, "default": True, **network}
    cluster = ModelCluster()
    cluster.state.apply_network(
        None, msgspec.convert({"metadata": {"name": "small"}, "spec": spec}, FabricNetwork)
    )
    cluster.add_node(a_node("n0"), slices_of("n0", fuller))
    cluster.add_node(a_node("n1"), slices_of("n1", an_inventory(pairs=4, vfs=3)))
    for name in ("p", "q"):
        cluster.put_claim(a_claim(f"{name}-claim", gpus=0, nics=3))
        cluster.put_pod(a_pod(name, [f"{name}-claim"]))
        cluster.run()
        assert {i.rail for i in cluster.placement_of(f"{name}-claim").interfaces} <= {0, 1}
