"""What the tables must hold, from the topics alone: a reader of its own, sharing nothing with the sinks but the contract.

In: every record of the topics, from their beginning. Out: {table: {key of the row: the row}}, numbers as Decimal. The rules are
those of docs/contracts.md: a repeat of an id changes nothing; of an order the highest of (final, filled, time, offset) counts; of a
position or wallet the highest of (time, told by the socket, offset).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from fleet.runtime.kafka_io import KafkaRecord

Row = tuple[Any, ...]
Tables = dict[str, dict[Row, Row]]
FINAL = {"filled", "canceled", "rejected", "expired"}
OWNER = ("account_id", "exchange", "market")
TOLD = ("id", "source", "ts_event", "ts_recv")

KEYS: dict[str, tuple[str, ...]] = {
    "orders": (*OWNER, "symbol", "order_id"),
    "order_history": ("id",),
    "fills": (*OWNER, "symbol", "trade_id", "order_id"),
    "positions": (*OWNER, "symbol", "position_side", "mode_key"),
    "balances": (*OWNER, "asset"),
    "account_events": ("id",),
}
TEXTS: dict[str, tuple[str, ...]] = {
    "orders": ("client_order_id", "side", "position_side", "order_type", "time_in_force", "status"),
    "order_history": (*OWNER, "symbol", "order_id", "status"),
    "fills": ("client_order_id", "side", "position_side", "fee_asset", "liquidity"),
    "positions": ("margin_mode",),
    "balances": (),
    "account_events": (*OWNER, "symbol", "event"),
}
NUMBERS: dict[str, tuple[str, ...]] = {
    "orders": ("price", "stop_price", "qty", "filled_qty", "avg_price"),
    "order_history": ("price", "qty", "filled_qty", "avg_price"),
    "fills": ("price", "qty", "fee", "realized_pnl"),
    "positions": ("qty", "entry_price", "unrealized_pnl"),
    "balances": ("wallet", "available"),
    "account_events": (),
}
WITH_OFFSET = ("orders", "order_history", "positions", "balances")
USER_TABLES = {
    "order": ("orders", "order_history"), "fill": ("fills",), "position": ("positions",), "balance": ("balances",),
    "account": ("account_events",),
}  # fmt: skip
MARKET: dict[str, tuple[str, ...]] = {
    "market_trades": ("trade_id", "price", "qty", "side"),
    "market_klines": ("interval", "open_time", "close_time", "open", "high", "low", "close", "volume", "closed"),
    "market_tickers": (
        "last", "bid", "bid_qty", "ask", "ask_qty", "open_24h", "high_24h", "low_24h", "volume_24h", "quote_volume_24h",
    ),
    "market_depth": ("kind", "bids", "asks", "first_seq", "last_seq", "prev_seq"),
    "market_liquidations": ("side", "price", "qty"),
    "market_mark_prices": ("mark", "index", "funding_rate", "next_funding"),
}  # fmt: skip
MARKET_OWNER = ("exchange", "market", "symbol", "source", "ts_event", "ts_recv")


def columns(table: str) -> tuple[str, ...]:
    """Of a user table, in the order of `row_of`."""
    extra = ("data",) if table == "account_events" else ("reduce_only",) if table == "orders" else ()
    offset = ("kafka_offset",) if table in WITH_OFFSET else ()
    return (*KEYS[table], *(t for t in TOLD if t not in KEYS[table]), *TEXTS[table], *NUMBERS[table], *extra, *offset)


def replay(records: Iterable[KafkaRecord]) -> Tables:
    """Records of one key in the order of their partition."""
    tables: Tables = {table: {} for table in (*KEYS, "stream_gaps", *MARKET)}
    ranks: dict[tuple[str, Row], Row] = {}
    still_open: dict[str, set[Row]] = {}
    for record in records:
        assert record.value is not None
        if record.topic.startswith("market."):
            _market(tables[record.topic.replace(".", "_")], record)
        elif record.topic == "fleet.streams":
            _gap(tables["stream_gaps"], still_open, json.loads(record.value))
        else:
            _user(tables, ranks, json.loads(record.value), record.offset)
    return tables


def _user(tables: Tables, ranks: dict[tuple[str, Row], Row], event: dict[str, Any], offset: int) -> None:
    event["kafka_offset"] = offset
    if event["type"] == "position":
        event["mode_key"] = event["margin_mode"] if event["exchange"] == "okx" else ""
    for table in USER_TABLES[event["type"]]:
        key = tuple(event[name] for name in KEYS[table])
        rank = _rank(table, event)
        known = ranks.get((table, key))
        if known is None or (rank and rank > known):
            ranks[table, key] = rank
            tables[table][key] = row_of(table, event)


def _rank(table: str, event: dict[str, Any]) -> Row:
    """The highest counts; () = the first one does."""
    if table == "orders":
        return event["status"] in FINAL, Decimal(event["filled_qty"]), event["ts_event"], event["kafka_offset"]
    if table in ("positions", "balances"):
        return event["ts_event"], event["source"] == "stream", event["kafka_offset"]
    return ()


def row_of(table: str, told: dict[str, Any]) -> Row:
    """`told`: an event, or a row of the table."""
    numbers = set(NUMBERS[table])
    return tuple(_number(told[name]) if name in numbers else told[name] for name in columns(table))


def _number(value: object) -> Decimal | None:
    return None if value in (None, "") else Decimal(str(value))


def _gap(gaps: dict[Row, Row], still_open: dict[str, set[Row]], event: dict[str, Any]) -> None:
    """(opened, closed, reason, recovered, recoverable, stream); the end of one ends those of its stream that began before."""
    if event["event"] not in ("gap_opened", "gap_closed"):
        return
    data, others = event["data"], still_open.setdefault(event["stream"], set())
    closed = data["closed_ms"] if event["event"] == "gap_closed" else None
    key, known = (data["gap_id"],), gaps.get((data["gap_id"],))
    recoverable = data.get("recoverable", True)
    if known is None or (closed is not None and (known[1] is None or closed > known[1])):
        opened = data["opened_ms"] if known is None else known[0]
        gaps[key] = (opened, closed, data["reason"], data.get("recovered_events", 0), recoverable, event["stream"])
        (others.add if closed is None else others.discard)(key)
    for other in [o for o in others if o != key and closed is not None and gaps[o][0] < closed]:
        row = gaps[other]
        gaps[other] = (row[0], closed, row[2], row[3], row[4] and recoverable, row[5])
        others.discard(other)


def _market(table: dict[Row, Row], record: KafkaRecord) -> None:
    named = (*MARKET_OWNER, *MARKET[record.topic.replace(".", "_")])
    for line in (record.value or b"").split(b"\n"):
        event = json.loads(line)
        table.setdefault((event["id"],), tuple(plain(event[name]) for name in named))


def plain(value: object) -> object:
    """Lists and tuples alike."""
    return tuple(plain(part) for part in value) if isinstance(value, (list, tuple)) else value
