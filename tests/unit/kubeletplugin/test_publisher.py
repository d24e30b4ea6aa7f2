from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from driver.kube import paths
from driver.kube.client import KubeClient
from driver.slices import SliceOptions, slice_name
from kubeletplugin.publisher import Publisher
from tests.unit.kubeletplugin.api import SLICES, FakeApi, Json
from tests.unit.kubeletplugin.world import DRIVER, GPUS, NODE, inventory


@contextmanager
def publishing(
    api: FakeApi,
    client: KubeClient,
    *,
    controller_taint: bool = True,
    in_use: Callable[[], frozenset[str]] = frozenset,
    on_lost: Callable[[], None] = lambda: None,
) -> Iterator[Publisher]:
    api.put(paths.node(NODE), {"metadata": {"name": NODE, "uid": "node-uid"}})
    publisher = Publisher(
        client,
        driver_name=DRIVER,
        node_name=NODE,
        options=SliceOptions(controller_taint=controller_taint),
        in_use=in_use,
        on_taints_lost=on_lost,
    )
    publisher.set_inventory(inventory())
    publisher.start()
    try:
        yield publisher
    finally:
        for watcher in api.watchers:
            watcher.put(None)
        api.watchers.clear()
        publisher.stop()


def until(api: FakeApi, true: Callable[[list[Json]], object]) -> list[Json]:
    deadline = time.monotonic() + 30
    while not true(slices := api.under(SLICES)):
        assert time.monotonic() < deadline, slices
        threading.Event().wait(0.002)
    return slices


def taints(slices: list[Json]) -> list[list[str]]:
    return [[t["key"] for t in d.get("taints", [])] for s in slices for d in s["spec"]["devices"]]


def test_the_pool_is_published_with_its_owner_and_taint(api: FakeApi, client: KubeClient) -> None:
    with publishing(api, client):
        (slice_,) = until(api, bool)
    assert slice_["metadata"]["ownerReferences"][0]["uid"] == "node-uid"
    assert slice_["spec"]["pool"] == {"name": f"{DRIVER}/{NODE}", "generation": 1, "resourceSliceCount": 1}
    assert taints([slice_]) == [["tandem-dra.io/controller"]] * 6


def test_a_deleted_slice_is_put_back(api: FakeApi, client: KubeClient) -> None:
    with publishing(api, client) as publisher:
        (slice_,) = until(api, lambda _: publisher.published and api.under(SLICES))
        api.remove(f"{SLICES}/{slice_['metadata']['name']}")
        (back,) = until(api, bool)
    assert back["metadata"]["resourceVersion"] != slice_["metadata"]["resourceVersion"]
    assert back["spec"] == slice_["spec"]


def test_an_altered_slice_is_put_right_in_a_newer_generation(api: FakeApi, client: KubeClient) -> None:
    with publishing(api, client) as publisher:
        (slice_,) = until(api, lambda _: publisher.published and api.under(SLICES))
        altered = slice_ | {"spec": slice_["spec"] | {"devices": []}}
        altered["metadata"] = dict(slice_["metadata"])
        api.put(f"{SLICES}/{slice_['metadata']['name']}", altered)
        (back,) = until(api, lambda found: found[0]["spec"]["devices"])
    assert back["spec"]["pool"]["generation"] == 2


def test_a_change_of_the_machine_is_published_and_none_is_not(api: FakeApi, client: KubeClient) -> None:
    with publishing(api, client) as publisher:
        until(api, lambda _: publisher.published)
        before = len(api.requests)
        publisher.set_inventory(inventory())
        publisher.set_held(frozenset())
        publisher.set_inventory(replace(inventory(), gpus=inventory().gpus[:1]))
        until(api, lambda found: len(found[0]["spec"]["devices"]) == 5)
    assert [method for method, _ in api.requests[before:] if method != "GET"] == ["PUT"]


def test_a_held_device_is_marked_and_the_mark_goes(api: FakeApi, client: KubeClient) -> None:
    with publishing(api, client, controller_taint=False) as publisher:
        until(api, lambda _: publisher.published)
        publisher.set_held(frozenset({GPUS[0]}))
        (slice_,) = until(api, lambda found: any(taints(found)))
        assert slice_["spec"]["devices"][0]["taints"][0]["effect"] == "None"
        publisher.set_held(frozenset())
        until(api, lambda found: not any(taints(found)))


