"""What a lane missed is read back: every venue against its simulated exchange, compared with a lane that missed nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from fleet.core.errors import ConnectionFailed
from fleet.exchanges import exchanges, hosts
from fleet.runtime.http import Http
from fleet.runtime.metrics import Metrics
from tests.component.test_market import Kafka, NoBudget
from tests.support.simulator import Simulator, eventually
from workers.market_plan import lanes
from workers.market_publish import MarketPublisher
from workers.market_reader import MarketReader
from workers.market_socket import MarketDialer
from workers.market_stream import MarketStream
from workers.market_tracks import Mark, Name
from workers.rest import VenueRest

KINDS = ("trade", "kline_1m", "depth")
SYMBOLS = {
    "binance_usdm": ["BTCUSDT", "ETHUSDT"], "binance_spot": ["BTCUSDT", "ETHUSDT"], "bybit": ["BTCUSDT", "spot/BTCUSDT"],
    "okx": ["BTC-USDT-SWAP", "BTC-USDT"],
}  # fmt: skip
ORDER = ("venue", "market", "symbol")


class Running:
    """The lanes of one venue, with everything behind them. `away()` cuts their sockets and lets no other be opened."""

    def __init__(self, sim: Simulator, name: str, kinds: tuple[str, ...] = KINDS) -> None:
        self.venue = exchanges()[name]
        self.kafka, self.stop, metrics = Kafka(), threading.Event(), Metrics()
        roots = hosts(self.venue, False, sim.endpoints)
        rest = VenueRest(self.venue, False, Http(roots.rest), NoBudget(), "default", metrics, self.stop)
        self.publisher = MarketPublisher(self.kafka, 50_000_000, metrics).start()
        reader = MarketReader(self.venue, rest, self.stop)
        reader.start()
        self.streams = [
            MarketStream(
                lane, self.venue, self.venue.market_data.url(roots, lane.path), rest, reader, self.publisher, metrics, self.stop,
                tls=None,
            ) for lane in lanes(self.venue, SYMBOLS[name], kinds)
        ]  # fmt: skip

    def start(self) -> Running:
        for stream in self.streams:
            stream.start()
        return self

    def cut(self) -> None:
        for stream in self.streams:
            stream.abort()

    def live(self) -> bool:
        return all(stream.state == "live" for stream in self.streams)

    def close(self) -> None:
        self.stop.set()
        self.cut()
        ended = [stream.join(5.0) for stream in self.streams]
        self.publisher.close(2.0)
        assert all(ended)

    def trades(self) -> dict[tuple[str, str], dict[str, Any]]:
        """By (market:symbol, trade id)."""
        return {(f"{e['market']}:{e['symbol']}", e["trade_id"]): e for e in self.kafka.of("market.trades")}

    def closed(self) -> Counter[tuple[str, str, int]]:
        return Counter(
            (e["market"], e["symbol"], e["open_time"]) for e in self.kafka.of("market.klines") if e["closed"]
        )

    def gaps(self) -> list[dict[str, Any]]:
        return [e for e in self.kafka.stream_events("gap") if e["data"]["class"] in ("trade", "kline")]

    def read_back(self, kind: str) -> int:
        return sum(e["data"]["events"] for e in self.kafka.stream_events("backfilled") if e["data"]["class"] == kind)


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(tuple(SYMBOLS), rate=150) as running:
        yield running


class Away:
    """While set, the named lanes' dials fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stopped: set[int] = set()
        really = MarketDialer.open

        def open_unless_away(dialer: MarketDialer, cancelled: Any) -> Any:
            if id(dialer) in self.stopped:
                raise ConnectionFailed("away")
            return really(dialer, cancelled)

        monkeypatch.setattr(MarketDialer, "open", open_unless_away)

    def begin(self, running: Running) -> None:
        self.stopped |= {id(stream._dialer) for stream in running.streams}
        running.cut()

    def end(self) -> None:
        self.stopped.clear()


def same(mine: dict[str, Any], truth: dict[str, Any]) -> bool:
    """One event, told by REST or by the socket."""
    return all(mine[field] == truth[field] for field in ("id", "price", "qty", "side", "ts_event", "trade_id"))


def numbers(event: dict[str, Any]) -> list[str]:
    """The ids that a trade stands for. OKX aggregates; two orders of one millisecond, price and side are told as one by REST."""
    last = event["trade_id"]
    return [str(n) for n in range(int(last) - event["count"] + 1, int(last) + 1)] if last.isdigit() else [last]


def wait_for_what_is_told(behind: Running, whole: Running) -> None:
    """A lane may have yet to read what another one got; as it ends, nobody reads that any more but its next life."""

    def latest(running: Running) -> dict[str, int]:
        return {
            symbol: e["ts_event"] for (symbol, _), e in sorted(running.trades().items(), key=lambda t: t[1]["ts_event"])
        }

    told = latest(whole)
    eventually(lambda: all(latest(behind).get(symbol, 0) >= at_ms for symbol, at_ms in told.items()), 20)


