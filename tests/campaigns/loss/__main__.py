"""`python -m tests.campaigns.loss`: is anything lost under random faults?

In: options. Out: progress, a JSON report, exit code 0 or 1.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click

from fleet.commands.demo import venues_of
from fleet.core.errors import FleetError
from fleet.demo.options import Options
from tests.campaigns.loss.campaign import Campaign, encode, replay_command


@click.command()
@click.option("--seed", type=int, required=True)
@click.option("--minutes", type=click.FloatRange(min=0.2), default=5.0, show_default=True)
@click.option("--exchanges", "names", default="", help="Simulated venues, comma-separated; default: all there are.")
@click.option("--accounts", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rate", type=float, default=50.0, show_default=True, help="User events a second, all accounts.")
@click.option(
    "--every", type=float, default=2.5, show_default=True, help="Seconds from one fault to the next, on average."
)
@click.option("--report", type=click.Path(dir_okay=False, writable=True), help="Write the report here too.")
@click.option("--logs", type=click.Path(file_okay=False), help="Keep the log files of all processes in this directory.")
def main(
    seed: int, minutes: float, names: str, accounts: int, workers: int, rate: float, every: float, report: str | None,
    logs: str | None,
) -> None:  # fmt: skip
    """Random faults for 70 % of the time, then Postgres against the exchange's ledger."""
    options = Options(
        accounts=accounts,
        workers=workers,
        venues=venues_of(names),
        seconds=minutes * 60,
        rate=rate,
        chaos=seed,
        logs=Path(logs).resolve() if logs else None,
    )
    print(replay_command(options, every), flush=True)
    try:
        with ExitStack() as stack:
            found = Campaign(options, every, stack).run()
    except FleetError as error:
        print(f"loss campaign: {error}")
        sys.exit(2)
    text = encode(found)
    if report:
        Path(report).write_bytes(text + b"\n")
    print(text.decode())
    print(found.replay)
    sys.exit(0 if found.passed else 1)


if __name__ == "__main__":
    main()
