from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from driver.errors import KubeConflictError, KubeNotFoundError, KubeRefusedError, KubeUnavailableError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import Node, OpaqueConfig, ResourceClaim
from driver.kube.watch import Change, Informer
from tests.unit.kube.server import Served, serve


@pytest.fixture
def api() -> Iterator[tuple[Served, KubeClient]]:
    with serve() as both:
        yield both


def test_a_missing_object_and_a_refused_one_are_told_apart(api: tuple[Served, KubeClient]) -> None:
    served, client = api
    with pytest.raises(KubeNotFoundError):
        client.get("/api/v1/namespaces/x/nodes/none", Node)
    served.refuse = [403]
    with pytest.raises(KubeRefusedError, match="403 Said: no") as caught:
        client.get(paths.nodes(), Node)
    assert caught.value.status == 403


def test_a_server_error_is_worth_trying_again(api: tuple[Served, KubeClient]) -> None:
    served, client = api
    served.refuse = [500]
    with pytest.raises(KubeUnavailableError):
        client.list(paths.nodes(), Node)


def test_a_patch_that_lost_the_race_is_a_conflict(api: tuple[Served, KubeClient]) -> None:
    served, client = api
    with pytest.raises(KubeConflictError):
        client.patch(paths.claim("a", "b"), {"metadata": {"resourceVersion": "1"}}, ResourceClaim)
    assert served.requests[-1][0] == "PATCH"


def test_nobody_at_the_address_is_worth_trying_again() -> None:
    with serve() as (_, client):
        pass
    with pytest.raises(KubeUnavailableError):
        client.get(paths.node("n"), Node)


def test_a_read_survives_one_connection_that_died_and_nobody_is_warned(
    api: tuple[Served, KubeClient], caplog: pytest.LogCaptureFixture
) -> None:
    served, client = api
    served.hang_up = 1
    assert client.list(paths.nodes(), Node)[0] == []
    served.hang_up = 2
    with pytest.raises(KubeUnavailableError):
        client.list(paths.nodes(), Node)
    assert caplog.records == []


def test_a_redirect_is_a_refusal(api: tuple[Served, KubeClient]) -> None:
    served, client = api
    served.refuse = [307]
    with pytest.raises(KubeRefusedError, match="307"):
        client.get(paths.nodes(), Node)


def test_an_informer_reports_the_list_then_the_watch_then_what_a_relist_shows(
    api: tuple[Served, KubeClient],
) -> None:
    served, client = api
    seen: queue.Queue[Change[Node]] = queue.Queue()
    served.put("a", send=False)
    served.put("b", send=False)
    informer = Informer(client, paths.nodes(), Node, on_change=seen.put)
    informer.start()

    def change() -> tuple[str, str]:
        got = seen.get(timeout=30)
        node = got.new or got.old
        assert node is not None
        return got.kind, node.metadata.name

    assert informer.wait_synced(30)
    assert [change(), change()] == [("ADDED", "a"), ("ADDED", "b")]
    served.put("a")
    served.put("c", "ADDED")
    served.put("b", "DELETED")
    assert [change(), change(), change()] == [("MODIFIED", "a"), ("ADDED", "c"), ("DELETED", "b")]
    served.put("d", send=False)
    served.put("c", "DELETED", send=False)
    gone: dict[str, Any] = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    served.events.put(gone)
    assert [change(), change()] == [("DELETED", "c"), ("ADDED", "d")]
    assert {name for _, name in informer.snapshot()} == {"a", "d"}
    informer.stop()


def test_an_informer_that_is_asked_to_reads_what_its_watch_did_not_tell(
    api: tuple[Served, KubeClient],
) -> None:
    served, client = api
    informer = Informer(client, paths.nodes(), Node)
    informer.start()
    assert informer.wait_synced(30)
    served.put("a", "ADDED", send=False)
    known: queue.Queue[Node | None] = queue.Queue()
    informer.refresh(lambda: known.put(informer.get("", "a")))
    assert known.get(timeout=30) is not None
    informer.stop()


def test_an_object_of_another_form_is_left_out_and_named_and_the_others_are_there(
    api: tuple[Served, KubeClient], caplog: pytest.LogCaptureFixture
) -> None:
    served, client = api
    seen: queue.Queue[Change[Node]] = queue.Queue()
    served.put("a", send=False)
    served.put("odd", send=False, spec={"unschedulable": "maybe"})
    informer = Informer(client, paths.nodes(), Node, on_change=seen.put)
    informer.start()
    assert informer.wait_synced(30)
    assert {name for _, name in informer.snapshot()} == {"a"}
    served.put("a", spec="none")
    served.put("b", "ADDED")
    kinds = [seen.get(timeout=30).kind for _ in range(3)]
    assert kinds == ["ADDED", "DELETED", "ADDED"]
    assert {name for _, name in informer.snapshot()} == {"b"}
    assert "odd cannot be read: Expected `bool`, got `str` - at `$.spec.unschedulable`" in caplog.text
    informer.stop()


def test_where_all_must_be_known_an_object_of_another_form_stops_the_news(
    api: tuple[Served, KubeClient], caplog: pytest.LogCaptureFixture
) -> None:
    served, client = api
    served.put("odd", send=False, spec={"unschedulable": "maybe"})
    informer = Informer(client, paths.nodes(), Node, complete=True)
    informer.start()
    assert not informer.wait_synced(0.05)
    served.put("odd", send=False)
    assert informer.wait_synced(30)
    assert "odd cannot be read" in caplog.text
    informer.stop()


def test_a_callback_that_raises_does_not_stop_the_news(api: tuple[Served, KubeClient]) -> None:
    served, client = api
    seen: queue.Queue[str] = queue.Queue()

    def on_change(change: Change[Node]) -> None:
        seen.put(change.kind)
        raise RuntimeError

    informer = Informer(client, paths.nodes(), Node, on_change=on_change)
    informer.start()
    served.put("a", "ADDED")
    served.put("a", "DELETED")
    assert [seen.get(timeout=30), seen.get(timeout=30)] == ["ADDED", "DELETED"]
    informer.stop()


def test_opaque_parameters_do_not_keep_the_whole_answer_alive() -> None:
    import msgspec

    answer = b'{"driver":"d","parameters":{"a":1},"rest":"%s"}' % (b"x" * 100_000)
    config = msgspec.json.decode(answer, type=OpaqueConfig)
    assert bytes(config.parameters) == b'{"a":1}'
