"""`python -m tests.campaigns.ownership [ROW…]`: the failure table on a real fleet, a JSON line per row. Exit code 1 = a row failed.

`--random --seed N --minutes M` mixes the faults instead (random_faults.py).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from fleet.services import Services
from tests.campaigns.ownership.random_faults import Campaign, missing
from tests.campaigns.ownership.rig import Rig
from tests.campaigns.ownership.rows import ROWS
from tests.campaigns.ownership.trial import Finding, NotHealthy

COMPLETE_MINUTES = 20.0  # a campaign of this length must have reached everything at least once


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.ownership")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all if none is named")
    parser.add_argument("--accounts", type=int, default=30)
    parser.add_argument("--hosts", type=int, default=2, help="most rows want two")
    parser.add_argument("--workers", type=int, default=1, help="per host")
    parser.add_argument("--hold", type=float, default=20.0, help="seconds an outage lasts (the table: 60)")
    parser.add_argument(
        "--pulse", type=float, default=0.0, help="seconds from one order of an account to the next; 0: by their number"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        help="user events a second with fills besides; compared with Kafka",
    )
    parser.add_argument(
        "--addresses", type=int, default=0, help="loopback addresses to dial from, each with its budgets"
    )
    parser.add_argument("--random", action="store_true", help="mix faults instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--keep", type=Path, help="directory for logs, kept")
    args = parser.parse_args()
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="ownership-") as temporary:
        directory = args.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with (
            Services.start(directory / "services", only=("postgres", "redis", "kafka")) as services,
            Rig(
                directory,
                services,
                hosts=args.hosts,
                workers=args.workers,
                accounts=args.accounts,
                addresses=args.addresses,
                pulse=args.pulse,
                rate=args.rate,
            ) as rig,
        ):
            print(f"up after {time.monotonic() - began:.1f} s", file=sys.stderr)
            if args.random:
                return mixed(rig, args.seed, args.minutes)
            return table(rig, args.rows or list(ROWS), args.hold)


def table(rig: Rig, names: list[str], hold_s: float) -> int:
    failed = 0
    for name in names:
        try:
            finding = ROWS[name](rig, hold_s)
        except NotHealthy as error:
            finding = Finding(name, ok=False, problems=[str(error)])
        failed += not finding.ok
        print(msgspec.json.encode(finding).decode(), flush=True)
    return 1 if failed else 0


def mixed(rig: Rig, seed: int, minutes: float) -> int:
    report = Campaign(rig, seed, minutes).run()
    never = missing(report)
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    for each in never:
        print(each, file=sys.stderr)
    return 1 if report.violations or (never and report.minutes >= COMPLETE_MINUTES) else 0


if __name__ == "__main__":
    sys.exit(main())
