"""Market data into ClickHouse: market.* → market_trades, market_klines, … (fleet/runtime/sql/clickhouse.sql).

In: newline-delimited JSON, one or more events a record. Out: one block per table and batch; ClickHouse parses the lines
itself, after each was checked here against the event's schema. Runs in the `sink clickhouse` process.

A repeat of an event is dropped before the insert as far as this process can know: its ids are remembered for a while, and
after a start or a rewind the first records of each partition are looked up in the table, because the batch before may have
been stored and not committed. ReplacingMergeTree removes what slips through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from fleet.core import decoding
from fleet.core.events import Depth, Event, Kline, Liquidation, MarkPrice, Ticker, Trade
from fleet.core.names import (
    MARKET_TOPICS,
    TOPIC_DEPTH,
    TOPIC_KLINES,
    TOPIC_LIQUIDATIONS,
    TOPIC_MARK_PRICES,
    TOPIC_TICKERS,
    TOPIC_TRADES,
)
from fleet.runtime.clickhouse import ClickHouse, RowsRefused
from fleet.runtime.kafka_io import KafkaRecord
from fleet.runtime.logs import get
from fleet.runtime.postgres import Postgres
from workers.sinks.loop import DataRefused, DeadLetter
from workers.sinks.postgres import MAX_REASON, put_aside

MAX_RECORDS = 5000
LINGER_S = 0.5  # larger blocks, fewer parts
REMEMBERED_IDS = 200_000
LOOKUP_CHARS = 30_000  # of ids in one look-up: a server takes 128 KiB a parameter (http_max_field_value_size)
MAX_ID = 1000  # characters

TYPES: dict[str, type[Event]] = {
    TOPIC_TRADES: Trade,
    TOPIC_KLINES: Kline,
    TOPIC_TICKERS: Ticker,
    TOPIC_DEPTH: Depth,
    TOPIC_LIQUIDATIONS: Liquidation,
    TOPIC_MARK_PRICES: MarkPrice,
}

Migrate = Callable[[ClickHouse], None]


def table_of(topic: str) -> str:
    """market.mark_prices → market_mark_prices."""
    return topic.replace(".", "_")


class Line(NamedTuple):
    """One event of a record, still as the bytes that ClickHouse will parse."""

    topic: str
    id: str
    text: bytes
    record: KafkaRecord


class ClickHouseSink:
    """The ClickHouse side of `workers.sinks.loop.Sink`. `connect` opens the store; `postgres` keeps the dead letters."""

    name = "clickhouse"
    topics: tuple[str, ...] = MARKET_TOPICS
    max_records = MAX_RECORDS
    linger_s = LINGER_S
    commit_every_s = 0.0  # each batch: what a start looks up in the tables reaches one batch back

    def __init__(self, connect: Callable[[], ClickHouse], migrate: Migrate, postgres: Postgres | None) -> None:
        self._connect, self._migrate, self._postgres = connect, migrate, postgres
        self._clickhouse: ClickHouse | None = None
        self._migrated = False
        self._decoders = {topic: decoding.decoder(kind) for topic, kind in TYPES.items()}
        self._recent: dict[tuple[str, str], None] = {}  # (topic, id) stored lately, oldest first
        self._doubtful: dict[
            tuple[str, int], int
        ] = {}  # partition -> offset below which a record may be stored already
        self._log = get(__name__)

    def decode(self, record: KafkaRecord) -> tuple[list[Line], DeadLetter | None]:
        lines: list[Line] = []
        wrong: list[bytes] = []
        reason = "the record is empty"
        decode = self._decoders[record.topic].decode
        for text in (record.value or b"").split(b"\n"):
            if not text.strip():
                continue
            try:
                line = Line(record.topic, decode(text).id, text, record)
                if len(line.id) > MAX_ID:
                    raise ValueError(f"an id of {len(line.id)} characters")
                lines.append(line)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: bytes that are not UTF-8
                reason = reason if wrong else str(error)[:MAX_REASON]
                wrong.append(text)
        self._doubtful.setdefault((record.topic, record.partition), record.offset + self.max_records)
        at_fault = DeadLetter(record, b"\n".join(wrong), reason) if wrong or not lines else None
        return lines, at_fault

    def store(self, items: Sequence[Line]) -> dict[str, int]:
        clickhouse = self._open()
        rows: dict[str, int] = {}
        for topic, block in self._fresh(clickhouse, items).items():
            try:
                clickhouse.insert_lines(table_of(topic), b"\n".join(block.values()))
            except RowsRefused as error:
                raise DataRefused(str(error)) from error
            rows[table_of(topic)] = len(block)
            self._remember(topic, block)
        return rows

    def refused(self, item: Line, reason: str) -> DeadLetter:
        return DeadLetter(item.record, item.text, reason[:MAX_REASON])

    def put_aside(self, letters: Sequence[DeadLetter]) -> None:
        if self._postgres is not None:
            put_aside(self._postgres, self.name, letters)
            return
        for letter in letters:
            place = f"{letter.record.topic}/{letter.record.partition}/{letter.record.offset}"
            self._log.error("no Postgres to keep a dead letter", action="dead_letter", place=place)

    def rewound(self) -> None:
        self._doubtful.clear()
        self._migrated = False

    def close(self) -> None:
        clickhouse, self._clickhouse = self._clickhouse, None
        if clickhouse is not None:
            clickhouse.close()
        if self._postgres is not None:
            self._postgres.close()

    def _open(self) -> ClickHouse:
        if self._clickhouse is None:
            self._clickhouse = self._connect()
        if not self._migrated:
            self._migrate(self._clickhouse)
            self._migrated = True
        return self._clickhouse

    def _fresh(self, clickhouse: ClickHouse, items: Sequence[Line]) -> dict[str, dict[str, bytes]]:
        """{topic: {id: line}} without what is known to be stored; topics with nothing left are absent."""
        blocks: dict[str, dict[str, bytes]] = {}
        in_doubt: dict[str, list[str]] = {}
        for topic, id, text, record in items:
            if (topic, id) in self._recent:
                continue
            blocks.setdefault(topic, {}).setdefault(id, text)
            if record.offset < self._doubtful[(topic, record.partition)]:
                in_doubt.setdefault(topic, []).append(id)
        for topic, ids in in_doubt.items():
            for known in _stored(clickhouse, table_of(topic), ids):
                blocks[topic].pop(known, None)
        return {topic: block for topic, block in blocks.items() if block}

    def _remember(self, topic: str, ids: Iterable[str]) -> None:
        self._recent.update(dict.fromkeys((topic, id) for id in ids))
        for oldest in list(islice(self._recent, max(0, len(self._recent) - REMEMBERED_IDS))):
            del self._recent[oldest]


def _stored(clickhouse: ClickHouse, table: str, ids: list[str]) -> Iterator[str]:
    """Those of `ids` that the table holds."""
    for page in _pages(ids):
        for row in clickhouse.query(
            f"SELECT DISTINCT id FROM {table} WHERE id IN {{ids:Array(String)}}", {"ids": page}
        ):
            yield str(row["id"])


def _pages(ids: list[str]) -> Iterator[list[str]]:
    """In pieces of at most LOOKUP_CHARS, quotes and commas included."""
    page: list[str] = []
    left = LOOKUP_CHARS
    for id in ids:
        left -= len(id) + 3
        if left < 0 and page:
            yield page
            page, left = [], LOOKUP_CHARS - len(id) - 3
        page.append(id)
    if page:
        yield page
