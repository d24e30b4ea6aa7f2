"""Wires `tandem kubelet-plugin`: what is started after what, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Final

import grpc

from driver.devices import Inventory
from driver.errors import PermanentError, TandemError
from driver.inventory import HostProbe
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.events import EventRecorder, ObjectReference
from driver.kube.objects import Node
from driver.overlay import Overlay
from kubeletplugin import process, service, sockets, steps
from kubeletplugin.attach.engine import AttachEngine
from kubeletplugin.attach.protocol import CniCall, Reply
from kubeletplugin.attach.server import CniServer
from kubeletplugin.cdi import CdiFiles
from kubeletplugin.health import HealthServer, SelfProbe, ended_threads
from kubeletplugin.ledger import Ledger
from kubeletplugin.machine import Machine, find_overlay
from kubeletplugin.podcgroups import PodCgroups
from kubeletplugin.podrecords import PodRecords
from kubeletplugin.preparer import Preparer
from kubeletplugin.proto import pluginregistration_pb2_grpc
from kubeletplugin.publisher import Publisher
from kubeletplugin.registration import Registration
from kubeletplugin.settings import Settings, parse
from kubeletplugin.status import StatusWriter
from kubeletplugin.sweeper import PodDirectories, Sweeper
from kubeletplugin.watcher import HardwareWatcher

log = logging.getLogger(__name__)

INVENTORY_SECONDS: Final = 10.0
SWEEP_SECONDS: Final = 60.0
_LOCK_SECONDS = 10.0  # a container that is restarted in its pod: the one before is ending
_NODE_LOCK_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5.0
_WORKERS = 32

InstallShim = Callable[[Settings], None]
"""Puts the CNI shim on the host; idempotent, called now and then."""


class Plugin:
    """The node's half of Tandem, as one thing to start, run and stop."""

    def __init__(self, settings: Settings, install_shim: InstallShim = lambda _: None) -> None:
        """Open everything, serve nothing yet.

        Raises:
            TandemError: a setting, the ledger, the machine or the API's configuration cannot be used.
        """
        self._settings = settings
        self._install_shim = install_shim
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._paths = sockets.socket_paths(
            settings.plugins_dir, settings.registry_dir, settings.driver_name, settings.pod_uid
        )
        self._lock = sockets.FileLock(self._paths.lock)
        if not self._lock.acquire(_LOCK_SECONDS):
            raise PermanentError(
                f"another kubelet plugin holds {self._paths.lock}: two would serve one socket"
            )
        sockets.remove_dead(self._paths, settings.driver_name)
        self._node_lock = sockets.FileLock(self._paths.node_lock)
        self._leads = False
        self._ledger = Ledger(
            settings.state_dir / "ledger.db",
            boot_id=process.boot_id(),
            instance=settings.pod_uid or uuid.uuid4().hex,
        )
        self._client = KubeClient.load(settings.kubeconfig, user_agent="tandem-kubelet-plugin")
        self._machine = self._open_machine()
        self._wire()

    def start(self) -> None:
        """Clean up after the one before, then serve; the kubelet is told last.

        Raises:
            TandemError: the machine cannot be read.
            OSError: a socket or directory cannot be made.
        """
        self._pods.check(self._settings.pod_uid)
        self._watcher.start()
        self._inventory = self._read()
        self._lead()
        self._status.start()
        self._cni_server.start()
        self._install()
        self._dra_server.start()
        self._registration_server.start()
        self._health.start()
        log.info("serving %s", self._paths.dra)

    def run(self) -> None:
        """Keep the node in view until `stop`."""
        sweep_at = time.monotonic() + SWEEP_SECONDS
        look_at = time.monotonic() + INVENTORY_SECONDS
        while not self._stopping.is_set():
            until = look_at if self._leads else min(look_at, time.monotonic() + _NODE_LOCK_POLL_SECONDS)
            if self._wake.wait(max(0.0, until - time.monotonic())) and self._stopping.is_set():
                return
            if not self._leads:
                self._lead()
            due = time.monotonic() >= look_at
            if not self._wake.is_set() and not due:
                continue
            self._wake.clear()
            self._look()
            if not due:
                continue
            look_at = time.monotonic() + INVENTORY_SECONDS
            self._tidy()
            if self._leads and (time.monotonic() >= sweep_at or self._ledger.needs_rebuild()):
                sweep_at = time.monotonic() + SWEEP_SECONDS
                self._sweep()

    def stop(self) -> None:
        """Make `run` return; for signal handlers."""
        self._stopping.set()
        self._wake.set()

    def close(self) -> None:
        """End in the opposite order: the kubelet sees the registration go first. Sockets are removed."""
        self._registration_server.stop(grace=0).wait()
        self._paths.registration.unlink(missing_ok=True)
        self._preparer.close()
        self._dra_server.stop(grace=_GRACE_SECONDS).wait()
        self._paths.dra.unlink(missing_ok=True)
        self._cni_server.stop()
        self._health.stop()
        self._probe.close()
        self._watcher.stop()
        self._publisher.stop()
        self._status.stop()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._ledger.close()
        self._client.close()
        self._node_lock.release()
        self._lock.release(remove=True)
        log.info("ended")

    # ---- wiring

    def _open_machine(self) -> Machine:
        settings = self._settings
        overlay = self._overlay()
        if not settings.mock_machine:
            self._watcher = self._watch(settings.sysfs, settings.dev_root)
            probe = HostProbe(settings.sysfs, proc=settings.procfs, overlay=overlay)
            return Machine(probe, settings.dev_root, self._away)
        from driver.mock.hardware import MockHardware

        hardware = MockHardware(
            settings.mock_machine,
            settings.state_dir,
            settings.node_name,
            vfs_per_pf=settings.mock_vfs_per_pf,
        )
        roots = hardware.install(frozenset(self._away()))
        self._watcher = self._watch(roots.sysfs, roots.dev)
        overlay = overlay or hardware.machine.load_overlay()
        probe = HostProbe(roots.sysfs, proc=roots.proc, overlay=overlay)
        return Machine(probe, roots.dev, self._away, hardware.mend)

    def _overlay(self) -> Overlay | None:
        settings = self._settings
        file = settings.overlay
        if settings.overlay_dir is not None:
            labels = self._client.get(paths.node(settings.node_name), Node).metadata.labels
            file = find_overlay(settings.overlay_dir, labels)
        if file is None:
            return None
        from driver import overlay_files  # and a YAML parser, which few nodes need

        log.info("topology is corrected by %s", file)
        return overlay_files.load(file)

    def _watch(self, sysfs: Path, dev_root: Path) -> HardwareWatcher:
        return HardwareWatcher(
            sysfs=sysfs, dev_root=dev_root, away=lambda: self._away().keys(), on_news=self._on_news
        )

    def _in_use(self) -> frozenset[str]:
        return frozenset(d.device for record in self._ledger.claims() for d in record.plan.devices)

    def _away(self) -> dict[str, str | None]:
        return {row.pci_address: row.rdma_device for row in self._ledger.unsettled()}

    def _wire(self) -> None:
        settings, client, ledger = self._settings, self._client, self._ledger
        self._status = StatusWriter(client, ledger, settings.driver_name)
        self._publisher = Publisher(
            client,
            driver_name=settings.driver_name,
            node_name=settings.node_name,
            options=settings.slice_options(),
            in_use=self._in_use,
            on_taints_lost=self._warn_taints_lost,
        )
        self._cdi_files = CdiFiles(settings.cdi_dir, settings.driver_name)
        self._sweeper = Sweeper(
            driver_name=settings.driver_name,
            node_name=settings.node_name,
            client=client,
            ledger=ledger,
            pods=PodDirectories(settings.pods_dir),
            files=self._cdi_files,
            may_list=settings.rebuild_ledger,
            on_held=self._publisher.set_held,
        )
        self._pods = PodCgroups(settings.cgroups)
        self._engine = AttachEngine(
            ledger,
            lambda *names: self._preparer.look_up(*names),
            settings.cni_socket.with_name("attach.lock"),
        )
        self._preparer = Preparer(
            driver_name=settings.driver_name,
            node_name=settings.node_name,
            client=client,
            ledger=ledger,
            machine=self._machine,
            engine=self._engine,
            pods=self._pods,
            cdi_files=self._cdi_files,
            records=PodRecords(settings.records_dir),
            on_prepared=self._status.changed,
            on_freed=self._freed,
            on_held=lambda uid: self._sweeper.conflict(self._preparer, uid),
        )
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="claim")
        self._dra_server = _server(_WORKERS, "dra", self._paths.dra)
        service.add_to(self._dra_server, self._preparer, self._workers)
        self._registration = Registration(settings.driver_name, self._paths.dra, service.VERSIONS)
        self._registration_server = _server(2, "registration", self._paths.registration)
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(
            self._registration, self._registration_server
        )
        self._cni_server = CniServer(settings.cni_socket, self._cni)
        self._probe = SelfProbe(self._paths.dra, self._paths.registration)
        self._health = HealthServer(self._paths.health, self._why_dead, self._missing)

    # ---- what happens

    def _on_news(self) -> None:
        log.info("the hardware has changed: reading it")
        self._wake.set()

    def _freed(self, _uid: str) -> None:
        self._sweeper.report()
        self._publisher.look_at_lost()

    def _cni(self, call: CniCall, netns: int | None) -> Reply:
        reply = self._engine.handle(call, netns)
        if call.command in ("ADD", "DEL") and call.pod_uid:
            for uid in {row.claim_uid for row in self._ledger.for_pod(call.pod_uid)}:
                self._status.changed(uid)
        return reply

    def _why_dead(self) -> str:
        threads = ("cni-accept", "hardware", "status", *(["publisher"] if self._leads else []))
        return ended_threads(threads) or self._probe.check()

    def _missing(self) -> str:
        if not self._registration.registered.is_set():
            return "the kubelet has not registered the driver"
        if self._leads and not self._publisher.published:
            return "the node's slices are not published"
        return self._sweeper.lost

    def _lead(self) -> None:
        """Publish and sweep, if no other instance on the node does."""
        if not self._node_lock.acquire():
            return
        self._leads = True
        self._sweeper.replay(self._preparer)
        self._restore()
        self._engine.sweep()
        self._publisher.set_inventory(self._inventory)
        self._publisher.start()

    def _look(self) -> None:
        try:
            self._inventory = self._read()
            if self._leads:
                self._publisher.set_inventory(self._inventory)
                self._publisher.look_at_lost()
        except (TandemError, OSError) as error:
            log.error("the machine cannot be read: %s", error)  # noqa: TRY400
        except Exception:  # what was read before serves on
            log.exception("the machine cannot be read")

    def _read(self) -> Inventory:
        with self._watcher.reading():
            inventory = self._machine.read().inventory
            self._watcher.expect(inventory)
        return inventory

    def _tidy(self) -> None:
        if self._leads:
            try:
                self._engine.sweep()
            except (TandemError, OSError) as error:
                log.warning("NICs of dead pods: %s", error)
        self._install()
        process.trim()

    def _sweep(self) -> None:
        try:
            if self._ledger.needs_rebuild():
                self._restore()
            self._sweeper.sweep(self._preparer)
        except (TandemError, OSError) as error:
            log.warning("sweep: %s", error)

    def _restore(self) -> None:
        """Make the files what the ledger says, once it knows all claims that run here."""
        try:
            if self._ledger.needs_rebuild():
                self._sweeper.rebuild(self._preparer)
        except TandemError as error:
            log.warning("the ledger is not filled from the API yet: %s", error)
        if not self._ledger.needs_rebuild():
            self._preparer.restore_files()

    def _install(self) -> None:
        try:
            self._install_shim(self._settings)
        except (TandemError, OSError) as error:
            log.warning("CNI shim: %s", error)

    def _warn_taints_lost(self) -> None:
        node = self._settings.node_name
        EventRecorder(self._client, "tandem-kubelet-plugin", node).event(
            ObjectReference(kind="Node", namespace="", name=node, uid=node, api_version="v1"),
            "Warning",
            "DeviceTaintsDropped",
            "The API server dropped the taints of this node's devices (feature gate DRADeviceTaints is off), "
            "so kube-scheduler may allocate them: this node is in scheduler mode.",
        )


def main(argv: Sequence[str] | None = None, install_shim: InstallShim = lambda _: None) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status."""
    try:
        settings = parse(sys.argv[1:] if argv is None else argv)
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
        )
        if stop_at := steps.check_environment():
            log.warning("%s=%s", steps.VARIABLE, stop_at)
        plugin = Plugin(settings, install_shim)
    except (TandemError, OSError) as error:
        print(f"tandem kubelet-plugin: {error}", file=sys.stderr)
        return 1

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        plugin.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with contextlib.closing(plugin):
        try:
            plugin.start()
        except (TandemError, OSError) as error:
            print(f"tandem kubelet-plugin: {error}", file=sys.stderr)
            return 1
        plugin.run()
    return 0


def _server(workers: int, name: str, path: Path) -> grpc.Server:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a killed predecessor's: the lock says that nobody serves it
    server = grpc.server(
        ThreadPoolExecutor(workers, thread_name_prefix=name), options=[("grpc.so_reuseport", 0)]
    )
    server.add_insecure_port(f"unix:{path}")
    return server
