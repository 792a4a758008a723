"""The sink processes on real Kafka, Postgres and chdb: killed, starved, poisoned; afterwards tables equal topics."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from fleet.core.errors import StoreUnavailable
from fleet.core.events import Balance, StreamEvent
from fleet.runtime import clickhouse
from fleet.runtime.kafka_io import Consumer, create_topics
from fleet.runtime.postgres import Postgres, migrate
from fleet.services import ServiceMissing, Services
from tests.support.records import TABLE_COLUMNS, Trading, as_record, publish, trades, wait_until
from tests.support.services import free_ports, missing

pytestmark = pytest.mark.integration
KILLS = 5


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Services of this module alone: it poisons topics and restarts brokers."""
    try:
        services = Services.start(tmp_path_factory.mktemp("sinks"), only=("postgres", "kafka"))
    except ServiceMissing as error:
        missing(error)
    with services:
        pg = Postgres(services.postgres.dsn, application="tests")
        migrate(pg)
        pg.close()
        create_topics(services.kafka.bootstrap, 4)
        yield services


@pytest.fixture
def pg(own: Services) -> Iterator[Postgres]:
    store = Postgres(own.postgres.dsn, application="tests")
    yield store
    store.close()


@pytest.fixture
def env(own: Services, tmp_path: Path) -> dict[str, str]:
    return own.env | {
        "FLEET_NAME": f"t{uuid.uuid4().hex[:8]}",
        "FLEET_CLICKHOUSE_DSN": str(tmp_path / "clickhouse"),
        "FLEET_LOG_DIR": str(tmp_path),
        "FLEET_METRICS_BASE_PORT": str(free_ports(8)),
    }


