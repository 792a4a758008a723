"""Is anything missing when Kafka comes back, or when who publishes is killed?

    python -m tests.campaigns.kafka away --minutes 10 --rate 2000 --accounts 100
    python -m tests.campaigns.kafka killed --times 50

In: options. Out: progress, figures as JSON, exit code 0 or 1 (2: it could not be run).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click

from fleet.commands.demo import venues_of
from fleet.core.errors import FleetError
from fleet.demo.options import Options
from fleet.runtime.kafka_io import create_topics
from fleet.services import Services
from tests.campaigns.kafka.away import run
from tests.campaigns.kafka.killed import Killed, verdict
from tests.support.simulator import Simulator

MIB = 1024 * 1024


@click.group()
def main() -> None:
    """What the data path must survive of Kafka."""


@main.command()
@click.option(
    "--minutes", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Kafka is away so long."
)
@click.option("--rate", type=float, default=500.0, show_default=True, help="User events a second, all accounts.")
@click.option("--accounts", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--exchanges", "names", default="binance_usdm", show_default=True, help="Simulated venues, comma-separated."
)
@click.option("--buffer-mib", type=float, default=16.0, show_default=True, help="FLEET_BUFFER_BYTES of each process.")
@click.option("--recover-minutes", type=float, default=15.0, show_default=True, help="Afterwards wait at most so long.")
@click.option("--logs", type=click.Path(file_okay=False), help="Keep the log files of all processes in this directory.")
def away(
    minutes: float, rate: float, accounts: int, workers: int, names: str, buffer_mib: float, recover_minutes: float,
    logs: str | None,
) -> None:  # fmt: skip
    """Kafka stopped under load, then started again."""
    options = Options(
        accounts=accounts,
        workers=workers,
        venues=venues_of(names),
        seconds=minutes * 60,
        rate=rate,
        chaos=1,
        logs=Path(logs).resolve() if logs else None,
    )
    try:
        figures = run(options, int(buffer_mib * MIB), recover_minutes * 60)
    except FleetError as error:
        print(f"kafka campaign: {error}")
        sys.exit(2)
    print(json.dumps(figures, indent=1))
    sys.exit(1 if figures["wrong"] else 0)


@main.command()
@click.option("--times", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--rate", type=float, default=200.0, show_default=True, help="User events a second.")
@click.option("--seed", type=int, default=1, show_default=True)
def killed(times: int, rate: float, seed: int) -> None:
    """kill -9 of a publishing process at random instants."""
    with tempfile.TemporaryDirectory(prefix="kafka-campaign-") as name:
        directory = Path(name)
        with Services.start(directory / "services", only=("kafka",)) as services, Simulator(rate=1) as simulator:
            create_topics(services.kafka.bootstrap, 4)
            lives = Killed(simulator, services.kafka.bootstrap, directory, seed)
            try:
                figures = lives.run(times, rate)
            finally:
                lives.kill()
    wrong = verdict(figures)
    print(json.dumps({**figures, "wrong": wrong}, indent=1))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
