"""Free-form fields keep nobody from a plan, whatever a tenant writes there; of ours it is a fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import main
from cli.plan_input import read
from driver.errors import InvalidObjectError
from driver.kube.objects import ResourceClaim
from driver.names import DRIVER_NAME
from tests.unit.cli.test_plan_networks import kinded
from tests.unit.controller.things import CLASSES, a_node, slices_of
from tests.unit.controller.things import a_claim as plain_claim
from tests.unit.kube.hostile import DEEP, HALF_A_PAIR, HOSTILE

TEXTS = {name: HOSTILE[name] for name in ("deep", "deep objects", "half a pair", "half a pair in a name")}


def a_claim(parameters: bytes, driver: str, name: str = "odd") -> str:
    request = {"name": "r", "exactly": {"deviceClassName": "gpu.tandem-dra.io"}}
    opaque = {"driver": driver, "parameters": "HERE"}
    document = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "tenant"},
        "spec": {"devices": {"requests": [request], "config": [{"requests": ["r"], "opaque": opaque}]}},
    }
    return json.dumps(document).replace('"HERE"', parameters.decode())


@pytest.mark.parametrize("form", ["alone", "in a list", "one after the other"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_file_is_read_whatever_other_drivers_parameters_are(name: str, form: str, tmp_path: Path) -> None:
    odd, plain = a_claim(TEXTS[name], "other.io"), a_claim(b"{}", "other.io", "plain")
    text = {
        "alone": odd,
        "in a list": f'{{"apiVersion":"v1","kind":"List","items":[{plain},{odd},{plain}]}}',
        "one after the other": f"{plain}\n{odd}\n{plain}",
    }[form]
    file = tmp_path / "claims.json"
    file.write_text(text)
    objects, _ = read([str(file)], DRIVER_NAME)
    names = [item.metadata.name for item in objects]
    assert names == (["odd"] if form == "alone" else ["plain", "odd", "plain"])
    claim = next(item for item in objects if item.metadata.name == "odd")
    assert isinstance(claim, ResourceClaim)
    (config,) = claim.spec.devices.config
    assert config.opaque is not None
    assert bytes(config.opaque.parameters) == TEXTS[name]


@pytest.mark.parametrize(
    ("text", "says"), [(DEEP, "nested too deeply"), (HALF_A_PAIR, "half a surrogate pair")]
)
def test_our_own_parameters_are_a_fault_with_its_place(text: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "claim.json"
    file.write_text(a_claim(text, DRIVER_NAME))
    with pytest.raises(InvalidObjectError, match=says) as caught:
        read([str(file)], DRIVER_NAME)
    assert caught.value.object == "ResourceClaim tenant/odd"
    assert caught.value.field == "spec.devices.config[0].opaque.parameters"
    assert len(str(caught.value)) < 400


def test_yaml_that_is_nested_too_deeply_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "claim.yaml"
    file.write_text("a: " + "[" * 3_000 + "]" * 3_000)
    with pytest.raises(InvalidObjectError, match=r"is nested too deeply|is no YAML"):
        read([str(file)], DRIVER_NAME)


@pytest.mark.parametrize("output", ["json", "yaml", "table"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_claim_of_ours_is_planned_whatever_it_tells_another_driver(
    name: str, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = kinded(plain_claim("c"), "ResourceClaim")
    claim["spec"]["devices"]["config"].append({"opaque": {"driver": "other.io", "parameters": "HERE"}})
    del claim["metadata"]["uid"], claim["metadata"]["resourceVersion"]
    objects = [kinded(a_node("n0"), "Node"), *(kinded(s, "ResourceSlice") for s in slices_of("n0"))]
    objects += [*(kinded(c, "DeviceClass") for c in CLASSES), claim]
    file = tmp_path / "objects.json"
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    file.write_text(text.replace('"HERE"', TEXTS[name].decode()))
    assert main(["plan", "-f", str(file), "-o", output]) == 0
    shown = capsys.readouterr().out
    assert ("bytes that cannot be decoded" in shown) is (output != "table")
