from __future__ import annotations

from controller.actions import Tell
from controller.allocator.cel import CelCache
from controller.explaining import Explanation, explain, state_of
from controller.placement import Placer
from controller.settings import PlacementSettings
from controller.validation.documents import KubeObject
from driver.names import DRIVER_NAME
from tests.unit.controller.gangs.troop import gang_claim, of_job
from tests.unit.controller.things import (
    CLASSES,
    a_claim,
    a_node,
    a_pod,
    a_request,
    an_inventory,
    slices_of,
)

CEL = CelCache()
CLUSTER: list[KubeObject] = [*CLASSES, a_node("n", cpu="4"), *slices_of("n", an_inventory(pairs=2))]


def explained(*objects: KubeObject, claim: str = "c") -> Explanation:
    state = state_of([*CLUSTER, *objects], DRIVER_NAME)
    found = explain(state, ("default", claim), PlacementSettings(), CEL)
    assert found is not None
    return found


def test_a_claim_that_is_not_there_has_no_explanation() -> None:
    assert explain(state_of(CLUSTER, DRIVER_NAME), ("default", "c"), PlacementSettings(), CEL) is None


def test_a_claim_waits_for_a_pod() -> None:
    assert "no pod waits for it" in explained(a_claim("c")).text


def test_a_claim_waits_for_the_gates_of_its_pod() -> None:
    pod = a_pod("p", ["c"], schedulingGates=[{"name": "quota"}])
    found = explained(a_claim("c"), pod)
    assert found.pods == ("p",)
    assert "scheduling gates to be lifted: quota" in found.text


def test_a_claim_waits_for_its_class() -> None:
    claim = a_claim("c", requests=[a_request("gpu", "tpu")])
    assert "claim c names a DeviceClass that is not there" in explained(claim, a_pod("p", ["c"])).text


def test_a_claim_of_another_driver_is_not_for_us() -> None:
    claim = a_claim("c", requests=[a_request("x", "other.example.com")])
    assert f"no claim of the pod is for devices of {DRIVER_NAME}" in explained(claim, a_pod("p", ["c"])).text


def test_a_claim_that_could_be_placed_says_where() -> None:
    assert "node n could take it now" in explained(a_claim("c"), a_pod("p", ["c"])).text


def test_a_claim_waits_with_the_words_of_the_event() -> None:
    objects = [*CLUSTER, a_claim("c", gpus=3, nics=3), a_pod("p", ["c"])]
    found = explain(state_of(objects, DRIVER_NAME), ("default", "c"), PlacementSettings(), CEL)
    placer = Placer(state_of(objects, DRIVER_NAME), PlacementSettings(), CEL)
    told = [a for a in (*placer.absorb(0.0), *placer.step(0.0)) if isinstance(a, Tell)]
    assert found is not None
    assert found.text == told[0].message
    assert 'request "gpu": 3 wanted, 2 free' in found.text


def test_the_event_names_the_nearest_change() -> None:
    taken = {
        "results": [
            {
                "request": "gpu",
                "driver": DRIVER_NAME,
                "pool": f"{DRIVER_NAME}/n",
                "device": "gpu-0000-12-00-0",
            }
        ]
    }
    other = a_claim("other", status={"allocation": {"devices": taken}})
    text = explained(other, a_claim("c", gpus=2, nics=2), a_pod("p", ["c"])).text
    assert text.endswith("; nearest on node n: if gpu-0000-12-00-0 were free")


def test_an_allocated_claim_tells_node_and_devices() -> None:
    result = {"request": "gpu", "driver": DRIVER_NAME, "pool": f"{DRIVER_NAME}/n", "device": "gpu-1"}
    field = {"key": "metadata.name", "operator": "In", "values": ["n"]}
    allocation = {
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
    }
    found = explained(a_claim("c", status={"allocation": allocation}))
    assert found.allocated
    assert found.text == "node n: gpu-1"


def test_a_gangs_member_waits_for_the_others_or_for_room_for_all() -> None:
    claims = [gang_claim(name, f"uid-{name}", size=2) for name in ("c", "d")]
    pods = [of_job(a_pod(f"p-{name}", [name]), "j") for name in ("c", "d")]
    assert "Job j: 1 of 2 members are there" in explained(claims[0], pods[0]).text
    assert "Job j: 2 members could be placed now, on n" in explained(*claims, *pods).text
    large = [gang_claim(name, f"uid-{name}", gpus=2, nics=2, size=2) for name in ("c", "d")]
    assert "Job j: 1 of 2 members have room at once" in explained(*large, *pods).text
    alone = a_pod("p-c", ["c"])
    assert "tandem-dra.io/gang" in explained(claims[0], alone).text
