from __future__ import annotations

from typing import Any

from driver.errors import KubeNotFoundError
from driver.kube.events import EventRecorder, ObjectReference

POD = ObjectReference("Pod", "ns", "a", "uid-a", "v1")
OTHER = ObjectReference("Pod", "ns", "b", "uid-b", "v1")


class EventApi:
    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []
        self.lost = False

    def create(self, path: str, body: dict[str, Any], type: object) -> None:
        self.written.append(("create", body["regarding"]["name"]))

    def patch(self, path: str, body: dict[str, Any], type: object) -> None:
        if self.lost:
            raise KubeNotFoundError("no such event", status=404)
        self.written.append(("series", str(body["series"]["count"])))


def record(api: EventApi, *events: tuple[float, ObjectReference]) -> None:
    times = iter([at for at, _ in events])
    client: Any = api
    recorder = EventRecorder(client, "test", "test", clock=lambda: next(times))
    for _, regarding in events:
        recorder.event(regarding, "Normal", "Allocated", "node n")
    recorder.stop()


def test_the_same_event_is_counted_and_written_once_a_minute() -> None:
    api = EventApi()
    record(api, (0, POD), (1, POD), (61, POD), (62, OTHER))
    assert api.written == [("create", "a"), ("series", "3"), ("create", "b")]


def test_events_are_forgotten_ten_minutes_after_they_were_written_last() -> None:
    api = EventApi()
    record(api, (0, POD), (10, OTHER), (61, POD), (620, POD), (621, OTHER))
    assert api.written == [
        ("create", "a"),
        ("create", "b"),
        ("series", "2"),
        ("series", "3"),
        ("create", "b"),
    ]


def test_an_event_that_the_server_has_dropped_is_made_anew() -> None:
    api = EventApi()
    api.lost = True
    record(api, (0, POD), (61, POD), (62, POD))
    assert api.written == [("create", "a"), ("create", "a")]
