"""The controller at work: one thread that takes in changes and decides, between informers and writers."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus

from controller.actions import Action, Allocate, Outcome, Tell
from controller.allocator.cel import CelCache
from controller.allocator.cel_beside import BesideProcess
from controller.binder import Binder
from controller.health import FAILING_AFTER_SECONDS, why_dead, why_unready
from controller.inbox import Inbox, taken
from controller.leader import LeaderElection
from controller.metrics import Metrics
from controller.networks import Network
from controller.placement import Placer
from controller.settings import Settings
from controller.state import ClusterState
from controller.status_server import StatusServer, health
from controller.view import ClusterView
from driver.kube.client import KubeClient
from driver.kube.events import EventRecorder, ObjectReference

log = logging.getLogger(__name__)

_IDLE_SECONDS = 1.0


class Controller:
    """All parts of one controller process. `run` blocks until `stop` is called from elsewhere.

    Attributes:
        status_port: where it answers over HTTP; 0 before it runs.
    """

    def __init__(
        self,
        client: KubeClient,
        settings: Settings,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`identity` names this process among its like, for the Lease and the Events; `clock`: seconds."""
        self._clock = clock
        self._settings = settings
        self._stopping = threading.Event()
        self._inbox: Inbox = Inbox()
        self._state = ClusterState(settings.placement.driver_name)
        self._view = ClusterView(client, self._state, self._inbox)
        if settings.fabric_cidr:
            self._state.networks.builtin = Network.cut(settings.fabric_cidr, settings.rail_prefix_length)
        self._beside = BesideProcess()
        self._placer = Placer(self._state, settings.placement, CelCache(self._beside))
        self._leader = LeaderElection(
            client, settings.namespace, settings.lease_name, identity, settings.lease, clock=clock
        )
        self._binder = Binder(
            client, self.may_write, self._post_outcome, timed=self._time_write, writers=settings.writers
        )
        self._events = EventRecorder(client, "tandem-controller", identity)
        self._metrics = Metrics(
            self._placer.counts,
            {
                "pending_pods": lambda: len(self._placer),
                "waiting_gangs": lambda: self._placer.waiting_gangs,
                "stray_slices_present": lambda: len(self._state.pools.strays),
                "leading": lambda: float(self.may_write()),
                "allocations_in_flight": lambda: len(self._state.assumed),
                "changes_waiting": self._inbox.qsize,
                "writes_waiting": lambda: self._binder.waiting,
                "failing_kinds": self._failing_kinds,
                "unreadable_objects": lambda: self._view.unreadable + len(self._state.unreadable.problems),
            },
        )
        self.status_port = 0
        self._beat = self._clock()
        self._election = threading.Thread(target=self._elect, name="leader", daemon=True)
        self._synced = False
        self._term = 0
        """Counts the times that the lead came or went; what was read for an earlier one does not count."""
        self._informed_term = -1 if settings.leader_elect else 0

    def run(self) -> None:
        """Serve until stopped. Raises OSError where the HTTP port is taken."""
        status = StatusServer(
            self._settings.http_port,
            {
                "/healthz": lambda: health(self._why_dead()),
                "/readyz": lambda: health(self._why_unready()),
                "/metrics": lambda: (HTTPStatus.OK, self._metrics.text()),
            },
        )
        self.status_port = status.port
        log.info("status on port %d", status.port)
        self._view.start()
        try:
            while not self._view.wait_synced(_IDLE_SECONDS):
                self._beat = self._clock()
                if self._stopping.is_set():
                    return
            self._synced = True
            log.info("synced")
            self._inbox.put(_keep_what_is_there)
            self._inbox.put(self._placer.lead)
            self._election.start()
            while not self._stopping.is_set():
                self._turn()
        finally:
            self._stopping.set()
            self._binder.stop()  # what is being written ends, before anybody else may lead
            if self._election.ident is not None:
                self._election.join()
            self._leader.release()
            self._view.stop()
            self._events.stop()
            self._beside.stop()
            status.stop()

    def stop(self) -> None:
        """End `run`, soon; may be called from a signal handler."""
        self._stopping.set()
        self._inbox.put(lambda now: None)

    def may_write(self) -> bool:
        """This process decides, at this moment."""
        return not self._settings.leader_elect or self._leader.may_write()

    def _turn(self) -> None:
        self._beat = started = self._clock()
        leading = self.may_write() and self._informed_term == self._term
        due = self._placer.next_due() if leading else None
        wait = _IDLE_SECONDS if due is None else min(max(due - started, 0.0), _IDLE_SECONDS)
        for message in taken(self._inbox, wait, self._clock):
            try:
                message(self._clock())
            except Exception:
                log.exception("taking in a change")
        now = self._clock()
        for part in (self._placer.absorb, self._decide) if leading else (self._placer.absorb,):
            try:
                actions = part(now)
            except Exception:  # what the other part has to say is not lost with it
                log.exception("deciding")
                continue
            if leading:
                self._perform(actions)

    def _decide(self, now: float) -> list[Action]:
        counts = self._placer.counts
        refusals = counts["refusals"]
        started = self._clock()
        actions = self._placer.step(now)
        ended = self._clock()
        self._placer.took(ended - started, ended)
        placed = any(isinstance(action, Allocate) for action in actions)
        if placed or counts["refusals"] > refusals:
            outcome = "allocated" if placed else "refused"
            self._metrics.decision_seconds.labels(outcome).observe(ended - now)
        return actions

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Tell):
                self._tell(action)
            else:
                self._binder.submit(action)

    def _tell(self, tell: Tell) -> None:
        metadata = tell.regarding.metadata
        kind = type(tell.regarding).__name__
        title = f"{metadata.namespace}/{metadata.name}".removeprefix("/")
        log.info("%s %s: %s", tell.reason, title, tell.message)
        self._events.event(
            ObjectReference(
                kind=kind,
                namespace=metadata.namespace,
                name=metadata.name,
                uid=metadata.uid,
                api_version="v1" if kind == "Pod" else "resource.k8s.io/v1",
            ),
            tell.type,
            tell.reason,
            tell.message,
        )

    def _time_write(self, outcome: str, seconds: float) -> None:
        self._metrics.write_seconds.labels(outcome).observe(seconds)

    def _post_outcome(self, outcome: Outcome) -> None:
        def message(now: float) -> None:
            self._perform(self._placer.outcome(outcome, now))

        self._inbox.put(message)

    def _elect(self) -> None:
        if self._settings.leader_elect:
            self._leader.run(self._stopping, self._lead_changed)

    def _lead_changed(self, leading: bool) -> None:
        """Before it decides, a new leader reads what the last one wrote: its own watch may be behind."""
        self._term = term = self._term + 1

        def informed(now: float) -> None:
            self._informed_term = term
            self._placer.lead(now)

        if leading:
            self._view.refresh_claims(informed)

    def _why_dead(self) -> str:
        ended = self._view.ended
        runs = self._election.is_alive() or not self._settings.leader_elect or self._stopping.is_set()
        if self._election.ident is not None and not runs:
            ended.append(self._election.name)
        return why_dead(self._clock() - self._beat, ended)

    def _why_unready(self) -> str:
        if problem := self._why_dead() or why_unready(self._view.not_listed, self._view.failing):
            return problem
        return "" if self._synced else "what was listed is not taken in yet"

    def _failing_kinds(self) -> int:
        return sum(seconds >= FAILING_AFTER_SECONDS for seconds, _ in self._view.failing.values())


def _keep_what_is_there(now: float) -> None:
    """After all that was listed: it stays, and walking over it again and again would hold decisions up."""
    gc.collect()
    gc.freeze()
