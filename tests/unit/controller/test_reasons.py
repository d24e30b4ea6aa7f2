"""What people are told of claims that wait: one sentence in Event, `tandem explain` and `tandem plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cli.main import main
from controller.actions import Tell
from controller.explaining import explain, state_of
from controller.placement import Placer
from controller.planning import plan
from controller.sentences import joined
from controller.settings import PlacementSettings
from controller.validation.documents import KubeObject
from driver.kube.objects import AllocationResult, ResourceClaim
from driver.names import DRIVER_NAME, pool_name
from tests.unit.allocator import world
from tests.unit.controller.model import CEL
from tests.unit.controller.things import a_class, a_node, a_pod

DATA = Path(__file__).parents[2] / "data" / "reasons"
SETTINGS = PlacementSettings()
CLASSES = {c.metadata.name: c for c in (a_class("gpu", "gpu"), a_class("nic", "vf"), a_class("any"))}


def load() -> list[Any]:
    return [pytest.param(case, id=case["rule"]) for case in yaml.safe_load((DATA / "cases.yaml").read_text())]


def held(case: dict[str, Any]) -> list[ResourceClaim]:
    """Claims that have what the case says is taken, or shared."""
    results = [{"device": device} for device in case.get("taken", ())]
    results += [
        {"device": device, "shareID": f"share-{device}", "consumedCapacity": amounts}
        for device, amounts in case.get("shares", {}).items()
    ]
    found = []
    for number, result in enumerate(results):
        full = {"request": "r", "driver": DRIVER_NAME, "pool": pool_name(DRIVER_NAME, "n"), **result}
        allocation = msgspec.convert({"devices": {"results": [full]}}, AllocationResult)
        claim = a_claim(["r: any"], f"held-{number}")
        status = msgspec.structs.replace(claim.status, allocation=allocation)
        found.append(msgspec.structs.replace(claim, status=status))
    return found


def a_claim(requests: Sequence[str], name: str, **more: Any) -> ResourceClaim:
    claim = world.claim(requests, name=name, **more)
    metadata = msgspec.structs.replace(claim.metadata, namespace="default", resource_version="1")
    return msgspec.structs.replace(claim, metadata=metadata)


def objects_of(case: dict[str, Any]) -> list[KubeObject]:
    """One node, or several by name, what is taken of the one, and a pod with the claims."""
    names = [f"c{number}" for number in range(len(case["claims"]))]
    claims = [
        a_claim(
            claim["requests"],
            name,
            match=[tuple(m) for m in claim.get("match", ())],
            distinct=[tuple(d) for d in claim.get("distinct", ())],
            config=[world.alignment(**a) for a in claim.get("align", ())],
        )
        for name, claim in zip(names, case["claims"], strict=True)
    ]
    objects: list[KubeObject] = [*CLASSES.values()]
    for node, lines in case.get("nodes", {"n": case.get("devices")}).items():
        pool = pool_name(DRIVER_NAME, node)
        managed = node not in case.get("scheduler_mode", ())
        objects.append(a_node(node))
        objects += world.slices(
            lines, node=node, pool=pool, managed=managed, counters=case.get("counters"), cut=64
        )
    return [*objects, *held(case), *claims, a_pod("p", names, **case.get("pod", {}))]


def told(objects: Sequence[KubeObject]) -> dict[str, list[str]]:
    """Messages of the controller by the name of what they are about."""
    placer = Placer(state_of(objects, DRIVER_NAME), SETTINGS, CEL)
    actions = [*placer.absorb(0.0), *placer.step(0.0)]
    found: dict[str, list[str]] = {}
    for tell in actions:
        if isinstance(tell, Tell) and tell.reason == "Unsatisfiable":
            found.setdefault(tell.regarding.metadata.name, []).append(tell.message)
    return found


@pytest.mark.parametrize("case", load())
def test_a_reason_names_the_obstacle_its_numbers_and_the_nearest_change(case: dict[str, Any]) -> None:
    objects = objects_of(case)
    found = explain(state_of(objects, DRIVER_NAME), ("default", "c0"), SETTINGS, CEL)
    assert found is not None
    assert found.text == case["says"]
    names = [f"c{number}" for number in range(len(case["claims"]))]
    assert told(objects) == {name: [case["says"]] for name in (*names, "p")}
    planned = plan(objects, SETTINGS, CEL, lambda: 0.0)
    assert [pod.reason for pod in planned.pods if pod.name == "p"] == [case["says"]]
    assert len(case["says"].encode()) <= 1024


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "reason-match-attribute-nobody-has",
            'matchAttribute tandem-dra.io/pcieRoot: no device of request "a" has it; nearest on node n1: '
            "without matchAttribute tandem-dra.io/pcieRoot it would do",
        ),
        (
            "reason-match-attribute-one-side",
            'matchAttribute tandem-dra.io/numa: no device of request "b" has it; nearest on node n1: '
            "without matchAttribute tandem-dra.io/numa it would do",
        ),
    ],
)
def test_an_attribute_that_a_request_lacks_is_named_by_the_command(
    name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-f", str(DATA / f"{name}.yaml"), "-o", "json"]) == 3
    (pod,) = json.loads(capsys.readouterr().out)["pods"]
    assert pod["reason"] == f"0/1 nodes: 1 × {says}"


def test_the_last_reasons_make_room_for_what_would_help() -> None:
    reasons = [f"{number:02} × {'ä' * 90}" for number in range(20)]
    text = joined("; ".join(reasons), "; nearest on node n: if gpu-0 were free", before="Job j: ")
    assert len(text.encode()) <= 1024
    assert text.startswith(f"Job j: {reasons[0]}; ")
    assert text.endswith("; …; nearest on node n: if gpu-0 were free")


def test_one_reason_that_is_too_long_is_cut() -> None:
    assert len(joined("ä" * 2000, "; nearest: " + "b" * 2000).encode()) <= 1024
