"""The failure table of ownership on a real fleet: the rows that fit into a suite, all on one fleet, with short outages.

The others, and the table's full 60 s, are in `python -m tests.campaigns.ownership`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.services import Broker, ServiceMissing, Services
from tests.campaigns.ownership.rig import Rig
from tests.campaigns.ownership.rows import ROWS
from tests.support.services import missing

pytestmark = [pytest.mark.system, pytest.mark.timeout(240), pytest.mark.xdist_group("failure-table")]

ACCOUNTS = 12
HOLD_S = 7.0  # longer than every lease
RATE = 50.0  # user events a second; each row ends with ledger against Kafka
IN_THE_SUITE = (
    "worker_killed",
    "rolling_restart",
    "scripts_flushed",
    "redis_flushed",
    "leader_killed",
    "both_stores_down",
    "worker_paused",
    "accounts_changed",
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory: Path = tmp_path_factory.mktemp("failure-table")
    prefer: Broker | None = "kafka" if os.environ.get("CI") == "true" else None
    try:
        services = Services.start(directory / "services", ("postgres", "redis", "kafka"), prefer_broker=prefer)
    except ServiceMissing as error:
        missing(error)
    with services, Rig(directory, services, accounts=ACCOUNTS, rate=RATE) as running:
        yield running


@pytest.mark.parametrize("name", IN_THE_SUITE)
def test_row(rig: Rig, name: str) -> None:
    finding = ROWS[name](rig, HOLD_S)
    assert finding.ok, finding
