from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from prometheus_client import generate_latest

from controller.metrics import _COUNTERS, _GAUGES, Metrics

DOCUMENT = Path(__file__).parents[3] / "docs" / "events.md"


def exposed() -> str:
    metrics = Metrics(Counter(allocations=3), {name: lambda: 2.0 for name in _GAUGES})
    metrics.decision_seconds.labels("refused").observe(0.003)
    metrics.write_seconds.labels("written").observe(0.03)
    return generate_latest(metrics.registry).decode()


def test_counts_gauges_and_times_are_exposed_by_outcome() -> None:
    text = exposed()
    assert "tandem_controller_allocations_total 3.0" in text
    assert "tandem_controller_writes_waiting 2.0" in text
    assert 'tandem_controller_decision_seconds_count{outcome="refused"} 1.0' in text
    assert 'tandem_controller_write_seconds_bucket{le="0.05",outcome="written"} 1.0' in text


def test_every_metric_is_documented_and_no_other() -> None:
    types = re.findall(r"^# TYPE (\S+) (counter|gauge|histogram)$", exposed(), re.MULTILINE)
    described = re.findall(r"^\| `(tandem_controller_\w+)` \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(described) == sorted(pair for pair in types if not pair[0].endswith("_created"))
    assert len(described) == len(_COUNTERS) + len(_GAUGES) + 2
