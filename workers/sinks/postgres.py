"""Accounts' data into Postgres: user.* and fleet.streams → orders, fills, positions, balances, account_events, stream_gaps.

In: one JSON event per Kafka record. Out: one transaction per batch, made of upserts that a repeat does not change
(fleet/runtime/sql/0003_sinks.sql says how rows rank). Runs in the `sink postgres` process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from fleet.core import decoding
from fleet.core.errors import FleetError
from fleet.core.events import AccountEvent, Balance, Fill, Order, Position, StreamEvent
from fleet.core.names import (
    TOPIC_ACCOUNT,
    TOPIC_BALANCES,
    TOPIC_FILLS,
    TOPIC_ORDERS,
    TOPIC_POSITIONS,
    TOPIC_STREAMS,
    USER_TOPICS,
)
from fleet.runtime.kafka_io import KafkaRecord
from fleet.runtime.postgres import Postgres, StatementFailed, queries
from workers.sinks.loop import DataRefused, DeadLetter

MAX_RECORDS = 2000
COMMIT_EVERY_S = 0.5  # a commit of offsets costs as much as a small batch, and rows wait behind it
MAX_REASON = 500
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
UNIQUE_VIOLATION = "23505"  # SQLSTATE
GAP_EVENTS = ("gap_opened", "gap_closed")

Values = tuple[Any, ...]


class Rows(NamedTuple):
    """One record, ready: `values` fit every statement of `statements`."""

    statements: tuple[str, ...]
    values: Values
    record: KafkaRecord


class _Gap(msgspec.Struct, frozen=True):
    """`data` of a gap event."""

    gap_id: str
    opened_ms: int
    closed_ms: int | None = None
    reason: str = ""
    recovered_events: int = 0
    recoverable: bool = True
    complete_to_ms: int | None = None  # a gap's end; another one may have begun since, and is still open


class PostgresSink:
    """The Postgres side of `workers.sinks.loop.Sink`."""

    name = "postgres"
    topics: tuple[str, ...] = (*USER_TOPICS, TOPIC_STREAMS)
    max_records = MAX_RECORDS
    linger_s = 0.0
    commit_every_s = COMMIT_EVERY_S

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._sql = queries("sinks")

    def decode(self, record: KafkaRecord) -> tuple[list[Rows], DeadLetter | None]:
        try:
            statements, values = READERS[record.topic](record)
        except (msgspec.MsgspecError, ValueError, KeyError, RecursionError) as error:
            return [], DeadLetter(record, record.value, _reason(error))
        return ([Rows(statements, values, record)] if statements else []), None

    def store(self, items: Sequence[Rows]) -> dict[str, int]:
        by_statement: dict[str, list[Values]] = {}
        for item in items:
            for statement in item.statements:
                by_statement.setdefault(statement, []).append(item.values)
        parts = [(self._sql[statement], rows) for statement, rows in by_statement.items()]
        try:
            try:
                self._postgres.execute_values(parts)
            except StatementFailed as error:
                if error.sqlstate != UNIQUE_VIOLATION:
                    raise
                # ON CONFLICT watches one index of `orders`: the same order, stored by another sink in that very moment, may
                # be met in the other one. Its row is there now.
                self._postgres.execute_values(parts)
        except StatementFailed as error:
            if error.is_data:
                raise DataRefused(str(error)) from error
            raise
        return {statement: len(rows) for statement, rows in by_statement.items() if statement != "superseded_gaps"}

    def refused(self, item: Rows, reason: str) -> DeadLetter:
        return DeadLetter(item.record, item.record.value, reason[:MAX_REASON])

    def put_aside(self, letters: Sequence[DeadLetter]) -> None:
        put_aside(self._postgres, self.name, letters)

    def rewound(self) -> None:
        """Nothing to remember: the statements themselves are idempotent."""

    def close(self) -> None:
        self._postgres.close()


def put_aside(postgres: Postgres, sink: str, letters: Sequence[DeadLetter]) -> None:
    """Write dead letters in one transaction. Raises StoreUnavailable."""
    rows = [
        (sink, r.topic, r.partition, r.offset, r.key, value, _headers(r), reason.replace("\0", "␀"))
        for r, value, reason in letters
    ]
    with postgres.transaction() as tx:
        tx.execute_values(queries("sinks")["dead_letter"], rows)


def _headers(record: KafkaRecord) -> str:
    held = {k.replace("\0", "␀"): v.replace("\0", "␀") for k, v in record.headers.items()}  # jsonb does not hold NUL
    return msgspec.json.encode(held).decode()


# ── one reader per topic: record → (statements, values in the order of their VALUES lists) ───────────────────────────
_order = decoding.decoder(Order)
_fill = decoding.decoder(Fill)
_position = decoding.decoder(Position)
_balance = decoding.decoder(Balance)
_account = decoding.decoder(AccountEvent)
_stream = decoding.decoder(StreamEvent)


def _read_order(record: KafkaRecord) -> tuple[tuple[str, ...], Values]:
    e = _order.decode(_body(record))
    return ("orders", "order_history"), (
        e.id, e.account_id, e.exchange, e.market, e.symbol, e.ts_event, e.ts_recv, e.source, record.offset,
        e.order_id, e.client_order_id, e.side, e.position_side, e.order_type, e.time_in_force, e.status,
        _number(e.price), _number(e.stop_price), _number(e.qty), _number(e.filled_qty) or "0", _number(e.avg_price),
        e.reduce_only,
    )  # fmt: skip


def _read_fill(record: KafkaRecord) -> tuple[tuple[str, ...], Values]:
    e = _fill.decode(_body(record))
    return ("fills",), (
        e.id, e.account_id, e.exchange, e.market, e.symbol, e.ts_event, e.ts_recv, e.source, e.trade_id, e.order_id,
        e.client_order_id, e.side, e.position_side, _number(e.price), _number(e.qty), _number(e.fee), e.fee_asset,
        e.liquidity, _number(e.realized_pnl),
    )  # fmt: skip


def _read_position(record: KafkaRecord) -> tuple[tuple[str, ...], Values]:
    e = _position.decode(_body(record))
    return ("positions",), (
        e.id, e.account_id, e.exchange, e.market, e.symbol, e.ts_event, e.ts_recv, e.source, record.offset,
        e.position_side, _number(e.qty), _number(e.entry_price), _number(e.unrealized_pnl), e.margin_mode, e.mode_key,
    )  # fmt: skip


def _read_balance(record: KafkaRecord) -> tuple[tuple[str, ...], Values]:
    e = _balance.decode(_body(record))
    return ("balances",), (
        e.id, e.account_id, e.exchange, e.market, e.symbol, e.ts_event, e.ts_recv, e.source, record.offset,
        e.asset, _number(e.wallet), _number(e.available or ""),
    )  # fmt: skip


def _read_account(record: KafkaRecord) -> tuple[tuple[str, ...], Values]:
    e = _account.decode(_body(record))
    return ("account_events",), (
        e.id, e.account_id, e.exchange, e.market, e.symbol, e.ts_event, e.ts_recv, e.source, e.event,
        msgspec.json.encode(e.data).decode(),
    )  # fmt: skip


def _read_stream(record: KafkaRecord) -> tuple[tuple[str, ...], Values]:
    """Gaps only; what else happened to streams is for the topic's readers."""
    e = _stream.decode(_body(record))
    if e.event not in GAP_EVENTS:
        return (), ()
    gap = decoding.convert(e.data, _Gap)
    if e.event == "gap_closed" and gap.closed_ms is None:
        raise ValueError("gap_closed without closed_ms")
    closed_ms = gap.closed_ms if e.event == "gap_closed" else None
    return ("stream_gaps", "superseded_gaps"), (
        gap.gap_id, e.account_id, e.stream, e.exchange, e.market, gap.opened_ms, closed_ms, gap.reason or e.reason,
        gap.recovered_events, gap.recoverable, gap.complete_to_ms or closed_ms,
    )  # fmt: skip


READERS: dict[str, Callable[[KafkaRecord], tuple[tuple[str, ...], Values]]] = {
    TOPIC_ORDERS: _read_order,
    TOPIC_FILLS: _read_fill,
    TOPIC_POSITIONS: _read_position,
    TOPIC_BALANCES: _read_balance,
    TOPIC_ACCOUNT: _read_account,
    TOPIC_STREAMS: _read_stream,
}


def _body(record: KafkaRecord) -> bytes:
    if record.value is None:
        raise ValueError("the record has no value")
    return record.value


def _number(text: str) -> str | None:
    """A decimal string for a numeric column; "" = not told = NULL. Raises ValueError for anything else (NaN included)."""
    if text == "":
        return None
    if not DECIMAL.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    return text


def _reason(error: Exception) -> str:
    kind = "" if isinstance(error, (FleetError, ValueError)) else f"{type(error).__name__}: "
    return f"{kind}{error}"[:MAX_REASON]
