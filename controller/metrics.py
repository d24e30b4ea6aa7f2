"""What an operator can see from outside: /healthz, /readyz and /metrics (Prometheus text)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
    "internal_errors": "Pods, gangs or changes over which the controller stumbled: bugs.",
}
_GAUGES = {
    "pending_pods": "Pods that wait for a placement.",
    "waiting_gangs": "Gangs of which members wait.",
    "stray_slices_present": "Slices under the name of another node's pool that there are now.",
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

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus-client."""
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"{_PREFIX}{name}", text, value=self._counts.get(name, 0))
        for name, gauge in self._gauges.items():
            yield GaugeMetricFamily(f"{_PREFIX}{name}", _GAUGES[name], value=gauge())


class StatusServer:
    """Serves the three paths on a thread of its own. `port` 0 picks a free one, to be read from `port`."""

    def __init__(
        self, port: int, metrics: Metrics, *, healthy: Callable[[], bool], ready: Callable[[], bool]
    ) -> None:
        """Raises OSError where the port is taken."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                match self.path:
                    case "/healthz":
                        self._answer(200 if healthy() else 503, b"ok\n" if healthy() else b"the loop hangs\n")
                    case "/readyz":
                        self._answer(200 if ready() else 503, b"ok\n" if ready() else b"not synced\n")
                    case "/metrics":
                        self._answer(200, generate_latest(metrics.registry))
                    case _:
                        self._answer(404, b"try /healthz, /readyz or /metrics\n")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every few seconds; they are not news."""

        self._server = ThreadingHTTPServer(("", port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2.0)
