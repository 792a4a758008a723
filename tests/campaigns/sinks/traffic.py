"""Records of every topic, as workers publish them. In: a seed and a rate. Out: records in Kafka, from one thread.

What the records tell is made up: repeats under the same id, late states, REST next to the socket, several lines in a record.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from fleet.core.events import (
    AccountEvent,
    Depth,
    Event,
    Kline,
    Liquidation,
    MarketRecord,
    MarkPrice,
    StreamEvent,
    Ticker,
    Trade,
    UserEvent,
)
from fleet.runtime.kafka_io import Producer
from tests.support.records import Trading, as_record, topic_of

STEP_S = 0.1
SYMBOLS = 20
FIRST_MS = 1_790_000_000_000
Record = tuple[str, bytes, bytes]


class Traffic:
    """`start`, then `stop`; `sent` counts records by topic."""

    def __init__(self, bootstrap: str, rate: float, market_rate: float, seed: int, accounts: int = 50) -> None:
        self._bootstrap, self._rate, self._market_rate = bootstrap, rate, market_rate
        self._random = random.Random(seed)
        self._trading = Trading(seed, accounts)
        self._market_n = self._account_n = 0
        self._last: list[Record] = []
        self.sent: dict[str, int] = {}
        self.failures: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        producer = Producer(self._bootstrap, "campaign")
        owed, before_s = 0.0, time.monotonic()
        while not self._end.wait(STEP_S):
            now_s = time.monotonic()
            owed, before_s = (now_s - before_s), now_s
            for topic, key, value in self._records(owed):
                self.sent[topic] = self.sent.get(topic, 0) + 1
                producer.send(topic, key, value, [("token", b"1")], self._acknowledged)
        if not producer.flush(60.0):
            self.failures.append("Kafka did not acknowledge everything")
        producer.close(5.0)

    def _acknowledged(self, error: Exception | None) -> None:
        if error is not None:
            self.failures.append(str(error))

    def _records(self, seconds: float) -> Iterator[Record]:
        user = self._trading.events(max(1, int(self._rate * seconds)))
        del self._trading.sent[:-400]  # enough for repeats of old news
        batch = [as_record(event) for event in self._varied(user)]
        batch += self._market(max(1, int(self._market_rate * seconds)))
        yield from batch
        if self._last and self._random.random() < 0.3:  # a producer that was not sure sends again, in order
            yield from self._last[: self._random.randint(1, 40)]
        self._last = batch

    def _varied(self, events: list[UserEvent]) -> Iterator[Event]:
        """Some told by REST, and what Trading does not make."""
        for event in events:
            yield msgspec.structs.replace(event, source="rest") if self._random.random() < 0.1 else event
            if self._random.random() < 0.05:
                yield from self._others(event.account_id, event.ts_event)

    def _others(self, account: str, now_ms: int) -> Iterator[Event]:
        self._account_n += 1
        n = self._account_n
        common: dict[str, Any] = {
            "exchange": "binance",
            "market": "usdm",
            "symbol": "",
            "ts_event": now_ms,
            "ts_recv": now_ms,
        }
        data = {"n": n, "text": "a'b\\c ü 漢", "nested": {"list": [1, "x", None, 1.5]}}
        yield AccountEvent(id=f"a:{account}:{n}", account_id=account, event="margin_call", data=data, **common)
        gap = {"gap_id": f"{account}:{n}", "opened_ms": FIRST_MS + n * 100, "reason": "cut"}
        told = {"account_id": account, "stream": account, **common}
        yield StreamEvent(id=f"g:{account}:{n}:o", event="gap_opened", data=gap, **told)
        if n % 5:
            closed = {
                **gap,
                "closed_ms": FIRST_MS + n * 100 + 50,
                "recovered_events": n % 7,
                "recoverable": bool(n % 3),
            }
            yield StreamEvent(id=f"g:{account}:{n}:c", event="gap_closed", data=closed, **told)

    def _market(self, count: int) -> list[Record]:
        lines: dict[tuple[str, bytes], list[bytes]] = {}
        for _ in range(count):
            self._market_n += 1
            event = self._one(self._market_n)
            key = f"{event.exchange}:{event.market}:{event.symbol}".encode()
            lines.setdefault((topic_of(event), key), []).append(msgspec.json.encode(event))
        return [(topic, key, b"\n".join(texts)) for (topic, key), texts in lines.items()]

    def _one(self, n: int) -> MarketRecord:
        symbol, at, draw = f"S{n % SYMBOLS}USDT", FIRST_MS + n, self._random
        price, qty = f"{draw.randint(1, 10**7)}.{draw.randint(0, 99):02d}", f"0.{draw.randint(1, 999):03d}"
        c: dict[str, Any] = {
            "exchange": "binance", "market": "usdm", "symbol": symbol, "ts_event": at, "ts_recv": at + 3,
            "source": "rest" if draw.random() < 0.05 else "stream",
        }  # fmt: skip
        kind = draw.choices(("trade", "depth", "ticker", "kline", "mark", "liquidation"), (50, 25, 10, 5, 8, 2))[0]
        c["id"] = f"{kind}:{symbol}:{n}"
        if kind == "trade":
            return Trade(trade_id=str(n), price=price, qty=qty, side=draw.choice(("buy", "sell")), **c)
        if kind == "depth":
            return Depth(kind="update", bids=[(price, qty)], asks=[(price, "0"), (price, qty)], first_seq=n, last_seq=n + 2,
                         prev_seq=None if n % 2 else n - 1, **c)  # fmt: skip
        if kind == "ticker":
            return Ticker(last=price, bid=None if n % 3 else price, ask_qty=qty, **c)
        if kind == "kline":
            return Kline(interval="1m", open_time=at, close_time=at + 59_999, open=price, high=price, low=price, close=price,
                         volume=qty, closed=bool(n % 2), **c)  # fmt: skip
        if kind == "mark":
            return MarkPrice(mark=price, index=None, funding_rate="0.0001", next_funding=at + 1 if n % 2 else None, **c)
        return Liquidation(side="sell", price=price, qty=qty, **c)
