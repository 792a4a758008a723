"""What the exchange counts is what the fleet goes by: with another program on its address, and with a Redis that was emptied.

Two processes' budgets on a real Redis, several threads each, against the simulated Binance, whose own counts are the judge.
"""

from __future__ import annotations

import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.exchange import HttpCall, Rate
from fleet.core.names import Keys
from fleet.exchanges import exchanges
from fleet.runtime.http import Http
from fleet.runtime.metrics import Metrics
from fleet.runtime.redis_store import Budget, RedisStore
from tests.support.services import SharedServices
from tests.support.simulator import Simulator, eventually
from workers.rest import VenueRest

pytestmark = pytest.mark.integration
CALL = HttpCall("GET", "/fapi/v1/premiumIndex", weight=10)  # of all symbols
OUTSIDERS = "/fapi/v1/ticker/24hr"  # 40 weight
THREADS = 3
LIMIT, BURST = 2400, 2200


class Counted(Budget):
    """Knows which of its threads wait."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__(store, 1 / 3)
        self.waiting: dict[int, bool] = {}

    def take(self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0) -> float:
        wait_s = super().take(kind, exchange, egress_ip, amount, rate, reserve)
        self.waiting[threading.get_ident()] = wait_s > 1.0  # not for a moment, while it is not known what was spent
        return wait_s


class Fleet:
    """Two processes' REST, each with its own connections; their threads call until they are stopped."""

    def __init__(self, sim: Simulator, redis_url: str) -> None:
        keys, venue = Keys(f"t{uuid.uuid4().hex[:10]}"), exchanges()["binance_usdm"]
        self.sim, self.stop, self.metrics = sim, threading.Event(), Metrics()
        self.go = threading.Event()  # nobody begins a call while it is not set
        self.stores = [RedisStore(redis_url, keys, 2.0) for _ in range(3)]
        self.budgets = [Counted(store) for store in self.stores[:2]]
        self.rests = [
            VenueRest(venue, False, Http(sim.rest_url), permits, "default", self.metrics, self.stop)
            for permits in self.budgets
        ]
        self.threads = [threading.Thread(target=self._call, args=(rest,)) for rest in self.rests * THREADS]

    def _call(self, rest: VenueRest) -> None:
        while not self.stop.is_set():
            self.go.wait(1.0)
            if not self.go.is_set():
                continue
            try:
                rest.call(CALL, None, reserved_share=0.0)
            except (ConnectionFailed, ExchangeRefused):  # the end, or what the simulator's counts will show
                continue

    def start(self) -> None:
        self.go.set()
        for thread in self.threads:
            thread.start()

    def all_wait(self) -> bool:
        states = [state for permits in self.budgets for state in list(permits.waiting.values())]
        return len(states) == len(self.threads) and all(states)

    def lose_everything(self) -> None:
        """Redis is emptied, as far as this fleet can tell."""
        store: Any = self.stores[2]
        assert store._client.delete(store.keys.budget("weight", "binance_usdm", "default")) == 1

    def spent(self) -> int:
        """In the minute in which most was."""
        return max((row["weight"] for row in self.sim.calls()["weight_per_minute"]), default=0)

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(10)
        for store in self.stores:
            store.close()


@pytest.fixture
def running(services: SharedServices) -> Iterator[Callable[[], Fleet]]:
    made: list[Fleet] = []
    with Simulator(rate=1) as sim:

        def make() -> Fleet:
            made.append(Fleet(sim, services.redis.url))
            return made[-1]

        yield make
        for fleet in made:
            fleet.end()


def judge(fleet: Fleet) -> None:
    """Within the limit, nothing refused, and what was left of the limit was used."""
    assert BURST - 300 <= fleet.spent() <= LIMIT  # what an unknown bucket granted may be counted twice: a twelfth
    assert {row["status"] for row in fleet.sim.calls()["rest"]} == {200}


def test_weight_that_another_program_spends_is_left_to_it(running: Callable[[], Fleet]) -> None:
    """Half a window of it, of which the fleet hears only from the exchange's count."""
    fleet = running()
    fleet.start()
    eventually(lambda: fleet.spent() >= 300, 30)
    fleet.go.clear()  # what comes after the fleet has spent all it may is not for the fleet to prevent
    for _ in range(BURST // 2 // 40):
        with urllib.request.urlopen(fleet.sim.rest_url + OUTSIDERS, timeout=10) as reply:
            reply.read()
    fleet.go.set()
    eventually(fleet.all_wait, 30)
    judge(fleet)
    assert fleet.metrics.weight_used("binance_usdm")._value.get() > BURST // 2


def test_an_emptied_redis_does_not_let_the_window_be_spent_again(running: Callable[[], Fleet]) -> None:
    fleet = running()
    fleet.start()
    for spent in (500, 1200, 2000):
        eventually(lambda spent=spent: fleet.spent() >= spent, 30)  # type: ignore[misc]
        fleet.lose_everything()
    eventually(fleet.all_wait, 30)
    judge(fleet)


def test_a_ban_outlives_an_emptied_redis(running: Callable[[], Fleet]) -> None:
    """The one process that heard of it says so again; the other one does not call into the ban."""
    fleet = running()
    heard, other = fleet.budgets
    venue = exchanges()["binance_usdm"]
    ask = ("weight", venue.name, "default", 1.0, venue.limits.weight)
    heard.block("weight", venue.name, "default", 60)
    assert other.take(*ask) > 50
    fleet.lose_everything()
    assert eventually(lambda: heard.take(*ask) > 50 and other.take(*ask) > 50, 10)
