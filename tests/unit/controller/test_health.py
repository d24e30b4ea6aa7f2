"""Alive is what a restart can cure, ready that what is known is true."""

from __future__ import annotations

import pytest

from controller.health import why_dead, why_unready


@pytest.mark.parametrize(
    ("turn_seconds", "ended", "says"),
    [
        (59.0, [], ""),
        (61.0, [], "the deciding thread hangs: its turn takes 61 s"),
        (1.0, ["watch pods", "leader"], "threads have ended: leader, watch pods"),
    ],
)
def test_what_a_restart_would_cure_is_death(turn_seconds: float, ended: list[str], says: str) -> None:
    assert why_dead(turn_seconds, ended) == says


@pytest.mark.parametrize(
    ("not_listed", "failing", "says"),
    [
        ([], {"pods": (29.0, "away")}, ""),
        (["pods", "nodes"], {}, "not listed yet: nodes, pods"),
        ([], {"pods": (31.0, "away"), "nodes": (0.0, "")}, "pods: failing for 31 s: away"),
        (["pods"], {"pods": (40.0, "")}, "not listed yet: pods; pods: failing for 40 s: no answer"),
    ],
)
def test_what_was_never_listed_or_fails_for_long_is_not_known(
    not_listed: list[str], failing: dict[str, tuple[float, str]], says: str
) -> None:
    assert why_unready(not_listed, failing) == says
