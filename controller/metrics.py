"""The counts, gauges and times that an operator can see from outside, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_COUNTERS = {
    "allocations": "Allocations written.",
    "refusals": "Tries that found no node for a pod's claims.",
    "taken_back": "Allocations taken back since no pod was bound with them.",
    "returned": "Allocations that kube-scheduler gave back.",
    "failed_writes": "Allocations decided but not written.",
    "duplicate_devices": "Devices found allocated to two claims.",
    "gang_placements": "Times that members of a gang were placed together.",
    "gang_timeouts": "Times that a gang's timeoutSeconds passed while members waited.",
    "foreign_allocations": "Allocations of managed devices by another client.",
    "stray_slices": "Times that slices under the name of another node's pool appeared; they do not count.",
    "searches_given_up": "Searches for a pod or a gang that ended without an answer.",
    "internal_errors": "Pods, gangs or changes over which the controller stumbled: bugs.",
}
_GAUGES = {
    "pending_pods": "Pods that wait for a placement.",
    "waiting_gangs": "Gangs of which members wait.",
    "stray_slices_present": "Slices under the name of another node's pool that there are now.",
    "unreadable_objects": "Objects that cannot be read: claims hold what they held, others are not there.",
    "failing_kinds": "Kinds that could be neither listed nor watched for 30 s or more.",
    "leading": "1 where this process decides.",
    "allocations_in_flight": "Allocations decided and not seen in the API yet.",
    "changes_waiting": "Changes of the cluster that the deciding loop has not taken in yet.",
    "writes_waiting": "Writes that no writer has begun yet.",
}
_PREFIX = "tandem_controller_"


class Metrics(Collector):
    """Reads the placement's counts when asked, so that the decisions know nothing of metrics."""

    def __init__(self, counts: Mapping[str, int], gauges: Mapping[str, Callable[[], float]]) -> None:
        """`gauges` are values to ask for, by name: all of those that there are."""
        self._counts = counts
        self._gauges = gauges
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.decision_seconds = Histogram(
            f"{_PREFIX}decision_seconds",
            "Time that one pod's decision took, by outcome: allocated, refused.",
            ["outcome"],
            registry=self.registry,
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        )
        self.write_seconds = Histogram(
            f"{_PREFIX}write_seconds",
            "Time from a decision to the end of its write, by outcome (written, failed, cleared…).",
            ["outcome"],
            registry=self.registry,
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
        )

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus-client."""
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"{_PREFIX}{name}", text, value=self._counts.get(name, 0))
        for name, gauge in self._gauges.items():
            yield GaugeMetricFamily(f"{_PREFIX}{name}", _GAUGES[name], value=gauge())
