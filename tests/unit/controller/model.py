"""A made-up cluster around the decisions: it stores what is written, with versions, and reports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import msgspec

from controller.actions import Allocate, Clear, Cleared, NotWritten, Tell, Written
from controller.allocator.cel import CelCache
from controller.choice import Chooser
from controller.networks import Network
from controller.ownership import Ownership
from controller.placement import Placer
from controller.quest import Quest
from controller.settings import PlacementSettings
from controller.state import ClusterState, Key
from controller.wish import Wish, Wishes, rank
from driver.codec import PLACEMENT, kind_of
from driver.kube.objects import (
    AllocationResult,
    Node,
    Pod,
    ResourceClaim,
    ResourceClaimConsumerReference,
    ResourceSlice,
)
from driver.names import CLAIM_FINALIZER, DRIVER_NAME
from driver.placement import Placement, decode_placement
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, slices_of

CEL = CelCache()


@dataclass
class ModelCluster:
    """`now` only moves by `wait`. Writes arrive at once unless `slow` is set; then `deliver` lets them.

    `fair`: whoever is allocated must be the first of those who could be. `bugs`: how many are expected.
    """

    settings: PlacementSettings = field(default_factory=PlacementSettings)
    now: float = 0.0
    slow: bool = False
    fair: bool = False
    bugs: int = 0
    cel: CelCache = CEL
    fabric: Network = field(default_factory=lambda: Network.cut(IPv4Network("10.200.0.0/16"), 24))

    def __post_init__(self) -> None:
        self.version = 100
        self.state = ClusterState(self.settings.driver_name)
        self.state.networks.builtin = self.fabric
        self.placer = Placer(self.state, self.settings, self.cel)
        self.claims: dict[str, ResourceClaim] = {}
        self.pods: dict[str, Pod] = {}
        self.allocated: list[tuple[float, Key, str]] = []  # when, pod, node
        self.told: list[Tell] = []
        self.on_the_way: list[Allocate | Clear] = []
        for device_class in CLASSES:
            self.state.apply_class(None, device_class)

    # What happens to the cluster

    def add_node(self, node: Node, slices: list[ResourceSlice] | None = None) -> None:
        self.state.apply_node(None, node)
        for published in slices_of(node.metadata.name) if slices is None else slices:
            self.state.apply_slice(None, published)

    def put_pod(self, pod: Pod) -> None:
        self.state.apply_pod(self.pods.get(pod.metadata.name), pod)
        self.pods[pod.metadata.name] = pod

    def delete_pod(self, name: str) -> None:
        self.state.apply_pod(self.pods.pop(name), None)

    def put_claim(self, claim: ResourceClaim) -> ResourceClaim:
        self.version += 1
        metadata = msgspec.structs.replace(claim.metadata, resource_version=str(self.version))
        claim = msgspec.structs.replace(claim, metadata=metadata)
        self.state.apply_claim(self.claims.get(claim.metadata.name), claim, self.now)
        self.claims[claim.metadata.name] = claim
        return claim

    def delete_claim(self, name: str) -> None:
        self.state.apply_claim(self.claims.pop(name), None, self.now)

    def set_allocation(
        self, name: str, allocation: AllocationResult | None, *, finalizer: bool = True
    ) -> ResourceClaim:
        claim = self.claims[name]
        metadata = msgspec.structs.replace(claim.metadata, finalizers=[CLAIM_FINALIZER] if finalizer else [])
        status = msgspec.structs.replace(claim.status, allocation=allocation, reserved_for=[])
        return self.put_claim(msgspec.structs.replace(claim, metadata=metadata, status=status))

    def bind(self, pod_name: str, node: str) -> None:
        """As kube-scheduler: reserve, then bind."""
        pod = self.pods[pod_name]
        user = ResourceClaimConsumerReference(resource="pods", name=pod_name, uid=pod.metadata.uid)
        for entry in pod.spec.resource_claims:
            claim = self.claims[entry.resource_claim_name or ""]
            users = [*claim.status.reserved_for, user]
            self.put_claim(
                msgspec.structs.replace(
                    claim, status=msgspec.structs.replace(claim.status, reserved_for=users)
                )
            )
        self.put_pod(msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=node)))

    def judge(self, pod_name: str, message: str) -> None:
        """As kube-scheduler where it finds no node for the pod."""
        pod = self.pods[pod_name]
        verdict = {"type": "PodScheduled", "reason": "Unschedulable", "message": message}
        self.put_pod(
            msgspec.structs.replace(pod, status=msgspec.structs.replace(pod.status, conditions=[verdict]))
        )

    def give_back(self, claim: str) -> None:
        """As kube-scheduler where the pod does not fit the node."""
        self.set_allocation(claim, None)

    # What the controller does

    def run(self) -> None:
        """Until there is nothing to do at this time."""
        for _ in range(1000):
            actions = self.placer.absorb(self.now)
            first = self._first() if self.fair else None
            actions += self.placer.step(self.now)
            for action in actions:
                if first is not None and isinstance(action, Allocate):
                    assert action.pod == first
                self._perform(action)
            assert self.placer.counts["internal_errors"] <= self.bugs
            due = self.placer.next_due()
            if not actions and not self.state.touched and (due is None or due > self.now):
                return
        raise AssertionError("the controller does not come to rest")

    def wait(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, and the controller work."""
        end = self.now + seconds
        self.run()
        while self.now < end:
            self.now = min(self.now + step, end)
            self.run()

    def deliver(self, *, refuse: str = "") -> None:
        """Let the writes that are on the way arrive, or fail."""
        actions, self.on_the_way = self.on_the_way, []
        for action in actions:
            self._arrive(action, refuse)

    def _first(self) -> Key | None:
        """The first pod in order that has a place now, found without anything that was kept."""
        wishes = Wishes(self.state, Ownership(self.settings.driver_name, CEL, self.state.known))
        chooser = Chooser(self.state, self.settings, CEL)
        for pod in sorted(self.pods.values(), key=rank):
            wish = wishes.of(pod)
            if not isinstance(wish, Wish) or not wish.wanted:
                continue
            quest = Quest(pod, wish.wanted, wish.allocated, others=wish.others)
            if chooser.choose(quest).best is not None:
                return pod.metadata.namespace, pod.metadata.name
        return None

    def _perform(self, action: Allocate | Clear | Tell) -> None:
        if isinstance(action, Tell):
            self.told.append(action)
            return
        if isinstance(action, Allocate):
            self.allocated.append((self.now, action.pod, action.node))
        if self.slow:
            self.on_the_way.append(action)
        else:
            self._arrive(action, "")

    def _arrive(self, action: Allocate | Clear, refuse: str) -> None:
        if isinstance(action, Clear):
            claim = self.claims.get(action.claim.metadata.name)
            current = (
                claim is not None
                and claim.metadata.resource_version == action.claim.metadata.resource_version
            )
            if current:
                self.set_allocation(action.claim.metadata.name, None)
            outcome = Cleared(action.claim.metadata.uid, "" if current else "conflict")
            self.told += [t for t in self.placer.outcome(outcome, self.now) if isinstance(t, Tell)]
            return
        for write in action.writes:
            uid = write.claim.metadata.uid
            claim = self.claims.get(write.claim.metadata.name)
            if refuse or claim is None or claim.metadata.uid != uid or claim.status.allocation is not None:
                result: Written | NotWritten = NotWritten(uid, refuse or "conflict")
            else:
                stamped = msgspec.structs.replace(
                    write.allocation, allocation_timestamp="2026-01-01T00:00:00Z"
                )
                result = Written(
                    uid, self.set_allocation(claim.metadata.name, stamped).metadata.resource_version
                )
            self.told += [t for t in self.placer.outcome(result, self.now) if isinstance(t, Tell)]

    # Questions

    def node_of(self, claim: str) -> str | None:
        allocation = self.claims[claim].status.allocation
        if allocation is None or allocation.node_selector is None:
            return None
        (term,) = allocation.node_selector.node_selector_terms
        (need,) = term.match_fields
        assert (need.key, need.operator, term.match_expressions) == ("metadata.name", "In", [])
        (node,) = need.values
        return node

    def devices_of(self, claim: str) -> list[str]:
        allocation = self.claims[claim].status.allocation
        return [r.device for r in allocation.devices.results] if allocation else []

    def placement_of(self, claim: str) -> Placement:
        allocation = self.claims[claim].status.allocation
        assert allocation is not None
        (ours,) = [
            entry.opaque.parameters
            for entry in allocation.devices.config
            if entry.source == "FromClass" and entry.opaque and entry.opaque.driver == DRIVER_NAME
            if kind_of(entry.opaque.parameters) == PLACEMENT
        ]
        return decode_placement(ours)

    def reasons(self, name: str) -> list[str]:
        return [tell.reason for tell in self.told if tell.regarding.metadata.name == name]

    def messages(self, name: str, reason: str) -> list[str]:
        return [t.message for t in self.told if t.regarding.metadata.name == name and t.reason == reason]


def a_cluster(nodes: int = 2, **settings: Any) -> ModelCluster:
    cluster = ModelCluster(**settings)
    for index in range(nodes):
        cluster.add_node(a_node(f"n{index}"))
    return cluster


def wish(cluster: ModelCluster, name: str, **claim: Any) -> None:
    """A claim and the pod that waits for it, with UIDs that were never there before."""
    cluster.version += 1
    cluster.put_claim(a_claim(f"{name}-claim", uid=f"claim-{cluster.version}", **claim))
    cluster.put_pod(a_pod(name, [f"{name}-claim"], uid=f"pod-{cluster.version}"))
