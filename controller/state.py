"""The cluster as the placement sees it: indices that follow the objects one change at a time.

Nothing here is rebuilt for a decision. Every apply_* method costs what the one change costs, and leaves word
of what it may have changed for others: pods to look at again (`touched`), a generation number for each node
(a pod that was refused needs no second look at a node whose generation is older than the refusal), and
placements that failed. Not thread-safe, no I/O, no clock: `now` is monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from controller import fit
from controller.allocator.limits import Limit
from controller.attachments import Networks
from controller.books import Books, Duplicate, Held, Pool
from controller.claimants import Claimants, Key, belongs, same_to_us, was_scheduled
from controller.extended import Askers
from controller.known_devices import KnownDevices
from controller.neighbours import Neighbours
from controller.networks import Network
from controller.nodes import NodeIndex, NodeRecord, placement_facts
from controller.other_devices import OtherDevices
from controller.pending import Assumed, Failure, Pending
from controller.pools import Pools, pool_of
from controller.promises import Promises
from controller.reserved import is_closed, is_full
from controller.unreadable import Unreadable
from controller.volumes import Volumes
from driver.kube.fabric import FabricNetwork
from driver.kube.objects import AllocationResult, DeviceClass, Node, Pod, ResourceClaim, ResourceSlice
from driver.kube.scheduling import PodGroup
from driver.kube.storage import StorageObject

__all__ = ["ClusterState", "Failure", "Key"]


@dataclass(slots=True)
class ClusterState:
    """All indices; `driver_name` says which slices and allocations are ours.

    Attributes:
        managed_only: count only devices that carry our taint, as the live controller must; otherwise all.
    """

    driver_name: str
    managed_only: bool = True
    books: Books = field(init=False)
    pools: Pools = field(init=False)
    known: KnownDevices = field(init=False)
    index: NodeIndex = field(init=False)
    others: OtherDevices = field(init=False)
    neighbours: Neighbours = field(default_factory=Neighbours)
    """Pods that have a node or are promised one."""
    askers: Askers = field(default_factory=Askers)
    networks: Networks = field(init=False)
    promises: Promises = field(init=False)
    pending: Pending = field(default_factory=Pending)
    volumes: Volumes = field(default_factory=Volumes)
    classes: dict[str, DeviceClass] = field(default_factory=dict)
    classes_generation: int = 0
    claims: dict[Key, ResourceClaim] = field(default_factory=dict)
    pod_groups: dict[Key, int] = field(default_factory=dict)
    """How many pods start together, by PodGroup."""

    touched: set[Key] = field(default_factory=set)
    duplicates: list[Duplicate] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Claims, by UID, to which another client gave devices that we manage."""
    renewed: set[str] = field(default_factory=set)
    """Nodes that are others now, or gone."""
    unreadable: Unreadable = field(default_factory=Unreadable)
    scheduled: int = 0
    """Grows whenever kube-scheduler is seen at work."""
    gone: set[str] = field(default_factory=set)
    """UIDs whose tries are over: pods that were bound or left, claims that were reserved or left."""

    _claimants: Claimants = field(default_factory=Claimants)
    _claim_keys: dict[str, Key] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.books = Books(self.driver_name)
        self.known = KnownDevices(self.driver_name)
        self.networks = Networks(self.driver_name, trusting=not self.managed_only)
        self.pools = Pools(self.driver_name, managed_only=self.managed_only)
        self.index = NodeIndex(self.pools, self.books, bare=not self.managed_only)
        self.promises = Promises(self.index, self.neighbours)
        self.others = OtherDevices(self.driver_name, self.books, self.promises.with_claims)

    # Questions

    @property
    def nodes(self) -> dict[str, NodeRecord]:
        """All that something was heard of, by name."""
        return self.index.records

    @property
    def claimants(self) -> dict[Key, Pod]:
        """Pods that name claims and have not ended."""
        return self._claimants.pods

    @property
    def users(self) -> dict[Key, set[Key]]:
        """Those pods by claim."""
        return self._claimants.users

    @property
    def assumed(self) -> dict[str, Assumed]:
        """Decided and not shown by the watch yet, by the claim's UID."""
        return self.pending.assumed

    @property
    def unreserved(self) -> dict[Key, float]:
        """Claims that we allocated and no pod has reserved, oldest first, with the time since when."""
        return self.pending.unreserved

    @property
    def failures(self) -> list[Failure]:
        """Our allocations that came back, since somebody looked."""
        return self.pending.failures

    @property
    def generation(self) -> int:
        """Grows whenever something may do that was refused."""
        return self.index.generation

    def claim_keys(self, pod: Pod) -> Iterator[tuple[Key | None, bool]]:
        """`Claimants.claim_keys`."""
        return self._claimants.claim_keys(pod)

    def claims_of(self, pod: Pod) -> list[ResourceClaim] | None:
        """The pod's claims, in its order; None while one of them is not there."""
        found: list[ResourceClaim] = []
        for key, made_for_pod in self.claim_keys(pod):
            claim = self.claims.get(key) if key else None
            if claim is None or (made_for_pod and not belongs(claim, pod)):
                return None
            found.append(claim)
        return found

    def allocation_of(self, claim: ResourceClaim) -> AllocationResult | None:
        """The claim's allocation, or the one that we decided and is being written."""
        assumed = self.assumed.get(claim.metadata.uid)
        return claim.status.allocation or (assumed.allocation if assumed else None)

    def claim_by_uid(self, uid: str) -> ResourceClaim | None:
        """A claim that is there."""
        key = self._claim_keys.get(uid)
        claim = self.claims.get(key) if key else None
        return claim if claim is not None and claim.metadata.uid == uid else None

    def waiting_users(self, claim: Key) -> list[Key]:
        """Pods that wait for the claim: no node, not being deleted."""
        return self._claimants.waiting(claim)

    # Changes

    def apply_pod(self, old: Pod | None, new: Pod | None) -> None:
        """A pod changed. Pods in a final phase must not come here, but as deleted."""
        self.askers.apply(old, new)
        if old is not None and new is not None and was_scheduled(old, new):
            self.scheduled += 1
        if old is not None and new is not None and same_to_us(old, new):
            if new.spec.resource_claims:
                self.claimants[_key(new)] = new  # what kube-scheduler says of it may be another
            return
        if old is not None:
            self._drop_pod(old, new.spec.node_name if new is not None else "")
        if new is not None:
            self._add_pod(new)
        before = (old.spec.node_name, fit.pod_requests(old)) if old is not None else ("", {})
        after = (new.spec.node_name, fit.pod_requests(new)) if new is not None else ("", {})
        if before[0] and before != after:
            self.index.improved(before[0])
        if old is not None and (new is None or new.spec.node_name):
            self.gone.add(old.metadata.uid)

    def apply_claim(self, old: ResourceClaim | None, new: ResourceClaim | None, now: float) -> None:
        """A claim changed."""
        claim = new or old
        if claim is None:
            return
        key, uid = _key(claim), claim.metadata.uid
        before = self.books.held(uid)
        new = self.unreadable.note(uid, new, self.claim_by_uid(uid))
        self.touched |= self._claimants.apply_claim(old, new)
        if new is None:
            self.claims.pop(key, None)
            self.assumed.pop(uid, None)
            self._claim_keys.pop(uid, None)
            self.gone.add(uid)
        else:
            self.claims[key] = new
            self._claim_keys[uid] = key
            if new.status.reserved_for:
                self.gone.add(uid)
        self.pending.settle(self.claims.get(key))
        if new is not None and old is not None and before is not None and uid not in self.assumed:
            self._note_failure(old, new, before)
        self._rebook(key, uid, users_changed=any(one is not None and is_full(one) for one in (old, new)))
        readable = new if uid not in self.unreadable.problems else None
        self.pending.note_unreserved(key, readable, self.books.held(uid), now)
        self.touched |= self.users.get(key, set())

    def apply_node(self, old: Node | None, new: Node | None) -> None:
        """A node changed; heartbeats are not counted as changes."""
        node = new or old
        if node is None:
            return
        record = self.index.record(node.metadata.name)
        record.node = new
        if old is not None and new is not None and placement_facts(old) == placement_facts(new):
            return
        self.neighbours.apply_node(record.name, new)
        self.others.apply_node(record.name, new)
        self._republished(record.name)

    def apply_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """A namespace's labels changed; None: it is gone."""
        self.neighbours.apply_namespace(name, labels)
        self.networks.apply_namespace(name, labels)
        self.index.moved_on()
        self._look_again()

    def apply_network(self, old: FabricNetwork | None, new: FabricNetwork | None) -> None:
        """A FabricNetwork changed."""
        if old is None or new is None or old.spec != new.spec:
            self.networks.apply(old, new)
            self._look_again()

    def apply_slice(self, old: ResourceSlice | None, new: ResourceSlice | None) -> None:
        """A slice changed."""
        if new is not None and self.known.take_in(new):
            self._look_again()  # claims that were nobody's may be ours
            self.askers.reconsider()
        for name in self.others.apply_slice(old, new):
            self.index.improved(name)
        if self.managed_only and self.driver_name not in {i.spec.driver for i in (old, new) if i}:
            return
        known = new is None or self.pools.slices(pool_of(new))
        concerned = [self.pools.remove(old)] if old is not None else []
        if new is not None:
            concerned.append(self.pools.put(new))
            if not known and self.pools.slices(pool_of(new)):
                self.foreign.extend(sorted(self.books.foreign(pool_of(new))))
        names = {name for some in concerned for name in (self.nodes if some is None else some)}
        for name in names:
            self._republished(name)

    def apply_class(self, old: DeviceClass | None, new: DeviceClass | None) -> None:
        """A class changed: what was refused everywhere may do now."""
        if old is not None and new is not None and old.spec == new.spec:
            return
        if old is not None:
            self.classes.pop(old.metadata.name, None)
        if new is not None:
            self.classes[new.metadata.name] = new
        self.classes_generation += 1
        self.askers.reconsider()
        for name in self.nodes:
            self.index.improved(name, devices=True)
        self.touched.update(self.claimants)

    def networks_of(self, claims: Iterable[ResourceClaim]) -> list[Mapping[str, Network]]:
        """For each claim the networks of its requests. Raises NetworkRefusedError."""
        return [self.networks.of(claim, self.classes, self.classes_generation) for claim in claims]

    def network_limits(self, claims: Sequence[ResourceClaim]) -> tuple[Limit | None, ...]:
        """For each claim the rails that its networks leave open. Raises NetworkRefusedError."""
        return self.networks.limits(claims, self.classes, self.books.addresses, self.classes_generation)

    def apply_storage(self, old: StorageObject | None, new: StorageObject | None) -> None:
        """A PersistentVolumeClaim, a PersistentVolume or a StorageClass changed."""
        self.touched |= self.volumes.apply(old, new)

    def apply_pod_group(self, old: PodGroup | None, new: PodGroup | None) -> None:
        """A PodGroup changed: how many of its pods start together."""
        group = new or old
        least = new.least if new is not None else None
        if group is None or self.pod_groups.get(_key(group)) == least:
            return
        if least is None:
            del self.pod_groups[_key(group)]
        else:
            self.pod_groups[_key(group)] = least
        self.touched.update(
            key
            for key, pod in self.claimants.items()
            if pod.spec.scheduling_group is not None
            and (key[0], pod.spec.scheduling_group.pod_group_name) == _key(group)
        )

    def assume(self, claim: ResourceClaim, allocation: AllocationResult) -> None:
        """We decided: the devices are taken from now on."""
        uid = claim.metadata.uid
        self.assumed[uid] = Assumed(_key(claim), allocation)
        self._rebook(_key(claim), uid)

    def written(self, uid: str, version: str, now: float) -> None:
        """The decision is in the API server; the watch shows it soon, or showed it already."""
        assumed = self.assumed.get(uid)
        if assumed is None:
            return
        assumed.version = int(version)
        before = self.books.held(uid)
        claim = self.claims.get(assumed.key)
        self.pending.settle(claim)
        if uid in self.assumed:
            return
        if claim is not None and before is not None:
            self._note_failure(claim, claim, before)
        self._rebook(assumed.key, uid)
        self.pending.note_unreserved(assumed.key, claim, self.books.held(uid), now)
        self.touched |= self.users.get(assumed.key, set())

    def not_written(self, uid: str) -> None:
        """The decision did not come to pass."""
        assumed = self.assumed.pop(uid, None)
        if assumed is not None:
            self._rebook(assumed.key, uid)
            self.touched |= self.users.get(assumed.key, set())

    def restart_unreserved(self, claim: ResourceClaim, now: float) -> None:
        """Give an allocation that nobody has reserved yet its time anew."""
        self.unreserved.pop(_key(claim), None)
        held = self.books.held(claim.metadata.uid)
        self.pending.note_unreserved(_key(claim), claim, held, now)

    def show_everywhere(self, pools: Iterable[Pool]) -> None:
        """Let every node's index have these pools, though not every node reaches them."""
        self.pools.show_everywhere(pools)
        for name in self.nodes:
            self.index.republished(name)

    # Beneath

    def _look_again(self) -> None:
        """What was refused everywhere may do now."""
        self.touched.update(key for key, pod in self.claimants.items() if not pod.spec.node_name)

    def _republished(self, node: str) -> None:
        self.renewed.add(node)
        self.index.republished(node)
        self.index.improved(node, devices=True)

    def _add_pod(self, pod: Pod) -> None:
        self.volumes.put_pod(pod)
        self.promises.bound(pod)
        if pod.spec.resource_claims:
            self._claimants.put(pod)
            self.touched.add(_key(pod))
        self._promise(pod)

    def _drop_pod(self, pod: Pod, bound_to: str) -> None:
        self.touched |= self.volumes.drop_pod(pod)
        self.promises.unbound(pod)
        if pod.spec.resource_claims:
            self._claimants.drop(pod)
            self.touched.add(_key(pod))
        self.promises.end(pod, bound_to)

    def _promise(self, pod: Pod) -> None:
        """Renew what is promised to the pod."""
        pinned = None
        for key, _ in self.claim_keys(pod):
            claim = self.claims.get(key) if key else None
            held = self.books.held(claim.metadata.uid) if claim else None
            if claim is not None and is_closed(claim, pod):
                pinned = None
                break
            if held is not None and held.node is not None:
                pinned = held.node
        self.promises.renew(pod, pinned)

    def _rebook(self, key: Key, uid: str, *, users_changed: bool = False) -> None:
        claim = self.claims.get(key)
        current = claim is not None and claim.metadata.uid == uid
        before, opened = self.books.held(uid), self.books.addresses.opened
        allocation = self.allocation_of(claim) if claim is not None and current else None
        freed, duplicates = self.books.record(uid, allocation)
        if self.books.addresses.opened != opened:
            self._look_again()
        self.duplicates.extend(duplicates)
        after = self.books.held(uid)
        self._note_foreign(uid, before, after)
        changed = {pool for held in (before, after) if held is not None for pool in held.pools}
        for pool in changed:
            self.index.rebooked(pool)
        for node in {node for pool in freed for node in self.index.concerned(pool)}:
            self.index.improved(node, devices=True)
        for node in self.others.rebooked(changed, freed):
            self.index.improved(node)
        if before != after or users_changed:
            for pod in self._claimants.of(key):
                self._promise(pod)

    def _note_foreign(self, uid: str, before: Held | None, after: Held | None) -> None:
        if after is None or after.placement is not None or (before is not None and before.placement is None):
            return
        if any(uid in self.books.foreign(pool) and self.pools.slices(pool) for pool in after.pools):
            self.foreign.append(uid)

    def _note_failure(self, old: ResourceClaim, new: ResourceClaim, before: Held) -> None:
        waiting = [self.claimants[key] for key in self.waiting_users(_key(new))]
        self.pending.note_failure(old, new, before, waiting)


def _key(obj: Pod | ResourceClaim | PodGroup) -> Key:
    return obj.metadata.namespace, obj.metadata.name
