"""Cross and isolated positions of OKX in Postgres: two rows, also of rows that were written while they shared one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fleet.core.events import Position
from fleet.core.names import TOPIC_POSITIONS
from fleet.runtime import postgres
from fleet.runtime.kafka_io import KafkaRecord
from fleet.runtime.postgres import Postgres, migrate
from workers.sinks.postgres import PostgresSink

pytestmark = pytest.mark.integration
ACCOUNT = str(uuid.uuid4())
MIGRATION = "0040_position_modes"


@pytest.fixture
def pg(database: str) -> Iterator[Postgres]:
    store = Postgres(database, application="tests")
    yield store
    store.close()


def position(exchange: str, mode: str, qty: str, at_ms: int, source: str = "stream") -> Position:
    return Position(
        id=f"{exchange}:{mode}:{at_ms}:{qty}", exchange=exchange, market="unified", symbol="S", ts_event=at_ms, ts_recv=at_ms,
        source=source, account_id=ACCOUNT, position_side="net", qty=qty, entry_price="1", unrealized_pnl="0", margin_mode=mode,
    )  # type: ignore[arg-type]  # fmt: skip


def store(pg: Postgres, *told: Position) -> None:
    sink = PostgresSink(pg)
    items = []
    for offset, event in enumerate(told):
        rows, letter = sink.decode(KafkaRecord(TOPIC_POSITIONS, 0, offset, b"", msgspec.json.encode(event), {}, 0))
        assert letter is None
        items += rows
    sink.store(items)


def held(pg: Postgres, exchange: str) -> list[tuple[Any, ...]]:
    sql = "SELECT margin_mode, mode_key, qty::text FROM positions WHERE exchange = %s ORDER BY margin_mode"
    return [tuple(row.values()) for row in pg.fetch(sql, (exchange,))]


@pytest.mark.parametrize("together", [True, False])
def test_an_isolated_position_that_is_closed_leaves_the_cross_one_open(pg: Postgres, *, together: bool) -> None:
    migrate(pg)
    told = [position("okx", *state) for state in (("cross", "10", 5), ("isolated", "1", 6), ("isolated", "0", 7))]
    told += [position("bybit", *state) for state in (("cross", "10", 5), ("isolated", "9", 7), ("cross", "8", 6))]
    for batch in [told] if together else [[event] for event in told]:
        store(pg, *batch)
    assert held(pg, "okx") == [("cross", "cross", "10"), ("isolated", "isolated", "0")]
    assert held(pg, "bybit") == [("isolated", "", "9")], "one position, whatever its mode"


def test_a_row_from_before_is_its_mode_s_and_the_other_is_told_beside_it(
    pg: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = postgres._migrations()
    with monkeypatch.context() as before:
        before.setattr(postgres, "_migrations", lambda: [m for m in every if m[1] != MIGRATION])
        migrate(pg)
    insert = (
        "INSERT INTO positions (account_id, exchange, market, symbol, position_side, id, qty, margin_mode, source, ts_event,"
        " ts_recv, kafka_offset) VALUES (%s, %s, 'unified', 'S', 'net', 'i', 0, 'isolated', 'stream', 7, 7, 0)"
    )
    for exchange in ("okx", "bybit"):
        pg.execute(insert, (ACCOUNT, exchange))
    assert migrate(pg) == [MIGRATION]
    store(pg, position("okx", "cross", "10", 5, "rest"), position("bybit", "cross", "10", 5, "rest"))
    assert held(pg, "okx") == [("cross", "cross", "10"), ("isolated", "isolated", "0")]
    assert held(pg, "bybit") == [("isolated", "", "0")]
