"""Open orders of stored watermarks keep their names over an upgrade: by id alone before, by symbol and id since."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fleet.core import decoding
from fleet.core.recovery import Watermark
from fleet.runtime import postgres
from fleet.runtime.postgres import Postgres, migrate
from tests.unit.test_recovery import resting

pytestmark = pytest.mark.integration
MIGRATION = "0060_order_keys"


@pytest.fixture
def pg(database: str) -> Iterator[Postgres]:
    store = Postgres(database, application="tests")
    yield store
    store.close()


def test_open_orders_of_a_stored_watermark(pg: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    every = postgres._migrations()
    with monkeypatch.context() as before:
        before.setattr(postgres, "_migrations", lambda: [m for m in every if m[1] != MIGRATION])
        migrate(pg)
    known = msgspec.to_builtins(resting("7")["7"])
    marks: list[dict[str, Any]] = [
        {"proven_ms": 5, "open_orders": {"7": "ETHUSDT", "8": "BTCUSDT"}, "resting": {"7": known}},
        {"proven_ms": 6, "open_orders": {}, "resting": {}},
        msgspec.to_builtins(Watermark(proven_ms=7, orders=resting("BTCUSDT|9"))),
    ]
    insert = "INSERT INTO stream_watermarks (account_id, token, watermark) VALUES (%s, 1, %s)"
    for mark in marks:
        pg.execute(insert, (str(uuid.uuid4()), msgspec.json.encode(mark).decode()))
    assert migrate(pg) == [MIGRATION]
    rows = pg.fetch("SELECT watermark FROM stream_watermarks")
    read = {mark.proven_ms: mark for mark in (decoding.convert(row["watermark"], Watermark) for row in rows)}
    assert {ms: mark.open_orders() for ms, mark in read.items()} == {
        5: [("ETHUSDT", "7")], 6: [], 7: [("BTCUSDT", "9")]
    }  # fmt: skip
    assert read[5].orders == resting("ETHUSDT|7")
    assert all("resting" not in row["watermark"] for row in rows)
