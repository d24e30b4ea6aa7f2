"""What would the controller do with these objects? The answer of `tandem plan`, without a cluster.

The objects go into the same ClusterState, and the same Chooser and the same composing of decisions are asked,
as in the live controller; only here every device counts, whether it carries our taint or not, and every claim
is to be placed. Pure: `clock` (seconds) only measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from controller import decision, volumes
from controller.allocator.cel import CelCache, SelectorError
from controller.allocator.model import NodeDevices
from controller.allocator.traits import traits, values
from controller.allocator.verdict import Allocation
from controller.attachments import NoAddressError
from controller.backoff import Backoff
from controller.books import node_of, read
from controller.choice import Chooser
from controller.claimants import claim_keys
from controller.effort import Efforts
from controller.gangs.book import GangBook
from controller.gangs.joint import Joint
from controller.gangs.membership import GangId
from controller.gangs.turns import GangTurns
from controller.planned_objects import (
    claim_of,
    entry_names,
    key_of,
    named,
    pod_for,
    refuse_duplicates,
    with_room,
    with_uid,
)
from controller.quest import Quest
from controller.reserved import with_consumer
from controller.scheduler_mode import nodes_left
from controller.sentences import joined
from controller.settings import PlacementSettings
from controller.state import ClusterState, Key
from controller.strays import is_stray
from controller.unheeded import unattached, unheeded
from controller.validation.documents import KubeObject
from controller.wish import NoWish, Wish, Wishes
from driver.errors import TandemError
from driver.kube.fabric import FabricNetwork, Namespace
from driver.kube.objects import (
    AllocationResult,
    DeviceClass,
    DeviceSelector,
    Node,
    ObjectMeta,
    Pod,
    PodResourceClaimStatus,
    ResourceClaim,
    ResourceClaimSpec,
    ResourceClaimTemplate,
    ResourceSlice,
)
from driver.kube.storage import StorageObject
from driver.placement import PlacedPair

_ENDED: Final = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class PlannedClaim:
    """A claim with what it would get, or has; None where it gets nothing. `notes`: what nobody reads."""

    namespace: str
    name: str
    allocation: AllocationResult | None = None
    pairs: tuple[PlacedPair, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedPod:
    """A pod with claims, or (name None) a claim that no pod names.

    Attributes:
        node: where it goes, or is; None where it has to wait.
        reason: why it has to wait.
        settled: it is bound, and nothing was to be decided.
    """

    namespace: str
    name: str | None
    node: str | None
    reason: str | None
    claims: tuple[PlannedClaim, ...]
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """In the order in which the pods were placed. `micros` is the time of search and scoring."""

    pods: tuple[PlannedPod, ...]
    micros: int
    state: ClusterState = field(compare=False, repr=False)

    @property
    def scheduler_mode(self) -> tuple[str, ...]:
        """Nodes, by name, whose devices carry no controller taint: kube-scheduler decides there, and what is
        planned is only what the controller would choose.
        """
        return nodes_left(self.state.pools.left)

    @property
    def complete(self) -> bool:
        """Everything has its place."""
        return all(pod.node is not None for pod in self.pods)


def plan(
    objects: Sequence[KubeObject], settings: PlacementSettings, cel: CelCache, clock: Callable[[], float]
) -> Plan:
    """Place all pods, and all claims that no pod names, one after the other.

    Raises:
        InvalidObjectError: an object is there twice.
    """
    return _Planner(objects, settings, cel, clock).run()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A turn; `pod` is made up where a claim has none."""

    pod: Pod
    own_claim: ResourceClaim | None
    missing: str
    number: int

    @property
    def order(self) -> tuple[int, bool, str, int]:
        """Priority, then age (what is not in a cluster yet is youngest), then as in the input."""
        obj = self.own_claim or self.pod
        created = obj.metadata.creation_timestamp
        return -(self.pod.spec.priority or 0), created is None, created or "", self.number


