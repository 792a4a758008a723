"""Hand-over of account events to Kafka: bounded, ordered per account, silent without a lease. Runs in the worker process.

In: encoded records from account threads and read-backs (`offer`, which never blocks). Out: Kafka, through one sending thread;
then the callbacks of acknowledged records, in one ack thread, so that neither a socket reader nor Kafka's own sender thread
ever waits for the other.

Why a queue of our own in front of the Kafka client: the client bounds nothing (61,791 sends accepted with every broker down)
and its `send` may block on missing metadata. The bound is in bytes and counts a record until Kafka acknowledged it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from fleet.core.errors import StoreUnavailable
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics

RECORD_OVERHEAD_BYTES = 200
RETRY_PAUSE_S = 0.5
RESUME_SHARE = 0.5  # a full buffer takes records again once it is half empty

Headers = list[tuple[str, bytes]]


class Gate(Protocol):
    """May this process publish now? (R4: the lease, asked per record.)"""

    def valid(self) -> bool: ...


class RecordProducer(Protocol):
    """What of fleet.runtime.kafka_io.Producer is used here."""

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: Headers,
        done: Callable[[Exception | None], None],
        valid: Callable[[], bool],
    ) -> None: ...
    def flush(self, timeout_s: float) -> bool: ...
    def abort(self) -> None: ...
    def close(self, timeout_s: float) -> None: ...


def _always() -> bool:
    return True


class _Record:
    __slots__ = (
        "acked", "error", "generation", "headers", "key", "offered_s", "refused", "size", "topic", "valid", "value",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: Headers,
        acked: Callable[[], None] | None,
        refused: Callable[[str], None] | None,
        generation: int,
        valid: Callable[[], bool],
    ) -> None:
        self.refused, self.valid = refused, valid
        self.error: Exception | None = None  # Kafka will never take it
        self.topic, self.key, self.value, self.headers, self.acked = topic, key, value, headers, acked
        self.generation = generation
        self.size = len(value) + len(key) + RECORD_OVERHEAD_BYTES
        self.offered_s = time.monotonic()


class Publisher:
    """One per process. `offer` from any thread; everything else is its own threads' business."""

    def __init__(
        self, producer: Callable[[], RecordProducer], gate: Gate, limit_bytes: int, metrics: Metrics | None = None
    ) -> None:
        self._connect, self._gate, self._limit, self._metrics = producer, gate, limit_bytes, metrics
        self._queue: queue.SimpleQueue[_Record | None] = queue.SimpleQueue()
        self._acks: queue.SimpleQueue[_Record | None] = queue.SimpleQueue()
        self._failed: deque[_Record] = deque()  # appended by Kafka's sender thread, taken by ours
        # topics of which a record has failed since the round began: later ones queue up behind it, those of others go on
        self._failing: set[str] = set()
        self._retrying = 0  # so many of them are sent again in this round
        self._retry_s = 0.0  # when the next round begins
        self._round_lock = (
            threading.Lock()
        )  # guards _failing together with _failed: who fails is in both, or in neither
        self._bytes_lock = threading.Lock()  # guards _bytes and _full
        self._bytes = 0
        self._full = False
        self._generation = 0
        self._producer: RecordProducer | None = None
        self._stop = threading.Event()
        self._log = get("publish")
        self._threads = [
            threading.Thread(target=self._send_loop, name="publish"),
            threading.Thread(target=self._ack_loop, name="publish-acks"),
        ]

    def start(self) -> Publisher:
        for thread in self._threads:
            thread.start()
        return self

    def alive(self) -> bool:
        """False = a thread died of something unforeseen, and nothing is published any more: the process should end."""
        return all(thread.is_alive() for thread in self._threads)

    # ── for account threads ──────────────────────────────────────────────────────────────────────────────────────
    def offer(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: Headers,
        acked: Callable[[], None] | None = None,
        refused: Callable[[str], None] | None = None,
        valid: Callable[[], bool] = _always,
    ) -> bool:
        """Take one record; False = the buffer is full, nothing was taken. `acked` runs once Kafka has it (acks=all), `refused`
        with the reason if it never will (too large): then it is lost. `valid` says, until the last moment, whether its token
        still counts: the caller's look and this call are not one instant, and `clear` may come between them."""
        record = _Record(topic, key, value, headers, acked, refused, self._generation, valid)
        with self._bytes_lock:
            if self._full:
                return False
            self._bytes += record.size
            self._full = self._bytes >= self._limit
        self._queue.put(record)
        return True

    def has_room(self) -> bool:
        return not self._full

    def pending_bytes(self) -> int:
        return self._bytes

    def clear(self) -> None:
        """Forget what Kafka has not acknowledged: the incarnation that read it may publish no more."""
        self._generation += 1
        self.recall()

    def recall(self) -> None:
        """Take back what the Kafka client holds: records whose token counts no more go nowhere, the others are sent again."""
        if self._producer is not None:
            self._producer.abort()

    def flush(self, timeout_s: float) -> bool:
        """Wait until every record taken so far is acknowledged; False = not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._bytes > 0:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._producer is not None:
                self._producer.flush(min(left, 0.2))
            time.sleep(0.005)
        return True

    def close(self, timeout_s: float) -> bool:
        """Flush, then end the threads and the Kafka client. True if nothing was left behind."""
        clean = self.flush(timeout_s * 0.7)
        self._stop.set()
        self._queue.put(None)
        self._threads[0].join(timeout_s * 0.2 + 1.0)
        if self._producer is not None:
            self._producer.close(timeout_s * 0.1 + 0.5)
        self._acks.put(None)
        self._threads[1].join(1.0)
        return clean

    # ── the sending thread ───────────────────────────────────────────────────────────────────────────────────────
    def _send_loop(self) -> None:
        self._open()  # now, and not when the first event waits for it
        while not self._stop.is_set():
            record = self._next()
            if record is None:
                continue
            if not self._may_send(record):
                self._release(record)
                continue
            producer = self._producer or self._open()
            if producer is None:
                self._fail(record)
                continue
            valid = partial(self._in_turn, record)
            producer.send(record.topic, record.key, record.value, record.headers, self._done(record), valid)

    def _next(self) -> _Record | None:
        """Failed records are sent again each RETRY_PAUSE_S, and before later ones of their topic, so that an account's order
        holds as far as Kafka's own failures allow. A topic that is missing holds up no other."""
        now_s = time.monotonic()
        if not self._retrying and now_s >= self._retry_s:
            self._retry_s = now_s + RETRY_PAUSE_S
            with self._round_lock:
                self._failing = set()
                again = sorted(
                    self._failed, key=lambda r: r.offered_s
                )  # a client that is given up reports them in any order
                self._failed = deque(again)
            self._retrying = len(again)
        if self._retrying:
            self._retrying -= 1
            record: _Record | None = self._failed.popleft()
        else:
            try:
                record = self._queue.get(timeout=0.2)
            except queue.Empty:
                return None
        if record is not None and record.topic in self._failing:
            self._failed.append(record)
            return None
        return record

    def _fail(self, record: _Record) -> None:
        """Kafka did not take it now."""
        with self._round_lock:
            self._failing.add(record.topic)
            self._failed.append(record)

    def _may_send(self, record: _Record) -> bool:
        """Past the lease nothing is sent: wait for the lease thread to renew it or to give the incarnation up."""
        while self._counts(record) and not self._stop.is_set():
            if self._gate.valid():
                return True
            time.sleep(0.02)
        return False

    def _counts(self, record: _Record) -> bool:
        """Asked again where the Kafka client takes it: a fence may come while that connects or waits for room."""
        return record.generation == self._generation and record.valid()

    def _in_turn(self, record: _Record) -> bool:
        """And a new connection reports what failed with the old one: what waited for it is to go after that."""
        return self._counts(record) and record.topic not in self._failing

    def _open(self) -> RecordProducer | None:
        try:
            self._producer = self._connect()
        except StoreUnavailable as error:
            self._log.warning("Kafka cannot be reached", action="kafka_connect", error=str(error))
            self._stop.wait(RETRY_PAUSE_S)
        return self._producer

    def _done(self, record: _Record) -> Callable[[Exception | None], None]:
        def done(error: Exception | None) -> None:
            if error is None:
                self._acks.put(record)
            elif getattr(error, "retryable", True):
                self._fail(record)
            else:
                record.error = error
                self._acks.put(record)

        return done

    # ── the ack thread ───────────────────────────────────────────────────────────────────────────────────────────
    def _ack_loop(self) -> None:
        while (record := self._acks.get()) is not None:
            self._release(record)
            if record.error is not None:
                self._lost(record, str(record.error))
                continue
            if self._metrics:
                self._metrics.publish_latency().observe(time.monotonic() - record.offered_s)
            if record.acked is not None:
                record.acked()

    def _lost(self, record: _Record, why: str) -> None:
        """Kafka refuses this record for good: it is counted, logged and told, and holds up nobody."""
        self._log.error("Kafka refused a record for good", action="publish", topic=record.topic, error=why)
        if self._metrics:
            self._metrics.dropped("refused").inc()
        if record.refused is not None:
            record.refused(why)

    def _release(self, record: _Record) -> None:
        with self._bytes_lock:
            self._bytes -= record.size
            if self._full and self._bytes <= self._limit * RESUME_SHARE:
                self._full = False
