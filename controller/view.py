"""Brings the cluster's changes to the one thread that decides: informers that put them into its inbox.

The ClusterState has one owner, the loop, and so needs no lock: what informers (and the writers) have to say
is a message in a queue, applied in order between two decisions. Slices of all drivers are watched, since a
pod may need devices of others too; of pods only those that have not ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from controller.inbox import Inbox, Message
from controller.reading import (
    ClaimReader,
    NodeReader,
    PodReader,
    SliceReader,
    VolumeClaimReader,
    VolumeReader,
)
from controller.state import ClusterState
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.fabric import FabricNetwork, Namespace
from driver.kube.objects import DeviceClass, Node, Pod, ResourceClaim, ResourceSlice
from driver.kube.scheduling import PodGroup
from driver.kube.storage import PersistentVolume, PersistentVolumeClaim, StorageClass
from driver.kube.watch import Change, HasMetadata, Informer

log = logging.getLogger(__name__)

_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"

T = TypeVar("T", bound=HasMetadata)


class _Watcher(Protocol):
    name: str

    @property
    def unreadable(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    @property
    def synced(self) -> bool: ...
    @property
    def failing(self) -> tuple[float, str]: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def wait_synced(self, timeout_seconds: float) -> bool: ...


class ClusterView:
    """Feeds `state` by way of `inbox`; only the inbox's owner may touch the state."""

    def __init__(self, client: KubeClient, state: ClusterState, inbox: Inbox) -> None:
        self._inbox = inbox

        def watch(
            path: str,
            type: type[T],
            apply: Callable[[T | None, T | None, float], None],
            read: Callable[[msgspec.Raw], T] | None = None,
            *,
            optional: bool = False,
            field_selector: str = "",
        ) -> Informer[T]:
            return Informer(
                client,
                path,
                type,
                on_change=self._posting(apply),
                read=read,
                name=path.rpartition("/")[2],
                optional=optional,
                field_selector=field_selector,
            )

        self._claims = watch(paths.claims(), ResourceClaim, state.apply_claim, ClaimReader(state.driver_name))
        self._informers: list[_Watcher] = [
            watch(paths.nodes(), Node, lambda old, new, _: state.apply_node(old, new), NodeReader()),
            watch(
                paths.networks(),
                FabricNetwork,
                lambda old, new, _: state.apply_network(old, new),
                optional=True,
            ),
            watch(
                paths.pod_groups(),
                PodGroup,
                lambda old, new, _: state.apply_pod_group(old, new),
                optional=True,
            ),
            watch(paths.namespaces(), Namespace, lambda old, new, _: _apply_namespace(state, old, new)),
            watch(paths.classes(), DeviceClass, lambda old, new, _: state.apply_class(old, new)),
            watch(
                paths.slices(),
                ResourceSlice,
                lambda old, new, _: state.apply_slice(old, new),
                SliceReader(),
            ),
            watch(
                paths.storage_classes(),
                StorageClass,
                lambda old, new, _: state.apply_storage(old, new),
            ),
            watch(
                paths.volumes(),
                PersistentVolume,
                lambda old, new, _: state.apply_storage(old, new),
                VolumeReader(),
            ),
            watch(
                paths.volume_claims(),
                PersistentVolumeClaim,
                lambda old, new, _: state.apply_storage(old, new),
                VolumeClaimReader(),
            ),
            self._claims,
            watch(
                paths.pods(),
                Pod,
                lambda old, new, _: state.apply_pod(old, new),
                PodReader(),
                field_selector=_NOT_ENDED,
            ),
        ]

    def start(self) -> None:
        """Begin to list and watch."""
        for informer in self._informers:
            informer.start()

    def stop(self) -> None:
        """End all watches."""
        for informer in self._informers:
            informer.stop()

    def refresh_claims(self, done: Message) -> None:
        """Read all claims again; `done` comes through the inbox after all that they bring."""
        self._claims.refresh(lambda: self._inbox.put(done))

    @property
    def ended(self) -> list[str]:
        """Names of informers' threads that should run and do not."""
        return [f"watch {informer.name}" for informer in self._informers if not informer.alive]

    @property
    def not_listed(self) -> list[str]:
        """Kinds that were never listed."""
        return [informer.name for informer in self._informers if not informer.synced]

    @property
    def failing(self) -> dict[str, tuple[float, str]]:
        """By kind, for how many seconds it could be neither listed nor watched, and the last error."""
        return {informer.name: informer.failing for informer in self._informers}

    @property
    def unreadable(self) -> int:
        """How many objects are left out, since they cannot be read; claims are not."""
        return sum(informer.unreadable for informer in self._informers)

    def wait_synced(self, timeout_seconds: float) -> bool:
        """True as soon as every kind was listed once, and is in the inbox."""
        deadline = time.monotonic() + timeout_seconds
        return all(i.wait_synced(max(0.0, deadline - time.monotonic())) for i in self._informers)

    def _posting(self, apply: Callable[[T | None, T | None, float], None]) -> Callable[[Change[T]], None]:
        def on_change(change: Change[T]) -> None:
            def message(now: float) -> None:
                try:
                    apply(change.old, change.new, now)
                except Exception:
                    item = change.new or change.old
                    log.exception("taking in %s %s", type(item).__name__, item and item.metadata.name)

            self._inbox.put(message)

        return on_change


def _apply_namespace(state: ClusterState, old: Namespace | None, new: Namespace | None) -> None:
    item = new or old
    if item is not None and (old is None or new is None or old.metadata.labels != new.metadata.labels):
        state.apply_namespace(item.metadata.name, new.metadata.labels if new is not None else None)
