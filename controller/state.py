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
from controller.allocator.capacity import Amounts
from controller.allocator.limits import Limit
from controller.allocator.model import DeviceId, NodeDevices
from controller.attachments import Networks
from controller.books import Books, Duplicate, Held, Pool
from controller.extended import Askers
from controller.neighbours import Neighbours
from controller.networks import Network
from controller.nodes import NodeIndex, NodeRecord
from controller.pod_rules import neighbour
from controller.pools import Pools
from driver.kube.fabric import FabricNetwork
from driver.kube.objects import (
    AllocationResult,
    DeviceClass,
    Node,
    Pod,
    ResourceClaim,
    ResourceSlice,
)
from driver.kube.scheduling import PodGroup
from driver.names import CLAIM_FINALIZER, CONTROLLER_TAINT

Key = tuple[str, str]
"""Namespace and name."""

_ANY_PRIORITY = 2**31
"""Higher than any pod's: what is promised with it counts for all."""


@dataclass(slots=True)
class Assumed:
    """An allocation that we decided and the watch does not show yet. `version` is known once written."""

    key: Key
    allocation: AllocationResult
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An allocation of ours was taken back, by kube-scheduler or by us, while pods still wait for it."""

    claim: ResourceClaim
    node: str
    pods: tuple[Key, ...]


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
    index: NodeIndex = field(init=False)
    neighbours: Neighbours = field(default_factory=Neighbours)
    """Pods that have a node or are promised one."""
    askers: Askers = field(default_factory=Askers)
    networks: Networks = field(init=False)
    classes: dict[str, DeviceClass] = field(default_factory=dict)
    classes_generation: int = 0
    claims: dict[Key, ResourceClaim] = field(default_factory=dict)
    claimants: dict[Key, Pod] = field(default_factory=dict)
    """Pods that name claims and have not ended."""
    users: dict[Key, set[Key]] = field(default_factory=dict)
    """Pods by claim."""
    pod_groups: dict[Key, int] = field(default_factory=dict)
    """How many pods start together, by PodGroup."""
    assumed: dict[str, Assumed] = field(default_factory=dict)
    unreserved: dict[Key, float] = field(default_factory=dict)
    """Claims that we allocated and no pod has reserved, oldest first, with the time since when."""

    touched: set[Key] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Claims, by UID, to which another client gave devices that we manage."""
    gone: set[str] = field(default_factory=set)
    """UIDs whose tries are over: pods that were bound or left, claims that were reserved or left."""

    _claim_keys: dict[str, Key] = field(default_factory=dict)
    _promised_on: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.books = Books(self.driver_name)
        self.networks = Networks(self.driver_name, trusting=not self.managed_only)
        self.pools = Pools()
        self.index = NodeIndex(self.pools, self.books, bare=not self.managed_only)

    # Questions

    @property
    def nodes(self) -> dict[str, NodeRecord]:
        """All that something was heard of, by name."""
        return self.index.records

    @property
    def generation(self) -> int:
        """Grows whenever something may do that was refused."""
        return self.index.generation

    def devices(self, record: NodeRecord) -> NodeDevices | None:
        """The index of what the node reaches and we allocate; None where the node is gone."""
        return self.index.own(record).devices if record.node is not None else None

    def reached(self, record: NodeRecord) -> tuple[Pool, ...]:
        """The pools that the node can reach."""
        self.index.settle()
        return record.pools

    def taken(self, record: NodeRecord) -> set[DeviceId]:
        """Devices of the node's pools that claims hold."""
        return {device for pool in self.reached(record) for device in self.books.taken(pool)}

    def shared(self, record: NodeRecord) -> dict[DeviceId, Amounts]:
        """What claims consume of the devices of the node's pools that they share."""
        return {d: amounts for pool in self.reached(record) for d, amounts in self.books.shared(pool).items()}

    def taken_count(self, record: NodeRecord) -> int:
        """How many they are."""
        return sum(len(self.books.taken(pool)) for pool in self.reached(record))

    def taken_version(self, record: NodeRecord) -> tuple[int, ...]:
        """Changes whenever they do."""
        return tuple(self.books.version(pool) for pool in self.reached(record))

    def claims_of(self, pod: Pod) -> list[ResourceClaim] | None:
        """The pod's claims, in its order; None while one of them is not there."""
        found: list[ResourceClaim] = []
        for key, made_for_pod in claim_keys(pod):
            claim = self.claims.get(key) if key else None
            if claim is None or (made_for_pod and not _belongs(claim, pod)):
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
        pods = [(key, self.claimants[key]) for key in self.users.get(claim, ())]
        return sorted(
            key for key, pod in pods if not pod.spec.node_name and not pod.metadata.deletion_timestamp
        )

    # Changes

    def apply_pod(self, old: Pod | None, new: Pod | None) -> None:
        """A pod changed. Pods in a final phase must not come here, but as deleted."""
        self.askers.apply(old, new)
        if old is not None and new is not None and _same_to_us(old, new):
            return
        if old is not None:
            self._drop_pod(old)
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
        self._settle(key)
        if new is not None and old is not None and before is not None and uid not in self.assumed:
            self._note_failure(old, new, before)
        self._rebook(key, uid)
        self._note_unreserved(key, new, now)
        self.touched |= self.users.get(key, set())

    def apply_node(self, old: Node | None, new: Node | None) -> None:
        """A node changed; heartbeats are not counted as changes."""
        node = new or old
        if node is None:
            return
        record = self.index.record(node.metadata.name)
        record.node = new
        if old is not None and new is not None and _placement_facts(old) == _placement_facts(new):
            return
        self.neighbours.apply_node(record.name, new)
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
        """A slice changed. Those without our taint are kube-scheduler's, not ours."""
        concerned: list[Iterable[str] | None] = []
        if old is not None:
            concerned.append(self.pools.remove(old))
        if new is not None and (not self.managed_only or _is_managed(new)):
            pool = new.spec.driver, new.spec.pool.name
            if not self.pools.slices(pool):
                self.foreign.extend(sorted(self.books.foreign(pool)))
            concerned.append(self.pools.put(new))
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
        self._settle(assumed.key)
        if uid in self.assumed:
            return
        claim = self.claims.get(assumed.key)
        if claim is not None and before is not None:
            self._note_failure(claim, claim, before)
        self._rebook(assumed.key, uid)
        self._note_unreserved(assumed.key, claim, now)
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
        self._note_unreserved(_key(claim), claim, now)

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
        self.index.republished(node)
        self.index.improved(node, devices=True)

    def _add_pod(self, pod: Pod) -> None:
        if pod.spec.node_name:
            fit.add(self.index.record(pod.spec.node_name).used, fit.pod_requests(pod))
            self._settled(pod, pod.spec.node_name)
        if pod.spec.resource_claims:
            key = _key(pod)
            self.claimants[key] = pod
            for claim, _ in claim_keys(pod):
                if claim:
                    self.users.setdefault(claim, set()).add(key)
            self.touched.add(key)
        self._promise(pod)

    def _drop_pod(self, pod: Pod) -> None:
        if pod.spec.node_name:
            fit.add(self.index.record(pod.spec.node_name).used, fit.pod_requests(pod), -1)
            self._left(pod)
        if pod.spec.resource_claims:
            key = _key(pod)
            self.claimants.pop(key, None)
            for claim, _ in claim_keys(pod):
                if claim and claim in self.users:
                    self.users[claim].discard(key)
                    if not self.users[claim]:
                        del self.users[claim]
            self.touched.add(key)
        self._break_promise(pod)

    def _promise(self, pod: Pod) -> None:
        """Keep room for a pod that kube-scheduler nominated, or that an allocation pins to a node."""
        self._break_promise(pod)
        if pod.spec.node_name or pod.metadata.deletion_timestamp:
            return
        node, priority = pod.status.nominated_node_name, pod.spec.priority or 0
        for key, _ in claim_keys(pod):
            claim = self.claims.get(key) if key else None
            held = self.books.held(claim.metadata.uid) if claim else None
            if held is not None and held.node is not None:
                node, priority = held.node, _ANY_PRIORITY
        if node:
            self._promised_on[pod.metadata.uid] = node
            self.index.record(node).promised[pod.metadata.uid] = (priority, fit.pod_requests(pod))
            self._settled(pod, node)

    def _break_promise(self, pod: Pod) -> None:
        node = self._promised_on.pop(pod.metadata.uid, None)
        if node is not None:
            del self.index.record(node).promised[pod.metadata.uid]
            self.index.improved(node)
            if not pod.spec.node_name:
                self._left(pod)

    def _settled(self, pod: Pod, node: str) -> None:
        if self.neighbours.put(neighbour(pod, node)):
            self.index.moved_on()

    def _left(self, pod: Pod) -> None:
        if self.neighbours.drop(pod):
            self.index.moved_on()

    def _settle(self, key: Key) -> None:
        """Forget the assumption as soon as the watch is at least as new as our write."""
        claim = self.claims.get(key)
        assumed = self.assumed.get(claim.metadata.uid) if claim else None
        if claim is None or assumed is None:
            return
        seen = assumed.version is not None and int(claim.metadata.resource_version) >= assumed.version
        if seen or claim.status.allocation is not None:
            del self.assumed[claim.metadata.uid]

    def _rebook(self, key: Key, uid: str) -> None:
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
        for pool in {pool for held in (before, after) if held is not None for pool in held.pools}:
            self.index.rebooked(pool)
        for node in {node for pool in freed for node in self.index.concerned(pool)}:
            self.index.improved(node, devices=True)
        if before != after:
            for pod in [self.claimants[user] for user in self.users.get(key, ())]:
                self._promise(pod)

    def _note_foreign(self, uid: str, before: Held | None, after: Held | None) -> None:
        if after is None or after.placement is not None or (before is not None and before.placement is None):
            return
        if any(uid in self.books.foreign(pool) and self.pools.slices(pool) for pool in after.pools):
            self.foreign.append(uid)

    def _note_failure(self, old: ResourceClaim, new: ResourceClaim, before: Held) -> None:
        if new.status.allocation is not None or before.placement is None or before.node is None:
            return
        if new.metadata.deletion_timestamp or CLAIM_FINALIZER not in new.metadata.finalizers:
            return  # the end of its use, not of a try
        waiting = self.waiting_users(_key(new))
        uids = {self.claimants[pod].metadata.uid for pod in waiting}
        if not old.status.reserved_for or any(user.uid in uids for user in old.status.reserved_for):
            self.failures.append(Failure(new, before.node, tuple(waiting)))

    def _note_unreserved(self, key: Key, claim: ResourceClaim | None, now: float) -> None:
        held = self.books.held(claim.metadata.uid) if claim is not None else None
        ours = held is not None and held.placement is not None
        if (
            not ours
            or claim is None
            or claim.status.allocation is None
            or claim.status.reserved_for
            or claim.metadata.deletion_timestamp
        ):
            self.unreserved.pop(key, None)
        else:
            self.unreserved.setdefault(key, now)


