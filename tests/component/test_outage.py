"""A dozen accounts cut by an outage: while it lasts hardly a permit is spent on it, and when it is over everybody is back soon."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fleet.core.exchange import Rate
from fleet.core.model import Credentials
from tests.support import bench
from tests.support.bench import LateKafka, Rows, WorkerBench
from tests.support.simulator import Simulator, eventually
from workers.reach import FIRST

ACCOUNTS = 12
AWAY_S = 4.0
SPENT = 2 * FIRST  # those that dialled before it was known, and trials


class Counted(bench.NoLimit):
    """Permits without limit, counted."""

    dials = 0

    def take(self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0) -> float:
        Counted.dials += kind == "dial"
        return 0.0


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Simulator, WorkerBench]]:
    monkeypatch.setattr(bench, "NoLimit", Counted)
    with Simulator(plain=True, rate=1) as simulator:
        rows = Rows()
        for number in range(ACCOUNTS):
            key = f"outage{number}".ljust(64, "k")
            simulator.account(key, "s" * 64)
            rows.add(f"account-{number}", Credentials(key, "s" * 64), "binance", "usdm")
        made = WorkerBench(simulator, LateKafka(), rows, "first")
        yield simulator, made
        made.kill()


def test_an_outage_spends_few_permits_and_everybody_is_back_soon(worker: tuple[Simulator, WorkerBench]) -> None:
    simulator, made = worker
    eventually(made.settled, 20.0, "everybody is live")
    before = Counted.dials
    away = simulator.fault("refuse")
    simulator.fault("cut")
    end = time.monotonic() + AWAY_S
    eventually(lambda: time.monotonic() > end, AWAY_S + 5.0, "the outage")  # its length is what is tested
    spent = Counted.dials - before
    assert FIRST <= spent <= SPENT, f"{spent} permits in {AWAY_S} s"
    simulator.end_fault(away)
    eventually(lambda: len(simulator.connections(only_open=True)) == ACCOUNTS, 15.0, "everybody dials again")
    eventually(made.settled, 20.0, "everybody is live again, no gap open")
    assert Counted.dials - before <= SPENT + ACCOUNTS
