"""What the sinks make of records at fault: a dead letter with a reason, never an exception (a sink that dies of a record
would die of it again after each restart)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleet.core.events import AccountEvent, Event, Order, Trade
from fleet.runtime.kafka_io import KafkaRecord
from fleet.runtime.postgres import Postgres, StatementFailed
from workers.sinks.clickhouse import ClickHouseSink
from workers.sinks.loop import DataRefused
from workers.sinks.postgres import PostgresSink

COMMON: dict[str, Any] = {
    "id": "i",
    "exchange": "binance",
    "market": "usdm",
    "symbol": "S",
    "ts_event": 1,
    "ts_recv": 2,
}
ACCOUNT = AccountEvent(**COMMON, account_id="00000000-0000-0000-0000-000000000001", event="x", data={})
TRADE = Trade(**COMMON, trade_id="1", price="1", qty="1", side="buy")
DEEP = b"[" * 100_000 + b"]" * 100_000


def with_field(event: Event, name: str, value: bytes) -> bytes:
    fields = msgspec.json.decode(msgspec.json.encode(event), type=dict[str, msgspec.Raw])
    return msgspec.json.encode(fields | {name: msgspec.Raw(value)})


POISON = {
    "nested too deeply": ("data", DEEP),
    "an unknown field nested too deeply": ("more", DEEP),
    "another schema version": ("v", b"2"),
    "beyond a 64-bit time": ("ts_event", str(2**63).encode()),
    "half a surrogate pair": ("symbol", b'"\\ud800"'),
}


@pytest.mark.parametrize(("name", "value"), POISON.values(), ids=POISON)
def test_a_record_at_fault_is_a_dead_letter_in_both_sinks(name: str, value: bytes) -> None:
    account, trade = with_field(ACCOUNT, name, value), with_field(TRADE, name if name != "data" else "more", value)
    record = KafkaRecord("user.account", 0, 0, b"k", account, {}, 0)
    items, letter = PostgresSink(Postgres("", application="test")).decode(record)
    assert not items and letter is not None and letter.value == account and letter.reason

    def never() -> Any:
        raise AssertionError("decoding opens nothing")

    good = msgspec.json.encode(TRADE)
    lines, letter = ClickHouseSink(never, never, None).decode(
        KafkaRecord("market.trades", 0, 0, b"k", good + b"\n" + trade, {}, 0)
    )
    assert [line.text for line in lines] == [good]
    assert letter is not None and letter.value == trade and letter.reason


def test_an_id_too_long_to_be_looked_up_is_a_dead_letter() -> None:
    """It is asked for after each start, in one parameter, of which a server takes 128 KiB."""
    trade = with_field(TRADE, "id", b'"' + b"x" * 900_000 + b'"')
    sink = ClickHouseSink(None, None, None)  # type: ignore[arg-type]
    lines, letter = sink.decode(KafkaRecord("market.trades", 0, 0, b"k", trade, {}, 0))
    assert not lines and letter is not None and letter.reason == "an id of 900000 characters"


class Refuses(Postgres):
    """Postgres that meets the rows' ids in another process's rows `times` times."""

    def __init__(self, times: int) -> None:
        super().__init__("", application="test")
        self.times, self.stored = times, 0

    def execute_values(self, parts: Any) -> None:
        self.times -= 1
        if self.times >= 0:
            raise StatementFailed("23505", 'duplicate key value violates unique constraint "orders_id_key"')
        self.stored += 1


def test_an_order_that_a_second_sink_stores_at_that_moment_is_no_dead_letter() -> None:
    order = Order(
        **COMMON, account_id=ACCOUNT.account_id, order_id="1", client_order_id="", side="buy", position_side="both",
        order_type="limit", time_in_force="gtc", status="new", price="1", stop_price="", qty="1", filled_qty="0", avg_price="",
        reduce_only=False,
    )  # fmt: skip
    record = KafkaRecord("user.orders", 0, 0, b"k", msgspec.json.encode(order), {}, 0)
    once, always = Refuses(1), Refuses(9)
    items, _ = PostgresSink(once).decode(record)
    assert PostgresSink(once).store(items) == {"orders": 1, "order_history": 1} and once.stored == 1
    with pytest.raises(DataRefused):
        PostgresSink(always).store(items)
