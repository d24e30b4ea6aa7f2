"""After a failed placement: which nodes are left out for a while, and when the next try may be.

An allocation costs writes, wakes kube-scheduler and holds devices that others could use. A pod that fits
nowhere must not spin: a loop without back-off was seen to write 384 allocations in 5 s. So the waits between
tries grow threefold from 2 s to 5 min (tries at 0, 2, 8, 26, 80 s: never more than four in a minute). Where
kube-scheduler said why, and of a node that had not failed before, the wait is 36 s at most: there is
something about nodes that we do not know, and the next one may well be right.

Nodes are tried in rounds. One that failed is not tried again before all others that may do have been tried in
the same round, and not for a while: 30 s in the first round, doubling with each to 10 min. All nodes of a
round are left out for equally long, so none comes back before another that failed earlier. A node that
changed may be tried once more in its round.

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
    learnt_last_seconds: float = 36.0

    def retry_after(self, failures: int, *, learnt: bool = False) -> float:
        """Seconds to wait after so many failures in a row (1 is the first); `learnt`: the last of them on a
        node that had not failed before, and it is known why.
        """
        last = self.learnt_last_seconds if learnt else self.retry_last_seconds
        return min(last, self.retry_first_seconds * self.retry_factor ** min(failures - 1, 50))

    def leave_out(self, tries: int) -> float:
        """Seconds for which a node is left out when it fails in this round (1 is the first)."""
        return min(self.node_last_seconds, self.node_first_seconds * self.node_factor ** min(tries - 1, 50))


@dataclass(frozen=True, slots=True)
class Tried:
    """What is known of a node where it failed.

    Attributes:
        failures: how often.
        at: when the last time, in seconds.
        in_round: all others that may do come first.
    """

    failures: int
    at: float
    in_round: bool


@dataclass(slots=True)
class _Node:
    """`round`: in which it failed last, 0 where it has changed since. `renewed`: in which round it
    changed.
    """

    failures: int = 0
    at: float = 0.0
    until: float = 0.0
    round: int = 0
    renewed: int = 0


@dataclass(slots=True)
class _Subject:
    failures: int = 0
    not_before: float = 0.0
    round: int = 1
    nodes: dict[str, _Node] = field(default_factory=dict)


_NEVER = Tried(0, 0.0, in_round=False)


class Backoff:
    """What has failed so far. Not thread-safe."""

    def __init__(self, law: BackoffLaw | None = None) -> None:
        self._law = law or BackoffLaw()
        self._subjects: dict[str, _Subject] = {}

    def fail(self, subjects: Iterable[str], node: str | None, now: float, *, judged: bool = False) -> None:
        """A placement of these subjects failed; on `node`, or with no node to blame. `judged`: kube-scheduler
        said why.

        A node that is left out is not tried, and with no node to blame nobody who waits; so further news
        belongs to the failure that is known.
        """
        for uid in subjects:
            subject = self._subjects.setdefault(uid, _Subject())
            known = subject.nodes.get(node) if node is not None else None
            known_until = subject.not_before if node is None else known.until if known is not None else 0.0
            if known_until > now:
                continue
            subject.failures += 1
            learnt = judged and node is not None and known is None
            subject.not_before = now + self._law.retry_after(subject.failures, learnt=learnt)
            if node is not None:
                self._failed_on(subject, subject.nodes.setdefault(node, _Node()), now)

    def _failed_on(self, subject: _Subject, node: _Node, now: float) -> None:
        if node.round == subject.round:  # it was tried again, so all others were tried
            subject.round += 1
        node.failures += 1
        node.at, node.round = now, subject.round
        node.until = now + self._law.leave_out(subject.round)

    def not_before(self, subjects: Iterable[str]) -> float:
        """The earliest time of the next try."""
        return max((s.not_before for uid in subjects if (s := self._subjects.get(uid))), default=0.0)

    def left_out(self, subjects: Iterable[str], now: float) -> dict[str, float]:
        """Nodes not to be tried now, and until when."""
        out: dict[str, float] = {}
        for uid in subjects:
            subject = self._subjects.get(uid)
            for name, node in subject.nodes.items() if subject else ():
                if node.until > now:
                    out[name] = max(out.get(name, 0.0), node.until)
        return out

    def tried(self, subjects: Iterable[str]) -> dict[str, Tried]:
        """Nodes where one of them failed, left out now or not; of the subjects' news the worst."""
        out: dict[str, Tried] = {}
        for uid in subjects:
            subject = self._subjects.get(uid)
            for name, node in subject.nodes.items() if subject else ():
                known = out.get(name, _NEVER)
                out[name] = Tried(
                    max(known.failures, node.failures),
                    max(known.at, node.at),
                    known.in_round or (subject is not None and node.round == subject.round),
                )
        return out

    def node_changed(self, name: str) -> None:
        """The node may do now: it may be tried anew, once in a round, since some nodes change all the
        time.
        """
        for subject in self._subjects.values():
            node = subject.nodes.get(name)
            if node is not None and node.renewed < subject.round:
                node.renewed, node.round, node.until = subject.round, 0, 0.0

    def node_gone(self, name: str) -> None:
        """What comes under the name again is another node."""
        for subject in self._subjects.values():
            subject.nodes.pop(name, None)

    def forget(self, subject: str) -> None:
        """It was placed, or is gone."""
        self._subjects.pop(subject, None)

    def __len__(self) -> int:
        return len(self._subjects)
