"""After a failed placement: which nodes are left out for a while, and when the next try may be.

An allocation costs writes, wakes kube-scheduler and holds devices that others could use. A pod that fits
nowhere must not spin: a loop without back-off was seen to write 384 allocations in 5 s. So the waits between
tries grow threefold from 2 s to 5 min (tries at 0, 2, 8, 26, 80 s: never more than four in a minute), and the
node that failed is left out for 30 s, doubling to 10 min.

Failures are kept for pods and for claims alike, by UID (a *subject*), so that neither a new pod on an old
claim nor a re-made claim of an old pod starts from nothing. Pure: `now` is monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BackoffLaw:
    """Seconds and factors."""

    retry_first_seconds: float = 2.0
    retry_factor: float = 3.0
    retry_last_seconds: float = 300.0
    node_first_seconds: float = 30.0
    node_factor: float = 2.0
    node_last_seconds: float = 600.0

    def retry_after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 is the first)."""
        return min(
            self.retry_last_seconds, self.retry_first_seconds * self.retry_factor ** min(failures - 1, 50)
        )

    def leave_out(self, failures: int) -> float:
        """Seconds for which a node is left out after so many failures there."""
        return min(
            self.node_last_seconds, self.node_first_seconds * self.node_factor ** min(failures - 1, 50)
        )


@dataclass(slots=True)
class _Subject:
    failures: int = 0
    not_before: float = 0.0
    nodes: dict[str, tuple[int, float]] = field(default_factory=dict)  # failures there, until when left out


class Backoff:
    """What has failed so far. Not thread-safe."""

    def __init__(self, law: BackoffLaw | None = None) -> None:
        self._law = law or BackoffLaw()
        self._subjects: dict[str, _Subject] = {}

    def fail(self, subjects: Iterable[str], node: str | None, now: float) -> None:
        """A placement of these subjects failed; on `node`, or with no node to blame.

        A node that is left out is not tried, and with no node to blame nobody who waits; so further news
        belongs to the failure that is known.
        """
        for uid in subjects:
            subject = self._subjects.setdefault(uid, _Subject())
            known_until = subject.not_before if node is None else subject.nodes.get(node, (0, 0.0))[1]
            if known_until > now:
                continue
            subject.failures += 1
            subject.not_before = now + self._law.retry_after(subject.failures)
            if node is not None:
                failures = subject.nodes.get(node, (0, 0.0))[0] + 1
                subject.nodes[node] = (failures, now + self._law.leave_out(failures))

    def not_before(self, subjects: Iterable[str]) -> float:
        """The earliest time of the next try."""
        return max((s.not_before for uid in subjects if (s := self._subjects.get(uid))), default=0.0)

    def left_out(self, subjects: Iterable[str], now: float) -> dict[str, float]:
        """Nodes not to be tried now, and until when."""
        out: dict[str, float] = {}
        for uid in subjects:
            subject = self._subjects.get(uid)
            for node, (_, until) in subject.nodes.items() if subject else ():
                if until > now:
                    out[node] = max(out.get(node, 0.0), until)
        return out

    def forget(self, subject: str) -> None:
        """It was placed, or is gone."""
        self._subjects.pop(subject, None)

    def __len__(self) -> int:
        return len(self._subjects)
