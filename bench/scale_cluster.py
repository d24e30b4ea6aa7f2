"""The controller's state and placement on a large cluster, with an API server that takes every write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.scale_load import Fleet, claim_json, classes, paged, pod_json
from controller.actions import Allocate, Written
from controller.allocator.cel import CelCache
from controller.placement import Placer
from controller.reading import ClaimReader, NodeReader, PodReader, SliceReader
from controller.settings import PlacementSettings
from controller.state import ClusterState
from driver.kube.objects import Pod, ResourceClaim, ResourceClaimConsumerReference
from driver.names import DRIVER_NAME

SOON_SECONDS: Final = 0.25
"""What is due so soon is waited for, by setting the clock."""


class Page(msgspec.Struct):
    """An answer to a list request."""

    items: list[msgspec.Raw]


class Cluster:
    """The controller's state and placement, and around them an API server that takes every write."""

    def __init__(self, series: str) -> None:
        """Pods that arrive are named after the series."""
        self._series = series
        self.state = ClusterState(DRIVER_NAME)
        self.cel = CelCache()
        self.placer = Placer(self.state, PlacementSettings(), self.cel)
        self.read_claim, self.read_pod = ClaimReader(), PodReader()
        self.stored: list[Any] = []
        """Objects that only the informers' stores would keep."""
        self.running: list[tuple[Pod, ResourceClaim]] = []
        self.taken = 0
        self.now = 0.0
        """Seconds, for the placement."""
        self._version = 10
        self._number = 0

    def load(self, fleet: Fleet, folder: Path | None) -> tuple[float, float]:
        """List everything. Returns the seconds that it took, without those of making the bytes, and how many
        of them the processor worked.
        """
        for device_class in classes():
            self.state.apply_class(None, device_class)
        state = self.state
        spent = [
            self._read(fleet.node_pages(), NodeReader(), lambda o: state.apply_node(None, o)),
            self._read(fleet.slice_pages(), SliceReader(), lambda o: state.apply_slice(None, o)),
            self._read(fleet.bystander_pages(), self.read_pod, lambda o: state.apply_pod(None, o)),
        ]
        if folder is not None:
            claims, pods = (paged(_lines(folder / name)) for name in ("claims", "pods"))
            spent += [
                self._read(claims, self.read_claim, lambda o: state.apply_claim(None, o, 0.0)),
                self._read(pods, self.read_pod, lambda o: state.apply_pod(None, o)),
            ]
            for pod in list(state.claimants.values()):
                self._add(pod, state.claims[pod.metadata.namespace, pod.metadata.name])
        return sum(wall for wall, _ in spent), sum(cpu for _, cpu in spent)

    def _read(
        self, pages: Iterator[bytes], read: Callable[[msgspec.Raw], Any], apply: Callable[[Any], None]
    ) -> tuple[float, float]:
        decoder, seconds, cpu = msgspec.json.Decoder(Page), 0.0, 0.0
        for page in pages:
            start, start_cpu = time.perf_counter(), time.thread_time()
            for raw in decoder.decode(page).items:
                item = read(raw)
                self.stored.append(item)
                apply(item)
            seconds += time.perf_counter() - start
            cpu += time.thread_time() - start_cpu
        return seconds, cpu

    def arrive(self, gpus: int, vfs: int, *, size: int = 0, **pod_wants: str) -> tuple[Pod, ResourceClaim]:
        """A pod with its claim, of a gang of this size if any; `pod_wants` go to `pod_json`."""
        self._number += 1
        name = f"{self._series}-{gpus}-{vfs}-{self._number}"
        claim = self.read_claim(msgspec.Raw(claim_json(name, gpus, vfs, gang=size)))
        pod = self.read_pod(msgspec.Raw(pod_json(name, claim=name, **pod_wants)))
        self.state.apply_claim(None, claim, 0.0)
        self.state.apply_pod(None, pod)
        return pod, claim

    def decide(self) -> list[Allocate]:
        """What the placement does with who has arrived."""
        return list(self.decisions())

    def decisions(self) -> Iterator[Allocate]:
        """One after the other, as the controller's loop does it, until nothing is due soon."""
        while True:
            actions = self.placer.absorb(self.now)
            due = self.placer.next_due()  # pods that were bound have a turn, too, which is short
            if due is not None and due < self.now + SOON_SECONDS:
                self.now = max(self.now, due)
                actions += self.placer.step(self.now)
            elif not actions:
                return
            yield from (action for action in actions if isinstance(action, Allocate))

    def arrive_together(self, size: int, number: int) -> list[tuple[Pod, ResourceClaim]]:
        """A gang, each member with a claim for one pair."""
        return [self.arrive(1, 1, size=size, gang=f"gang-{number}") for _ in range(size)]

    def waits(self, pod: Pod) -> bool:
        """It has no node yet."""
        now = self.state.claimants.get((pod.metadata.namespace, pod.metadata.name))
        return now is not None and not now.spec.node_name

    def bind(self, action: Allocate) -> None:
        """The write arrives, and the pod is bound."""
        (write,) = action.writes
        pod, claim = self.state.claimants[action.pod], write.claim
        self._version += 1
        change = msgspec.structs.replace
        user = ResourceClaimConsumerReference(resource="pods", name=pod.metadata.name, uid=pod.metadata.uid)
        written = change(
            claim,
            metadata=change(claim.metadata, resource_version=str(self._version)),
            status=change(claim.status, allocation=write.allocation, reserved_for=[user]),
        )
        self.state.apply_claim(claim, written, self.now)
        self.placer.outcome(Written(claim.metadata.uid, str(self._version)), self.now)
        bound = change(pod, spec=change(pod.spec, node_name=action.node))
        self.state.apply_pod(pod, bound)
        self._add(bound, written)

    def depart(self, number: int) -> None:
        """One of the pods ends, and its claim with it."""
        pod, claim = self.running[number]
        self.running[number] = self.running[-1]
        self.running.pop()
        self.taken -= _gpus(claim)
        self.state.apply_pod(pod, None)
        self.state.apply_claim(claim, None, 0.0)

    def give_up(self, pod: Pod, claim: ResourceClaim) -> None:
        """One that waits in vain leaves."""
        self.state.apply_pod(pod, None)
        self.state.apply_claim(claim, None, 0.0)

    def _add(self, pod: Pod, claim: ResourceClaim) -> None:
        self.running.append((pod, claim))
        self.taken += _gpus(claim)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\n")


def _gpus(claim: ResourceClaim) -> int:
    allocation = claim.status.allocation
    return sum(r.request == "gpu" for r in allocation.devices.results) if allocation is not None else 0
