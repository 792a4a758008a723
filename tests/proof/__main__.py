"""`python -m tests.proof --seeds 10000 --from 0` runs a campaign; `--seed N --verbose` replays one history.

Out: one line per failing seed with the command that replays it, a summary, exit code 1 if anything was violated or a row of
the failure table was never reached.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.proof.campaign import Result, run
from tests.proof.faults import KINDS
from tests.proof.mutations import MUTATIONS, caught
from tests.proof.sometimes import missing


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="first seed")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--verbose", action="store_true", help="print everything that happens")
    parser.add_argument("--only", choices=sorted(KINDS), help="this fault alone, in every seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--partial", action="store_true", help="rows of the failure table may stay unreached")
    parser.add_argument("--mutations", metavar="I/N", help="break each rule in turn (part I of N) and see it caught")
    parser.add_argument("--keep-going", type=int, default=10, help="stop after so many failing seeds")
    args = parser.parse_args()
    if args.mutations is not None:
        return break_rules(*map(int, args.mutations.split("/")))
    if args.seed is not None:
        return replay(args.seed, args.verbose, args.only)
    return campaign(args)


def replay(seed: int, verbose: bool, only: str | None) -> int:
    result = run(seed, verbose=verbose, only=only)
    print(f"seed {seed}: {result.story}")
    for line in result.violations:
        print(f"  {line}")
    print(f"  settled in {result.settled_s:.2f} s, longest gap {result.longest_gap_s:.2f} s, {result.events} events")
    for what, n in sorted(result.counts.items()):
        print(f"    {n:6} {what}")
    return 1 if result.violations else 0


def break_rules(part: int, parts: int) -> int:
    escaped = 0
    for mutation in MUTATIONS[part::parts]:
        tried, why = caught(mutation)
        escaped += not why
        print(
            f"{mutation.rule:5} {mutation.what:45} {'caught' if why else 'ESCAPED'} after {tried:3} seeds  {why[:90]}",
            flush=True,
        )
    return 1 if escaped else 0


def campaign(args: argparse.Namespace) -> int:
    started, cpu = time.monotonic(), time.process_time()
    reached: Counter[str] = Counter()
    failing: list[Result] = []
    settled, gap, seeds, slowest = 0.0, 0.0, 0, 0
    numbers = range(args.first, args.first + args.seeds)
    for result in _results(numbers, args.jobs, args.only):
        seeds += 1
        reached.update(result.reached)
        reached.update(result.counts)
        if result.settled_s > settled:
            settled, slowest = result.settled_s, result.seed
        gap = max(gap, result.longest_gap_s)
        if result.violations:
            failing.append(result)
            only = f' --only "{args.only}"' if args.only else ""
            print(f"seed {result.seed}: {result.story}\n  {result.violations[0][:400]}")
            print(f"  replay: python -m tests.proof --seed {result.seed} --verbose{only}", flush=True)
            if len(failing) >= args.keep_going:
                break
    spent = time.monotonic() - started
    print(f"{seeds} seeds in {spent:.1f} s ({seeds / spent * 60:.0f} a minute), {len(failing)} failing")
    print(f"longest time to settle {settled:.1f} s (seed {slowest}), longest silence of an account {gap:.1f} s")
    if args.jobs == 1:
        print(f"{seeds / (time.process_time() - cpu) * 60:.0f} seeds a minute of one core's time")
    never = missing(reached) if not args.only and not args.partial else []
    for what in never:
        print(f"never reached: {what}")
    return 1 if failing or never else 0


def _results(numbers: range, jobs: int, only: str | None):  # type: ignore[no-untyped-def]
    if jobs == 1:
        for seed in numbers:
            yield run(seed, only=only)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_one, [(seed, only) for seed in numbers], chunksize=10)


def _one(job: tuple[int, str | None]) -> Result:
    return run(job[0], only=job[1])


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of strings are walked in an order that depends on it
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.proof", *sys.argv[1:]])
    sys.exit(main())
