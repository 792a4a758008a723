"""The truth, as the simulator's ledger tells it. In: rows of GET /ledger; out: fills and market events by identity.

A market event is known by what identifies it at the exchange, never by our own id, so that a wrong id of ours shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from fleet.core.events import plain
from fleet.core.names import MARKET_TOPICS, TOPIC_OF_TYPE

FillKey = tuple[str, str, str, str]  # exchange:market, API key or account id, symbol, trade id/order id
MarketKey = tuple[str, ...]  # topic, exchange:market, symbol, then what tells two events of that kind apart

LAST_MOMENT_MS = 2000  # an event written this shortly before its socket closed may have gone down with it


TICKERS = {"book_ticker": "ticker"}  # the ledger tells apart what one topic carries


def market_key(kind: str, venue: str, symbol: str, distinct: tuple[object, ...]) -> MarketKey:
    """`distinct`: a trade's id, a candle's interval and event time, a book's last sequence, what a liquidation says, else the
    event time."""
    return (TOPIC_OF_TYPE[kind], venue, symbol, *map(str, distinct))


class Ledger:
    """Grows by polling; `seq` is where the next poll starts."""

    def __init__(self) -> None:
        self.seq = 0
        self.fills: dict[FillKey, int] = {}  # → ts
        self.market: dict[MarketKey, list[tuple[int, list[Any]]]] = {}  # → each row's ts and sockets it was written to

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self.seq = max(self.seq, int(row["seq"]))
            venue = f"{row['exchange']}:{row['market']}"
            kind = str(row["type"])
            if row.get("api_key"):
                if kind == "fill":
                    key = (venue, str(row["api_key"]), str(row["symbol"]), f"{row['trade_id']}/{row['order_id']}")
                    self.fills.setdefault(key, int(row["ts"]))
            elif TOPIC_OF_TYPE.get(TICKERS.get(kind, kind)) in MARKET_TOPICS and row.get("sockets"):
                event = market_key(TICKERS.get(kind, kind), venue, str(row["symbol"]), distinct_of(row))
                self.market.setdefault(event, []).append((int(row["ts"]), row["sockets"]))

    def written(self, closed_at: dict[Any, int | None], topic: str) -> tuple[Counter[MarketKey], Counter[MarketKey]]:
        """(sent, doomed) of one topic, events by key: sent = on some socket that lived LAST_MOMENT_MS longer than the event."""
        sent: Counter[MarketKey] = Counter()
        doomed: Counter[MarketKey] = Counter()
        for key, rows in self.market.items():
            if key[0] != topic:
                continue
            for ts, sockets in rows:
                lived = any((closed := closed_at.get(s)) is None or closed - ts >= LAST_MOMENT_MS for s in sockets)
                (sent if lived else doomed)[key] += 1
        return sent, doomed

    def market_rows(self) -> int:
        """Market events that were written to some socket."""
        return sum(map(len, self.market.values()))


def distinct_of(row: dict[str, Any]) -> tuple[object, ...]:
    """What tells two ledger rows of one kind and symbol apart."""
    kind = row["type"]
    if kind == "trade":
        return (row["trade_id"],)
    if kind == "kline":
        return (row.get("interval") or str(row.get("stream", "")).rpartition("kline_")[2], row["ts"])
    if kind == "depth" and row.get("last_seq") is not None:
        return (row["last_seq"],)
    if kind == "liquidation":
        return (row["side"], plain(row["price"]), plain(row["qty"]))
    if kind == "book_ticker" and not str(row.get("stream", "")).startswith("tickers."):
        # Bybit's ticker tells changes, and of some only quotes changed: in Kafka it is whole (workers/market_merge.py)
        return ("book", row["ts"])
    return (row["ts"],)
