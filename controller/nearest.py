"""What is the least that would have to change for refused claims to be placed on a node?

Asked of the allocator itself, with one thing changed at a time: a farther tier allowed, taints gone, closed
rails open, more VFs on each NIC, taken devices free. What is changed only in thought is marked as to be
avoided: the answer uses as little of it as it can, and what it does use is the change that would help. Costs
a few searches, so it is for telling people, not for deciding. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from controller.allocator.candidates import Options
from controller.allocator.capacity import Amounts
from controller.allocator.cel import CelCache
from controller.allocator.limits import Limit, listed
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice
from controller.allocator.solve import allocate
from controller.allocator.traits import rail_of, type_of
from controller.allocator.verdict import Allocation
from driver.config import Alignment, decode_user
from driver.devices import Tier
from driver.errors import ConfigError
from driver.kube.objects import (
    Device,
    DeviceClaimConfig,
    DeviceClass,
    DeviceTaint,
    OpaqueConfig,
    ResourceClaim,
)
from driver.names import CONTROLLER_TAINT, TYPE, TYPE_NIC, TYPE_VF

_REPELLING: Final = ("NoSchedule", "NoExecute")
_AVOIDED: Final = DeviceTaint(key="only-in-thought", effect="None")
_MOST_VFS: Final = 4
"""So many more on each NIC are thought of."""
_NAMED: Final = 2


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """Something that would help; `cost` orders: what an owner of the claim can do comes first."""

    cost: int
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """Claims that `node` refused, as they were given to the allocator; `limits` for each, or empty."""

    claims: Sequence[ResourceClaim]
    node: NodeDevices
    classes: Mapping[str, DeviceClass]
    taken: Collection[DeviceId]
    options: Options
    cel: CelCache
    shared: Mapping[DeviceId, Amounts]
    limits: Sequence[Limit | None] = ()

    def asked(
        self,
        *,
        claims: Sequence[ResourceClaim] | None = None,
        devices: Sequence[PoolDevice] | None = None,
        taken: Collection[DeviceId] | None = None,
        limits: Sequence[Limit | None] | None = None,
    ) -> Allocation | None:
        """The same with something changed."""
        node = self.node
        if devices is not None:
            node = NodeDevices(
                node=node.node,
                devices=tuple(devices),
                bad_pools=node.bad_pools,
                counters=node.counters,
                consumers=node.consumers,
            )
        answer = allocate(
            self.claims if claims is None else claims,
            node,
            self.classes,
            self.taken if taken is None else taken,
            self.options,
            self.cel,
            self.shared,
            self.limits if limits is None else limits,
        )
        return answer if isinstance(answer, Allocation) else None


def changes(question: Question) -> list[Change]:
    """Each by itself would do, the cheapest first; empty where none of them would."""
    found = (_tier(question), _taints(question), _rails(question), _vfs(question), _taken(question))
    return sorted(change for change in found if change is not None)


def _tier(question: Question) -> Change | None:
    """Would a farther tier do?"""
    required = [one for claim in question.claims for one in _required(claim, question.options.driver)]
    if not required:
        return None
    for tier in (tier for tier in Tier if tier > min(required)):
        claims = [_allowing(claim, tier, question.options.driver) for claim in question.claims]
        if question.asked(claims=claims) is not None:
            return Change(1, f"{tier.name} instead of {min(required).name} would do")
    return None


def _taints(question: Question) -> Change | None:
    """Would it do without taints?"""
    keys: dict[DeviceId, list[str]] = {}
    devices = []
    for device in question.node.devices:
        bad = [t for t in device.device.taints if t.effect in _REPELLING and t.key != CONTROLLER_TAINT]
        if bad and device.id not in question.taken:
            keys[device.id] = sorted({taint.key for taint in bad})
            devices.append(_avoided(device, without=bad))
        else:
            devices.append(device)
    answer = question.asked(devices=devices) if keys else None
    if answer is None:
        return None
    mine = [device for device in _used(answer) if device in keys]
    taints = sorted({key for device in mine for key in keys[device]})
    return Change(1 + len(mine), f"without taint {', '.join(taints)} on {_names(mine)}") if mine else None


def _rails(question: Question) -> Change | None:
    """Would it do on other rails than a gang's, or with more addresses on those that a network closes?"""
    limits = [limit for limit in question.limits if limit is not None]
    closed = {
        device.id
        for device in question.node.devices
        if any(limit.closes(device, type_of(device)) for limit in limits)
    }
    devices = [_avoided(device) if device.id in closed else device for device in question.node.devices]
    answer = question.asked(devices=devices, limits=()) if closed else None
    if answer is None:
        return None
    more: Counter[int] = Counter()
    for share, limit in zip(answer.claims, question.limits, strict=True):
        nics = [device for device in share.devices if type_of(device) in (TYPE_NIC, TYPE_VF)]
        on = [rail for device in nics if (rail := rail_of(device)) is not None]
        if limit is not None and limit.exactly and set(on) != limit.rails:
            return Change(1, f"{listed(set(on))} instead of {_numbers(limit.rails)} would do")
        more.update(rail for rail in on if limit is not None and rail not in limit.rails)
    if not more:
        return None
    parts = [f"{n} more address{'es' * (n > 1)} on rail {rail}" for rail, n in sorted(more.items())]
    return Change(2 + more.total(), _joined(parts, "rails"))


