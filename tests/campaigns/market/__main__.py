"""Public market data of four venues under cuts, drops and kills, compared with the simulated exchanges' truth.

    python -m tests.campaigns.market --minutes 60 --rate 5000 --cut-every 30
    python -m tests.campaigns.market --minutes 2 --rate 2000 --cut-every 5 --kill-every 40

Starts services, the simulator and `python -m workers marketdata`; a progress line every ten seconds on standard error, figures as
JSON at the end; exit code 1 and an early end if a trade or a closed candle is missing that the exchange has and the fleet did not
announce as lost, if one differs from the exchange's, or if a book was wrong while its numbers said it is whole.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleet.runtime.kafka_io import create_topics
from fleet.runtime.postgres import Postgres, migrate
from fleet.services import Services
from tests.campaigns.market.campaign import Campaign, Say, verdict
from tests.campaigns.market.venues import VENUES
from tests.support.simulator import Simulator


def campaign(given: argparse.Namespace, venues: tuple[str, ...], say: Say) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="market-campaign-") as name:
        directory = Path(name)
        with Services.start(directory / "services", only=("postgres", "redis", "kafka")) as services:
            create_topics(services.kafka.bootstrap)
            migrate(Postgres(services.postgres.dsn, application="campaign", statement_timeout_s=30))
            with Simulator(venues, rate=given.rate / len(venues), seed=given.seed) as simulator:
                running = Campaign(services, simulator, directory, given.seed, venues, say)
                running.silences = True
                try:
                    return running.run(given.minutes * 60, given.cut_every, given.kill_every)
                finally:
                    running.process.kill()
                    log = directory / "marketdata.log"
                    if log.exists():
                        say("\n".join(x for x in log.read_text().splitlines() if '"error"' in x or "bug" in x)[-3000:])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=2000.0, help="frames a second, all venues")
    parser.add_argument("--venues", default=",".join(VENUES), help=f"of {', '.join(VENUES)}")
    parser.add_argument("--cut-every", type=float, default=5.0, help="seconds between two faults, about")
    parser.add_argument("--kill-every", type=float, default=0.0, help="seconds between two kill -9, 0 = none")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    figures = campaign(given, tuple(given.venues.split(",")), lambda text: print(text, file=sys.stderr, flush=True))
    wrong = verdict(figures)
    print(json.dumps({**figures, "wrong": wrong}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
