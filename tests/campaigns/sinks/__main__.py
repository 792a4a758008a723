"""`python -m tests.campaigns.sinks killed --minutes 5 --every 2`: tables against topics.

In: options. Out: progress on standard error, figures as JSON, exit code 0 or 1.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click

from fleet.services import Services
from tests.campaigns.sinks.campaign import Campaign, verdict


@click.group()
def main() -> None:
    """What the sinks must survive."""


@main.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), default=5.0, show_default=True)
@click.option(
    "--every",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    help="Seconds between two kills.",
)
@click.option("--rate", type=float, default=300.0, show_default=True, help="User events a second.")
@click.option("--market-rate", type=float, default=600.0, show_default=True, help="Market events a second.")
@click.option("--seed", type=int, default=1, show_default=True)
def killed(minutes: float, every: float, rate: float, market_rate: float, seed: int) -> None:
    """kill -9 of both sinks, again and again, under load."""
    with tempfile.TemporaryDirectory(prefix="sinks-campaign-") as name:
        directory = Path(name)
        with Services.start(directory / "services", only=("postgres", "kafka")) as services:
            campaign = Campaign(services, directory, lambda text: print(text, file=sys.stderr, flush=True))
            figures = campaign.run(minutes * 60, every, rate, market_rate, seed)
    wrong = verdict(figures)
    print(json.dumps({**figures, "wrong": wrong}, indent=1, default=str))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
