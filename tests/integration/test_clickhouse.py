"""Market tables in the embedded engine: exact text, repeats, blocks at fault; the sink's own look for repeats."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from fleet.core.errors import SettingsError, StoreUnavailable
from fleet.core.events import Depth, Event, Kline, Liquidation, MarkPrice, Ticker
from fleet.runtime import clickhouse
from fleet.runtime.clickhouse import TABLES, TTL_DAYS, ClickHouse, RowsRefused, count_rows
from fleet.runtime.kafka_io import KafkaRecord
from tests.support.records import as_record, trades
from workers.sinks.clickhouse import ClickHouseSink

pytestmark = pytest.mark.integration
PRICE = "0.000000012345678901"
COMMON = {"exchange": "binance", "market": "usdm", "symbol": "BTCUSDT", "ts_event": 1_790_000_000_000, "ts_recv": 1}
ONE_OF_EACH: list[Event] = [
    *trades("BTCUSDT", 1, 1),
    Kline(id="k", interval="1m", open_time=1_790_000_000_000, close_time=1_790_000_059_999, open=PRICE, high=PRICE,
          low=PRICE, close=PRICE, volume="1", closed=True, **COMMON),  # type: ignore[arg-type]
    Ticker(id="t", last=PRICE, **COMMON),  # type: ignore[arg-type]
    Depth(id="d", kind="update", bids=[(PRICE, "0")], asks=[], first_seq=1, last_seq=2, **COMMON),  # type: ignore[arg-type]
    Liquidation(id="l", side="sell", price=PRICE, qty="1", **COMMON),  # type: ignore[arg-type]
    MarkPrice(id="m", mark=PRICE, next_funding=None, **COMMON),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "clickhouse")


@pytest.fixture
def store(directory: str) -> Iterator[ClickHouse]:
    opened = clickhouse.open(directory)
    opened.create()
    opened.create()
    yield opened
    opened.close()


def record(event: Event, offset: int = 0) -> KafkaRecord:
    topic, key, value = as_record(event)
    return KafkaRecord(topic, 0, offset, key, value, {}, 0)


def test_every_kind_of_event_fits_its_table_exactly(store: ClickHouse, directory: str) -> None:
    sink = ClickHouseSink(lambda: store, lambda _: None, None)
    lines = [line for event in ONE_OF_EACH for line in sink.decode(record(event))[0]]
    assert sink.store(lines) == dict.fromkeys(TABLES, 1)
    (kline,) = store.query("SELECT close, close_decimal, closed FROM market_klines")
    assert kline == {"close": PRICE, "close_decimal": Decimal(PRICE), "closed": True}
    (depth,) = store.query("SELECT bids, asks, prev_seq FROM market_depth")
    assert depth == {"bids": [(PRICE, "0")], "asks": [], "prev_seq": None}
    (ticker,) = store.query("SELECT last, bid FROM market_tickers")
    assert ticker == {"last": PRICE, "bid": None}
    (mark,) = store.query("SELECT mark, `index`, next_funding FROM market_mark_prices")
    assert mark == {"mark": PRICE, "index": None, "next_funding": None}
    store.close()
    assert count_rows(directory) == dict.fromkeys(TABLES, (1, 1))


def test_a_life_that_is_set_anew_reaches_the_tables_that_are_there(store: ClickHouse) -> None:
    """`fleet migrate` comes first, with the environment that it has, and the setting may change later."""
    assert lives(store)["market_trades"] == TTL_DAYS
    for days, book_days in ((30, 3), (30, 3), (365, 7)):
        store.migrate(days, book_days)
        books = {"market_tickers": book_days, "market_depth": book_days}
        assert lives(store) == dict.fromkeys(TABLES, days) | books


def lives(store: ClickHouse) -> dict[str, int]:
    """{table: days}"""
    rows = store.query("SELECT name, engine_full FROM system.tables WHERE name LIKE 'market\\_%'")
    return {row["name"]: int(re.findall(r"toIntervalDay\((\d+)\)", row["engine_full"])[0]) for row in rows}


def test_repeats_are_one_row_for_the_reader(store: ClickHouse) -> None:
    block = b"\n".join(map(msgspec.json.encode, trades("R", 0, 100)))
    store.insert_lines("market_trades", block)
    store.insert_lines("market_trades", block)
    (row,) = store.query("SELECT count() AS n FROM market_trades FINAL")
    assert row["n"] == 100


def test_a_sink_that_starts_again_does_not_store_twice(store: ClickHouse) -> None:
    events = [record(event, offset) for offset, event in enumerate(trades("S", 0, 500))]

    def store_all(sink: ClickHouseSink, records: list[KafkaRecord]) -> int:
        lines = [line for each in records for line in sink.decode(each)[0]]
        return sink.store(lines).get("market_trades", 0)

    first = ClickHouseSink(lambda: store, lambda _: None, None)
    assert store_all(first, events[:300]) == 300
    assert store_all(first, events[:300]) == 0  # remembered
    second = ClickHouseSink(lambda: store, lambda _: None, None)
    assert store_all(second, events[:400]) == 100  # looked up
    assert store_all(second, events[400:]) == 100
    (row,) = store.query("SELECT count() AS n, uniqExact(id) AS ids FROM market_trades")
    assert row == {"n": 500, "ids": 500}


def test_a_batch_may_reach_over_any_number_of_days(store: ClickHouse) -> None:
    """As of a sink that starts late; ClickHouse's default of 100 made it wait for ever."""
    day_ms, first = 86_400_000, msgspec.to_builtins(trades("D", 1, 1)[0])
    days = [first | {"id": f"D{n}", "ts_event": first["ts_event"] - n * day_ms} for n in range(101)]
    store.insert_lines("market_trades", b"\n".join(map(msgspec.json.encode, days)))
    (row,) = store.query("SELECT count() AS n FROM market_trades")
    assert row["n"] == 101


