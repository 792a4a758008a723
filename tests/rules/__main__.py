"""`python -m tests.rules [--seeds N] [--first N] [--seed N]`: run histories, print violations with their replay command.

Exit 0 if every invariant held and every fault was reached.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.rules.world import CONTROL_FAULTS, WORKER_FAULTS, Violation, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rules")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="store_true", help="at the first violation")
    args = parser.parse_args()
    seeds = [args.seed] if args.seed is not None else range(args.first, args.first + args.seeds)
    started, bad = time.monotonic(), 0
    seen: Counter[str] = Counter()
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
        except Violation as violation:
            bad += 1
            print(violation, flush=True)
            if args.stop:
                break
        seen += world.seen
    seconds = time.monotonic() - started
    print(f"{len(seeds)} histories, {bad} violations, {seconds:.1f} s ({len(seeds) / seconds * 60:.0f} a minute)")
    print(" ".join(f"{kind}={n}" for kind, n in sorted(seen.items())))
    missing = set(WORKER_FAULTS + CONTROL_FAULTS) - set(seen)
    if args.seed is None and missing:
        print(f"never reached: {sorted(missing)}")
    return 1 if bad or (args.seed is None and missing) else 0


if __name__ == "__main__":
    sys.exit(main())
