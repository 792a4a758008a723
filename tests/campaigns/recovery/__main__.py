"""What coming back costs a fleet, and whether the exchange's limits hold.

    python -m tests.campaigns.recovery quiet_and_traded --accounts 1000 --traded 50
    python -m tests.campaigns.recovery outage --accounts 5000 --minutes 5 --workers 5 --addresses 5
    python -m tests.campaigns.recovery audit --accounts 300 --exchanges all
    python -m tests.campaigns.recovery quiet_day --accounts 200 --hours 24

In: options. Out: progress, figures as JSON, exit code 0 or 1 (2: it could not be run).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fleet.commands.demo import venues_of
from fleet.core.errors import FleetError
from fleet.demo.options import Options
from fleet.runtime.settings import Settings
from tests.campaigns.recovery import audit as audits
from tests.campaigns.recovery import outage as outages
from tests.campaigns.recovery import quiet_and_traded as crowds
from tests.campaigns.recovery import quiet_day as days

accounts_option = click.option("--accounts", type=click.IntRange(min=1), default=200, show_default=True)
workers_option = click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
logs_option = click.option("--logs", type=click.Path(file_okay=False), help="Keep the log files of all processes here.")


def venues_option(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--exchanges", "names", default=default, show_default=True, help="Simulated venues, comma-separated."
    )


def _options(accounts: int, workers: int, names: str, logs: str | None) -> Options:
    kept = Path(logs).resolve() if logs else None
    return Options(
        accounts=accounts, workers=workers, venues=venues_of(names), seconds=0.0, rate=0.0, chaos=1, logs=kept
    )


def _conclude(campaign: Callable[[], dict[str, Any]]) -> None:
    try:
        figures = campaign()
    except FleetError as error:
        print(f"recovery campaign: {error}")
        sys.exit(2)
    print(json.dumps(figures, indent=1))
    sys.exit(1 if figures["wrong"] else 0)


@click.group()
def main() -> None:
    """Recovery at the size of a fleet."""


@main.command("quiet_and_traded")
@accounts_option
@click.option(
    "--traded", type=click.IntRange(min=1), default=10, show_default=True, help="Further accounts that trade."
)
@workers_option
@logs_option
def quiet_and_traded(accounts: int, traded: int, workers: int, logs: str | None) -> None:
    """Quiet Binance USDⓈ-M accounts and some that trade, all cut at once, one address."""
    options = _options(accounts + traded, workers, crowds.VENUE, logs)
    _conclude(lambda: crowds.run(options, traded))


@main.command()
@accounts_option
@click.option("--minutes", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="How long it is away.")
@click.option(
    "--addresses", type=click.IntRange(min=0, max=200), default=0, show_default=True, help="FLEET_EGRESS_IPS."
)
@venues_option("binance_usdm")
@workers_option
@logs_option
def outage(accounts: int, minutes: float, addresses: int, names: str, workers: int, logs: str | None) -> None:
    """Everybody cut by an outage: time to stream again against the bound that the dial limits give."""
    options = _options(accounts, workers, names, logs)
    _conclude(lambda: outages.run(options, minutes * 60.0, addresses))


@main.command()
@accounts_option
@click.option(
    "--audit-s",
    type=click.FloatRange(min=5.0),
    default=Settings().audit_interval_s,
    show_default=True,
    help="FLEET_AUDIT_INTERVAL_S.",
)
@click.option("--orders", type=click.IntRange(min=1), default=5, show_default=True, help="Orders of each account.")
@click.option("--watch-s", type=float, default=0.0, help="Watch the audits' weight so long (default: one period).")
@venues_option("all")
@workers_option
@logs_option
def audit(
    accounts: int, audit_s: float, orders: int, watch_s: float, names: str, workers: int, logs: str | None
) -> None:
    """One fill in twenty dropped from a socket that stays up."""
    options = _options(accounts, workers, names, logs)
    _conclude(lambda: audits.run(options, audit_s, orders, watch_s or audit_s))


@main.command("quiet_day")
@accounts_option
@click.option("--hours", type=click.FloatRange(min=0.1), default=24.0, show_default=True)
@venues_option("all")
def quiet_day(accounts: int, hours: float, names: str) -> None:
    """Hours in which nothing happens."""
    _conclude(lambda: days.run(accounts, hours, venues_of(names)))


if __name__ == "__main__":
    main()
