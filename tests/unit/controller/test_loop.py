"""The deciding loop, turn by turn: no thread of it is started, and nothing is waited for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from threading import Event, Thread
from typing import Any

import msgspec
import pytest

from controller.leader import LeaseTimes
from controller.loop import Controller
from controller.settings import PlacementSettings, Settings
from controller.state import ClusterState
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, slices_of
from tests.unit.kube.server import serve


@pytest.fixture
def controller() -> Iterator[Controller]:
    with a_controller() as made:
        yield made


@contextmanager
def a_controller(**more: Any) -> Iterator[Controller]:
    """Against an API server that knows no claims."""
    with serve() as (_, client):
        settings = Settings(PlacementSettings(), "ns", LeaseTimes(), leader_elect=False)
        made = Controller(client, settings, "me", **more)
        state = made._state
        for device_class in CLASSES:
            state.apply_class(None, device_class)
        state.apply_node(None, a_node("n0"))
        for published in slices_of("n0"):
            state.apply_slice(None, published)
        try:
            yield made
        finally:
            made.stop()
            made._binder.stop()
            made._events.stop()


def wish(state: ClusterState, name: str, **spec: Any) -> None:
    state.apply_claim(None, a_claim(f"{name}-claim"), 0.0)
    pod = a_pod(name, [f"{name}-claim"])
    state.apply_pod(None, msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, **spec)))


def test_a_change_that_cannot_be_taken_in_is_logged_and_those_behind_it_are(
    controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(now: float) -> None:
        raise ValueError("of this one")

    controller._inbox.put(broken)
    controller._inbox.put(lambda now: wish(controller._state, "p"))
    controller._turn()
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == ["taking in a change"]
    assert set(controller._state.assumed) == {"uid-p-claim"}


def test_a_flood_of_changes_waits_while_there_is_a_decision() -> None:
    clock = [0.0]
    with a_controller(clock=lambda: clock[0]) as controller:
        controller._inbox.put(lambda now: wish(controller._state, "p"))
        taken: list[str] = []

        def slow(now: float) -> None:
            clock[0] += 0.015
            taken.append("slow")

        for _ in range(100):
            controller._inbox.put(slow)
        controller._turn()
        assert set(controller._state.assumed) == {"uid-p-claim"}
        assert len(taken) == 2
        assert controller._inbox.qsize() == 98


def test_a_controller_that_has_listed_nothing_is_alive_and_not_ready(controller: Controller) -> None:
    assert controller._why_dead() == ""
    assert controller._why_unready().startswith(
        "not listed yet: deviceclasses, fabricnetworks, namespaces, nodes"
    )


def test_a_controller_whose_turn_does_not_end_is_neither(controller: Controller) -> None:
    controller._beat -= 100.0
    assert controller._why_dead().startswith("the deciding thread hangs: its turn takes 100")
    assert controller._why_unready() == controller._why_dead()


def test_a_controller_whose_election_has_ended_is_dead(controller: Controller) -> None:
    controller._settings = replace(controller._settings, leader_elect=True)
    controller._election = Thread(target=lambda: None, name="leader")
    controller._election.start()
    controller._election.join()
    assert controller._why_dead() == "threads have ended: leader"


def test_a_controller_whose_api_server_is_away_is_alive_and_says_what_it_lacks() -> None:
    with serve() as (_, client):
        pass
    made = Controller(client, Settings(PlacementSettings(), "ns", LeaseTimes(), http_port=0), "me")
    answers: list[str] = []
    asker = Thread(target=_ask, args=(made, answers))
    asker.start()
    made.run()
    asker.join()
    alive, ready = answers
    assert alive == "200 ok\n"
    assert ready.startswith("503 not listed yet: ")


def _ask(controller: Controller, answers: list[str]) -> None:
    """Ask the port of a controller that is being started, then stop it."""
    while not controller.status_port:
        Event().wait(0.005)
    for path in ("/healthz", "/readyz"):
        connection = HTTPConnection("127.0.0.1", controller.status_port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        answers.append(f"{answer.status} {answer.read().decode()}")
        connection.close()
    controller.stop()


def test_a_bug_with_one_pod_leaves_the_others_their_turns(controller: Controller) -> None:
    controller._inbox.put(lambda now: wish(controller._state, "bad", node_selector=5))
    controller._inbox.put(lambda now: wish(controller._state, "good"))
    for _ in range(2):
        controller._turn()
    assert set(controller._state.assumed) == {"uid-good-claim"}
    assert controller._placer.counts["internal_errors"] == 1


def test_what_was_taken_in_is_told_though_the_decision_after_it_fails(
    controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    state = controller._state
    asker = a_pod("asker", status={"conditions": [{"type": "PodScheduled", "reason": "Unschedulable"}]})
    (main,) = asker.spec.containers
    requests = {"deviceclass.resource.kubernetes.io/gpu.tandem-dra.io": "1"}
    main = msgspec.structs.replace(main, resources=msgspec.structs.replace(main.resources, requests=requests))
    spec = msgspec.structs.replace(asker.spec, containers=[main])
    controller._inbox.put(lambda now: state.apply_pod(None, msgspec.structs.replace(asker, spec=spec)))
    state.unreserved["ns", "no such claim"] = float("-inf")
    controller._turn()
    assert "ExtendedResource default/asker" in caplog.text
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == ["taking back"]


def test_a_standby_takes_in_and_decides_nothing(controller: Controller) -> None:
    controller._informed_term = -1
    controller._inbox.put(lambda now: wish(controller._state, "p"))
    controller._turn()
    assert controller._state.assumed == {}
    assert len(controller._placer) == 1
    controller._informed_term = 0
    controller._turn()
    assert set(controller._state.assumed) == {"uid-p-claim"}
