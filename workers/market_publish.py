"""Market events to Kafka: newline-delimited JSON, grouped per key, bounded in bytes. Runs in the market-data process.

In: batches of events from socket threads (`offer`, which never blocks on Kafka). Out: records of up to LINES lines per
(topic, key), sent every few milliseconds by one thread. While Kafka is away the oldest events of the least precious class go
first (tickers before trades), are counted, and a `gap` event on fleet.streams says afterwards what is missing.
Order per key is kept, also when Kafka fails a record: the failed ones are sent again before anything newer.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import Any, Protocol

import msgspec

from fleet.core.errors import StoreUnavailable
from fleet.core.events import MarketRecord, StreamEvent
from fleet.core.names import TOPIC_OF_TYPE, TOPIC_STREAMS
from fleet.runtime import logs
from fleet.runtime.metrics import Metrics
from workers.market_marks import EventMark, Sent, Told, mark_of
from workers.market_tracks import Mark, Name, Spans

LINGER_S = 0.006
LINES = 250  # of one record
RECORD_BYTES = 256 * 1024
IN_FLIGHT_BYTES = (
    8 * 1024 * 1024
)  # handed to the Kafka client and not acknowledged: the rest waits here, where it can be dropped
LINE_OVERHEAD_BYTES = 60
RETRY_PAUSE_S = 0.5
CONFESS_S = 1.0  # losses are told at most this often
KEEP_SHARE = 0.9  # dropping makes this much room at once
DROP_ORDER = ("ticker", "mark_price", "depth", "kline", "liquidation", "trade", "stream")

_encode = msgspec.json.Encoder().encode


class RecordProducer(Protocol):
    """What of fleet.runtime.kafka_io.Producer is used here."""

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: list[tuple[str, bytes]],
        done: Callable[[Exception | None], None],
    ) -> None: ...
    def flush(self, timeout_s: float) -> bool: ...
    def close(self, timeout_s: float) -> None: ...


class _Queue:
    """Lines of one (topic, key) that wait to be sent."""

    __slots__ = ("cls", "exchange", "key", "lines", "listed", "market", "symbol", "told", "topic")

    def __init__(self, topic: str, key: str, cls: str, exchange: str, market: str, symbol: str) -> None:
        self.topic, self.key, self.cls = topic, key.encode(), cls
        self.exchange, self.market, self.symbol = exchange, market, symbol
        self.lines: deque[tuple[bytes, EventMark | None]] = deque()
        self.told = Told()
        self.listed = False  # is it in MarketPublisher._ready?


class _Record:
    __slots__ = ("lines", "made_s", "number", "queue", "sent", "size", "value")

    def __init__(self, number: int, queue: _Queue, lines: list[bytes], size: int, sent: Sent) -> None:
        self.number, self.queue, self.sent = number, queue, sent
        self.value = lines[0] if len(lines) == 1 else b"\n".join(lines)
        self.lines, self.size = len(lines), size
        self.made_s = time.monotonic()

    def __lt__(self, other: _Record) -> bool:
        return self.number < other.number


class _Loss:
    __slots__ = ("events", "since_ms", "until_ms")

    def __init__(self) -> None:
        self.events = 0
        self.since_ms = self.until_ms = int(time.time() * 1000)


class MarketPublisher:
    """One per process."""

    def __init__(self, producer: RecordProducer, limit_bytes: int, metrics: Metrics) -> None:
        self._producer, self._limit, self._metrics = producer, limit_bytes, metrics
        self._lock = threading.Lock()  # guards everything down to _to_read_again
        self._queues: dict[tuple[str, str, str, str], _Queue] = {}
        self._ready: deque[_Queue] = deque()
        self._waiting_bytes = 0  # lines in the queues
        self._flight_bytes = 0  # records at the Kafka client, or failed and waiting to be sent again
        self._failed: list[_Record] = []  # a heap: the oldest first
        self._numbers = 0
        self._losses: dict[tuple[str, str, str], _Loss] = {}
        self._broken_books: set[tuple[str, str, str]] = set()  # depth updates were dropped, and Kafka is still behind
        self._books_to_read: set[tuple[str, str, str]] = set()  # the same, now that it took the rest
        self._to_read_again: list[_Queue] = []
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._away = False  # a record failed: Kafka is away until _settle
        self._answered = True  # Kafka took something since the last failure or drop
        self._outage = False  # the log says that Kafka is away
        self._log = logs.get("market_publish")
        self._thread = threading.Thread(target=self._loop, name="market-publish")

    def start(self) -> MarketPublisher:
        self._thread.start()
        return self

    # ── for socket threads ───────────────────────────────────────────────────────────────────────────────────────
    def offer(self, events: Iterable[MarketRecord]) -> None:
        """Take events, in order. Never blocks on Kafka; over the limit something older is dropped instead."""
        encoded = [(event, _encode(event), mark_of(event)) for event in events]
        with self._lock:
            queues = self._queues
            for event, line, mark in encoded:
                cls = str(event.__struct_config__.tag)
                name = (cls, event.exchange, event.market, event.symbol)
                queue = queues.get(name)
                if queue is None:
                    key = f"{event.exchange}:{event.market}:{event.symbol}"
                    queue = queues[name] = _Queue(TOPIC_OF_TYPE[cls], key, *name)
                self._put(queue, line, mark)
            if self._waiting_bytes + self._flight_bytes > self._limit:
                self._drop()
        self._wake.set()

    def announce(self, event: StreamEvent) -> None:
        """Take an event about a stream itself (fleet.streams, keyed by the stream's name)."""
        line = _encode(event)
        with self._lock:
            name = ("stream", event.exchange, event.market, event.stream)
            queue = self._queues.get(name)
            if queue is None:
                queue = self._queues[name] = _Queue(TOPIC_STREAMS, event.stream, *name)
            self._put(queue, line)
        self._wake.set()

    def broken_books(self, exchange: str, market: str, symbols: Container[str]) -> set[str]:
        """Those of `symbols` of which depth updates were dropped, once, after Kafka is back: their books need a new snapshot."""
        if not self._books_to_read:
            return set()
        with self._lock:
            mine = {name for name in self._books_to_read if name[:2] == (exchange, market) and name[2] in symbols}
            self._books_to_read -= mine
        return {symbol for _, _, symbol in mine}

    def dropped(self, exchange: str, market: str, owned: Callable[[Name], bool]) -> dict[Name, Spans]:
        """Owned trades and candles that went nowhere, once, after Kafka is back: to be read again."""
        if not self._to_read_again:
            return {}
        found: dict[Name, Spans] = {}
        with self._lock:
            for queue in self._to_read_again:
                if (queue.exchange, queue.market) == (exchange, market):
                    names = {Name(queue.cls, queue.symbol, i): i for i in queue.told.dropped}
                    found |= {n: queue.told.dropped.pop(i) for n, i in names.items() if owned(n)}
            self._to_read_again = [queue for queue in self._to_read_again if queue.told.dropped]
        return found

    def acked(self) -> dict[tuple[str, str], dict[Name, Mark]]:
        """By exchange and market: up to where Kafka has each series. Left out are those of which something was dropped, or
        something older is still on its way."""
        found: dict[tuple[str, str], dict[Name, Mark]] = {}
        with self._lock:
            for queue in self._queues.values():
                overtaken = queue.told.overtaken(mark for _, mark in queue.lines)
                for interval, mark in queue.told.acked.items():
                    if interval not in queue.told.dropped and interval not in overtaken:
                        name = Name(queue.cls, queue.symbol, interval)
                        found.setdefault((queue.exchange, queue.market), {})[name] = mark
        return found

    def pending_bytes(self) -> int:
        return self._waiting_bytes + self._flight_bytes

    def flush(self, timeout_s: float) -> bool:
        """Wait until Kafka acknowledged everything taken so far; False = not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.pending_bytes() > 0:
            if time.monotonic() >= deadline:
                return False
            self._wake.set()
            time.sleep(0.005)
        return True

    def close(self, timeout_s: float) -> bool:
        """Flush, end the thread and the Kafka client. True if nothing was left behind."""
        clean = self.flush(timeout_s * 0.8)
        if not clean:
            self._log.warning("market data left behind at the end", action="shutdown", bytes=self.pending_bytes())
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s * 0.1 + 0.5)
        self._producer.close(timeout_s * 0.1 + 0.1)
        return clean

    # ── under _lock ──────────────────────────────────────────────────────────────────────────────────────────────
    def _put(self, queue: _Queue, line: bytes, mark: EventMark | None = None) -> None:
        queue.lines.append((line, mark))
        self._waiting_bytes += len(line) + LINE_OVERHEAD_BYTES
        if not queue.listed:
            queue.listed = True
            self._ready.append(queue)

    def _drop(self) -> None:
        """Make room: oldest lines first, class by class."""
        excess = self._waiting_bytes + self._flight_bytes - int(self._limit * KEEP_SHARE)
        for cls in DROP_ORDER:
            for queue in self._ready:
                if queue.cls != cls:
                    continue
                dropped: list[EventMark | None] = []
                while excess > 0 and queue.lines:
                    line, mark = queue.lines.popleft()
                    size = len(line) + LINE_OVERHEAD_BYTES
                    self._waiting_bytes -= size
                    excess -= size
                    dropped.append(mark)
                if dropped:
                    self._lose(queue, len(dropped), dropped)
            if excess <= 0:
                return

    def _lose(self, queue: _Queue, events: int, marks: Iterable[EventMark | None]) -> None:
        if queue.cls == "stream":  # nothing to announce an announcement with
            self._metrics.dropped(queue.cls).inc(events)
            return
        loss = self._losses.setdefault((queue.exchange, queue.market, queue.cls), _Loss())
        loss.events += events
        loss.until_ms = int(time.time() * 1000)
        self._answered = False
        queue.told.drop(marks)
        if queue.cls == "depth":
            self._broken_books.add((queue.exchange, queue.market, queue.symbol))
        self._metrics.dropped(queue.cls).inc(events)

    def _take(self) -> _Record | None:
        """The next record to send, or None: nothing waits, or enough is in flight."""
        with self._lock:
            if self._failed:
                return heapq.heappop(self._failed)
            while self._ready and self._flight_bytes < IN_FLIGHT_BYTES:
                queue = self._ready.popleft()
                lines: list[bytes] = []
                marks: list[EventMark | None] = []
                size = length = 0
                most = 1 if queue.cls == "stream" else LINES  # fleet.streams carries one event a record (contracts)
                while queue.lines and len(lines) < most and length < RECORD_BYTES:
                    line, mark = queue.lines.popleft()
                    lines.append(line)
                    marks.append(mark)
                    length += len(line) + 1
                    size += len(line) + LINE_OVERHEAD_BYTES
                queue.listed = bool(queue.lines)
                if queue.listed:
                    self._ready.append(queue)
                if lines:
                    self._waiting_bytes -= size
                    self._flight_bytes += size
                    self._numbers += 1
                    return _Record(self._numbers, queue, lines, size, queue.told.send(marks))
            return None

    # ── the sending thread ───────────────────────────────────────────────────────────────────────────────────────
    def _loop(self) -> None:
        confess_at_s = 0.0
        while not self._stop.is_set():
            self._wake.wait(0.5)
            self._wake.clear()
            self._stop.wait(LINGER_S)
            if self._away:
                self._settle()
            while not self._stop.is_set() and not self._away:
                record = self._take()
                if record is None:
                    break
                self._send(record)
            now_s = time.monotonic()
            if self._answered and not self._away and now_s >= confess_at_s:
                confess_at_s = now_s + CONFESS_S
                self._recovered()

    def _settle(self) -> None:
        """Something failed: wait a little, then for the fate of everything sent, so that what failed goes again in order."""
        if not self._outage:
            self._outage = True
            self._log.warning("market data waits for Kafka", action="publish", bytes=self.pending_bytes())
        self._stop.wait(RETRY_PAUSE_S)
        while not self._producer.flush(1.0) and not self._stop.is_set():
            pass  # bounded by Kafka's own delivery timeout
        self._away = False
        self._wake.set()

    def _done(self, record: _Record) -> Callable[[Exception | None], None]:
        """Runs in Kafka's sender thread: count or enqueue only."""

        def done(error: Exception | None) -> None:
            if error is None:
                self._answered = True
                self._metrics.publish_latency().observe(time.monotonic() - record.made_s)
                self._metrics.events(record.queue.cls).inc(record.lines)
            retry = isinstance(error, StoreUnavailable)
            with self._lock:
                if retry:
                    self._away, self._answered = True, False
                    heapq.heappush(self._failed, record)
                else:
                    self._flight_bytes -= record.size
                    record.queue.told.arrive(record.sent)
                    if error is not None:
                        self._lose(record.queue, record.lines, record.sent.marks)
                        self._answered = True  # a refusal is an answer
            if error is None or retry:
                self._wake.set()
            else:
                self._log.error(
                    "Kafka refused market data for good", action="publish", topic=record.queue.topic, error=str(error)
                )

        return done

    def _send(self, record: _Record) -> None:
        queue, done = record.queue, self._done(record)
        try:
            self._producer.send(queue.topic, queue.key, record.value, [], done)
        except Exception as error:  # noqa: BLE001 - a bug must not end the one thread that publishes; the record counts as lost
            self._log.exception("sending market data failed", action="bug", topic=queue.topic)
            done(error)

    def _recovered(self) -> None:
        """Kafka answers and is not far behind: what there is to say about an outage is said now."""
        if self._waiting_bytes > self._limit // 2:
            return
        if self._outage:
            self._outage = False
            self._log.info("Kafka takes market data again", action="publish", bytes=self.pending_bytes())
        if self._losses:
            self._confess()

    def _confess(self) -> None:
        """Say on fleet.streams what was dropped while Kafka was away."""
        with self._lock:
            losses, self._losses = self._losses, {}
            self._books_to_read |= self._broken_books
            self._broken_books.clear()
            self._to_read_again = [queue for queue in self._queues.values() if queue.told.dropped]
        for (exchange, market, cls), loss in losses.items():
            data = {"class": cls, "events": loss.events, "since_ms": loss.since_ms, "until_ms": loss.until_ms}
            self._log.warning("market data was dropped", action="drop", exchange=exchange, market=market, **data)
            stream = f"{exchange}_{market}:{cls}"
            self.announce(stream_event(stream, exchange, market, "gap", "kafka", data=data))


def stream_event(
    stream: str,
    exchange: str,
    market: str,
    event: str,
    reason: str = "",
    *,
    symbol: str = "",
    data: dict[str, Any] | None = None,
) -> StreamEvent:
    """A fleet.streams record about market stream `stream`, as of now."""
    now_ms = int(time.time() * 1000)
    return StreamEvent(
        id=":".join(part for part in (stream, symbol, event, str(now_ms)) if part),
        exchange=exchange,
        market=market,
        symbol=symbol,
        ts_event=now_ms,
        ts_recv=now_ms,
        stream=stream,
        event=event,
        reason=reason,
        data=data or {},
    )
