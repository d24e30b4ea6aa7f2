"""Any number of random questions to both allocators.

python -m tests.oracle --cases 10000 --seed 7
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.oracle.compare import differential

_BATCH = 500


def main() -> int:
    """Print what differs, with the whole question if asked; exit status 1 if anything does."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.oracle", description="Our allocator against Kubernetes' own."
    )
    parser.add_argument("--cases", type=int, default=2000, help="how many (%(default)d)")
    parser.add_argument("--seed", type=int, default=0, help="which (%(default)d)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (%(default)d)")
    parser.add_argument("--seconds", type=float, default=3.0, help="limit for each (%(default)g)")
    parser.add_argument("--show", action="store_true", help="print questions that differ as JSON")
    options = parser.parse_args()
    found = placed = late = 0
    end = options.first + options.cases
    for begin in range(options.first, end, _BATCH):
        batch = range(begin, min(begin + _BATCH, end))
        outcome = differential(options.seed, batch, seconds=options.seconds)
        found += len(outcome.differences)
        placed += outcome.placed
        late += outcome.out_of_time
        for difference in outcome.differences:
            print(f"{difference.name}: {difference.detail}")
            if options.show:
                print(json.dumps(difference.question))
        print(
            f"{batch.stop - options.first} asked, {placed} placed, {late} out of time, {found} differ",
            file=sys.stderr,
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
