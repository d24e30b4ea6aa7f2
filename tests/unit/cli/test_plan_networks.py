"""FabricNetworks in `tandem plan`: addresses as the controller would give them, and why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.main import main
from driver.names import DRIVER_NAME
from tests.unit.controller.things import CLASSES, a_claim, a_node, slices_of

API = "tandem-dra.io/v1beta1"


def network(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "FabricNetwork", "metadata": {"name": "blue"}, "spec": spec}


def kinded(item: Any, kind: str) -> dict[str, Any]:
    version = "v1" if kind == "Node" else "resource.k8s.io/v1"
    return {"apiVersion": version, "kind": kind, **json.loads(msgspec.json.encode(item))}


def attached(*names: str, **more: Any) -> list[dict[str, Any]]:
    parameters = {"apiVersion": API, "kind": "Attachment", "network": "blue", **more}
    made = [kinded(a_claim(name), "ResourceClaim") for name in names]
    for one in made:
        one["spec"]["devices"]["config"].append({"opaque": {"driver": DRIVER_NAME, "parameters": parameters}})
        del one["metadata"]["uid"], one["metadata"]["resourceVersion"]
    return made


def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: dict[str, Any]) -> tuple[int, str, str]:
    objects = [kinded(a_node("n0"), "Node"), *(kinded(s, "ResourceSlice") for s in slices_of("n0"))]
    objects += [kinded(c, "DeviceClass") for c in CLASSES]
    file = tmp_path / "objects.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*objects, *more]}))
    status = main(["plan", "-f", str(file), "-o", "json"])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def interfaces(out: str) -> list[dict[str, Any]]:
    allocations = [claim["allocation"] for pod in json.loads(out)["pods"] for claim in pod["claims"]]
    configs = [config["opaque"]["parameters"] for a in allocations for config in a["devices"]["config"]]
    return [i for config in configs if config["kind"] == "Placement" for i in config["interfaces"]]


def test_the_addresses_are_those_that_the_controller_would_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"subnets": ["10.3.0.0/24"], "exclude": ["10.3.0.0/30"], "namespaces": {"names": ["default"]}}
    status, out, _ = plan(tmp_path, capsys, network(vlan=7, **spec), *attached("a", "b"))
    assert status == 0
    found = [(i["network"], i["vlan"], i["addresses"]) for i in interfaces(out)]
    assert found == [("blue", 7, ["10.3.0.4/24"]), ("blue", 7, ["10.3.0.5/24"])]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"subnets": ["10.3.0.0/24"]},
            "FabricNetwork blue is not for namespace default (its spec.namespaces)",
        ),
        (
            {"rails": [{"rail": 99, "subnets": ["10.3.0.0/24"]}], "namespaces": {"names": ["default"]}},
            "8 on a rail without a free address of FabricNetwork blue",
        ),
        (None, "there is no FabricNetwork blue"),
    ],
    ids=["not for the namespace", "no such rail", "not there"],
)
def test_why_a_claim_has_no_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any] | None, says: str
) -> None:
    status, out, _ = plan(tmp_path, capsys, *([network(**spec)] if spec is not None else []), *attached("a"))
    assert status == 3
    assert says in json.loads(out)["pods"][0]["reason"]


def test_the_last_address_goes_to_the_first_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {"subnets": ["10.3.0.1/32"], "namespaces": {"selector": {}}}
    status, out, _ = plan(tmp_path, capsys, network(**spec), *attached("a", "b"))
    assert status == 3
    assert "without a free address of FabricNetwork blue" in json.loads(out)["pods"][1]["reason"]


def test_too_few_addresses_for_all_nics_of_a_claim_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (wanted,) = attached("a")
    wanted["spec"]["devices"]["requests"][1]["exactly"]["count"] = 2
    del wanted["spec"]["devices"]["config"][0]
    blue = network(subnets=["10.3.0.1/32"], namespaces={"selector": {}})
    status, out, _ = plan(tmp_path, capsys, blue, wanted)
    assert status == 3
    reason = json.loads(out)["pods"][0]["reason"]
    assert reason == "no free address left in 10.3.0.1/32 of FabricNetwork blue"


def test_labels_of_a_namespace_count_where_the_namespace_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blue = network(namespaces={"selector": {"matchLabels": {"tier": "gold"}}})
    namespace: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    assert plan(tmp_path, capsys, blue, *attached("a"))[0] == 0
    assert plan(tmp_path, capsys, blue, namespace, *attached("a"))[0] == 3
    namespace["metadata"]["labels"] = {"tier": "gold"}
    assert plan(tmp_path, capsys, blue, namespace, *attached("a"))[0] == 0


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ([network(subnets=["10.3.0.0/33"])], 'FabricNetwork blue: spec.subnets[0] is "10.3.0.0/33"'),
        ([network(vlan=4095)], "FabricNetwork blue: spec.vlan is 4095: is 4095; right is 1 to 4094"),
        ([network(vlans=[7])], "FabricNetwork blue: spec.vlans is [7]; right is vlan"),
        (attached("a", enforce=True), "enforce is true; right is left out: only a DeviceClass may say it"),
        (attached("a", vlan=7), "parameters.vlan is 7; right is no such field"),
    ],
)
def test_what_the_api_server_or_the_driver_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], objects: list[dict[str, Any]], says: str
) -> None:
    status, out, err = plan(tmp_path, capsys, *objects)
    assert (status, out) == (2, "")
    assert says in err