def test_a_lost_device_of_a_claim_stays_as_it_was_until_the_claim_goes(
    api: FakeApi, client: KubeClient
) -> None:
    claimed = {GPUS[0]}
    with publishing(api, client, in_use=lambda: frozenset(claimed)) as publisher:
        (before,) = until(api, lambda _: publisher.published and api.under(SLICES))
        publisher.set_inventory(replace(inventory(), gpus=()))
        (found,) = until(api, lambda found: len(found[0]["spec"]["devices"]) == 5)
        was, now = before["spec"]["devices"][0], found["spec"]["devices"][-1]
        assert [taint["key"] for taint in now["taints"]] == [
            "tandem-dra.io/controller",
            "tandem-dra.io/unhealthy",
        ]
        assert now | {"taints": []} == was | {"taints": []}
        claimed.clear()
        publisher.look_at_lost()
        until(api, lambda found: len(found[0]["spec"]["devices"]) == 4)


def test_a_lost_device_that_comes_back_is_offered_as_before(api: FakeApi, client: KubeClient) -> None:
    with publishing(api, client, in_use=lambda: frozenset({GPUS[0]})) as publisher:
        (before,) = until(api, lambda _: publisher.published and api.under(SLICES))
        publisher.set_inventory(replace(inventory(), gpus=()))
        until(api, lambda found: "tandem-dra.io/unhealthy" in str(found))
        publisher.set_inventory(inventory())
        (after,) = until(api, lambda found: "tandem-dra.io/unhealthy" not in str(found))
    assert after["spec"]["devices"] == before["spec"]["devices"]
    assert after["spec"]["pool"]["generation"] == 3


def test_a_server_that_drops_taints_is_said_once_and_not_fought(
    api: FakeApi, client: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    api.keep_taints = False
    lost: list[int] = []
    with publishing(api, client, on_lost=lambda: lost.append(1)) as publisher:
        until(api, lambda _: publisher.published)
        publisher.set_inventory(replace(inventory(), gpus=()))
        until(api, lambda found: len(found[0]["spec"]["devices"]) == 4)
    assert lost == [1]
    assert "is in scheduler mode" in caplog.text
    assert sum(method == "PUT" for method, _ in api.requests) == 1


def test_a_conflict_is_read_again_and_settled(api: FakeApi, client: KubeClient) -> None:
    with publishing(api, client) as publisher:
        (slice_,) = until(api, lambda _: publisher.published and api.under(SLICES))
        path = f"{SLICES}/{slice_['metadata']['name']}"
        once = iter([True])

        def interfere(method: str, asked: str) -> None:
            if method == "PUT" and next(once, False):
                newer = dict(slice_) | {"metadata": dict(slice_["metadata"])}
                with api.lock:
                    api.version += 1
                    newer["metadata"]["resourceVersion"] = str(api.version)
                    api.objects[path] = newer  # the watch has not told yet

        api.before = interfere
        publisher.set_inventory(replace(inventory(), gpus=()))
        until(api, lambda found: len(found[0]["spec"]["devices"]) == 4)


def test_a_name_that_another_node_has_taken_keeps_no_device_from_the_cluster(
    api: FakeApi, client: KubeClient
) -> None:
    name = slice_name(DRIVER, NODE, 0)
    pool = {"name": f"{DRIVER}/node-b", "generation": 1, "resourceSliceCount": 1}
    squatter: Json = {"driver": DRIVER, "nodeName": "node-b", "pool": pool, "devices": []}
    api.put(f"{SLICES}/{name}", {"metadata": {"name": name}, "spec": squatter})
    with publishing(api, client) as publisher:
        slices = until(api, lambda slices: publisher.published and len(slices) == 2)
        (ours,) = [item for item in slices if item["spec"]["nodeName"] == NODE]
        assert ours["metadata"]["name"].startswith(f"{name}-")
        assert len(ours["spec"]["devices"]) == 6
        api.remove(f"{SLICES}/{ours['metadata']['name']}")
        again = until(api, lambda slices: len(slices) == 2)
        assert ours["metadata"]["name"] in {item["metadata"]["name"] for item in again}
    assert api.objects[f"{SLICES}/{name}"]["spec"] == squatter, "it is not touched"
