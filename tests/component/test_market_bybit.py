"""A lane of Bybit market data against the simulated exchange: categories, books whose snapshots come in the stream, wrong names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from fleet.exchanges import hosts
from fleet.exchanges.bybit import EXCHANGE
from fleet.runtime.http import Http
from fleet.runtime.metrics import Metrics
from tests.component.test_market import Kafka, NoBudget
from tests.support.simulator import Simulator, eventually
from workers.market_plan import lanes
from workers.market_publish import MarketPublisher
from workers.market_stream import MarketStream
from workers.rest import VenueRest

KINDS = ("ticker", "depth", "trade", "mark_price", "book_ticker", "kline_1m", "liquidation")


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(("bybit",), rate=60) as running:
        yield running


class Running:
    """The lanes of some symbols, with everything behind them."""

    def __init__(self, sim: Simulator, symbols: list[str], rotate_after_s: float = 3600.0) -> None:
        self.kafka, self.stop, metrics = Kafka(), threading.Event(), Metrics()
        exchange = replace(EXCHANGE, limits=msgspec.structs.replace(EXCHANGE.limits, rotate_after_s=rotate_after_s))
        roots = hosts(exchange, False, sim.endpoints)
        rest = VenueRest(exchange, False, Http(roots.rest, timeout_s=2.0), NoBudget(), "default", metrics, self.stop)
        self.publisher = MarketPublisher(self.kafka, 50_000_000, metrics).start()
        self.streams = [
            MarketStream(
                lane,
                exchange,
                exchange.market_data.url(roots, lane.path),
                rest,
                None,
                self.publisher,
                metrics,
                self.stop,
                tls=None,
            )
            for lane in lanes(exchange, symbols, KINDS)
        ]
        for stream in self.streams:
            stream.start()

    def said(self, name: str) -> int:
        return len(self.kafka.stream_events(name))

    def depth(self, market: str = "linear") -> list[int]:
        """Sequence numbers of the book as consumers get it."""
        return [e["last_seq"] for e in self.kafka.of("market.depth") if e["market"] == market]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for stream in self.streams:
            stream.abort()
        ended = [stream.join(5.0) for stream in self.streams]
        self.publisher.close(2.0)
        assert all(ended)


def test_one_socket_per_category_and_events_say_which(sim: Simulator) -> None:
    with Running(sim, ["BTCUSDT", "spot/BTCUSDT"]) as running:
        eventually(lambda: running.said("book_valid") == 2)
        eventually(lambda: running.kafka.of("market.mark_prices") and running.kafka.of("market.klines"))
        for topic in ("market.trades", "market.tickers", "market.depth"):
            eventually(lambda topic=topic: {e["market"] for e in running.kafka.of(topic)} == {"linear", "spot"})  # type: ignore[misc]
        open_ = sorted((c["path"], len(c["subscriptions"])) for c in sim.connections(only_open=True))
        assert open_ == [("/v5/public/linear", 6), ("/v5/public/spot", 5)]
        assert {e["market"] for e in running.kafka.stream_events("book_valid")} == {"linear", "spot"}
        assert {e["market"] for e in running.kafka.of("market.mark_prices")} == {"linear"}


def test_a_gap_in_a_book_is_met_on_the_same_socket(sim: Simulator) -> None:
    with Running(sim, ["BTCUSDT", "ETHUSDT"]) as running:
        eventually(lambda: running.said("book_valid") == 2)
        sim.fault("drop_event", stream="orderbook.50.BTCUSDT", count=1)
        eventually(lambda: running.said("book_invalid") == 1)
        eventually(lambda: running.said("book_valid") == 3, 5.0)
        assert running.kafka.stream_events("book_invalid")[0]["symbol"] == "BTCUSDT"
        assert running.said("connected") == 1 and running.said("disconnected") == 0
        assert len(sim.connections(only_open=True)) == 1


def test_a_rotation_breaks_no_book(sim: Simulator) -> None:
    with Running(sim, ["BTCUSDT", "ETHUSDT", "SOLUSDT"], rotate_after_s=1.5) as running:
        eventually(lambda: running.said("rotated") >= 3, 20.0)
        assert running.said("book_invalid") == running.said("disconnected") == 0


def test_a_wrong_symbol_takes_no_good_one_with_it(sim: Simulator) -> None:
    with Running(sim, ["NOPEUSDT", "BTCUSDT"]) as running:
        eventually(lambda: running.said("subscription_refused") == 6)
        eventually(lambda: len(running.depth()) > 10 and len(running.kafka.of("market.trades")) > 10)
        assert running.said("connected") == 1
        refused = [t for e in running.kafka.stream_events("subscription_refused") for t in e["data"]["topics"]]
        assert all(name.endswith("NOPEUSDT") for name in refused)


def test_updates_dropped_while_kafka_was_away_cost_one_snapshot(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher knows a book by its category, the lane by its symbol."""
    with Running(sim, ["spot/BTCUSDT"]) as running:
        eventually(lambda: running.said("book_valid") == 1)
        broken = {("bybit", "spot"): {"BTCUSDT"}}
        monkeypatch.setattr(running.publisher, "broken_books", lambda *market: broken.pop(market[:2], set()))
        eventually(lambda: running.said("book_invalid") == 1)
        eventually(lambda: running.said("book_valid") == 2, 5.0)
