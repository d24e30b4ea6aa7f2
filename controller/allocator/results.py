"""A solution over kinds as allocation results over devices, pairs in order."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from controller.allocator.asks import Ask, ParsedClaim, label
from controller.allocator.build import Chosen
from controller.allocator.capacity import share
from controller.allocator.mates import whole
from controller.allocator.model import DeviceId, NodeDevices, PoolDevice
from controller.allocator.problem import Problem, Solution, Use, pair_tier
from controller.allocator.traits import rail_of
from controller.allocator.verdict import ClaimAllocation, Pair
from driver.kube.objects import (
    AllocationResult,
    DeviceAllocationConfig,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    ResourceClaim,
)


def claim_allocations(
    claims: Sequence[ParsedClaim],
    node: NodeDevices,
    chosen: Sequence[Chosen],
    problem: Problem,
    solution: Solution,
    driver: str,
) -> list[ClaimAllocation]:
    """One value for each claim, in order; `driver` is ours."""
    indices, pairs = _devices(problem, solution)
    answer = []
    for claim in claims:
        mine = [i for i, c in enumerate(chosen) if c.ask.claim == claim.index]
        results: list[DeviceRequestAllocationResult] = []
        devices: list[PoolDevice] = []
        for demand in mine:
            ask = chosen[demand].ask
            for index in indices[demand]:
                devices.append(node.devices[index])
                results.append(_result(claim, ask, node.devices[index]))
        claim_pairs = []
        for pairing, found in zip(problem.pairings, pairs, strict=True):
            if whole(problem, pairing.gpus) in mine:
                for gpu_index, nic_index, (gpu_kind, nic_kind) in found:
                    gpu, nic = node.devices[gpu_index], node.devices[nic_index]
                    rails = {rail_of(gpu), rail_of(nic)}
                    claim_pairs.append(
                        Pair(
                            gpu=gpu,
                            nic=nic,
                            tier=pair_tier(problem, gpu_kind, nic_kind),
                            rail=rails.pop() if len(rails) == 1 else None,
                        )
                    )
        answer.append(
            ClaimAllocation(
                result=AllocationResult(
                    devices=DeviceAllocationResult(
                        results=results, config=_configs(claim, [chosen[i] for i in mine])
                    ),
                    node_selector=_good_for(devices, node.node, driver),
                ),
                devices=tuple(devices),
                pairs=tuple(claim_pairs),
            )
        )
    return answer


def _result(claim: ParsedClaim, ask: Ask, device: PoolDevice) -> DeviceRequestAllocationResult:
    part = share(device.device, ask.capacity) if device.device.allow_multiple_allocations else None
    return DeviceRequestAllocationResult(
        request=ask.request,
        driver=device.id.driver,
        pool=device.id.pool,
        device=device.id.device,
        admin_access=ask.admin or None,
        tolerations=list(ask.tolerations),
        binding_conditions=list(device.device.binding_conditions),
        binding_failure_conditions=list(device.device.binding_failure_conditions),
        share_id=share_id(claim.claim, ask.request, device.id) if part is not None else None,
        consumed_capacity=dict(part.text) if part is not None else {},
    )


def share_id(claim: ResourceClaim, request: str, where: DeviceId) -> str:
    """Of all shares of the device this one; made of what names it, so that equal questions get equal
    answers.
    """
    names = (claim.metadata.uid or label(claim), request, where.driver, where.pool, where.device)
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(names)))


_Pairs = list[tuple[int, int, tuple[int, int]]]
"""Indices of a GPU and a NIC, and of their kinds."""


def _devices(problem: Problem, solution: Solution) -> tuple[list[list[int]], list[_Pairs]]:
    """By demand: indices of devices; by pairing: its pairs. Both in the order of the pairs, where there are
    any.
    """
    taken = _dealt(problem, solution)
    devices: list[list[int]] = [[] for _ in problem.demands]
    pairs: list[_Pairs] = []
    for pairing, kind_pairs in zip(problem.pairings, solution.pairs, strict=True):
        turn: dict[tuple[int, int], int] = {}
        found: _Pairs = []
        for pair in kind_pairs:
            for _ in range(pair.count):
                ends = []
                for use in ((pairing.gpus, pair.gpu), (pairing.nics, pair.nic)):
                    # Devices of one kind take turns: each serves as many of the other side as the next one.
                    at = turn[use] = turn.get(use, -1) + 1
                    ends.append(taken[use][at % len(taken[use])])
                found.append((ends[0], ends[1], (pair.gpu, pair.nic)))
        found.sort(key=lambda p: (p[0], p[1]))
        pairs.append(found)
        devices[pairing.gpus] = list(dict.fromkeys(gpu for gpu, _, _ in found))
        devices[pairing.nics] = list(dict.fromkeys(nic for _, nic, _ in found))
    paired = {d for p in problem.pairings for d in (p.gpus, p.nics)}
    for (demand, _), indices in taken.items():
        if demand not in paired:
            devices[demand] += indices
    for demand in range(len(devices)):
        if demand not in paired:
            devices[demand].sort()
    for part, of in problem.parts.items():
        devices[of] += devices[part]
    return devices, pairs


def _dealt(problem: Problem, solution: Solution) -> dict[Use, list[int]]:
    """Which devices each use of a kind gets: pairs first, admin access last, of what it may have then."""
    order = [d for p in problem.pairings for d in (p.gpus, p.nics)]
    order += [d for d in range(len(problem.demands)) if d not in order]
    uses = sorted(
        solution.uses, key=lambda use: (problem.kinds[use[1]].admin is not None, order.index(use[0]), use[1])
    )
    holders: dict[int, list[int]] = {}  # by device: the claims that hold it for themselves
    admins: set[tuple[int, int]] = set()  # claim and device
    dealt: dict[Use, list[int]] = {}
    for use in uses:
        kind, claim = problem.kinds[use[1]], problem.demands[use[0]].claim
        if kind.shared:
            free = list(kind.devices)
        elif kind.admin is None:
            free = [index for index in kind.devices if index not in holders]
        else:
            free = [
                index
                for index in kind.devices
                if (claim, index) not in admins and all(holder < claim for holder in holders.get(index, ()))
            ]
        dealt[use] = free[: solution.uses[use]]
        for index in dealt[use]:
            if kind.admin is not None:
                admins.add((claim, index))
            elif not kind.shared:
                holders.setdefault(index, []).append(claim)
    return dealt


def _configs(claim: ParsedClaim, chosen: Sequence[Chosen]) -> list[DeviceAllocationConfig]:
    """Each class's configs for the requests that use it, then the claim's own that apply."""
    configs: list[DeviceAllocationConfig] = []
    users: dict[str, list[str]] = {}
    for one in chosen:
        users.setdefault(one.ask.device_class.metadata.name, []).append(one.ask.request)
    classes = {one.ask.device_class.metadata.name: one.ask.device_class for one in chosen}
    for name, requests in users.items():
        configs += [
            DeviceAllocationConfig(source="FromClass", requests=list(requests), opaque=config.opaque)
            for config in classes[name].spec.config
        ]
    names = {name for one in chosen for name in (one.ask.main, one.ask.request)}
    configs += [
        DeviceAllocationConfig(source="FromClaim", requests=list(config.requests), opaque=config.opaque)
        for config in claim.claim.spec.devices.config
        if not config.requests or names & set(config.requests)
    ]
    return configs


def _good_for(devices: Sequence[PoolDevice], node_name: str, driver: str) -> NodeSelector | None:
    """The nodes on which the claim can be used; None: all.

    As kube-scheduler has it, one device of a node's own pins the claim there, and network-attached ones leave
    it to all nodes that reach each of them, so that pods on several nodes can share it. A device of our own
    driver pins it in any case: only then may the node's plugin write the claim's device status.
    """
    merged = NodeSelectorTerm()
    for one in devices:
        terms = one.reach.node_selector_terms if one.reach else []
        if one.local or one.device.binds_to_node or one.id.driver == driver or len(terms) > 1:
            return only_on(node_name)
        for term in terms:
            merged.match_fields.extend(r for r in term.match_fields if r not in merged.match_fields)
            merged.match_expressions.extend(
                r for r in term.match_expressions if r not in merged.match_expressions
            )
    if not merged.match_fields and not merged.match_expressions:
        return None
    return NodeSelector(node_selector_terms=[merged])


def moved_to(selector: NodeSelector | None, node_name: str) -> NodeSelector | None:
    """Of the same answer on another node that is alike: a claim that was pinned is pinned there."""
    terms = selector.node_selector_terms if selector is not None else []
    pinned = any(one.key == "metadata.name" for term in terms for one in term.match_fields)
    return only_on(node_name) if pinned else selector


def only_on(node_name: str) -> NodeSelector:
    """Exactly this form lets the node's plugin write the claim's device status."""
    requirement = NodeSelectorRequirement(key="metadata.name", operator="In", values=[node_name])
    return NodeSelector(node_selector_terms=[NodeSelectorTerm(match_fields=[requirement])])
