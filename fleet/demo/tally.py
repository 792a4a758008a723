"""What reached Kafka. In: records of every topic; out: counts, identities, latencies, and who published which account when.

Two owners streaming one account at once show in their records: a socket's event that the older owner received after the
newer one had begun to receive (by token; both clocks are this machine's).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from fleet.core import decoding
from fleet.core.events import plain
from fleet.core.names import HEADER_INCARNATION, HEADER_TOKEN, MARKET_TOPICS, TOPIC_FILLS, TOPIC_ORDERS, USER_TOPICS
from fleet.demo.ledger import FillKey, MarketKey, market_key

SILENCE_MS = 50  # one message may be on its way between the gate's check and the record
RESYNC_MS = 30_000  # a book is synchronised again within this, REST errors included


class Seen(msgspec.Struct):
    """The fields of an event that the demo looks at."""

    type: str
    id: str
    exchange: str
    market: str
    symbol: str
    ts_event: int
    ts_recv: int
    source: str = "stream"
    account_id: str | None = None
    trade_id: str | None = None
    order_id: str | None = None
    interval: str | None = None
    kind: str | None = None
    last_seq: int | None = None
    side: str | None = None
    price: str | None = None
    qty: str | None = None
    last: str | None = None
    event: str | None = None
    stream: str | None = None
    reason: str | None = None


class Tally:
    """Everything counted; fed by one thread."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.fills: dict[FillKey, str] = {}  # → source of the first record
        self.market_ids: dict[str, set[str]] = {topic: set() for topic in MARKET_TOPICS}
        self.market: Counter[MarketKey] = Counter()  # distinct events under one key
        self.snapshots: dict[tuple[str, str], list[tuple[int, int]]] = {}  # venue, symbol → (ts_recv, last_seq)
        self.rest_snapshots = 0  # of order books; those that came in the stream are frames of it
        self.latencies_ms: list[int] = []
        self.last_event: dict[str, Any] = {}
        self.undecodable = 0
        self.stream_events: Counter[str] = Counter()
        self._owners: dict[str, dict[tuple[int, str], list[int]]] = {}  # account → owner → [first, last] ts_recv
        self._decoder = decoding.decoder(Seen)

    def add(self, record: Any) -> None:
        """One Kafka record: one event, or for market topics one a line."""
        for line in record.value.splitlines() if record.topic in MARKET_TOPICS else (record.value,):
            try:
                seen = self._decoder.decode(line)
            except msgspec.MsgspecError:
                self.undecodable += 1
                continue
            self.events[seen.type] += 1
            if record.topic in USER_TOPICS:
                self._user(record, seen)
            elif record.topic in MARKET_TOPICS:
                self._market(record.topic, seen)
            elif seen.event:
                self.stream_events[seen.event] += 1

    def _user(self, record: Any, seen: Seen) -> None:
        account = seen.account_id or ""
        if record.topic == TOPIC_FILLS:
            key = (f"{seen.exchange}:{seen.market}", account, seen.symbol, f"{seen.trade_id}/{seen.order_id}")
            self.fills.setdefault(key, seen.source)
        if seen.source == "stream":
            if record.topic in (
                TOPIC_FILLS,
                TOPIC_ORDERS,
            ):  # a login's snapshot of balances tells when they last changed
                self.latencies_ms.append(record.timestamp_ms - seen.ts_event)
            owner = (int(record.headers.get(HEADER_TOKEN, 0)), record.headers.get(HEADER_INCARNATION, ""))
            span = self._owners.setdefault(account, {}).setdefault(owner, [seen.ts_recv, seen.ts_recv])
            span[0] = min(span[0], seen.ts_recv)
            span[1] = max(span[1], seen.ts_recv)

    def _market(self, topic: str, seen: Seen) -> None:
        if seen.id in self.market_ids[topic]:
            return
        self.market_ids[topic].add(seen.id)
        venue = f"{seen.exchange}:{seen.market}"
        if seen.type == "depth" and seen.kind == "snapshot":
            self.snapshots.setdefault((venue, seen.symbol), []).append((seen.ts_recv, seen.last_seq or 0))
            if seen.source == "rest":
                self.rest_snapshots += 1
                return  # one that came in the stream is a frame like the others
        distinct: tuple[object, ...] = (seen.ts_event,)
        if seen.type == "trade":
            distinct = (seen.trade_id,)
        elif seen.type == "kline":
            distinct = (seen.interval, seen.ts_event)
        elif seen.type == "depth":
            distinct = (seen.last_seq,)
        elif seen.type == "liquidation":
            distinct = (seen.side, plain(seen.price or ""), plain(seen.qty or ""))
        elif seen.type == "ticker" and seen.last is None:
            distinct = ("book", seen.ts_event)
        self.market[market_key(seen.type, venue, seen.symbol, distinct)] += 1

    def covered_by_snapshot(self, key: MarketKey, ts: int) -> bool:
        """A book update of time `ts` that the next published snapshot contains was left out on purpose: the book was not
        valid when it came."""
        return any(
            ts <= taken + SILENCE_MS and taken - ts <= RESYNC_MS and last_seq >= int(key[3])
            for taken, last_seq in self.snapshots.get((key[1], key[2]), ())
        )

    def double_streamed(self) -> set[str]:
        """Accounts that an older owner still received events of after a newer one had begun."""
        doubled: set[str] = set()
        for account, owners in self._owners.items():
            ordered = sorted(owners.items())
            for i, (_, (_, last)) in enumerate(ordered):
                if any(last - first > SILENCE_MS for _, (first, _) in ordered[i + 1 :]):
                    doubled.add(account)
        return doubled