@pytest.fixture
def sink(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start `python -m workers sink NAME` and wait until it runs; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> subprocess.Popen[bytes]:
        log = tmp_path / f"sink_{name}.log"

        def starts() -> int:
            return log.read_text().count('"sink started"') if log.exists() else 0

        before = starts()
        started.append(subprocess.Popen([sys.executable, "-m", "workers", "sink", name], env=os.environ | env))
        wait_until(lambda: starts() > before, 20, f"sink {name} starts")
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def lag(env: dict[str, str], name: str, topics: tuple[str, ...]) -> int:
    """Records the sink has not committed."""
    consumer = Consumer(env["FLEET_KAFKA_BOOTSTRAP"], f"{env['FLEET_NAME']}.sink_{name}", topics)
    try:
        return sum(consumer.lag().values())
    finally:
        consumer.close()


def rows(pg: Postgres, table: str, trading: Trading) -> set[tuple[Any, ...]]:
    sql = f"SELECT {TABLE_COLUMNS[table]} FROM {table} WHERE account_id = ANY(%s::uuid[])"
    return {tuple(row.values()) for row in pg.fetch(sql, (trading.accounts,))}


def assert_tables_equal(pg: Postgres, trading: Trading, timeout_s: float = 20.0) -> None:
    """Wait until the tables hold exactly what the events say, nothing more."""
    expected = trading.expected()

    def differences() -> dict[str, tuple[int, int]]:
        found = {table: rows(pg, table, trading) for table in expected}
        return {
            t: (len(expected[t] - found[t]), len(found[t] - expected[t])) for t in expected if found[t] != expected[t]
        }

    try:
        wait_until(lambda: not differences(), timeout_s, "tables equal the topics", 0.2)
    except AssertionError:
        pytest.fail(f"(missing, wrong) per table: {differences()}")


def test_killed_at_random_the_tables_equal_the_topics(
    own: Services, pg: Postgres, sink: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    trading, draw = Trading(seed=1), random.Random(2)
    for _ in range(KILLS):
        before = len(rows(pg, "fills", trading))
        process = sink("postgres")
        publish(own.kafka.bootstrap, map(as_record, trading.events(3000)))
        more = before + draw.randint(1, 300)
        wait_until(lambda more=more: len(rows(pg, "fills", trading)) >= more, 20, "the sink stores fills", 0.01)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.wait(5)
    process = sink("postgres")
    assert_tables_equal(pg, trading)
    stop(process)


def test_clickhouse_killed_at_random_holds_every_trade_once(
    own: Services, env: dict[str, str], sink: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    symbol, first, draw, stopped = f"T{uuid.uuid4().hex[:8]}", 0, random.Random(3), threading.Event()
    key = f"binance:usdm:{symbol}".encode()
    for _ in range(3):
        process = sink("clickhouse")
        blocks = [trades(symbol, first + 50 * n, 50) for n in range(400)]
        first += 20_000
        publish(own.kafka.bootstrap, [("market.trades", key, b"\n".join(map(msgspec.json.encode, b))) for b in blocks])
        stopped.wait(draw.uniform(0.5, 2.0))  # anywhere in its work, the engine's start included
        process.kill()
        process.wait(5)
    process = sink("clickhouse")
    wait_until(lambda: lag(env, "clickhouse", ("market.trades",)) == 0, 20, "the sink catches up")
    stop(process)
    store = clickhouse.open(env["FLEET_CLICKHOUSE_DSN"])
    counts = "SELECT count() AS n, uniqExact(id) AS ids, max(toInt64(trade_id)) AS last FROM market_trades"
    (row,) = store.query(f"{counts} WHERE symbol = {{s:String}}", {"s": symbol})
    store.close()
    assert row == {"n": first, "ids": first, "last": first - 1}


def test_poisoned_records_go_to_dead_letter_and_stop_nothing(
    own: Services, env: dict[str, str], pg: Postgres, sink: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    trading = Trading(seed=4)
    good = [as_record(event) for event in trading.events(200)]
    topic, key, fill = next(record for record in good if record[0] == "user.fills")
    body = msgspec.json.decode(fill)
    poison = {
        "undecodable": b"\xff\xfe{",
        "not JSON": b"not json",
        "wrong type": msgspec.json.encode(body | {"type": "order"}),
        "field missing": msgspec.json.encode({k: v for k, v in body.items() if k != "price"}),
        "not a number": msgspec.json.encode(body | {"id": "x1", "trade_id": "x1", "price": "NaN"}),
        "no such account": msgspec.json.encode(body | {"id": "x2", "trade_id": "x2", "account_id": "nobody"}),
        "too large for bigint": msgspec.json.encode(body | {"id": "x3", "trade_id": "x3", "ts_event": 2**63}),
        "NUL character": msgspec.json.encode(body | {"id": "x4", "trade_id": "x4", "client_order_id": "a\0b"}),
        "of another schema version": msgspec.json.encode(body | {"id": "x6", "trade_id": "x6", "v": 2}),
        "nested beyond any reader": fill[:-1] + b',"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "too long for an index": msgspec.json.encode(
            body | {"id": "x7", "trade_id": random.Random(0).randbytes(9000).hex()}
        ),
        "price empty": msgspec.json.encode(body | {"id": "x5", "trade_id": "x5", "price": ""}),
    }
    mixed = list(good)
    for place, value in enumerate(poison.values()):
        mixed.insert(place * 15, ("user.fills", key, value))
    publish(own.kafka.bootstrap, mixed)
    line = msgspec.json.encode(trades("POISON", 1, 1)[0])
    publish(own.kafka.bootstrap, [("market.trades", b"binance:usdm:POISON", line + b"\n{broken}\n" + b"\xff" + b"\n")])
    sinks = sink("postgres"), sink("clickhouse")

    def letters(name: str) -> list[dict[str, Any]]:
        return pg.fetch("SELECT reason, value FROM dead_letter WHERE sink = %s ORDER BY id", (name,))

    wait_until(lambda: len(letters("postgres")) >= len(poison), 20, "all poison put aside")
    (letter,) = wait_until(lambda: letters("clickhouse"), 20, "broken lines put aside")
    assert_tables_equal(pg, trading)
    for process in sinks:
        stop(process)
    assert {bytes(row["value"]) for row in letters("postgres")} == set(poison.values())
    assert all(row["reason"] for row in letters("postgres"))
    assert letter["value"] == b"{broken}\n\xff"
    assert clickhouse.count_rows(env["FLEET_CLICKHOUSE_DSN"])["market_trades"][1] >= 1
    assert "put aside" in (tmp_path / "sink_postgres.log").read_text()


def test_stores_restart_under_the_sink(
    own: Services, env: dict[str, str], pg: Postgres, sink: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    trading = Trading(seed=5)
    process = sink("postgres")
    publish(own.kafka.bootstrap, map(as_record, trading.events(500)))
    assert_tables_equal(pg, trading)
    own.postgres.kill()
    publish(own.kafka.bootstrap, map(as_record, trading.events(500)))
    log = tmp_path / "sink_postgres.log"
    wait_until(lambda: "waits and tries again" in log.read_text(), 15, "the sink notices that Postgres is away")
    own.postgres.start()
    assert_tables_equal(pg, trading)
    wait_until(lambda: "sink goes on" in log.read_text(), 15, "it says that it is over")
    own.kafka.kill()
    own.kafka.start()
    publish(own.kafka.bootstrap, map(as_record, trading.events(500)))
    assert_tables_equal(pg, trading, 30)
    own.postgres.pause()
    publish(own.kafka.bootstrap, map(as_record, trading.events(100)))
    process.send_signal(signal.SIGTERM)
    code = process.wait(10)
    own.postgres.resume()
    assert code == 0
    process = sink("postgres")
    assert_tables_equal(pg, trading)
    stop(process)


def test_of_one_instant_the_sockets_state_outranks_a_lagging_read(
    own: Services, pg: Postgres, sink: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """REST may show an account from before a fill and know the fill's time all the same."""
    account = str(uuid.uuid4())

    def wallet(asset: str, amount: str, at: int, source: Literal["stream", "rest"]) -> tuple[str, bytes, bytes]:
        return as_record(
            Balance(
                id=f"{account}:{asset}:{at}:{amount}", exchange="binance", market="spot", symbol="", ts_event=at, ts_recv=at,
                source=source, account_id=account, asset=asset, wallet=amount,
            )
        )  # fmt: skip

    told = [wallet("A", "90", 5, "stream"), wallet("A", "100", 5, "rest"), wallet("B", "7", 5, "rest")]
    later = [wallet("A", "100", 5, "rest"), wallet("B", "8", 5, "rest"), wallet("C", "1", 5, "stream")]
    publish(own.kafka.bootstrap, told)
    process = sink("postgres")
    sql = "SELECT asset, wallet::text AS wallet FROM balances WHERE account_id = %s ORDER BY asset"
    wait_until(lambda: len(pg.fetch(sql, (account,))) == 2, 20, "the first batch")
    publish(own.kafka.bootstrap, later)
    wait_until(lambda: len(pg.fetch(sql, (account,))) == 3, 20, "the second batch")
    stop(process)
    assert [row["wallet"] for row in pg.fetch(sql, (account,))] == ["90", "8", "1"]


def test_a_gap_is_one_row_whatever_comes_last(
    own: Services, pg: Postgres, sink: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    account = str(uuid.uuid4())

    def event(name: str, at: int, **data: Any) -> tuple[str, bytes, bytes]:
        e = StreamEvent(
            id=f"{account}:{name}:{at}", exchange="binance", market="usdm", symbol="", ts_event=at, ts_recv=at,
            stream=account, event=name, account_id=account, data=data,
        )  # fmt: skip
        return "fleet.streams", account.encode(), msgspec.json.encode(e)

    opened = event("gap_opened", 1000, gap_id=f"{account}:1000", opened_ms=1000, reason="cut")
    closed = event("gap_closed", 4500, gap_id=f"{account}:1000", opened_ms=1000, closed_ms=4500, reason="cut",
                   recovered_events=7, recoverable=True)  # fmt: skip
    still_open = event("gap_opened", 9000, gap_id=f"{account}:9000", opened_ms=9000, reason="stall")
    connected = event("connected", 9500)
    publish(own.kafka.bootstrap, [opened, closed, opened, still_open, connected])
    process = sink("postgres")
    sql = "SELECT extract(epoch FROM closed_at - opened_at)::float8 AS s, reason, recovered_events, recoverable FROM stream_gaps"

    def gaps() -> list[dict[str, Any]]:
        return pg.fetch(f"{sql} WHERE account_id = %s ORDER BY opened_at", (account,))

    wait_until(lambda: len(gaps()) == 2, 20, "both gaps stored")
    stop(process)
    assert gaps() == [
        {"s": 3.5, "reason": "cut", "recovered_events": 7, "recoverable": True},
        {"s": None, "reason": "stall", "recovered_events": 0, "recoverable": True},
    ]


def test_the_end_of_a_gap_ends_what_a_former_owner_left_open(
    own: Services, pg: Postgres, sink: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    account, other, again = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())

    def event(of: str, name: str, at: int, **data: Any) -> tuple[str, bytes, bytes]:
        e = StreamEvent(
            id=f"{of}:{name}:{at}", exchange="binance", market="usdm", symbol="", ts_event=at, ts_recv=at,
            stream=of, event=name, account_id=of, data={"gap_id": f"{of}:{data['opened_ms']}", "reason": "cut"} | data,
        )  # fmt: skip
        return "fleet.streams", of.encode(), msgspec.json.encode(e)

    publish(own.kafka.bootstrap, [
        event(account, "gap_opened", 2000, opened_ms=2000),  # its owner dies
        event(other, "gap_opened", 2000, opened_ms=2000),
        event(account, "gap_opened", 3000, opened_ms=1000),  # the next owner starts from an older watermark
        event(account, "gap_closed", 5000, opened_ms=1000, closed_ms=5000, recovered_events=2, recoverable=False),
        event(again, "gap_opened", 1000, opened_ms=1000),
        event(again, "gap_opened", 3000, opened_ms=3000),  # cut again before the first was proven: that one ended before
        event(again, "gap_closed", 5000, opened_ms=1000, closed_ms=5000, complete_to_ms=2500),
        event(account, "gap_opened", 9000, opened_ms=8000),
    ])  # fmt: skip
    process = sink("postgres")
    sql = "SELECT extract(epoch FROM closed_at)::float8 AS s, recoverable FROM stream_gaps WHERE account_id = %s ORDER BY opened_at"
    wait_until(lambda: len(pg.fetch(sql, (account,))) == 3, 20, "all gaps stored")
    stop(process)
    assert [(g["s"], g["recoverable"]) for g in pg.fetch(sql, (account,))] == [(5.0, False), (5.0, False), (None, True)]
    assert [g["s"] for g in pg.fetch(sql, (other,))] == [None]
    assert [g["s"] for g in pg.fetch(sql, (again,))] == [5.0, None]


def test_an_unwritten_schema_is_waited_for(
    own: Services, env: dict[str, str], sink: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    admin = Postgres(own.postgres.dsn, application="tests")
    name = f"late_{uuid.uuid4().hex[:8]}"
    admin.execute(f"CREATE DATABASE {name}")
    env["FLEET_POSTGRES_DSN"] = own.postgres.dsn_of(name)
    process = sink("postgres")
    trading = Trading(seed=6, accounts=1)
    publish(own.kafka.bootstrap, map(as_record, trading.events(20)))
    log = tmp_path / "sink_postgres.log"
    wait_until(lambda: log.exists() and "does not exist" in log.read_text(), 20, "the sink says what is missing")
    late = Postgres(env["FLEET_POSTGRES_DSN"], application="tests")
    migrate(late)
    assert_tables_equal(late, trading)
    stop(process)
    late.close()
    admin.close()


def test_one_process_holds_the_directory(tmp_path: Path) -> None:
    store = clickhouse.open(str(tmp_path / "ch"))
    store.create()
    code = (
        "from fleet.core.errors import StoreUnavailable\nfrom fleet.runtime import clickhouse\n"
        f"try: clickhouse.open({str(tmp_path / 'ch')!r})\nexcept StoreUnavailable as e: print('held', e)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert clickhouse.held(str(tmp_path / "ch")) and not clickhouse.held(str(tmp_path / "nobody"))
    store.close()
    assert answer.stdout.startswith("held")
    with pytest.raises(StoreUnavailable):
        clickhouse.open("http://127.0.0.1:1/x")
