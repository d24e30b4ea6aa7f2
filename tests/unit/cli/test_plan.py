from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from xml.dom import minidom

import msgspec
import pytest
import yaml

from cli.main import main
from driver.names import pool_name
from tests.unit.allocator import world

DATA = Path(__file__).parents[2] / "data" / "plan"
API = "resource.k8s.io/v1"
DRIVER = "tandem-dra.io"


def cases(name: str) -> list[Any]:
    return [
        pytest.param(case, id=case["rule"].replace(" ", "-"))
        for case in yaml.safe_load((DATA / name).read_text())
    ]


def dra(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, **more}


def a_class(name: str, type_: str = "") -> dict[str, Any]:
    expression = f'device.attributes["{DRIVER}"].type == "{type_}"' if type_ else "true"
    return dra("DeviceClass", name, spec={"selectors": [{"cel": {"expression": expression}}]})


CLASSES = [a_class("gpu", "gpu"), a_class("vf", "vf"), a_class("any")]


def a_spec(one: dict[str, Any]) -> dict[str, Any]:
    requests = [
        {
            "name": request["name"],
            "exactly": {
                "deviceClassName": request["class"],
                "count": request.get("count", 1),
                "selectors": [{"cel": {"expression": request["where"]}}] if "where" in request else [],
            },
        }
        for request in one["requests"]
    ]
    config = []
    if "pairs" in one:
        alignment = {"apiVersion": f"{DRIVER}/v1beta1", "kind": "Alignment", **one["pairs"]}
        parameters = {"pairs": {"gpus": "gpu", "nics": "nic"}, **alignment}
        config = [{"opaque": {"driver": DRIVER, "parameters": parameters}}]
    return {"devices": {"requests": requests, "config": config}}


def an_object(one: dict[str, Any], driver: str) -> dict[str, Any]:
    if "template" in one:
        return dra("ResourceClaimTemplate", one["template"], spec={"spec": a_spec(one)})
    if "claim" in one:
        status = {}
        if "holds" in one:
            pool = pool_name(driver, one["node"])
            results = [{"request": "r", "driver": driver, "pool": pool, "device": d} for d in one["holds"]]
            status = {"allocation": {"devices": {"results": results}}}
        return dra("ResourceClaim", one["claim"], spec=a_spec(one), status=status)
    claims = [{"name": name, "resourceClaimName": name} for name in one.get("claims", [])]
    claims += [{"name": name, "resourceClaimTemplateName": name} for name in one.get("templates", [])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": one["pod"],
            **({"creationTimestamp": one["created"]} if "created" in one else {}),
        },
        "spec": {
            "resourceClaims": claims,
            "priority": one.get("priority", 0),
            "schedulingGates": [{"name": gate} for gate in one.get("gates", [])],
            "containers": [{"name": "main", "resources": {"requests": {"cpu": one.get("cpu", 0)}}}],
        },
    }


def objects_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    driver = case.get("driver", DRIVER)
    found: list[dict[str, Any]] = []
    for node in case.get("nodes", [{"name": name} for name in case["slices"]]):
        size = {"allocatable": {"cpu": node["cpu"]}} if "cpu" in node else {}
        found.append({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node["name"]}, "status": size})
    for node, lines in case["slices"].items():
        for item in world.slices(lines, driver=driver, pool=pool_name(driver, node).strip("/*"), node=node):
            raw = msgspec.to_builtins(item)
            raw["metadata"]["name"] = raw["metadata"]["name"].replace("/", "-")
            if node == "*":
                raw["spec"] = {**raw["spec"], "allNodes": True}
                del raw["spec"]["nodeName"]
            found.append(raw)
    return [*found, *CLASSES, *(an_object(one, driver) for one in case["objects"])]


