"""Why does a claim wait, or what did it get? The answer of `tandem explain`, by the code that decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from controller import decision
from controller.allocator.cel import CelCache
from controller.backoff import Backoff
from controller.books import node_of
from controller.choice import Chooser
from controller.effort import Efforts
from controller.gangs.book import GangBook
from controller.gangs.joint import Joint
from controller.gangs.turns import GangTurns
from controller.ownership import Ownership
from controller.quest import Quest
from controller.reserved import is_closed, why_closed
from controller.sentences import joined
from controller.settings import PlacementSettings
from controller.state import ClusterState, Key
from controller.unheeded import unattached, unheeded
from controller.validation.documents import KubeObject
from controller.wish import NoWish, Wishes, rank
from driver.errors import TandemError
from driver.kube.fabric import FabricNetwork, Namespace
from driver.kube.objects import DeviceClass, Node, Pod, ResourceClaim, ResourceSlice
from driver.kube.storage import PersistentVolume, PersistentVolumeClaim, StorageClass

_ENDED = ("Succeeded", "Failed")
_NAMED = 3
_ABOUT_TO = (
    "the controller is about to, waits after a failed placement (see the claim's events), or does not run"
)


_SCHEDULER_DECIDES = "kube-scheduler decides: all nodes with our devices are in scheduler mode"
_SCHEDULER_SERVES = "kube-scheduler decides: a node in scheduler mode has the devices free"
_SEE = "where it does not place the pod, the pod's FailedScheduling Event says why"


@dataclass(frozen=True, slots=True)
class Explanation:
    """`allocated` says whether the claim has its devices; `text` is for people, `pods` those that name it."""

    allocated: bool
    text: str
    pods: tuple[str, ...] = ()


def state_of(objects: Iterable[KubeObject], driver_name: str) -> ClusterState:
    """The state as the controller has it, of what the API server lists."""
    state = ClusterState(driver_name)
    for item in objects:
        match item:
            case Node():
                state.apply_node(None, item)
            case ResourceSlice():
                state.apply_slice(None, item)
            case DeviceClass():
                state.apply_class(None, item)
            case FabricNetwork():
                state.apply_network(None, item)
            case Namespace():
                state.apply_namespace(item.metadata.name, item.metadata.labels)
            case PersistentVolumeClaim() | PersistentVolume() | StorageClass():
                state.apply_storage(None, item)
            case ResourceClaim():
                state.apply_claim(None, item, 0.0)
            case Pod() if item.status.phase not in _ENDED:
                state.apply_pod(None, item)
    return state


def explain(state: ClusterState, key: Key, settings: PlacementSettings, cel: CelCache) -> Explanation | None:
    """What there is to say of the claim; None where there is no such claim."""
    found = _explain(state, key, settings, cel)
    if found is None:
        return None
    claim, driver = state.claims[key], settings.driver_name
    notes = unheeded(claim, state.classes, driver)
    if claim.status.allocation is not None:
        notes += unattached(claim, claim.status.allocation, driver)
    return replace(found, text="; ".join([found.text, *(f"note: {note}" for note in notes)]))


def _explain(state: ClusterState, key: Key, settings: PlacementSettings, cel: CelCache) -> Explanation | None:
    claim = state.claims.get(key)
    if claim is None:
        return None
    pods = sorted(state.users.get(key, ()))
    names = tuple(name for _, name in pods)
    if claim.status.allocation is not None:
        node = node_of(claim.status.allocation) or "(any that its selector takes)"
        text = decision.describe(node, claim.status.allocation, settings.driver_name)
        closed = [user for user in state.waiting_users(key) if is_closed(claim, state.claimants[user])]
        if closed:
            text += f"; pods that cannot use it: {_few(closed)}: {why_closed(claim)}"
        return Explanation(True, text, names)
    waiting = state.waiting_users(key)
    if not waiting:
        reason = "no pod waits for it: a claim is allocated when a pod that names it waits"
        return Explanation(False, reason, names)
    wishes = Wishes(state, Ownership(settings.driver_name, cel, state.known))
    pod = min((state.claimants[user] for user in waiting), key=rank)
    wish = wishes.of(pod)
    if isinstance(wish, NoWish):
        return Explanation(False, wish.reason, names)
    if claim.metadata.uid not in [wanted.metadata.uid for wanted in wish.wanted]:
        return Explanation(False, f"its requests are not for devices of {settings.driver_name}", names)
    chooser = Chooser(state, settings, cel)
    sharers = tuple(wishes.sharers(wish))
    quest = Quest(pod, wish.wanted, wish.allocated, sharers, others=wish.others)
    if not state.pools.handed and chooser.left_to_scheduler(quest):
        return Explanation(False, f"{_SCHEDULER_DECIDES}: {_SEE}", names)
    if gang := _of_gang(state, pod, wishes, chooser, settings, cel):
        return Explanation(False, gang, names)
    try:
        choice = chooser.choose(quest)
    except TandemError as error:
        return Explanation(False, str(error), names)
    if choice.best is None and chooser.left_to_scheduler(quest):
        return Explanation(False, f"{_SCHEDULER_SERVES}: {_SEE}; otherwise {choice.why_not}", names)
    if choice.best is None:
        return Explanation(False, joined(choice.why_not, chooser.nearest(wish.wanted, choice)), names)
    return Explanation(False, f"node {choice.best.node} could take it now: {_ABOUT_TO}", names)


def _few(pods: Sequence[Key]) -> str:
    """Some of the pods' names."""
    names = [name for _, name in pods]
    more = ["…"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])


def _of_gang(
    state: ClusterState,
    pod: Pod,
    wishes: Wishes,
    chooser: Chooser,
    settings: PlacementSettings,
    cel: CelCache,
) -> str:
    """How the pod's gang stands; empty where it is in none."""
    book = GangBook(state, wishes)
    for member in state.claimants:
        book.update(member)
    key = pod.metadata.namespace, pod.metadata.name
    gang = book.gang_of(key)
    if gang is None:
        return book.alone(key)
    joint = Joint(state, chooser, settings, cel)
    places = GangTurns(state, book, joint, chooser, Backoff(), Efforts()).asked(gang)
    if isinstance(places, str):
        return places
    where = ", ".join(sorted({one.node for one in places}))
    return f"{gang}: {len(places)} members could be placed now, on {where}: {_ABOUT_TO}"