class _Planner:
    def __init__(
        self,
        objects: Sequence[KubeObject],
        settings: PlacementSettings,
        cel: CelCache,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._cel = cel
        self._clock = clock
        self._seconds = 0.0
        self._state = ClusterState(settings.driver_name, managed_only=False)
        objects = named(objects)
        refuse_duplicates(objects)
        # Files may say nothing of volumes at all.
        self._state.volumes.known = any(isinstance(item, StorageObject) for item in objects)
        self._load_nodes(objects)
        for item in objects:
            if isinstance(item, DeviceClass):
                self._state.apply_class(None, item)
            elif isinstance(item, FabricNetwork):
                self._state.apply_network(None, item)
            elif isinstance(item, Namespace):
                self._state.apply_namespace(item.metadata.name, item.metadata.labels)
            elif isinstance(item, StorageObject):
                self._state.apply_storage(None, item)
            elif isinstance(item, ResourceClaim):
                self._state.apply_claim(None, with_uid(item), 0.0)
        self._entries = sorted(self._load_pods(objects), key=lambda entry: entry.order)
        self._wishes = Wishes(self._state, None)
        self._chooser = Chooser(self._state, settings, cel)
        self._book = GangBook(self._state, self._wishes)
        joint = Joint(self._state, self._chooser, settings, cel)
        self._gangs = GangTurns(self._state, self._book, joint, self._chooser, Backoff(), Efforts())
        for key in self._state.claimants:
            self._book.update(key)
        self._refused: dict[GangId, str] = {}

    def run(self) -> Plan:
        self._warm()
        pods = tuple(self._place(entry) for entry in self._entries)
        return Plan(pods, round(self._seconds * 1e6), self._state)

    # Loading

    def _load_nodes(self, objects: Sequence[KubeObject]) -> None:
        nodes = [item for item in objects if isinstance(item, Node)]
        slices = [item for item in objects if isinstance(item, ResourceSlice)]
        if not nodes:  # files of slices alone: the nodes that they name
            names = {s.spec.node_name for s in slices if s.spec.node_name}
            names |= {d.node_name for s in slices for d in s.spec.devices if d.node_name}
            nodes = [Node(metadata=ObjectMeta(name=name)) for name in sorted(names)]
        for node in nodes:
            self._state.apply_node(None, with_room(node))
        for item in slices:
            self._state.apply_slice(None, item)
        # To kube-scheduler a pool with counters that must not be used is in the way of `All` on every node.
        theirs = [s for s in slices if not is_stray(s, self._settings.driver_name)]
        with_counters = {(s.spec.driver, s.spec.pool.name) for s in theirs if s.spec.shared_counters}
        theirs = [s for s in theirs if (s.spec.driver, s.spec.pool.name) in with_counters]
        bad = NodeDevices.build(theirs, Node(metadata=ObjectMeta(name="nowhere.invalid"))).bad_pools
        self._state.show_everywhere((one.pool.driver, one.pool.name) for one in bad)

    def _load_pods(self, objects: Sequence[KubeObject]) -> Iterator[_Entry]:
        templates = {key_of(item): item for item in objects if isinstance(item, ResourceClaimTemplate)}
        named: set[Key] = set()
        for number, item in enumerate(objects):
            if isinstance(item, Pod):
                pod, missing = self._with_claims(with_uid(item), templates)
                named |= {key for key, _ in claim_keys(pod) if key}
                if pod.status.phase in _ENDED:
                    continue
                self._state.apply_pod(None, pod)
                for made in volumes.to_be_made(pod):
                    if key_of(made) not in self._state.volumes.claims:
                        self._state.apply_storage(None, made)
                if pod.spec.resource_claims and not pod.metadata.deletion_timestamp:
                    yield _Entry(pod, None, missing, number)
        for number, item in enumerate(objects):
            if isinstance(item, ResourceClaim) and key_of(item) not in named and not item.status.allocation:
                claim = with_uid(item)
                yield _Entry(pod_for(claim), claim, "", number)

    def _with_claims(self, pod: Pod, templates: dict[Key, ResourceClaimTemplate]) -> tuple[Pod, str]:
        """Make the claims that kube-controller-manager would make, and say what is missing for it."""
        namespace, missing = pod.metadata.namespace, ""
        known = {status.name: status for status in pod.status.resource_claim_statuses}
        for entry in pod.spec.resource_claims:
            template_name, status = entry.resource_claim_template_name, known.get(entry.name)
            if template_name is None or (status is not None and status.resource_claim_name is None):
                continue
            name = (status.resource_claim_name if status else None) or f"{pod.metadata.name}-{entry.name}"
            if (namespace, name) in self._state.claims and status is not None:
                continue
            template = templates.get((namespace, template_name))
            if template is None:
                missing = missing or f"there is no ResourceClaimTemplate {namespace}/{template_name}"
                continue
            while (namespace, name) in self._state.claims:
                name += "-x"
            self._state.apply_claim(None, claim_of(template, name, pod), 0.0)
            known[entry.name] = PodResourceClaimStatus(name=entry.name, resource_claim_name=name)
        replace = msgspec.structs.replace
        status_with = replace(pod.status, resource_claim_statuses=list(known.values()))
        return replace(pod, status=status_with), missing

    def _warm(self) -> None:
        """Index all devices and evaluate all selectors, which is not search."""
        selectors = [s for c in self._state.classes.values() for s in c.spec.selectors]
        selectors += [s for claim in self._state.claims.values() for s in _selectors(claim.spec)]
        attributes = {name for claim in self._state.claims.values() for name in _attributes(claim.spec)}
        expressions = {selector.cel.expression for selector in selectors if selector.cel is not None}
        for published in self._state.index.published():
            devices = published.devices
            traits(devices)
            for name in sorted(attributes):
                values(devices, name)
            for expression in sorted(expressions):
                try:
                    self._cel.select(devices, expression)
                except SelectorError:
                    continue

    # Placing

    def _place(self, entry: _Entry) -> PlannedPod:
        pod = entry.pod
        if entry.own_claim is not None:
            wish: Wish | NoWish = Wish(pod, (entry.own_claim,), ())
        elif entry.missing:
            wish = NoWish(entry.missing)
        else:
            wish = self._wishes.of(pod)
        if isinstance(wish, NoWish):
            return self._planned(entry, None, wish.reason)
        if not wish.wanted and pod.spec.node_name:
            return self._planned(entry, pod.spec.node_name, None, settled=True)
        if self._book.has(key_of(pod)) and (wish.wanted or self._book.gang_of(key_of(pod)) in self._refused):
            return self._place_member(entry)
        sharers = self._wishes.sharers(wish) if entry.own_claim is None else []
        start = self._clock()
        try:
            choice = self._chooser.choose(Quest(pod, wish.wanted, wish.allocated, tuple(sharers)))
        except TandemError as error:
            return self._planned(entry, None, str(error))
        finally:
            self._seconds += self._clock() - start
        if choice.best is None:
            reason = joined(choice.why_not, self._chooser.nearest(wish.wanted, choice))
            return self._planned(entry, None, reason)
        try:
            self._write(wish, choice.best.allocation, own=entry.own_claim is None)
        except NoAddressError as error:
            return self._planned(entry, None, str(error))
        if entry.own_claim is None:
            self._reserve(pod)
        return self._planned(entry, choice.best.node, None)

    def _place_member(self, entry: _Entry) -> PlannedPod:
        """Of a gang: whoever is first has all of them placed."""
        key = key_of(entry.pod)
        gang = self._book.gang_of(key)
        if gang is None:
            return self._planned(entry, None, self._book.alone(key))
        if gang not in self._refused:
            self._refused[gang] = self._place_gang(gang)
        claims = self._state.claims_of(entry.pod) or ()
        nodes = [node_of(claim.status.allocation) for claim in claims if claim.status.allocation]
        if len(nodes) < len(claims):
            return self._planned(entry, None, self._refused[gang])
        return self._planned(entry, next(filter(None, nodes), None), None)

    def _place_gang(self, gang: GangId) -> str:
        """As many as there are to be placed; why the others are not."""
        while True:
            start = self._clock()
            places = self._gangs.asked(gang)
            self._seconds += self._clock() - start
            if isinstance(places, str):
                return places
            before = [claim for one in places for claim in one.wish.wanted]
            if not before:
                return ""
            try:
                for one in places:
                    self._write(one.wish, one.allocation, own=True)
                    self._reserve(one.wish.pod)
            except TandemError as error:
                for claim in before:
                    self._state.apply_claim(self._state.claims[key_of(claim)], claim, 0.0)
                return str(error)

    def _write(self, wish: Wish, allocation: Allocation, *, own: bool) -> None:
        """Into the claims, as they are in memory; `own`: the pod is a real one."""
        composed = decision.compose(
            wish.wanted,
            allocation,
            driver_name=self._settings.driver_name,
            networks=self._state.networks_of(wish.wanted),
            addresses=self._state.books.addresses,
            names_in_use=self._wishes.interface_names(wish) if own else set(),
            mtu=self._settings.mtu,
        )
        for claim, result in composed:
            status = msgspec.structs.replace(claim.status, allocation=result)
            self._state.apply_claim(claim, msgspec.structs.replace(claim, status=status), 0.0)

    def _reserve(self, pod: Pod) -> None:
        """Its claims are in use from now on, which not every number of pods can share."""
        for claim in self._state.claims_of(pod) or ():
            self._state.apply_claim(claim, with_consumer(claim, pod), 0.0)

    def _planned(
        self, entry: _Entry, node: str | None, reason: str | None, *, settled: bool = False
    ) -> PlannedPod:
        pod = entry.pod
        claims = [
            self._claim(*key) if key else PlannedClaim(pod.metadata.namespace, f"{pod.metadata.name}-{name}")
            for (key, _), name in zip(claim_keys(pod), entry_names(pod), strict=True)
        ]
        name = pod.metadata.name if entry.own_claim is None else None
        return PlannedPod(pod.metadata.namespace, name, node, reason, tuple(claims), settled)

    def _claim(self, namespace: str, name: str) -> PlannedClaim:
        claim = self._state.claims.get((namespace, name))
        allocation = claim.status.allocation if claim is not None else None
        held = read(allocation, self._settings.driver_name) if allocation is not None else None
        pairs = held.placement.pairs if held is not None and held.placement is not None else ()
        notes = unheeded(claim, self._state.classes, self._settings.driver_name) if claim is not None else ()
        if claim is not None and allocation is not None:
            notes += unattached(claim, allocation, self._settings.driver_name)
        return PlannedClaim(namespace, name, allocation, pairs, notes)


def _selectors(spec: ResourceClaimSpec) -> Iterator[DeviceSelector]:
    for request in spec.devices.requests or []:
        for wanted in request.alternatives:
            yield from wanted.selectors


def _attributes(spec: ResourceClaimSpec) -> Iterator[str]:
    for constraint in spec.devices.constraints:
        yield from filter(None, (constraint.match_attribute, constraint.distinct_attribute))
