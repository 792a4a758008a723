"""The demo's judgement: what counts as sent, missing, streamed twice; the chaos schedule; the report and its exit code."""

from __future__ import annotations

import json
import signal
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from fleet.commands.demo import venues_of
from fleet.demo.chaos import LASTING, PROCESS_FAULTS, SIMULATOR_FAULTS, SPAN, Chaos, schedule
from fleet.demo.compare import dials
from fleet.demo.ledger import LAST_MOMENT_MS, Ledger, distinct_of
from fleet.demo.place import Place
from fleet.demo.replay import capture_rows, capture_settings, kind_of
from fleet.demo.report import Fills, MarketTopic, Report
from fleet.demo.tally import RESYNC_MS, Tally
from fleet.demo.watch import percentiles
from fleet.runtime.settings import Settings


class Record(NamedTuple):
    topic: str
    value: bytes
    headers: dict[str, str] = {}
    timestamp_ms: int = 0


def event(kind: str, /, **fields: Any) -> dict[str, Any]:
    common = {
        "type": kind,
        "id": "x",
        "exchange": "binance",
        "market": "usdm",
        "symbol": "BTCUSDT",
        "ts_event": 1000,
        "ts_recv": 1001,
    }
    return common | fields


def user(token: int, incarnation: str, ts_recv: int, **fields: Any) -> Record:
    body = event("order", account_id="a", ts_recv=ts_recv, **fields)
    headers = {"token": f"{token:020d}", "incarnation": incarnation, "shard": "h:0"}
    return Record("user.orders", json.dumps(body).encode(), headers, ts_recv + 5)


def row(seq: int, kind: str, /, **fields: Any) -> dict[str, Any]:
    common = {
        "seq": seq,
        "exchange": "binance",
        "market": "usdm",
        "api_key": None,
        "type": kind,
        "symbol": "BTCUSDT",
        "ts": 1000,
    }
    return common | {"order_id": None, "trade_id": None, "sockets": [1]} | fields


def test_fills_are_known_by_account_symbol_trade_and_order() -> None:
    ledger, tally = Ledger(), Tally()
    ledger.add([row(7, "fill", api_key="k", trade_id="9", order_id="3")] * 2)
    assert (list(ledger.fills), ledger.seq) == ([("binance:usdm", "k", "BTCUSDT", "9/3")], 7)
    fill = json.dumps(event("fill", account_id="a", trade_id="9", order_id="3", source="rest")).encode()
    for source in (fill, fill.replace(b"rest", b"stream")):
        tally.add(Record("user.fills", source))
    assert tally.fills == {("binance:usdm", "a", "BTCUSDT", "9/3"): "rest"}


def test_a_market_event_written_in_a_sockets_last_moment_is_not_counted_as_sent() -> None:
    ledger = Ledger()
    ledger.add(
        [
            row(1, "trade", trade_id="1"),
            row(2, "trade", trade_id="2", ts=5000),
            row(3, "trade", trade_id="3", sockets=[]),
        ]
    )
    sent, doomed = ledger.written({1: 5000}, "market.trades")
    assert ({key[-1] for key in sent}, {key[-1] for key in doomed}) == ({"1"}, {"2"})
    sent, _ = ledger.written({1: None}, "market.trades")
    assert sent.total() == 2
    sent, _ = ledger.written({1: 5000 + LAST_MOMENT_MS}, "market.trades")
    assert len(sent) == 2


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("trade", {"trade_id": "4"}),
        ("kline", {"interval": "1m"}),
        ("depth", {"last_seq": 12, "kind": "update"}),
        ("ticker", {"last": "1"}),
        ("mark_price", {}),
        ("liquidation", {"side": "sell", "price": "1.50", "qty": "2"}),
    ],
)
def test_ledger_and_kafka_name_one_market_event_alike(kind: str, fields: dict[str, Any]) -> None:
    ledger, tally = Ledger(), Tally()
    ledger.add([row(1, kind, stream="btcusdt@kline_1m", **fields)])
    topic = next(iter(ledger.market))[0]
    tally.add(Record(topic, json.dumps(event(kind, **fields)).encode() + b"\n"))
    assert set(ledger.market) == set(tally.market)


