"""The market campaign, short: four venues, faults each few seconds and one kill -9 on real services; Kafka against the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.runtime.kafka_io import create_topics
from fleet.runtime.postgres import Postgres, migrate
from fleet.services import Services
from tests.campaigns.market.campaign import Campaign, verdict
from tests.campaigns.market.venues import VENUES
from tests.support.simulator import Simulator


@pytest.mark.timeout(150)
def test_trades_candles_and_books_are_complete_under_faults_and_a_kill(
    own_services: Callable[..., Services], tmp_path: Path
) -> None:
    services = own_services("postgres", "redis", "kafka")
    create_topics(services.kafka.bootstrap)
    migrate(Postgres(services.postgres.dsn, application="test", statement_timeout_s=30))
    with Simulator(tuple(VENUES), rate=150, seed=5) as simulator:
        running = Campaign(services, simulator, tmp_path, 5, tuple(VENUES), print)
        try:
            figures = running.run(25.0, cut_every_s=3.0, kill_every_s=13.0)
        finally:
            running.process.kill()
    assert verdict(figures) == [], figures
    assert figures["kills"] == 1
    assert figures["read_back"] > 50, figures
