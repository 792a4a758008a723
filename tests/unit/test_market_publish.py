"""Publishing market data: order per key, batches, bounded bytes, what is dropped first, and what is said about it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fleet.core.errors import FleetError, StoreUnavailable
from fleet.core.events import Depth, MarketRecord, Ticker, Trade
from fleet.runtime.metrics import Metrics
from workers import market_publish
from workers.market_publish import MarketPublisher, stream_event

Done = Callable[[Exception | None], None]


class FakeKafka:
    """Answers each send at once: with an error while `failing` is set, never while `mute` is."""

    def __init__(self) -> None:
        self.failing: Exception | None = None
        self.mute = False
        self.records: list[tuple[str, str, list[str]]] = []
        self.unanswered: list[tuple[Done, tuple[str, str, list[str]]]] = []
        self.sends = 0

    def send(self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]], done: Done) -> None:
        self.sends += 1
        record = (topic, key.decode(), [json.loads(line)["id"] for line in value.split(b"\n")])
        if self.mute:
            self.unanswered.append((done, record))
            return
        if self.failing is None:
            self.records.append(record)
        done(self.failing)

    def answer(self) -> None:
        self.mute = False
        for done, record in self.unanswered:
            self.records.append(record)
            done(None)
        self.unanswered.clear()

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self, timeout_s: float) -> None:
        pass

    def ids(self, topic: str) -> list[str]:
        return [i for t, _, ids in self.records if t == topic for i in ids]


@pytest.fixture
def kafka() -> FakeKafka:
    return FakeKafka()


@pytest.fixture
def start(kafka: FakeKafka, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MarketPublisher]]:
    monkeypatch.setattr(market_publish, "RETRY_PAUSE_S", 0.01)
    running: list[MarketPublisher] = []

    def make(limit_bytes: int = 10_000_000, metrics: Metrics | None = None) -> MarketPublisher:
        running.append(MarketPublisher(kafka, limit_bytes, metrics or Metrics()).start())
        return running[-1]

    yield make
    kafka.failing = None
    kafka.answer()
    for publisher in running:
        publisher.close(3.0)


def trade(n: int, symbol: str = "BTCUSDT") -> Trade:
    return Trade(
        id=f"t{n}",
        exchange="binance",
        market="usdm",
        symbol=symbol,
        ts_event=n,
        ts_recv=n,
        trade_id=str(n),
        price="1.0",
        qty="2",
        side="buy",
    )


def ticker(n: int) -> Ticker:
    return Ticker(id=f"k{n}", exchange="binance", market="usdm", symbol="BTCUSDT", ts_event=n, ts_recv=n, last="1.0")


def depth(n: int) -> Depth:
    return Depth(
        id=f"d{n}",
        exchange="binance",
        market="usdm",
        symbol="BTCUSDT",
        ts_event=n,
        ts_recv=n,
        kind="update",
        bids=[("1.0", "2")],
        asks=[],
        first_seq=n,
        last_seq=n,
        prev_seq=n - 1,
    )


def wait_for(what: Callable[[], object], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.005)


def test_lines_are_batched_per_key_in_order(kafka: FakeKafka, start: Callable[..., MarketPublisher]) -> None:
    publisher = start()
    for n in range(0, 2000, 20):
        publisher.offer([trade(n + i, "BTCUSDT" if i % 2 else "ETHUSDT") for i in range(20)])
    assert publisher.flush(5.0)
    assert publisher.pending_bytes() == 0
    for symbol, odd in (("BTCUSDT", 1), ("ETHUSDT", 0)):
        ids = [i for _, key, ids in kafka.records if key == f"binance:usdm:{symbol}" for i in ids]
        assert ids == [f"t{n}" for n in range(odd, 2000, 2)]
    assert kafka.sends < 500
    assert max(len(ids) for _, _, ids in kafka.records) <= market_publish.LINES


def test_a_single_event_does_not_wait_for_company(kafka: FakeKafka, start: Callable[..., MarketPublisher]) -> None:
    publisher = start()
    started = time.monotonic()
    publisher.offer([trade(1)])
    wait_for(lambda: kafka.records)
    assert time.monotonic() - started < 2.0


def test_failed_records_are_sent_again_before_newer_ones(
    kafka: FakeKafka, start: Callable[..., MarketPublisher]
) -> None:
    publisher = start()
    kafka.failing = StoreUnavailable("away")
    publisher.offer([trade(1), trade(2)])
    wait_for(lambda: kafka.sends >= 2)
    publisher.offer([trade(3)])
    kafka.failing = None
    assert publisher.flush(5.0)
    assert kafka.ids("market.trades") == ["t1", "t2", "t3"]


def test_order_holds_over_an_outage_of_many_records(kafka: FakeKafka, start: Callable[..., MarketPublisher]) -> None:
    publisher = start()
    for n in range(0, 3000, 3):
        kafka.failing = StoreUnavailable("away") if n % 500 < 250 else None
        publisher.offer([trade(n), trade(n + 1), trade(n + 2)])
        if n % 30 == 0:
            time.sleep(0.001)
    kafka.failing = None
    assert publisher.flush(5.0)
    assert kafka.ids("market.trades") == [f"t{n}" for n in range(3000)]


def test_tickers_go_before_trades_oldest_first_and_the_loss_is_told(
    kafka: FakeKafka, start: Callable[..., MarketPublisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_publish, "IN_FLIGHT_BYTES", 1)
    metrics = Metrics()
    publisher = start(100_000, metrics)
    kafka.mute = True
    publisher.offer([trade(0)])
    wait_for(lambda: kafka.unanswered)  # from here on everything waits in the publisher
    publisher.offer([ticker(n) for n in range(150)] + [trade(n) for n in range(1, 150)])
    publisher.offer([trade(n) for n in range(150, 250)] + [ticker(n) for n in range(150, 200)])
    assert publisher.pending_bytes() <= 100_000
    kafka.answer()
    assert publisher.flush(5.0)
    assert kafka.ids("market.trades") == [f"t{n}" for n in range(250)]
    kept = kafka.ids("market.tickers")
    assert kept == [f"k{n}" for n in range(200 - len(kept), 200)]
    assert 0 < len(kept) < 200
    wait_for(lambda: kafka.ids("fleet.streams"))
    assert b'fleet_dropped_total{cls="ticker"} ' + str(float(200 - len(kept))).encode() in metrics.render()
    assert b'fleet_dropped_total{cls="trade"}' not in metrics.render()


def test_a_book_whose_updates_were_dropped_is_told_once(
    kafka: FakeKafka, start: Callable[..., MarketPublisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_publish, "IN_FLIGHT_BYTES", 1)
    publisher = start(20_000)
    kafka.mute = True
    publisher.offer([trade(0)])
    wait_for(lambda: kafka.unanswered)
    publisher.offer([depth(n) for n in range(200)])
    assert (
        publisher.broken_books("binance", "usdm", {"BTCUSDT"}) == set()
    )  # Kafka is still away: a snapshot now would be in vain
    kafka.answer()
    wait_for(lambda: publisher._books_to_read)
    assert publisher.broken_books("binance", "spot", {"BTCUSDT"}) == set()
    assert publisher.broken_books("binance", "usdm", {"BTCUSDT"}) == {"BTCUSDT"}
    assert publisher.broken_books("binance", "usdm", {"BTCUSDT"}) == set()


def test_offer_never_waits_for_kafka(kafka: FakeKafka, start: Callable[..., MarketPublisher]) -> None:
    gate = threading.Event()

    def blocking(*_: object) -> None:
        gate.wait(10)

    kafka.send = blocking  # type: ignore[method-assign, assignment]
    publisher = start(1_000_000)
    started = time.monotonic()
    for n in range(0, 20_000, 100):
        publisher.offer([trade(n + i) for i in range(100)])
    assert time.monotonic() - started < 5.0
    assert publisher.pending_bytes() <= 1_000_000
    gate.set()


def test_a_record_kafka_refuses_for_good_is_counted_not_repeated(
    kafka: FakeKafka, start: Callable[..., MarketPublisher]
) -> None:
    publisher = start()
    kafka.failing = FleetError("too large")
    publisher.offer([trade(1)])
    wait_for(lambda: kafka.sends == 2 and publisher.pending_bytes() == 0)  # the trade, and the announcement of its loss
    publisher.close(1.0)
    assert kafka.sends == 2


def test_stream_events_are_keyed_by_the_stream(kafka: FakeKafka, start: Callable[..., MarketPublisher]) -> None:
    publisher = start()
    batch: list[MarketRecord] = [trade(1)]
    publisher.offer(batch)
    publisher.announce(stream_event("binance_usdm:market:0", "binance", "usdm", "connected", data={"attempt": 0}))
    assert publisher.flush(5.0)
    assert [(t, k) for t, k, _ in kafka.records if t == "fleet.streams"] == [("fleet.streams", "binance_usdm:market:0")]