def test_book_updates_inside_the_next_snapshot_are_covered() -> None:
    tally = Tally()
    snapshot = event("depth", kind="snapshot", last_seq=50, ts_recv=9000)
    tally.add(Record("market.depth", json.dumps(snapshot).encode()))
    key = ("market.depth", "binance:usdm", "BTCUSDT", "49")
    assert tally.covered_by_snapshot(key, ts=8900)
    assert not tally.covered_by_snapshot((*key[:3], "51"), ts=8900)
    assert not tally.covered_by_snapshot(key, ts=9500), "it came after the snapshot"
    assert not tally.covered_by_snapshot(key, ts=9000 - RESYNC_MS - 1), "an older hole is no resynchronisation"


def test_an_account_is_streamed_twice_if_an_older_owner_goes_on() -> None:
    tally = Tally()
    for record in (user(1, "a", 1000), user(2, "b", 2000), user(1, "a", 1990)):
        tally.add(record)
    assert tally.double_streamed() == set()
    tally.add(user(1, "a", 2500, source="rest"))
    assert tally.double_streamed() == set(), "a read-back is no socket"
    tally.add(user(1, "a", 2500))
    assert tally.double_streamed() == {"a"}


def test_garbage_in_kafka_is_counted() -> None:
    tally = Tally()
    tally.add(Record("market.trades", b"not json\n" + json.dumps(event("trade", trade_id="1")).encode()))
    assert (tally.undecodable, tally.events["trade"]) == (1, 1)


def test_one_seed_is_one_schedule_and_it_leaves_time_to_heal() -> None:
    assert schedule(7, 60.0) == schedule(7, 60.0) != schedule(8, 60.0)
    for seed in range(50):
        faults = schedule(seed, 60.0)
        assert faults and all(fault.at_s + fault.seconds <= 60.0 * SPAN + 0.01 for fault in faults)
    everything = {fault.kind for fault in schedule(1, 200.0)}
    assert everything == {*SIMULATOR_FAULTS, *PROCESS_FAULTS}


