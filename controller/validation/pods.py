"""What the API server asks of the fields of pods and nodes that placement looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from controller.allocator import quantity
from controller.validation import syntax
from controller.validation.fault import Fault, Faults
from controller.validation.pod_rules import affinity_faults, port_faults, spread_faults
from controller.validation.slices import node_selector
from driver.kube.core import Container, PodResourceClaim, PodToleration, ResourceRequirements
from driver.kube.objects import Node, Pod

_RESTARTS: Final = ("Always", "Never", "OnFailure")
_STANDARD: Final = ("cpu", "memory", "ephemeral-storage", "hugepages-")
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def pod_faults(pod: Pod) -> Faults:
    """Faults of a Pod."""
    spec = pod.spec
    yield from _claim_references(spec.resource_claims)
    claims = [claim.name for claim in spec.resource_claims]
    yield from _containers("spec.containers", spec.containers, claims)
    yield from _containers("spec.initContainers", spec.init_containers, claims)
    names = [container.name for container in (*spec.containers, *spec.init_containers) if container.name]
    yield from syntax.unique("spec.containers", names, ".name")
    if spec.resources is not None:
        yield from _resources("spec.resources", spec.resources, claims)
    yield from syntax.amounts("spec.overhead", spec.overhead)
    if spec.node_name:
        yield from syntax.subdomain("spec.nodeName", spec.node_name)
    yield from syntax.labels("spec.nodeSelector", spec.node_selector)
    if spec.affinity is not None:
        node = spec.affinity.node_affinity
        if node is not None and node.required_during_scheduling_ignored_during_execution is not None:
            yield from node_selector(
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
                node.required_during_scheduling_ignored_during_execution,
            )
        yield from affinity_faults("spec.affinity", spec.affinity)
    for index, toleration in enumerate(spec.tolerations):
        yield from _toleration(f"spec.tolerations[{index}]", toleration)
    yield from syntax.unique("spec.schedulingGates", [gate.name for gate in spec.scheduling_gates], ".name")
    for index, gate in enumerate(spec.scheduling_gates):
        yield from syntax.key(f"spec.schedulingGates[{index}].name", gate.name)
    yield from spread_faults("spec.topologySpreadConstraints", spec.topology_spread_constraints)
    yield from port_faults("spec.containers", spec.containers, spec)
    yield from port_faults("spec.initContainers", spec.init_containers, spec, in_turn=True)


def _claim_references(claims: Sequence[PodResourceClaim]) -> Faults:
    yield from syntax.unique("spec.resourceClaims", [claim.name for claim in claims], ".name")
    for index, claim in enumerate(claims):
        at = f"spec.resourceClaims[{index}]"
        yield from syntax.label(f"{at}.name", claim.name)
        names = {
            "resourceClaimName": claim.resource_claim_name,
            "resourceClaimTemplateName": claim.resource_claim_template_name,
        }
        there = {field: name for field, name in names.items() if name is not None}
        if len(there) != 1:
            right = "either resourceClaimName or resourceClaimTemplateName"
            yield Fault(f"{at}.resourceClaimName", " and ".join(there) or None, right)
        for field, name in there.items():
            yield from syntax.subdomain(f"{at}.{field}", name)


def _containers(field: str, containers: Sequence[Container], claims: Sequence[str]) -> Faults:
    for index, container in enumerate(containers):
        if container.name:
            yield from syntax.label(f"{field}[{index}].name", container.name)
        yield from syntax.one_of(
            f"{field}[{index}].restartPolicy", container.restart_policy or "", ("", *_RESTARTS)
        )
        yield from _resources(f"{field}[{index}].resources", container.resources, claims)


def _resources(field: str, resources: ResourceRequirements, claims: Sequence[str]) -> Faults:
    for kind, amounts in (("requests", resources.requests), ("limits", resources.limits)):
        for name in amounts:
            if not syntax.is_key(name) or ("/" not in name and not name.startswith(_STANDARD)):
                yield Fault(f"{field}.{kind}[{name}]", name, "cpu, memory or such, or domain/name")
        faults = list(syntax.amounts(f"{field}.{kind}", amounts))
        yield from faults
        if faults:
            return
    for name, least in resources.requests.items():
        most = resources.limits.get(name)
        if most is not None and quantity.parse(least) > quantity.parse(most):
            yield Fault(f"{field}.requests[{name}]", least, f"the limit ({most}) or less")
    for index, reference in enumerate(resources.claims):
        if reference.get("name") not in claims:
            right = f"a claim of spec.resourceClaims ({', '.join(claims)})"
            yield Fault(f"{field}.claims[{index}].name", reference.get("name"), right)


def _toleration(field: str, toleration: PodToleration) -> Faults:
    if toleration.key:
        yield from syntax.key(f"{field}.key", toleration.key)
    elif toleration.operator != "Exists":
        yield Fault(f"{field}.operator", toleration.operator, "Exists where key is empty")
    yield from syntax.one_of(f"{field}.operator", toleration.operator, ("", "Equal", "Exists"))
    yield from syntax.one_of(f"{field}.effect", toleration.effect, ("", *_EFFECTS))
    if toleration.operator != "Exists":
        yield from syntax.label_value(f"{field}.value", toleration.value)
    elif toleration.value:
        yield Fault(f"{field}.value", toleration.value, "nothing where operator is Exists")
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        yield Fault(f"{field}.effect", toleration.effect, "NoExecute where tolerationSeconds is set")


def node_faults(node: Node) -> Faults:
    """Faults of a Node."""
    for index, taint in enumerate(node.spec.taints):
        yield from syntax.key(f"spec.taints[{index}].key", taint.key)
        yield from syntax.label_value(f"spec.taints[{index}].value", taint.value)
        yield from syntax.one_of(f"spec.taints[{index}].effect", taint.effect, _EFFECTS)
    yield from syntax.unique("spec.taints", [(taint.key, taint.effect) for taint in node.spec.taints])
    yield from syntax.amounts("status.allocatable", node.status.allocatable, least_zero=False)
