from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from driver.errors import (
    KubeConflictError,
    KubeNotFoundError,
    KubeRefusedError,
    KubeUnavailableError,
    KubeUnreadableError,
)
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import Node, OpaqueConfig, ResourceClaim
from driver.kube.watch import Change, Informer
from tests.unit.kube.hostile import HOSTILE, a_claim_with
from tests.unit.kube.server import Served, serve

V = TypeVar("V")


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
    assert informer.unreadable == 2
    served.put("odd", "DELETED", spec={"unschedulable": "maybe"})
    served.put("a")
    assert seen.get(timeout=30).kind == "ADDED"
    assert informer.unreadable == 0
    assert "odd cannot be read: Expected `bool`, got `str` - at `$.spec.unschedulable`" in caplog.text
    informer.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_what_one_user_puts_into_free_fields_keeps_nobody_from_reading_the_others(
    name: str, api: tuple[Served, KubeClient]
) -> None:
    served, client = api
    seen: queue.Queue[Change[ResourceClaim]] = queue.Queue()
    for number in range(3):
        served.put_raw(f"before-{number}", a_claim_with(b"{}", name=f"before-{number}"), send=False)
    served.put_raw("odd", a_claim_with(HOSTILE[name], name="odd"), send=False)
    served.put_raw("after", a_claim_with(b"{}", name="after"), send=False)
    informer = Informer(client, paths.claims(), ResourceClaim, on_change=seen.put)
    informer.start()
    assert informer.wait_synced(30)
    served.put_raw("odd", a_claim_with(HOSTILE[name], name="odd", version=20))
    served.put_raw("last", a_claim_with(b"{}", name="last", version=21), "ADDED")
    found = [seen.get(timeout=30).new for _ in range(7)]
    names = [claim.metadata.name for claim in found if claim is not None]
    assert names == ["before-0", "before-1", "before-2", "odd", "after", "odd", "last"]
    informer.stop()
    claim = client.get(paths.claim("tenant", "odd"), ResourceClaim)
    assert claim.status.allocation is not None
    assert claim.status.allocation.devices.results[0].device == "d0"


def test_one_hostile_claim_among_five_hundred_is_read_and_so_are_the_others(
    api: tuple[Served, KubeClient],
) -> None:
    served, client = api
    for number in range(500):
        text = HOSTILE["deep"] if number == 250 else b"{}"
        served.put_raw(f"c{number}", a_claim_with(text, name=f"c{number}"), send=False)
    found, _ = client.list(paths.claims(), ResourceClaim)
    assert [claim.metadata.name for claim in found] == [f"c{number}" for number in range(500)]


def test_a_page_that_is_too_long_is_asked_for_in_parts(
    api: tuple[Served, KubeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, client = api
    monkeypatch.setattr("driver.kube.client._PAGE_BYTES", 10_000)
    for number in range(100):
        served.put(f"n{number:03}", send=False, note="x" * 400)
    found, _ = client.list(paths.nodes(), Node)
    assert [node.metadata.name for node in found] == [f"n{number:03}" for number in range(100)]
    asked = [parse_qs(urlsplit(path).query) for _, path, _ in served.requests]
    assert [(query["limit"], query.get("continue")) for query in asked[:5]] == [
        (["1000"], None),
        (["250"], None),
        (["62"], None),
        (["15"], None),
        (["15"], ["n014"]),
    ]
    monkeypatch.setattr("driver.kube.client._PAGE_BYTES", 10)
    assert len(client.list(paths.nodes(), Node)[0]) == 100


def test_an_answer_that_is_no_json_is_worth_trying_again(api: tuple[Served, KubeClient]) -> None:
    served, client = api
    served.put_raw("cut", b'{"metadata":{"na', send=False)
    with pytest.raises(KubeUnavailableError, match="is no list"):
        client.list(paths.claims(), ResourceClaim)
    with pytest.raises(KubeUnreadableError, match="an object without a name cannot be read"):
        client.get(paths.claim("tenant", "cut"), ResourceClaim)


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


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_informer_says_for_how_long_it_could_neither_list_nor_watch() -> None:
    clock = Clock()
    with serve() as (_, client):
        pass
    away = Informer(client, paths.nodes(), Node, clock=clock)
    away.start()
    clock.now = 40.0
    assert not away.synced
    seconds, error = until(lambda: away.failing, lambda failing: bool(failing[1]))
    assert seconds == 40.0
    assert "refused" in error
    assert away.alive
    away.stop()


def test_an_informer_that_watches_is_not_failing_however_silent_it_is(api: tuple[Served, KubeClient]) -> None:
    served, client = api
    clock = Clock()
    informer = Informer(client, paths.nodes(), Node, clock=clock)
    informer.start()
    assert informer.wait_synced(30)
    until(lambda: [path for _, path, _ in served.requests if "watch=1" in path], bool)
    clock.now = 1000.0
    assert until(lambda: informer.failing[0], lambda seconds: seconds == 0.0) == 0.0
    informer.stop()


def test_an_informer_whose_watches_break_before_they_bring_anything_is_failing(
    api: tuple[Served, KubeClient],
) -> None:
    served, client = api
    clock = Clock()
    informer = Informer(client, paths.nodes(), Node, clock=clock)
    informer.start()
    assert informer.wait_synced(30)
    clock.now = 50.0
    for _ in range(2):
        served.events.put(b"no JSON")
    failing = until(lambda: informer.failing, lambda failing: failing[0] > 0.0 and failing[1] != "")
    assert failing[0] == 50.0
    assert "watch broke" in failing[1]
    informer.stop()


def until(get: Callable[[], V], enough: Callable[[V], bool]) -> V:
    """Return what `get` says as soon as it is enough; another thread makes it so."""
    for _ in range(3_000):
        if enough(found := get()):
            return found
        threading.Event().wait(0.005)
    raise AssertionError(f"it stays {found}")
