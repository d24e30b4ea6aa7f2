"""Who was refused is looked at again when what was in the way is gone, wherever that was."""

from __future__ import annotations

from ipaddress import IPv4Network

import msgspec

from controller.networks import Network
from driver.kube.objects import DeviceAttribute, DeviceClass, ObjectMeta, ResourceSlice
from driver.names import DRIVER_NAME
from tests.unit.controller.model import ModelCluster
from tests.unit.controller.things import OURS, a_claim, a_node, a_pod, a_request, an_inventory, slices_of

ALIGNMENT = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Alignment"}


def test_what_closes_a_node_to_others_does_not_close_it_to_a_pod_that_is_pinned_by_node_name() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("n0", cpu="4"))
    cluster.put_claim(a_claim("c"))
    cluster.put_claim(a_claim("d"))
    cluster.put_pod(a_pod("large", ["c"], cpu="6"))
    cluster.run()
    cluster.put_pod(a_pod("pinned", ["d"], cpu="6", node="n0"))
    cluster.run()
    assert cluster.node_of("c") is None
    assert cluster.node_of("d") == "n0"


def test_an_address_that_comes_free_on_a_rail_that_had_too_few_wakes_who_waits_for_another_node() -> None:
    cluster = ModelCluster(
        fabric=Network.cut(IPv4Network("10.0.0.0/29"), 30)
    )  # two rails, two addresses each
    cluster.add_node(a_node("n0"), slices_of("n0", an_inventory(pairs=1, vfs=1)))
    cluster.add_node(a_node("n1"), slices_of("n1", an_inventory(pairs=1, vfs=4)))
    cluster.put_claim(a_claim("p-claim", gpus=0, nics=1))
    cluster.put_pod(a_pod("p", ["p-claim"], node="n0"))
    cluster.run()
    cluster.put_claim(a_claim("q-claim", gpus=0, nics=2))
    cluster.put_pod(a_pod("q", ["q-claim"]))
    cluster.run()
    assert cluster.node_of("q-claim") is None
    cluster.delete_pod("p")
    cluster.delete_claim("p-claim")
    cluster.wait(1)
    assert cluster.node_of("q-claim") == "n1"


def test_a_selector_that_looks_at_what_no_device_says_yet_is_asked_again_when_devices_say_more() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("n0"))
    gpu = a_request("gpu", "gpu.tandem-dra.io", 1, f'device.attributes["{DRIVER_NAME}"].flavour == "new"')
    cluster.put_claim(a_claim("c", requests=[gpu]))
    cluster.put_pod(a_pod("p", ["c"]))
    cluster.wait(1)
    assert "flavour" in cluster.messages("p", "Unsatisfiable")[0]
    for item in slices_of("n0"):
        devices = [
            msgspec.structs.replace(
                device, attributes={**device.attributes, "flavour": DeviceAttribute(string="new")}
            )
            for device in item.spec.devices
        ]
        spec = msgspec.structs.replace(item.spec, devices=devices)
        cluster.state.apply_slice(item, msgspec.structs.replace(item, spec=spec))
    cluster.wait(1)
    assert cluster.node_of("c") == "n0"


def test_a_request_on_the_wrong_side_of_a_pair_is_asked_again_when_a_node_has_the_right_devices() -> None:
    cluster = ModelCluster()
    cluster.add_node(a_node("n0"), flavoured("n0", "vf"))
    cluster.add_node(a_node("n1"), flavoured("n1", "gpu"))
    for item in flavoured("n1", "gpu"):  # so that their return shows nothing new but that they are there
        cluster.state.apply_slice(item, None)
    new = f'{OURS} && device.attributes["{DRIVER_NAME}"].?flavour.orValue("") == "new"'
    requests = [a_request("gpu", "any", 1, new), a_request("nic", "rdma-vf.tandem-dra.io", 1)]
    cluster.state.apply_class(None, DeviceClass(metadata=ObjectMeta(name="any")))
    parameters = {**ALIGNMENT, "pairs": {"gpus": "gpu", "nics": "nic"}}
    config = [{"opaque": {"driver": DRIVER_NAME, "parameters": parameters}}]
    cluster.put_claim(a_claim("c", spec={"devices": {"requests": requests, "config": config}}))
    cluster.put_pod(a_pod("p", ["c"]))
    cluster.wait(1)
    assert "which yields NICs (vf) and no GPU" in cluster.messages("p", "Unsatisfiable")[0]
    for item in flavoured("n1", "gpu"):
        cluster.state.apply_slice(None, item)
    cluster.wait(1)
    assert cluster.node_of("c") == "n1"


def flavoured(node: str, kind: str) -> list[ResourceSlice]:
    """Slices in which devices of this type have a new flavour."""
    replace = msgspec.structs.replace
    flavour = {"flavour": DeviceAttribute(string="new")}
    return [
        replace(
            item,
            spec=replace(
                item.spec,
                devices=[
                    replace(device, attributes={**device.attributes, **flavour})
                    if device.attributes["type"].string == kind
                    else device
                    for device in item.spec.devices
                ],
            ),
        )
        for item in slices_of(node)
    ]


def test_nothing_is_remembered_of_a_claim_that_left_before_its_write_failed() -> None:
    cluster = ModelCluster(slow=True)
    cluster.add_node(a_node("n0"))
    cluster.put_claim(a_claim("c"))
    cluster.put_pod(a_pod("p", ["c"]))
    cluster.run()
    cluster.delete_pod("p")
    cluster.delete_claim("c")
    cluster.run()
    cluster.deliver(refuse="the claim is gone")
    cluster.run()
    assert len(cluster.placer._backoff) == 0
