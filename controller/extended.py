"""Pods that ask for our devices by the name of an extended resource, and so wait for ever in controller mode.

A DeviceClass may stand behind an extended resource (KEP-5004): kube-scheduler then makes the claim by itself,
while it binds, without tolerations, and deletes a claim that anybody else made for the pod. Our devices carry
a taint that keeps kube-scheduler off, so such a pod cannot be helped; it can be told, once kube-scheduler has
tried. (Nodes in scheduler mode, whose devices carry no taint, serve it.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from driver.kube.objects import DeviceClass, Pod

IMPLICIT_PREFIX = "deviceclass.resource.kubernetes.io/"
"""Before a class's name: the extended resource that each class has without saying so."""

Key = tuple[str, str]


def why_waits(
    pod: Pod, classes: Mapping[str, DeviceClass], is_ours: Callable[[DeviceClass], bool]
) -> str | None:
    """What to tell of the pod; None where no resource that it asks for is backed by a class of ours.

    Args:
        pod: a pod that has no node.
        classes: all DeviceClasses by name.
        is_ours: whether only our devices are of the class.
    """
    for resource in _extended(pod):
        for device_class in sorted(classes.values(), key=lambda c: c.metadata.name):
            name = device_class.metadata.name
            names = (device_class.spec.extended_resource_name, IMPLICIT_PREFIX + name)
            if resource in names and is_ours(device_class):
                return (
                    f"the pod asks for {resource}, the extended resource of DeviceClass {name}: only "
                    "kube-scheduler makes claims for those, and what Tandem's controller allocates is "
                    f"closed to it; name DeviceClass {name} in a ResourceClaimTemplate instead, or run "
                    "nodes with --allocation=scheduler"
                )
    return None


class Askers:
    """Pods that ask for extended resources and that kube-scheduler could not place. Not thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[Key, Pod] = {}
        self._touched: set[Key] = set()

    def apply(self, old: Pod | None, new: Pod | None) -> None:
        """A pod changed."""
        pod = new or old
        if pod is None:
            return
        key = pod.metadata.namespace, pod.metadata.name
        if new is not None and _is_unschedulable(new) and _extended(new):
            if key not in self._waiting:
                self._touched.add(key)
            self._waiting[key] = new
        else:
            self._waiting.pop(key, None)

    def reconsider(self) -> None:
        """The classes changed."""
        self._touched.update(self._waiting)

    def take(self) -> list[Pod]:
        """Those to be looked at since the last time."""
        pods = [self._waiting[key] for key in sorted(self._touched) if key in self._waiting]
        self._touched.clear()
        return pods


def _extended(pod: Pod) -> list[str]:
    names = {
        name
        for container in (*pod.spec.init_containers, *pod.spec.containers)
        for name, amount in container.resources.requests.items()
        if "/" in name and amount != "0"
    }
    return sorted(names)


def _is_unschedulable(pod: Pod) -> bool:
    return not (pod.spec.node_name or pod.metadata.deletion_timestamp) and any(
        condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable"
        for condition in pod.status.conditions
    )
