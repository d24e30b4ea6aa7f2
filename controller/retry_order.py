"""In which order nodes are tried after a placement failed: what kube-scheduler knows and we do not is
learnt from where it failed.

The nodes that were not tried in this round come first; among them those that failed least often, then those
that are least like the nodes of the round that failed, then those where the last failure is the longest ago.
Two nodes are the more alike the more labels they share: an obstacle that several nodes have in common is
that of a zone, a node pool or a type of machine, and each of these is a label. Labels that all nodes have
make no difference, so no list of labels is needed. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from controller.backoff import Tried

Labels = Mapping[str, str]

RetryRank = tuple[bool, int, int, float]
"""Sorts first what is to be tried first: tried in this round, failures, likeness to failed nodes, last
failure.
"""

UNTRIED: RetryRank = (False, 0, 0, 0.0)


class RetryOrder:
    """The order for one pod, as of now."""

    def __init__(self, tried: Mapping[str, Tried], labels: Mapping[str, Labels]) -> None:
        """`tried`: nodes that failed; `labels`: of those of them that are there."""
        self._tried = tried
        self._failed: Counter[tuple[str, str]] = Counter(
            label for name, node in tried.items() if node.in_round for label in labels.get(name, {}).items()
        )

    def rank(self, name: str, labels: Labels) -> RetryRank:
        """Where the node of this name, with these labels, stands in the order."""
        known = self._tried.get(name)
        if known is not None and known.in_round:
            return True, known.failures, 0, known.at
        failed = self._failed
        likeness = sum(failed[label] for label in labels.items() if label in failed) if failed else 0
        return (False, known.failures, likeness, known.at) if known else (False, 0, likeness, 0.0)


def worse_first(tried: Mapping[str, Tried]) -> Iterator[frozenset[str]]:
    """Which nodes to do without at first, and then, for what takes several nodes at once: all that were
    tried in this round; of these those that failed more often than others.
    """
    in_round = {name: node.failures for name, node in tried.items() if node.in_round}
    if in_round:
        yield frozenset(in_round)
        least = min(in_round.values())
        if worse := frozenset(name for name, failures in in_round.items() if failures > least):
            yield worse
