"""Wire types of scheduling.k8s.io/v1alpha2, which is served where gang scheduling is on (GenericWorkload)."""

from __future__ import annotations

from driver.kube.meta import ObjectMeta, Wire


class GangSchedulingPolicy(Wire, frozen=True, kw_only=True):
    """spec.schedulingPolicy.gang."""

    min_count: int = 0


class PodGroupSchedulingPolicy(Wire, frozen=True, kw_only=True):
    """spec.schedulingPolicy; `gang` is None where its pods need not start together."""

    gang: GangSchedulingPolicy | None = None


class PodGroupSpec(Wire, frozen=True, kw_only=True):
    """spec of a PodGroup."""

    scheduling_policy: PodGroupSchedulingPolicy = PodGroupSchedulingPolicy()


class PodGroup(Wire, frozen=True, kw_only=True):
    """Namespaced."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PodGroupSpec = PodGroupSpec()

    @property
    def least(self) -> int | None:
        """So many of its pods start together; None: each by itself."""
        gang = self.spec.scheduling_policy.gang
        return gang.min_count if gang is not None else None
