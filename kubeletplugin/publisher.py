"""Keeps the node's ResourceSlices what they must be, whoever changes or deletes them.

The kubelet deletes a node's slices at each of its starts; until they are back nothing can be allocated
there. So the slices are watched, and put back as soon as they go.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections.abc import Callable, Set
from dataclasses import replace
from functools import partial

from driver.devices import Inventory
from driver.errors import KubeConflictError, KubeError, KubeNotFoundError, RetryableError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import ResourceSlice
from driver.kube.watch import Change, Informer
from driver.slices import SliceOptions, build, slice_name
from kubeletplugin.identity import node_uid
from kubeletplugin.pool import (
    Create,
    Delete,
    Write,
    lost_taints,
    other_name,
    under_other_names,
    without_taints,
    writes,
)
from kubeletplugin.troubles import link_taints, lost_devices, with_lost

log = logging.getLogger(__name__)

_BACKOFF_FIRST_SECONDS = 0.1
_BACKOFF_LAST_SECONDS = 10.0


class Publisher:
    """Publishes on a thread of its own, from `start` to `stop`.

    Args:
        options: what is published and how; what is held, and what is wrong, is added here.
        in_use: names of the devices that claims have on this node.
        on_taints_lost: called once if the API server drops taints: this node is in scheduler mode then.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        driver_name: str,
        node_name: str,
        options: SliceOptions,
        in_use: Callable[[], Set[str]] = frozenset,
        on_taints_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._driver_name = driver_name
        self._node_name = node_name
        self._options = options
        self._in_use = in_use
        self._on_taints_lost = on_taints_lost
        self._taints_work = True
        self._node_uid = ""
        self._inventory: Inventory | None = None
        self._held: frozenset[str] = frozenset()
        self._lost: frozenset[str] = frozenset()
        self._last: list[ResourceSlice] = []
        self._observed: dict[str, ResourceSlice] = {}
        self._names: dict[str, str] = {}  # in place of those that others have
        self._generation = 0
        self._changed = threading.Condition()
        self._dirty = False
        self._stopping = False
        self._published = threading.Event()
        self._informer: Informer[ResourceSlice] = Informer(
            client,
            paths.slices(),
            ResourceSlice,
            field_selector=f"spec.nodeName={node_name},spec.driver={driver_name}",
            on_change=self._on_change,
            name="slices",
        )
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    @property
    def published(self) -> bool:
        """Were the slices complete once?"""
        return self._published.is_set()

    def start(self) -> None:
        """Begin to watch and publish; returns at once."""
        self._informer.start()
        self._thread.start()

    def stop(self) -> None:
        """End. The slices stay: the next instance goes on with them."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._informer.stop()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    def set_inventory(self, inventory: Inventory) -> None:
        """What the node has now."""
        with self._changed:
            if inventory != self._inventory:
                self._inventory = inventory
                self._wake()

    def set_held(self, held: frozenset[str]) -> None:
        """Names of devices that old claims still have."""
        with self._changed:
            if held != self._held:
                self._held = held
                self._wake()

    def look_at_lost(self) -> None:
        """A claim may have let go of a device that is gone: then it leaves the slices."""
        with self._changed:
            if self._lost and not self._lost <= self._in_use():
                self._wake()

    # ---- inside

    def _wake(self) -> None:
        self._dirty = True
        self._changed.notify()

    def _on_change(self, change: Change[ResourceSlice]) -> None:
        if (item := change.new or change.old) is not None and not self._is_ours(item):
            return
        with self._changed:
            if change.new is not None:
                there = self._observed.get(change.new.metadata.name)
                if there is None or not _is_newer(there, change.new):
                    self._observed[change.new.metadata.name] = change.new
            elif change.old is not None:
                there = self._observed.get(change.old.metadata.name)
                if there is not None and there.metadata.uid == change.old.metadata.uid:
                    del self._observed[change.old.metadata.name]
            self._wake()

    def _run(self) -> None:
        backoff_seconds = _BACKOFF_FIRST_SECONDS
        while not self._informer.wait_synced(0.5):
            if self._stopping:
                return
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping or (self._dirty and self._inventory is not None)
                )
                if self._stopping:
                    return
                self._dirty = False
            try:
                self._publish()
                backoff_seconds = _BACKOFF_FIRST_SECONDS
                continue
            except RetryableError as error:
                log.warning("slices: %s; again in %.1f s", error, backoff_seconds)
            except KubeError as error:
                backoff_seconds = _BACKOFF_LAST_SECONDS
                log.error("slices: %s; again in %.1f s", error, backoff_seconds)  # noqa: TRY400
            except Exception:
                backoff_seconds = _BACKOFF_LAST_SECONDS
                log.exception("slices: again in %.1f s", backoff_seconds)
            with self._changed:
                self._dirty = True
                self._changed.wait_for(lambda: self._stopping, backoff_seconds * random.uniform(0.8, 1.2))  # noqa: S311
            backoff_seconds = min(backoff_seconds * 2, _BACKOFF_LAST_SECONDS)

    def _publish(self) -> None:
        """Bring the API's slices in line, until nothing is left to write."""
        if not self._node_uid:
            self._node_uid = node_uid(self._client, self._node_name)
        with self._changed:
            desired = under_other_names(self._desired(), self._names)
            steps = writes(self._observed, desired, self._generation)
        for step in steps:
            self._write(step)
        if steps:
            log.info("slices: %s", ", ".join(f"{type(s).__name__} {s.slice.metadata.name}" for s in steps))
        self._published.set()

    def _desired(self) -> list[ResourceSlice]:
        assert self._inventory is not None  # noqa: S101
        desired = build(
            self._inventory,
            driver_name=self._driver_name,
            node_name=self._node_name,
            node_uid=self._node_uid,
            generation=0,
            options=replace(self._options, held=self._held, taints=link_taints(self._inventory)),
        )
        before = [*self._observed.values(), *self._last]
        lost = lost_devices(desired, before, self._in_use())
        if lost - self._lost:
            log.warning("devices are gone while claims have them: %s", ", ".join(sorted(lost - self._lost)))
        self._lost = lost
        desired = with_lost(desired, before, lost, partial(slice_name, self._driver_name, self._node_name))
        self._last = desired
        return desired if self._taints_work else [without_taints(slice_) for slice_ in desired]

    def _write(self, step: Write) -> None:
        name = step.slice.metadata.name
        try:
            if isinstance(step, Delete):
                self._client.delete(paths.slice_(name), uid=step.slice.metadata.uid)
                self._note(name, None)
                return
            # Noted before it is known to arrive: no generation may be written twice with different content.
            self._generation = max(self._generation, step.slice.spec.pool.generation)
            if isinstance(step, Create):
                stored = self._client.create(paths.slices(), step.slice, ResourceSlice)
            else:
                stored = self._client.update(paths.slice_(name), step.slice, ResourceSlice)
        except (KubeConflictError, KubeNotFoundError) as error:
            there = self._look(name)
            if there is not None and not self._is_ours(there):
                self._give_up_name(name, there)
                there = None
            self._note(name, there)
            raise KubeConflictError(str(error), status=error.status, reason=error.reason) from error
        if self._taints_work and lost_taints(step.slice, stored):
            self._taints_work = False
            log.error(
                "slices: the API server dropped the devices' taints (feature gate DRADeviceTaints is off): "
                "node %s is in scheduler mode",
                self._node_name,
            )
            self._on_taints_lost()
        self._note(name, stored)

    def _is_ours(self, there: ResourceSlice) -> bool:
        return there.spec.driver == self._driver_name and there.spec.node_name == self._node_name

    def _give_up_name(self, name: str, there: ResourceSlice) -> None:
        """Another node, or another driver, has a slice of this name: ours is published under one that nobody
        can guess, or whoever is quicker could keep a node's devices from the cluster.
        """
        wanted = next((old for old, new in self._names.items() if new == name), name)
        self._names[wanted] = other_name(wanted, secrets.token_hex(4))
        log.error(
            "slices: the name %s is taken by a slice of driver %s, node %s: published as %s instead",
            name,
            there.spec.driver,
            there.spec.node_name or "(none)",
            self._names[wanted],
        )

    def _look(self, name: str) -> ResourceSlice | None:
        try:
            return self._client.get(paths.slice_(name), ResourceSlice)
        except KubeNotFoundError:
            return None

    def _note(self, name: str, stored: ResourceSlice | None) -> None:
        """What the API has of a slice now; the watch may lag behind."""
        with self._changed:
            there = self._observed.get(name)
            if stored is None:
                self._observed.pop(name, None)
            elif there is None or not _is_newer(there, stored):
                self._observed[name] = stored


def _is_newer(there: ResourceSlice, than: ResourceSlice) -> bool:
    """By resourceVersion, which is a growing number (KEP-5504)."""
    try:
        return int(there.metadata.resource_version) > int(than.metadata.resource_version)
    except ValueError:
        return False