def assert_nothing_missing(cut: Running, whole: Running) -> None:
    """Everything that the other lane got since the first trade of the symbol that both have, but for what was told as lost."""
    mine, truth = cut.trades(), whole.trades()
    first: dict[str, str] = {}
    for symbol, ident in mine:
        if (symbol, ident) in truth:
            first.setdefault(symbol, ident)
    assert first.keys() == {symbol for symbol, _ in truth}
    for symbol, begin in first.items():
        wanted = [ident for s, ident in truth if s == symbol]
        wanted = wanted[wanted.index(begin) :]
        told = [g["data"] for g in cut.gaps() if symbol == f"{g['market']}:{g['symbol']}"]
        covered = {n for (s, _), e in mine.items() if s == symbol for n in numbers(e)[:-1]}
        absent = [ident for ident in wanted if (symbol, ident) not in mine and ident not in covered]
        untold = [
            ident for ident in absent
            if not any(g["since_ms"] <= truth[symbol, ident]["ts_event"] <= g["until_ms"] for g in told)
        ]  # fmt: skip
        assert not untold, f"{symbol}: {len(untold)} of {len(wanted)}, e.g. {untold[:3]}; told {told}"
        both = [(mine[symbol, ident], truth[symbol, ident]) for ident in wanted if (symbol, ident) in mine]
        differ = [
            (ours, theirs) for ours, theirs in both if not same(ours, theirs) and ours["count"] == theirs["count"]
        ]
        assert not differ, f"{len(differ)} of {len(both)}, e.g. {differ[0]}"
        if not told:
            ours = sum(Decimal(mine[symbol, i]["qty"]) for s, i in mine if s == symbol and (symbol, i) in truth)
            assert ours == sum(Decimal(truth[symbol, i]["qty"]) for i in wanted if (symbol, i) in mine or i in covered)
    ids = [e["id"] for e in cut.kafka.of("market.trades")]
    assert len(ids) == len(set(ids)), "told twice"


@pytest.mark.timeout(180)
def test_every_venue_reads_back_what_its_sockets_missed(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(monkeypatch)
    whole = {name: Running(sim, name).start() for name in SYMBOLS}
    cut = {name: Running(sim, name) for name in SYMBOLS}
    try:
        eventually(lambda: all(r.live() and len(r.trades()) > 50 for r in whole.values()), 20)
        for running in cut.values():
            running.start()
        eventually(lambda: all(r.live() and len(r.trades()) > 50 for r in cut.values()), 30)
        for running in cut.values():
            running.cut()
        eventually(lambda: all(r.live() for r in cut.values()), 20)
        if time.time() % 60 > 57:  # the sockets must be there before the minute that they miss the end of
            time.sleep(60.5 - time.time() % 60)
            eventually(lambda: all(r.live() for r in cut.values()), 20)
        eventually(lambda: time.time() % 60 > 58.5, 62)
        before = {name: r.read_back("trade") for name, r in cut.items()}  # by the first cut
        for running in cut.values():
            away.begin(running)
        eventually(lambda: 1.0 < time.time() % 60 < 30, 10)
        away.end()
        eventually(lambda: all(r.live() for r in cut.values()), 20)
        eventually(lambda: all(len(r.closed()) >= len(SYMBOLS[n]) for n, r in cut.items()), 20, "closed candles")
        eventually(lambda: all(r.read_back("trade") > before[n] for n, r in cut.items()), 20, "trades")
        eventually(lambda: not any(stream.feed.backfill.waiting for r in cut.values() for stream in r.streams), 20)
    finally:
        for running in whole.values():  # the one that misses nothing ends first
            running.close()
        for name, running in cut.items():
            wait_for_what_is_told(running, whole[name])
            running.close()
    for name, running in cut.items():
        assert_nothing_missing(running, whole[name])
        assert set(running.closed().values()) == {1}, f"{name}: a closed candle not exactly once"
        assert running.read_back("kline") >= 1, name
        # Bybit's REST has the latest 60 trades of a spot pair
        assert all((name, g["market"]) == ("bybit", "spot") for g in running.gaps()), name


@pytest.mark.timeout(90)
def test_what_a_socket_drops_while_it_lives_is_read_back(sim: Simulator) -> None:
    """Where ids count; a venue whose ids only tell trades apart gives no sign of it."""
    running = Running(sim, "binance_usdm", ("trade",)).start()
    try:
        eventually(lambda: len(running.trades()) > 50, 20)
        sim.fault("drop_event", exchange="binance", market="usdm", stream="btcusdt@aggTrade", count=25)
        sim.fault("reorder", exchange="binance", market="usdm", stream="ethusdt@aggTrade", count=5)
        eventually(lambda: running.read_back("trade") >= 25, 20)
        assert len(running.kafka.stream_events("disconnected")) == 0
    finally:
        running.close()
    for symbol in ("BTCUSDT", "ETHUSDT"):
        ids = [int(e["trade_id"]) for e in running.kafka.of("market.trades") if e["symbol"] == symbol]
        assert ids == list(range(ids[0], ids[0] + len(ids))), "complete and in order"


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", ["binance_usdm", "bybit"])
def test_a_later_life_goes_on_where_kafka_had_it(sim: Simulator, name: str) -> None:
    whole = Running(sim, name, ("trade",)).start()
    first = Running(sim, name, ("trade",)).start()
    try:
        eventually(lambda: first.live() and whole.live() and len(first.trades()) > 50, 20)
    finally:
        first.close()
    marks: dict[tuple[str, str], dict[Name, Mark]] = first.publisher.acked()
    assert sum(map(len, marks.values())) == len(SYMBOLS[name])
    told = len(whole.trades())
    eventually(lambda: len(whole.trades()) > told + 20, 20)
    second = Running(sim, name, ("trade",))
    for stream in second.streams:
        stream.feed.backfill.resume(marks[stream.feed.venue])
    second.start()
    try:
        eventually(lambda: second.read_back("trade") >= 10 and len(second.trades()) > 50, 20)
        eventually(lambda: not any(stream.feed.backfill.waiting for stream in second.streams), 20)
    finally:
        whole.close()
        wait_for_what_is_told(second, whole)
        second.close()
    assert all(g["market"] == "spot" for g in second.gaps())
    second.kafka.lines["market.trades"] = first.kafka.of("market.trades") + second.kafka.of("market.trades")
    assert_nothing_missing(second, whole)