def _vfs(question: Question) -> Change | None:
    """Would more VFs do?"""
    parents: dict[tuple[str, str], PoolDevice] = {}
    for device in question.node.devices:
        parent = _text(device.device, "pf")
        if parent and _text(device.device, TYPE) == TYPE_VF:
            parents.setdefault((device.id.pool, parent), device)
    more: dict[DeviceId, str] = {}
    devices = list(question.node.devices)
    for (_, parent), sibling in parents.items():
        for number in range(_MOST_VFS):
            vf = DeviceId(sibling.id.driver, sibling.id.pool, f"{sibling.id.device}-more-{number}")
            more[vf] = parent
            devices.append(_avoided(sibling, as_id=vf))
    answer = question.asked(devices=devices) if more else None
    if answer is None:
        return None
    wanted = Counter(more[device] for device in _used(answer) if device in more)
    parts = [f"{count} more VF{'s' * (count > 1)} on {parent}" for parent, count in sorted(wanted.items())]
    if not parts:
        return None
    return Change(3 + wanted.total(), _joined(parts, "NICs"))


def _taken(question: Question) -> Change | None:
    """Would it do if taken devices were free?"""
    taken = question.taken
    devices = [_avoided(device) if device.id in taken else device for device in question.node.devices]
    answer = question.asked(devices=devices, taken=frozenset()) if taken else None
    if answer is None:
        return None
    mine = [device for device in _used(answer) if device in taken]
    return Change(4 + len(mine), f"if {_names(mine)} were free") if mine else None


def _required(claim: ResourceClaim, driver: str) -> Iterator[Tier]:
    for config in claim.spec.devices.config:
        if config.opaque is not None and config.opaque.driver == driver:
            try:
                asked = decode_user(config.opaque.parameters)
            except ConfigError:
                continue
            if isinstance(asked, Alignment):
                yield asked.require


def _allowing(claim: ResourceClaim, tier: Tier, driver: str) -> ResourceClaim:
    """The claim with all its alignments content with this tier."""
    replace = msgspec.structs.replace
    configs = [_with_tier(config, tier, driver) for config in claim.spec.devices.config]
    return replace(claim, spec=replace(claim.spec, devices=replace(claim.spec.devices, config=configs)))


def _with_tier(config: DeviceClaimConfig, tier: Tier, driver: str) -> DeviceClaimConfig:
    if config.opaque is None or config.opaque.driver != driver:
        return config
    document = msgspec.json.decode(config.opaque.parameters)
    if Tier[document.get("require", "SYS")] >= tier:
        return config
    parameters = msgspec.Raw(msgspec.json.encode({**document, "require": tier.name}))
    return msgspec.structs.replace(config, opaque=OpaqueConfig(driver=driver, parameters=parameters))


def _avoided(
    device: PoolDevice, *, without: Collection[DeviceTaint] = (), as_id: DeviceId | None = None
) -> PoolDevice:
    """A copy that is taken only where nothing else does."""
    device_id = as_id or device.id
    taints = [taint for taint in device.device.taints if taint not in without]
    copy = msgspec.structs.replace(device.device, name=device_id.device, taints=[*taints, _AVOIDED])
    return PoolDevice(id=device_id, device=copy, place=device.place, content=device.content)


def _used(answer: Allocation) -> Iterator[DeviceId]:
    return (device.id for share in answer.claims for device in share.devices)


def _names(devices: Sequence[DeviceId]) -> str:
    names = [device.device for device in devices]
    if len(names) <= _NAMED:
        return " and ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _joined(parts: Sequence[str], what: str) -> str:
    if len(parts) <= _NAMED:
        return " and ".join(parts)
    return f"{', '.join(parts[:_NAMED])} and on {len(parts) - _NAMED} more {what}"


def _numbers(rails: Collection[int]) -> str:
    return listed(rails).partition(" ")[2]


def _text(device: Device, name: str) -> str:
    attribute = device.attributes.get(name)
    return (attribute.string if attribute else None) or ""
