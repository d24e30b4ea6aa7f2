"""How fast pods with GPU+NIC pairs are bound, beside kube-scheduler alone in the same run.

A real control plane over fake nodes, each with the slices of a DGX H100 (8 GPUs, 64 VFs). Two arms take
turns:

- native: slices as in scheduler mode, claims that say each pair with ``matchAttribute``; no controller runs.
- tandem: slices with the controller's taint, claims with an Alignment; the controller as it is shipped.

Both want the GPU and the VF of a pair behind one PCIe switch. Pods come in one burst from a
ResourceClaimTemplate, so that kube-controller-manager makes the claims; the clock runs from the first pod's
creation to the last one's binding. `paced` are single pods, one after the other in a steady stream.

Everything shares one machine. The limits of the control plane's clients are raised (see tests/controlplane's
config), or they would be all that is measured; ``--stock-limits`` leaves them as Kubernetes ships them.

    python -m bench.schedule [--cases one,paced,four,eight] [--nodes 100,1000] [--rounds N] [--stock-limits]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from bench.report import Goal, finish, progress, summary
from bench.schedule_cluster import NATIVE, TANDEM, Arm, FakeCluster, fake_cluster
from bench.schedule_load import CASES, Case, Load, Round

_ARMS: Final = (NATIVE, TANDEM)
_GOALS: Final = {
    ("one", 100): ("one_pair_vs_native", 1.0),
    ("four", 100): ("four_pairs_vs_native", 3.0),
    ("eight", 100): ("eight_pairs_vs_native", 1.5),
    ("one", 1000): ("one_pair_1000_vs_native", 2.0),
}
_AT_SIZE: Final = {100: ("one", "paced", "four", "eight"), 1000: ("one", "paced")}
"""Cases by number of nodes; all of them at other sizes."""


_LARGE: Final = 500
"""More nodes than that: fewer pods and rounds, since the peer takes long and so do the slices."""


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=_names, default=list(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--nodes", type=_numbers, default=[100, 1000], help="sizes, e.g. 100,1000")
    parser.add_argument("--rounds", type=int, help="of each arm (3; on more than 500 nodes 2)")
    parser.add_argument("--stock-limits", action="store_true", help="client limits as Kubernetes ships them")
    options = parser.parse_args()
    results: dict[str, Any] = {"limits": "stock" if options.stock_limits else "raised"}
    goals: list[Goal] = []
    with fake_cluster(stock_limits=options.stock_limits) as cluster:
        for size in sorted(options.nodes):
            large = size > _LARGE
            cases = [
                CASES[name].at(large=large) for name in options.cases if name in _AT_SIZE.get(size, CASES)
            ]
            if not cases:
                continue
            cluster.grow(size)
            rows = results[f"{size}_nodes"] = _measure(cluster, cases, options.rounds or (2 if large else 3))
            goals += [
                Goal(*_named(known, rows[name])) for name in rows if (known := _GOALS.get((name, size)))
            ]
    finish("schedule", results, goals)


def _measure(cluster: FakeCluster, cases: Sequence[Case], rounds: int) -> dict[str, Any]:
    """Each case's figures by arm; the arms take turns."""
    taken: dict[tuple[str, str], list[Round]] = defaultdict(list)
    for number in range(rounds):
        # A B, B A, A B: what drifts meets both alike, and slices are published anew half as often.
        for arm in _ARMS if number % 2 == 0 else reversed(_ARMS):
            cluster.enter(arm)
            with Load(cluster, arm) as load:
                load.warm_up()
                for case in cases:
                    done = load.run(case)
                    taken[case.name, arm.name].append(done)
                    progress(f"{cluster.size} nodes, round {number + 1}, {arm.name}, {case.name}: {done}")
    return {case.name: _row(case, {arm: taken[case.name, arm.name] for arm in _ARMS}) for case in cases}


def _row(case: Case, rounds: dict[Arm, list[Round]]) -> dict[str, Any]:
    row: dict[str, Any] = {"pods": case.pods, "pairs": case.pairs}
    for arm, done in rounds.items():
        row[arm.name] = {
            "pods_per_second": round(median(r.pods_per_second for r in done), 1),
            "rounds": [round(r.pods_per_second, 1) for r in done],
            "pod_to_bound_s": summary([seconds for r in done for seconds in r.pod_to_bound]),
            "cpu_ms_per_pod": {
                name: round(median(r.cpu_seconds[name] for r in done) / case.pods * 1e3, 1)
                for name in done[0].cpu_seconds
            },
        }
    row["vs_native"] = round(row["tandem"]["pods_per_second"] / row["native"]["pods_per_second"], 2)
    return row


def _named(known: tuple[str, float], row: dict[str, Any]) -> tuple[str, float, str, float, bool]:
    name, goal = known
    return name, row["vs_native"], "×", goal, False


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(CASES)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(CASES)}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