def test_a_block_at_fault_is_told_from_a_store_that_is_away(store: ClickHouse) -> None:
    good = msgspec.json.encode(trades("B", 1, 1)[0])
    for bad in (b"{", b'{"id": "x", "ts_event": "soon"}'):
        with pytest.raises(RowsRefused):
            store.insert_lines("market_trades", good + b"\n" + bad)
    with pytest.raises(RowsRefused):
        store.insert("market_trades", ["id", "ts_event"], [["a", "soon"]])
    with pytest.raises(StoreUnavailable):
        store.insert_lines("no_such_table", good)
    (row,) = store.query("SELECT count() AS n FROM market_trades")
    assert row["n"] == 0


@contextmanager
def served(directory: str) -> Iterator[str]:
    """A server's URL."""
    command = [sys.executable, "-m", "tests.support.clickhouse_server", directory]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://user:hunter2@127.0.0.1:{int(server.stdout.readline())}/default"
        finally:
            server.kill()


def test_a_server_by_url_is_the_same_interface(directory: str) -> None:
    with served(directory) as dsn:
        opened = clickhouse.open(dsn)
        opened.migrate(30, 3)
        opened.insert_lines("market_trades", b"\n".join(map(msgspec.json.encode, trades("U", 0, 10))))
        opened.insert("market_trades", ["id", "ts_event"], [["x", 1]])
        with pytest.raises(RowsRefused):
            opened.insert_lines("market_trades", b"{")
        with pytest.raises(StoreUnavailable) as caught:
            opened.query("SELECT * FROM no_such_table")
        assert "hunter2" not in str(caught.value)
        opened.close()
        assert count_rows(dsn)["market_trades"] == (11, 11)
    with pytest.raises(StoreUnavailable):
        clickhouse.open(dsn)


def test_a_sink_starts_with_a_whole_batch_in_doubt_before_a_server(directory: str) -> None:
    """A server takes 128 KiB a parameter ("Field value too long"): it refused the ids to look up, and the sink waited for ever."""
    with served(directory) as dsn:
        opened = clickhouse.open(dsn)
        opened.create()
        events = trades("L", 0, 5000)
        for _ in range(2):
            sink = ClickHouseSink(lambda: opened, lambda _: None, None)
            sink.store([line for n, event in enumerate(events) for line in sink.decode(record(event, n))[0]])
        opened.close()
        assert count_rows(dsn)["market_trades"] == (5000, 5000)


@pytest.mark.parametrize("dsn", ["ftp://x/y", "http://", "/proc/nowhere/at/all"])
def test_a_wrong_setting_is_one_line(dsn: str) -> None:
    with pytest.raises(SettingsError, match="FLEET_CLICKHOUSE_DSN"):
        clickhouse.open(dsn)
