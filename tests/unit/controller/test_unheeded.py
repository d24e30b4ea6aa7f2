"""Configs that were meant for us and that nobody reads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.allocator.cel import CelCache
from controller.explaining import explain
from controller.settings import PlacementSettings
from controller.unheeded import is_near, unheeded
from driver.kube.fabric import FabricNetwork
from driver.kube.objects import DeviceClass, ResourceClaim
from driver.names import API_VERSION, DRIVER_NAME
from tests.unit.controller.model import a_cluster
from tests.unit.controller.things import CLASSES, a_claim, a_pod

ALIGNMENT: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "Alignment",
    "pairs": {"gpus": "gpu", "nics": "nic"},
}
BY_NAME = {one.metadata.name: one for one in CLASSES}


def configured(driver: str, parameters: str, requests: list[str] | None = None) -> ResourceClaim:
    """A claim with one config; the parameters as JSON text."""
    text = '{"requests": %s, "opaque": {"driver": "%s", "parameters": %s}}'
    config = text % (msgspec.json.encode(requests or []).decode(), driver, parameters)
    raw = msgspec.json.encode(a_claim("c"))
    document = msgspec.json.decode(raw)
    document["spec"]["devices"]["config"] = [msgspec.Raw(config.encode())]
    return msgspec.json.decode(msgspec.json.encode(document), type=ResourceClaim)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tandem.dra.io", True),
        ("Tandem-DRA.io", True),
        ("tandem-dra.com", True),
        ("tandem-dra", True),
        ("tandemdra.io", True),
        ("tandm-dra.io", True),
        ("gpu.tandem-dra.io", True),
        ("tandem-dra.io.example.com", True),
        ("tandem-dra.io", False),
        ("gpu.nvidia.com", False),
        ("dra.net", False),
        ("dranet.dev", False),
        ("io", False),
        ("random.example.com", False),
    ],
)
def test_names_that_are_nearly_ours(name: str, near: bool) -> None:
    assert is_near(name, DRIVER_NAME) is near


@pytest.mark.parametrize(
    ("driver", "parameters", "requests", "said"),
    [
        (
            "tandem.dra.io",
            "{}",
            None,
            'config 0: opaque.driver is "tandem.dra.io", which is nearly this driver',
        ),
        (
            "gpu.example.com",
            msgspec.json.encode(ALIGNMENT).decode(),
            None,
            'config 0: opaque.driver is "gpu.example.com", its parameters are of tandem-dra.io; nothing here',
        ),
        (DRIVER_NAME, msgspec.json.encode(ALIGNMENT).decode(), ["gpu"], "config 0: requests leaves out nic"),
        (DRIVER_NAME, msgspec.json.encode(ALIGNMENT).decode(), ["gpu", "nic"], None),
        (DRIVER_NAME, msgspec.json.encode(ALIGNMENT).decode(), None, None),
        ("gpu.example.com", '{"apiVersion": "gpu.example.com/v1", "kind": "tandem-dra.io"}', None, None),
        ("gpu.example.com", '{"a": ' * 200 + "1" + "}" * 200, None, None),
    ],
    ids=["misspelt", "our parameters", "requests short", "both", "no requests", "theirs", "deep"],
)
def test_what_is_said_of_a_config(
    driver: str, parameters: str, requests: list[str] | None, said: str | None
) -> None:
    found = unheeded(configured(driver, parameters, requests), BY_NAME, DRIVER_NAME)
    assert [text.startswith(said or "-") for text in found] == ([] if said is None else [True])


def test_a_config_of_a_class_is_looked_at_as_well() -> None:
    config = [{"opaque": {"driver": "tandem-dra.com", "parameters": ALIGNMENT}}]
    document = msgspec.to_builtins(BY_NAME["gpu.tandem-dra.io"].spec)
    spec = msgspec.json.encode(
        {"metadata": {"name": "gpu.tandem-dra.io"}, "spec": {**document, "config": config}}
    )
    classes = {**BY_NAME, "gpu.tandem-dra.io": msgspec.json.decode(spec, type=DeviceClass)}
    (said,) = unheeded(a_claim("c"), classes, DRIVER_NAME)
    assert said.startswith('DeviceClass "gpu.tandem-dra.io": config 0: opaque.driver is "tandem-dra.com"')


@pytest.mark.parametrize(
    ("requests", "nics", "said"),
    [
        (["gpu"], 1, ["config 0: an Attachment is for NICs, and gpu has none; it does nothing"]),
        ([], 0, ["config 0: an Attachment is for NICs, and the claim has none; it does nothing"]),
        (["nic"], 1, []),
        (["gpu", "nic"], 1, []),
        ([], 1, []),
    ],
)
def test_an_attachment_of_requests_that_got_no_nic_is_said(
    requests: list[str], nics: int, said: list[str]
) -> None:
    attachment = {"apiVersion": API_VERSION, "kind": "Attachment", "network": "fast"}
    text = msgspec.json.encode(attachment).decode()
    claim = configured(DRIVER_NAME, text, requests)
    if not nics:
        kept = [one for one in claim.spec.devices.requests if one.name == "gpu"]
        devices = msgspec.structs.replace(claim.spec.devices, requests=kept)
        spec = msgspec.structs.replace(claim.spec, devices=devices)
        claim = msgspec.structs.replace(claim, spec=spec)
    cluster = a_cluster()
    fabric = {"metadata": {"name": "fast"}, "spec": {"namespaces": {"selector": {}}}}
    cluster.state.apply_namespace("default", {})
    cluster.state.apply_network(None, msgspec.convert(fabric, FabricNetwork))
    cluster.put_claim(claim)
    cluster.put_pod(a_pod("p", ["c"]))
    cluster.run()
    assert cluster.node_of("c") is not None
    assert cluster.messages("c", "ConfigNotRead") == said


def test_the_controller_says_it_once_and_places_the_pod_all_the_same() -> None:
    cluster = a_cluster()
    cluster.put_claim(configured("tandem-dra.com", "{}"))
    cluster.put_pod(a_pod("p", ["c"]))
    cluster.wait(10)
    cluster.put_pod(a_pod("p", ["c"], version=2, created="2026-01-01T00:00:01Z"))
    cluster.run()
    assert cluster.node_of("c") is not None
    (message,) = cluster.messages("c", "ConfigNotRead")
    assert message.endswith('nothing here reads it; right is "tandem-dra.io"')
    found = explain(cluster.state, ("default", "c"), PlacementSettings(), CelCache())
    assert found is not None
    assert found.text.endswith(f"; note: {message}")