def planned(
    objects: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of `plan -f -`."""
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(objects)))
    status = main(["plan", "-f", "-", *options])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.mark.parametrize("case", cases("placed.yaml"))
def test_plan(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": objects_of(case)}
    status, out, err = planned(items, monkeypatch, capsys, "-o", "json")
    assert err == ""
    pods = {pod["name"] or pod["claims"][0]["name"]: pod for pod in json.loads(out)["pods"]}
    placed, waits = case.get("placed", {}), case.get("waits", {})
    assert pods.keys() == placed.keys() | waits.keys()
    for name, expected in placed.items():
        pod = pods[name]
        assert (pod["node"], pod["reason"]) == (expected["node"], None)
        for claim in pod["claims"]:
            results = [result["device"] for result in claim["allocation"]["devices"]["results"]]
            assert results == expected[claim["name"]]
            pairs = [[pair["gpu"], pair["nic"], pair["tier"], pair["rail"]] for pair in claim["pairs"]]
            assert pairs == expected.get("pairs", [])
    for name, reason in waits.items():
        assert pods[name]["node"] is None
        assert reason in pods[name]["reason"]
        assert all(claim["allocation"] is None for claim in pods[name]["claims"])
    assert status == (3 if waits else 0)


def bad_object(case: dict[str, Any]) -> object:
    if "object" in case:
        return case["object"]
    if "slice" in case:
        spec: dict[str, Any] = {"driver": DRIVER, "nodeName": "n", **case["slice"]}
        spec["pool"] = {"name": "p", "generation": 1, "resourceSliceCount": 1}
        return dra("ResourceSlice", "s", spec=spec)
    requests = [{"name": name, "exactly": {"deviceClassName": "gpu"}} for name in ("gpu", "nic")]
    return dra("ResourceClaim", "c", spec={"devices": {"requests": requests, **case["claim"]}})


@pytest.mark.parametrize("case", cases("invalid.yaml"))
def test_what_the_api_server_refuses_is_told_in_one_line(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = planned(bad_object(case), monkeypatch, capsys, "-o", "json")
    assert (status, out) == (2, "")
    assert case["says"] in err
    assert err.count("\n") == 1


TWO = [
    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}},
    *map(msgspec.to_builtins, world.slices(["gpu-0: type=gpu"], driver="other.example.com", node="n")),
]


@pytest.mark.parametrize(
    "text",
    [
        "\n---\n".join(yaml.safe_dump(one) for one in TWO),
        "\n".join(json.dumps(one) for one in TWO),
        json.dumps({"kind": "List", "apiVersion": "v1", "items": TWO}),
        yaml.safe_dump({"kind": "List", "apiVersion": "v1", "items": TWO}),
        "{kind: List, apiVersion: v1, items: [{kind: List, apiVersion: v1, items: " + json.dumps(TWO) + "}]}",
    ],
    ids=["YAML documents", "JSON documents", "JSON list", "YAML list", "list in a list"],
)
def test_every_form_of_input_is_read(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster").write_text(text)
    claim = dra("ResourceClaim", "c", spec=a_spec({"requests": [{"name": "gpu", "class": "any"}]}))
    (tmp_path / "claim.yaml").write_text(yaml.safe_dump_all([claim, CLASSES[2]]))
    assert (
        main(["plan", "-f", str(tmp_path / "cluster"), "-f", str(tmp_path / "claim.yaml"), "-o", "json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["pods"][0]["node"] == "n"


def test_items_of_a_typed_list_need_no_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = a_spec({"requests": [{"name": "gpu", "class": "gpu"}]})
    items = {
        "kind": "ResourceClaimList",
        "apiVersion": API,
        "items": [{"metadata": {"name": "c"}, "spec": spec}],
    }
    status, out, _ = planned(items, monkeypatch, capsys, "-o", "json")
    assert status == 3
    assert json.loads(out)["pods"][0]["claims"][0]["name"] == "c"


def test_kinds_that_place_nothing_are_passed_over_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    status, out, err = planned(service, monkeypatch, capsys, "-o", "json")
    assert (status, json.loads(out)["pods"]) == (0, [])
    assert "Service web" in err


def test_an_object_twice_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = {"kind": "List", "apiVersion": "v1", "items": [CLASSES[0], CLASSES[0]]}
    status, _, err = planned(items, monkeypatch, capsys)
    assert status == 2
    assert 'DeviceClass gpu: metadata.name is "gpu"' in err


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", "/nowhere.yaml"]) == 2
    assert "/nowhere.yaml: cannot be read" in capsys.readouterr().err


def test_broken_yaml_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("kind: Pod\nmetadata: {name: a\nspec: {}\n")
    assert main(["plan", "-f", str(tmp_path / "a.yaml")]) == 2
    assert "a.yaml: is no YAML at line 3" in capsys.readouterr().err


def test_a_key_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("kind: Pod\nkind: Node\n")
    assert main(["plan", "-f", str(tmp_path / "a.yaml")]) == 2
    assert "the key 'kind' is there twice" in capsys.readouterr().err


SMALL = {
    "slices": {"n": ["gpu-0: type=gpu pcieSwitch=a", "vf-[0-3]: type=vf pcieSwitch=a pfName=mlx5_0"]},
    "objects": [
        {
            "template": "t",
            "requests": [{"name": "gpu", "class": "gpu"}, {"name": "nic", "class": "vf"}],
            "pairs": {},
        },
        {"pod": "first", "templates": ["t"]},
        {"pod": "second", "templates": ["t"]},
    ],
}


def small() -> dict[str, Any]:
    items = objects_of(SMALL)
    return {"kind": "List", "apiVersion": "v1", "items": items}


def test_the_table_names_pods_pairs_tiers_reasons_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = planned(small(), monkeypatch, capsys)
    assert status == 3
    assert "1 placed, 1 waiting" in out
    assert ["first", "n", "gpu-0", "+", "vf-0", "PIX", "-"] in [line.split() for line in out.splitlines()]
    assert "second waits: 0/1 nodes" in out
    assert ["n", "0", "of", "1", "3", "of", "4"] in [line.split() for line in out.splitlines()]


def test_the_picture_shows_who_gets_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = planned(small(), monkeypatch, capsys, "-o", "svg")
    picture = minidom.parseString(out)
    texts = [node.firstChild.data for node in picture.getElementsByTagName("text")]  # type: ignore[union-attr]
    assert {"n", "first", "3 of 4 left", "second waits"} <= set(texts)
    lines = [path.getAttribute("class") for path in picture.getElementsByTagName("path")]
    assert lines.count("line PIX") == 2  # the pair and the legend


def test_yaml_says_the_same_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, as_yaml, _ = planned(small(), monkeypatch, capsys, "-o", "yaml")
    _, as_json, _ = planned(small(), monkeypatch, capsys, "-o", "json")
    assert yaml.safe_load(as_yaml)["pods"] == json.loads(as_json)["pods"]
