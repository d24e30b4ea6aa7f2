"""What must hold whatever the order of calls, and wherever the process ends."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from driver.errors import TandemError
from driver.kube import paths
from kubeletplugin import ledger as ledger_module
from kubeletplugin import preparer as preparer_module
from kubeletplugin import steps
from kubeletplugin.preparer import ClaimRef
from kubeletplugin.steps import Point
from tests.unit.kubeletplugin.api import serve
from tests.unit.kubeletplugin.world import GPUS, VFS, World

CLAIMS = ("a", "b", "c")
DEVICES = (*GPUS, *VFS[:2])
STOPS: tuple[Point, ...] = (
    "prepare.recorded",
    "prepare.files",
    "prepare.done",
    "unprepare.recorded",
    "unprepare.released",
    "unprepare.files",
    "unprepare.done",
)


class Killed(BaseException):
    """The process ends here: no handler runs after it."""


class Node(RuleBasedStateMachine):
    """Prepares and unprepares of a few claims over few devices, with a kill at any step."""

    @initialize()
    def start(self) -> None:
        self.server = serve()
        api, client = self.server.__enter__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name), api, client)
        self.kill_at: Point | None = None
        self.dead = False
        ledger_module.step = preparer_module.step = self.step  # type: ignore[attr-defined]

    def step(self, point: Point) -> None:
        if self.dead or point == self.kill_at:
            self.dead = True
            raise Killed(point)

    def call(self, what: str, name: str) -> None:
        try:
            getattr(self.world.preparer, what)(ClaimRef("ns", name, f"uid-{name}"))
        except TandemError:
            pass
        except Killed:
            self.kill_at, self.dead = None, False
            self.world.reopen()

    @rule(name=st.sampled_from(CLAIMS), devices=st.sets(st.sampled_from(DEVICES), min_size=1, max_size=3))
    def allocate(self, name: str, devices: set[str]) -> None:
        """Whoever allocates may give a device twice: that is what the node must withstand."""
        self.world.allocate(name, *sorted(devices), pods=[f"pod-{name}"])

    @rule(name=st.sampled_from(CLAIMS))
    def delete(self, name: str) -> None:
        if paths.claim("ns", name) in self.world.api.objects:
            self.world.api.remove(paths.claim("ns", name))

    @rule(name=st.sampled_from(CLAIMS), running=st.booleans())
    def pod(self, name: str, running: bool) -> None:
        folder = self.world.pods / f"uid-pod-{name}"
        if running:
            folder.mkdir(exist_ok=True)
        elif folder.exists():
            folder.rmdir()

    @rule(name=st.sampled_from(CLAIMS), kill_at=st.none() | st.sampled_from(STOPS))
    def prepare(self, name: str, kill_at: Point | None) -> None:
        self.kill_at = kill_at
        self.call("prepare", name)
        self.kill_at = None

    @rule(name=st.sampled_from(CLAIMS), kill_at=st.none() | st.sampled_from(STOPS))
    def unprepare(self, name: str, kill_at: Point | None) -> None:
        self.kill_at = kill_at
        self.call("unprepare", name)
        self.kill_at = None

    @rule()
    def sweep(self) -> None:
        self.world.sweeper.sweep(self.world.preparer)

    @invariant()
    def no_device_is_in_two_claims(self) -> None:
        held = Counter(
            device.device for record in self.world.ledger.claims() for device in record.plan.devices
        )
        assert all(count == 1 for count in held.values()), held

    @invariant()
    def files_are_of_the_ledgers_claims(self) -> None:
        records = self.world.ledger.claims()
        assert {f"tandem-dra.io-claim-{record.plan.uid}.json" for record in records} == self.world.cdi_files()
        pods = {pod.uid for record in records if record.plan.attachments for pod in record.plan.consumers}
        assert pods == self.world.record_files()

    def teardown(self) -> None:
        """After all are unprepared nothing is left."""
        for name in CLAIMS:
            self.call("unprepare", name)
        left = self.world.ledger.claims(), self.world.cdi_files(), self.world.record_files()
        ledger_module.step = preparer_module.step = steps.step  # type: ignore[attr-defined]
        self.world.close()
        self.folder.cleanup()
        self.server.__exit__(None, None, None)
        assert left == ([], set(), set())


TestNode = Node.TestCase
TestNode.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
