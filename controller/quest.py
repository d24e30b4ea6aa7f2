"""One pod's question to the Chooser, as a value: all that its answer depends on besides the cluster.

The placement, `tandem plan`, `tandem explain` and the gang search ask the same thing with more or fewer
conditions; a value can be varied (`dataclasses.replace`) where a list of arguments would be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.allocator.limits import Limit
from controller.backoff import Tried
from controller.draft import Draft
from driver.kube.objects import Pod, ResourceClaim


@dataclass(frozen=True, slots=True)
class Quest:
    """Where can these claims go together?

    Attributes:
        pod: the pod.
        wanted: its claims that are to be allocated, together.
        allocated: its other claims, which pin the node.
        sharers: pods that wait for some of `wanted` too; where not all fit, most should.
        left_out: nodes where it was tried in vain, not to be tried now, with the end of that (seconds).
        tried: nodes where it was tried in vain, now or earlier: others come first.
        since: only nodes that changed after this generation.
        limits: for each wanted claim, which rails its NICs may be on (None: any); or empty.
        within: a node label and its value, which the node must have.
        draft: placements that are decided but not in the ClusterState yet.
        others: its claims that kube-scheduler allocates from other drivers' devices, once it has a node.
    """

    pod: Pod
    wanted: tuple[ResourceClaim, ...]
    allocated: tuple[ResourceClaim, ...] = ()
    sharers: tuple[Pod, ...] = ()
    left_out: Mapping[str, float] = field(default_factory=dict)
    tried: Mapping[str, Tried] = field(default_factory=dict)
    since: int = 0
    limits: tuple[Limit | None, ...] = ()
    within: tuple[str, str] | None = None
    draft: Draft | None = None
    others: tuple[ResourceClaim, ...] = ()
