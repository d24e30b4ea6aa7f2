"""What one tenant's thousand hopeless pods cost another's pods, compared with an earlier build in one run.

Three hundred nodes are filled to 60 %. Then a thousand pods of one namespace come at once, none of which can
be placed: six hundred that are too big for every node, no two alike; two hundred whose claims only a long
search refuses, no two alike; ten gangs of twenty unlike pods. Every 100 ms a pod ends, so that all who wait
look again, and one of another namespace arrives that has room. Measured is how long each of these waits for
its decision (`bench.tenants_load`). The earlier build is a commit of this repository, in a worktree in a
temporary folder. A pod that is not decided when the time is over counts as having waited until then.

    python -m bench.tenants [--seconds 40]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.report import Goal, finish, percentile, progress, summary

BEFORE: Final = "a5a0214"
"""The last commit whose queue knew nothing of namespaces."""
ROOT: Final = Path(__file__).resolve().parent.parent
GOAL_MS: Final = 100
GOAL_RATIO: Final = 0.05

Json = dict[str, Any]


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=40, help="of the processor, for each build (%(default)g)"
    )
    options = parser.parse_args()
    with _checkout(BEFORE) as before:
        rows = {"now": _run(ROOT, options.seconds), "before": _run(before, options.seconds)}
    waits = {name: row.pop("waits_ms") for name, row in rows.items()}
    for name, row in rows.items():
        row["victim_delay_ms"] = summary(waits[name])
    now, old = (percentile(waits[name], 99) for name in ("now", "before"))
    finish(
        "tenants",
        {"before_commit": BEFORE, **rows},
        [
            Goal("victim_delay_p99_ms", now, "ms", GOAL_MS),
            Goal("victim_delay_median_ms", percentile(waits["now"], 50), "ms", GOAL_MS / 10),
            Goal("victim_delay_vs_before", now / old, "", GOAL_RATIO),
            Goal("victims_undecided", len(waits["now"]) - rows["now"]["decided"], "pods", 0),
        ],
    )


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    """The repository as it was, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *words], check=True)


def _run(tree: Path, seconds: float) -> Json:
    """Measure with the modules of one checkout."""
    load = Path(__file__).with_name("tenants_load.py")
    command = [sys.executable, "-P", str(load), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tree,
        timeout=10 * seconds,
    )
    row: Json = json.loads(done.stdout)
    worst = percentile(row["waits_ms"], 99)
    progress(f"{tree.name}: p99 {worst:g} ms, {row['decided']} decided, turn {row['longest_turn_ms']} ms")
    return row


if __name__ == "__main__":
    main()
