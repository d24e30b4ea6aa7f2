"""What is the least that would have to change for refused claims to be placed on a node?

Asked of the allocator itself, with one thing changed at a time: a farther tier allowed, another attribute in
a constraint or none, taints gone, closed rails open, more VFs on each NIC, taken devices free, and if none of
these helps, fewer devices. Costs a few searches, so it is for telling people, not for deciding. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Final

import msgspec

from controller.allocator.limits import listed
from controller.allocator.model import DeviceId, PoolDevice
from controller.allocator.traits import rail_of, type_of
from controller.claim_edits import amounts, constraints, fewer
from controller.what_if import Change, Question, avoided, used_by
from driver.config import Alignment, decode_user
from driver.devices import Tier
from driver.errors import ConfigError
from driver.kube.objects import Device, DeviceClaimConfig, OpaqueConfig, ResourceClaim
from driver.names import CONTROLLER_TAINT, TYPE, TYPE_NIC, TYPE_VF

_REPELLING: Final = ("NoSchedule", "NoExecute")
_MOST_VFS: Final = 4
"""So many more on each NIC are thought of."""
_TRIED: Final = 8
"""Of so many devices it is tried whether they might stay taken."""
_NAMED: Final = 2


def changes(question: Question) -> list[Change]:
    """Each by itself would do, the cheapest first; empty where none of them would."""
    found = (_tier(question), _taints(question), _rails(question), _vfs(question), _taken(question))
    edits = chain(constraints(question), amounts(question))
    known = sorted(chain((change for change in found if change is not None), edits))
    return known or sorted(fewer(question))


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
            devices.append(avoided(device, without=bad))
        else:
            devices.append(device)
    answer = question.asked(devices=devices) if keys else None
    if answer is None:
        return None
    mine = [device for device in used_by(answer) if device in keys]
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
    devices = [avoided(device) if device.id in closed else device for device in question.node.devices]
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
            devices.append(avoided(sibling, as_id=vf))
    answer = question.asked(devices=devices) if more else None
    if answer is None:
        return None
    wanted = Counter(more[device] for device in used_by(answer) if device in more)
    parts = [f"{count} more VF{'s' * (count > 1)} on {parent}" for parent, count in sorted(wanted.items())]
    if not parts:
        return None
    return Change(3 + wanted.total(), _joined(parts, "NICs"))


def _taken(question: Question) -> Change | None:
    """Would it do if taken devices, or what is taken of shared ones, were free?"""
    held = {*question.taken, *question.shared}
    devices = [avoided(device) if device.id in held else device for device in question.node.devices]
    answer = question.asked(devices=devices, taken=frozenset(), shared={}) if held else None
    if answer is None:
        return None
    used = list(dict.fromkeys(used_by(answer)))
    mine = [device for device in used if device in held]
    mine += _needed(question, [d for d in _drawing(question, used) if d not in mine], mine)
    if not mine:
        return None
    free = [device for device in mine if device in question.taken]
    parts = [f"if {_names(free)} were free"] if free else []
    shared = [device for device in mine if device not in question.taken]
    parts += [f"if others took less of {_names(shared)}"] if shared else []
    return Change(4 + len(mine), " and ".join(parts))


def _drawing(question: Question, used: Sequence[DeviceId]) -> list[DeviceId]:
    """Taken devices that draw on the same counters as those used."""
    consumers = question.node.consumers
    sets = {key for device in used for key in _counter_sets(question, device)}
    return [
        device
        for device in sorted({*question.taken, *question.shared})
        if device in consumers and not sets.isdisjoint(_counter_sets(question, device))
    ]


def _counter_sets(question: Question, device: DeviceId) -> Iterator[tuple[str, str, str]]:
    known = question.node.consumers.get(device)
    for use in known.consumes_counters if known is not None else ():
        yield device.driver, device.pool, use.counter_set


def _needed(question: Question, drawing: Sequence[DeviceId], mine: Sequence[DeviceId]) -> list[DeviceId]:
    """Those of them without which it would not do."""
    needed = list(drawing)
    for device in drawing[:_TRIED]:
        freed = {*mine, *needed} - {device}
        taken = frozenset(question.taken) - freed
        shared = {d: amounts for d, amounts in question.shared.items() if d not in freed}
        if question.asked(taken=taken, shared=shared) is not None:
            needed.remove(device)
    return needed


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
    try:
        decode_user(config.opaque.parameters)
    except ConfigError:
        return config
    document = msgspec.json.decode(config.opaque.parameters)
    if Tier[document.get("require", "SYS")] >= tier:
        return config
    parameters = msgspec.Raw(msgspec.json.encode({**document, "require": tier.name}))
    return msgspec.structs.replace(config, opaque=OpaqueConfig(driver=driver, parameters=parameters))


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