class Fake:
    """Records what chaos does."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.healed: list[str] = []
        self.signals: list[signal.Signals] = []

    def fault(self, body: dict[str, Any]) -> str:
        self.bodies.append(body)
        return str(len(self.bodies))

    def heal(self, fault_id: str) -> None:
        self.healed.append(fault_id)

    def api_keys(self) -> list[str]:
        return ["k1", "k2"]

    def pids(self, program: str) -> list[int]:
        return {"worker": [11, 12], "marketdata": [13], "sink": [14], "coordinator": [15]}[program]

    def signal(self, pid: int, signum: signal.Signals) -> bool:
        self.signals.append(signum)
        return True


def test_chaos_undoes_everything_it_did() -> None:
    fake = Fake()
    chaos = Chaos(schedule(3, 120.0), fake)
    for tick in range(0, 1200):
        chaos.step(tick / 10)
        if tick == 840:
            chaos.end()
    assert all("api_key" in body or "path" in body for body in fake.bodies if body["kind"] in LASTING)
    assert sum(chaos.counts.values()) == len(fake.bodies) + sum(s is not signal.SIGCONT for s in fake.signals)
    passing = [str(n + 1) for n, body in enumerate(fake.bodies) if body["kind"] not in LASTING]
    assert sorted(fake.healed, key=int) == passing
    assert fake.signals.count(signal.SIGSTOP) == fake.signals.count(signal.SIGCONT) > 0


def test_only_missing_and_double_decide_the_exit_code(tmp_path: Path) -> None:
    def report(**fields: Any) -> Report:
        return Report(seconds=1.0, accounts=1, workers=1, exchanges=["binance_usdm"], broker="kafka", **fields)

    assert report(clean_shutdown=False, problems=["x"]).exit_code == 0
    assert report(fills=Fills(missing=1)).exit_code == 1
    assert report(double_streamed=1).exit_code == 1
    assert report(market={"market.trades": MarketTopic(missing=1)}).exit_code == 1
    report().write(tmp_path / "r.json")
    fields = json.loads((tmp_path / "r.json").read_text())
    assert set(fields) >= {
        "seconds", "accounts", "workers", "exchanges", "broker", "events", "fills", "double_streamed", "market", "latency_ms",
        "gaps", "reconnects", "dials", "faults", "processes", "clean_shutdown",
    }  # fmt: skip
    assert set(fields["fills"]) == {"ledger", "kafka_unique", "postgres", "missing", "from_rest"}
    assert fields["latency_ms"]["event_to_kafka"] == {"p50": 0.0, "p99": 0.0, "max": 0.0}


def test_dials_slide_over_five_minutes() -> None:
    table = [{"minute": minute * 60_000, "exchange": "binance", "market": "usdm", "ip": "127.0.0.1", "dials": n}
             for minute, n in ((0, 5), (4, 7), (5, 1), (9, 2))]  # fmt: skip
    assert dials({"dials_per_minute": table}).total == 15
    assert dials({"dials_per_minute": table}).max_per_5min_per_ip == 12


def test_percentiles() -> None:
    assert percentiles([]) == (0.0, 0.0, 0.0)
    assert percentiles(list(range(1, 101))) == (51.0, 100.0, 100.0)


def test_a_capture_says_what_to_subscribe_to(tmp_path: Path) -> None:
    capture = tmp_path / "c.ws"
    capture.write_text(
        "wss://fstream.binance.com/stream?streams=sushiusdt@aggTrade <-> 1.0\n"
        '1.1: {"stream":"sushiusdt@aggTrade","data":{}}\n'
        '1.2: {"stream":"sushiusdt@bookTicker","data":{}}\n'
        '1.3: {"stream":"akrousdt@kline_1m","data":{}}\n'
    )
    assert capture_settings([str(capture)]) == {
        "FLEET_MARKET_SYMBOLS": "binance_usdm:SUSHIUSDT,binance_usdm:AKROUSDT",
        "FLEET_MARKET_STREAMS": "trade,book_ticker,kline_1m",
    }
    assert capture_rows([str(capture)]) == {"market.trades": 1, "market.tickers": 1, "market.klines": 1}
    assert kind_of("btcusdt@depth@100ms") == "depth"


def test_an_okx_capture_says_what_to_subscribe_to(tmp_path: Path) -> None:
    capture = tmp_path / "c.ws"
    capture.write_text(
        "wss://ws.okx.com:8443/ws/v5/public <-> 1.0\n"
        '1.1: {"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"}}\n'
        '1.2: {"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[]}\n'
        '1.3: {"arg":{"channel":"books","instId":"UNI-USD-SWAP"},"action":"update","data":[]}\n'
    )
    assert capture_settings([str(capture)]) == {
        "FLEET_MARKET_SYMBOLS": "okx:BTC-USDT,okx:UNI-USD-SWAP",
        "FLEET_MARKET_STREAMS": "trade,depth",
    }
    assert capture_rows([str(capture)]) == {"market.trades": 1, "market.depth": 1}


def test_a_place_is_removed_and_those_of_killed_demos_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / "streamfleet-demo-killed"
    killed.mkdir()
    (killed / "owner.lock").touch()
    other = Place()
    place = Place()
    assert not killed.exists() and other.root.exists()
    env = place.env(3, {"FLEET_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert (env["FLEET_WORKERS"], env["FLEET_NAME"]) == ("3", place.fleet)
    assert Settings.from_env(env).log_dir == str(place.logs)
    for each in (other, place):
        each.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("names", "count"), [("", 4), ("all", 4), ("binance", 2), ("okx, bybit", 2), ("okx,okx", 1)])
def test_the_simulated_venues_are_named_one_by_one_by_family_or_all(names: str, count: int) -> None:
    assert len(venues_of(names)) == count
    with pytest.raises(click.UsageError, match="'kraken' is not known"):
        venues_of("okx,kraken")


def test_a_ticker_of_which_only_quotes_changed_is_a_ticker() -> None:
    """Bybit's ticker tells changes; in Kafka each is whole. The demo took it for the best bid and ask of another topic, and told
    all of them as missing."""
    row = {"type": "book_ticker", "stream": "tickers.BTCUSDT", "ts": 5}
    assert distinct_of(row) == distinct_of(row | {"type": "ticker"}) == (5,)
    assert distinct_of(row | {"stream": "orderbook.1.BTCUSDT"}) == ("book", 5)