def claim_keys(pod: Pod) -> Iterator[tuple[Key | None, bool]]:
    """The pod's claims in its order, and whether each was made for the pod; None while it is not made.

    A template that needed no claim is left out.
    """
    made: Mapping[str, str | None] = {
        status.name: status.resource_claim_name for status in pod.status.resource_claim_statuses
    }
    for entry in pod.spec.resource_claims:
        if entry.resource_claim_name:
            yield (pod.metadata.namespace, entry.resource_claim_name), False
        elif entry.name not in made:
            yield None, True
        elif (name := made[entry.name]) is not None:
            yield (pod.metadata.namespace, name), True


def _belongs(claim: ResourceClaim, pod: Pod) -> bool:
    return any(
        owner.controller and owner.uid == pod.metadata.uid for owner in claim.metadata.owner_references
    )


def _same_to_us(old: Pod, new: Pod) -> bool:
    return (
        old.metadata.uid == new.metadata.uid
        and old.metadata.labels == new.metadata.labels
        and old.spec == new.spec
        and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        and old.status.nominated_node_name == new.status.nominated_node_name
        and old.status.resource_claim_statuses == new.status.resource_claim_statuses
    )


def _placement_facts(node: Node) -> tuple[object, ...]:
    return node.metadata.uid, node.metadata.labels, node.spec, node.status.allocatable


def _is_managed(published: ResourceSlice) -> bool:
    """Devices with our taint, or counters (which carry none)."""
    devices = published.spec.devices
    return not devices or any(t.key == CONTROLLER_TAINT for device in devices for t in device.taints)


def _key(obj: Pod | ResourceClaim | PodGroup) -> Key:
    return obj.metadata.namespace, obj.metadata.name
