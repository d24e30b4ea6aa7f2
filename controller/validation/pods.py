"""What the API server asks of the fields of pods and nodes that placement looks at."""

from __future__ import annotations

from typing import Final

from controller.validation import syntax
from controller.validation.fault import Fault, Faults
from controller.validation.slices import node_selector
from driver.kube.objects import Node, Pod

_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def pod_faults(pod: Pod) -> Faults:
    """Faults of a Pod."""
    spec = pod.spec
    yield from syntax.unique("spec.resourceClaims", [c.name for c in spec.resource_claims], ".name")
    for index, claim in enumerate(spec.resource_claims):
        at = f"spec.resourceClaims[{index}]"
        yield from syntax.label(f"{at}.name", claim.name)
        names = {
            "resourceClaimName": claim.resource_claim_name,
            "resourceClaimTemplateName": claim.resource_claim_template_name,
        }
        there = {field: name for field, name in names.items() if name is not None}
        if len(there) != 1:
            value = " and ".join(there) or None
            yield Fault(
                f"{at}.resourceClaimName", value, "either resourceClaimName or resourceClaimTemplateName"
            )
        for field, name in there.items():
            yield from syntax.subdomain(f"{at}.{field}", name)
    claims = [claim.name for claim in spec.resource_claims]
    for kind, containers in (("containers", spec.containers), ("initContainers", spec.init_containers)):
        for index, container in enumerate(containers):
            at = f"spec.{kind}[{index}].resources"
            yield from syntax.amounts(f"{at}.requests", container.resources.requests)
            yield from syntax.amounts(f"{at}.limits", container.resources.limits)
            for number, reference in enumerate(container.resources.claims):
                if reference.get("name") not in claims:
                    right = f"a claim of spec.resourceClaims ({', '.join(claims)})"
                    yield Fault(f"{at}.claims[{number}].name", reference.get("name"), right)
    yield from syntax.amounts("spec.overhead", spec.overhead)
    yield from syntax.labels("spec.nodeSelector", spec.node_selector)
    affinity = spec.affinity.node_affinity if spec.affinity else None
    if affinity and affinity.required_during_scheduling_ignored_during_execution:
        yield from node_selector(
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            affinity.required_during_scheduling_ignored_during_execution,
        )
    for index, toleration in enumerate(spec.tolerations):
        at = f"spec.tolerations[{index}]"
        yield from syntax.one_of(f"{at}.operator", toleration.operator, ("", "Equal", "Exists"))
        yield from syntax.one_of(f"{at}.effect", toleration.effect, ("", *_EFFECTS))
        if not toleration.key and toleration.operator != "Exists":
            yield Fault(f"{at}.operator", toleration.operator, "Exists where key is empty")


def node_faults(node: Node) -> Faults:
    """Faults of a Node."""
    for index, taint in enumerate(node.spec.taints):
        yield from syntax.key(f"spec.taints[{index}].key", taint.key)
        yield from syntax.one_of(f"spec.taints[{index}].effect", taint.effect, _EFFECTS)
    yield from syntax.amounts("status.allocatable", node.status.allocatable, least_zero=False)
